"""What the charts of a study share: their two sizes, axes, marks, and the words for scores and cuts.

Depth is the position among the candidate cuts: there they lie evenly, and their layer numbers stand at the
ticks. State is told by shape as well as by colour.
"""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from depthsearch.models.cuts import Cut
from depthsearch.report.charts import (
    Axis,
    Border,
    Layer,
    Mark,
    symbol,
    ticks,
)
from depthsearch.report.document import Code, Inline, Legend
from depthsearch.report.text import setting_of
from depthsearch.results.summary import Summary
from depthsearch.results.trials import TrialSummary

SHAPES = {"complete": "dot", "pruned": "cross", "running": "ring", "waiting": "ring", "fail": "square"}
WORDS = {"complete": "complete", "fail": "failed", "running": "running or interrupted", "waiting": "waiting"}
HINT = "Point at a mark, or tap it, to read it here."
# Scores so far (in interquartile ranges) from the middle half would flatten all others.
FENCE = 3.0
MOST_STAGES = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One of the two sizes that each chart is drawn in.

    Attributes:
        width: In pixels.
        height: Of plot and margins.
        n_x: About how many ticks to the right.
        n_y: About how many ticks up.
        n_lines: Lines for the mark pointed at.
        n_letters: What fits in one of them.
        label_margin: Right of the plot, for the names of lines; too little for them on a telephone.
    """

    width: int
    height: int
    n_x: int
    n_y: int
    n_lines: int
    n_letters: int
    label_margin: int


WIDE = Layout(width=860, height=400, n_x=12, n_y=6, n_lines=3, n_letters=124, label_margin=170)
NARROW = Layout(width=360, height=330, n_x=5, n_y=5, n_lines=6, n_letters=50, label_margin=12)


def shown(score: float | None) -> str:
    """Write a score with the digits that every output gives it."""
    return "–" if score is None or not math.isfinite(score) else f"{score:.4f}"  # noqa: RUF001 (for nothing)


def metric_of(summary: Summary) -> str:
    """Name the score."""
    return f"validation {summary.metric.replace('_', ' ')}"


def state_of(trial: TrialSummary) -> str:
    """Say how a trial ended, or that it has not."""
    if trial.state == "pruned":
        return trial.reason or f"pruned after epoch {trial.epochs}"
    word = WORDS.get(trial.state, trial.state)
    return f"{word}: {trial.reason}" if trial.reason and trial.state == "fail" else word


def names_of(cut: Cut) -> Inline:
    """Write a cut's backbone if of several, its module path, and its Keras name where it has one."""
    before = (f"{cut.backbone} ",) if cut.backbone else ()
    behind = (f" ({cut.keras_name})",) if cut.keras_name else ()
    return (*before, Code(cut.name), *behind) if before or behind else Code(cut.name)


def frozen_share(cut: Cut) -> str:
    """Say how much of the work lies before a cut."""
    return f"{cut.frozen_mac_share:.1%} of the MACs frozen".replace("%", " %", 1)


def marked_lines(layout: Layout, *rows: str) -> tuple[str, ...]:
    """Break what is to be read of a mark into the lines that there are."""
    broken = [line for row in rows for line in textwrap.wrap(row, layout.n_letters)]
    if len(broken) > layout.n_lines:
        broken = [*broken[: layout.n_lines - 1], f"{broken[layout.n_lines - 1][: layout.n_letters - 1]}…"]
    return tuple(broken)


def trial_lines(layout: Layout, trial: TrialSummary) -> tuple[str, ...]:
    """Say what is to be read of a trial."""
    again = ", trained again" if trial.confirms is not None else ""
    return marked_lines(
        layout,
        f"Trial {trial.number}{again}: {shown(trial.score)}, {state_of(trial)}",
        f"{trial.cut}; {trial.cut.kind}; {frozen_share(trial.cut)}",
        setting_of(trial.params),
    )


def stages(cuts: Sequence[Cut]) -> list[tuple[int, int, str]]:
    """Find the stages of a backbone in its module paths: first index, the index behind the last, name.

    A stage is a run of cuts with the same first component (``layer3``), or, where that makes fewer than
    three, with the same first two (``features.denseblock3``, ``blocks.4``).
    """
    one, two = (_path_runs(cuts, n_parts) for n_parts in (1, 2))
    for runs, fewest in ((one, 3), (two, 3), (one, 2)):
        if fewest <= sum(end - start > 1 for start, end, _ in runs) and len(runs) <= MOST_STAGES:
            return runs
    return []


def _path_runs(cuts: Sequence[Cut], n_parts: int) -> list[tuple[int, int, str]]:
    """Find the runs of cuts whose module paths have the same first components."""
    keys = ((cut.kind == "head", *cut.name.split(".")[:n_parts]) for cut in cuts)
    runs = []
    for (_, *parts), run in groupby(enumerate(keys), key=lambda pair: pair[1]):
        places = [place for place, _ in run]
        runs.append((places[0], places[-1] + 1, _stage_name(parts)))
    return runs


def _stage_name(parts: Sequence[str]) -> str:
    """Take the last component, or both where that is only a number."""
    return ".".join(parts) if parts[-1].isdecimal() else parts[-1]


def depth_axis(summary: Summary, layout: Layout) -> Axis:
    """Lay the candidate cuts out evenly, with the layer numbers of some."""
    last = len(summary.cuts) - 1
    step = max(1, math.ceil(last / (layout.n_x - 1)))
    # Evenly, and the last one: there nothing but the head learns.
    places = [*(place for place in range(0, last, step) if place + step / 2 < last), last]
    pad = max(0.4, last * 0.015)
    return Axis(
        low=-pad,
        high=last + pad,
        ticks=tuple((float(place), str(summary.cuts[place].layer)) for place in places),
        label="first trainable layer (more frozen to the right)",
    )


def stage_borders(summary: Summary) -> list[Layer]:
    """Draw where the stages of the backbone begin."""
    return [Border(x=start - 0.5, end=end - 0.5, label=name) for start, end, name in stages(summary.cuts)]


def score_axis(values: Iterable[float], kept: Iterable[float], layout: Layout, summary: Summary) -> Axis:
    """Choose the range of scores: all of ``kept``, and what is no outlier of ``values``."""
    must = [value for value in kept if math.isfinite(value)]
    found = [value for value in values if math.isfinite(value)]
    shown_too = [*found, *(score for score in scores_of(summary, *SHAPES) if math.isfinite(score))]
    inside = [*must, *_without_outliers(found)] or [0.0, 1.0]
    low, high = min(inside), max(inside)
    pad = (high - low) * 0.07 or abs(high) * 0.05 or 0.5
    # Marks beyond an end stand apart from those near it.
    beyond = 2.5 * pad
    below = beyond if min(shown_too, default=low) < low else pad
    above = beyond if max(shown_too, default=high) > high else pad
    marks = ticks(low - below, high + above, layout.n_y)
    if summary.metric != "loss":
        marks = tuple((value, label) for value, label in marks if -1e-9 <= value <= 1 + 1e-9)
    better = "" if summary.maximize else " (lower is better)"
    return Axis(low=low - below, high=high + above, ticks=marks, label=f"{metric_of(summary)}{better}")


def _without_outliers(values: Sequence[float]) -> list[float]:
    """Leave out what would take more than half of the range for itself."""
    if len(values) < 4:
        return list(values)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    reach = FENCE * (high - low)
    inside = [value for value in values if low - reach <= value <= high + reach]
    if max(values) - min(values) > 2 * (max(inside) - min(inside)) > 0:
        return inside
    return list(values)


def scores_of(summary: Summary, *states: str) -> list[float]:
    """List the scores of the trials in some states."""
    return [t.score for t in summary.trials if t.state in states and t.score is not None]


def score_or(score: float | None, otherwise: float) -> float:
    """Give a score, or another number where there is none to draw."""
    return otherwise if score is None or not math.isfinite(score) else score


def by_prominence(summary: Summary) -> list[TrialSummary]:
    """Order the trials so that those that matter lie on top."""
    order = ("fail", "pruned", "waiting", "running", "complete")
    best = summary.best.number if summary.best else None
    return sorted(summary.trials, key=lambda t: (t.number == best, order.index(t.state), t.number))


def kind_of(trial: TrialSummary, summary: Summary) -> str:
    """Name the style of a trial: its state, whether it is the best, or trained again."""
    best = summary.best is not None and trial.number == summary.best.number
    again = trial.confirms is not None
    return " ".join(
        [trial.state, *(["again"] if again else []), *(["best"] if best and not summary.evidence else [])]
    )


def trial_mark(trial: TrialSummary, layout: Layout, x: float, y: float, kind: str) -> Mark:
    """Draw a trial by its state; ``kind`` has the classes."""
    again = trial.confirms is not None and trial.state == "complete"
    return Mark(
        shape="diamond" if again else SHAPES[trial.state],
        x=x,
        y=y,
        lines=trial_lines(layout, trial),
        kind=kind,
        radius=6.0 if "best" in kind else 3.0 if again else 4.5,
    )


def best_legend(summary: Summary) -> Iterator[Legend]:
    """Explain the mark of the best trial, where single trainings are all there is."""
    if summary.best is not None and summary.evidence is None:
        yield Legend(symbol=symbol("dot", "complete best"), label="best")


def state_legend(trials: Sequence[TrialSummary]) -> Iterator[Legend]:
    """Explain the marks of the states that occur."""
    words = {**WORDS, "pruned": "pruned", "running": "running"}
    for state, shape in SHAPES.items():
        if any(t.state == state and (t.confirms is None or state != "complete") for t in trials):
            yield Legend(symbol=symbol(shape, state), label=words[state])
    if any(t.confirms is not None and t.state == "complete" for t in trials):
        yield Legend(symbol=symbol("diamond", "complete again"), label="trained again, another seed")
