"""The charts of a study, each drawn for a wide window and for a telephone.

Depth is the position among the candidate cuts: there they lie evenly, and their layer numbers stand at the
ticks. State is told by shape as well as by colour.
"""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from depthsearch.charts import (
    Area,
    Axis,
    Bars,
    Border,
    Chart,
    Curve,
    Layer,
    Mark,
    Pointer,
    Rule,
    Span,
    draw,
    draw_bars,
    element,
    log_ticks,
    symbol,
    ticks,
)
from depthsearch.cuts import Cut
from depthsearch.document import Code, Figure, Inline, Legend, Table
from depthsearch.evidence import Confirmed
from depthsearch.probe import plateau_start
from depthsearch.record import Epoch, Record
from depthsearch.report import setting_of, sparkline
from depthsearch.summary import Standing, Summary
from depthsearch.trials import TrialSummary

__all__ = [
    "HINT",
    "NARROW",
    "WIDE",
    "Layout",
    "backbones_figure",
    "depth_figure",
    "end_score",
    "importance_figure",
    "learning_figure",
    "marked_lines",
    "metric_of",
    "names_of",
    "rate_figure",
    "score_axis",
    "shown",
    "stages",
    "state_of",
    "transfer_figure",
    "trial_mark",
]

SHAPES = {"complete": "dot", "pruned": "cross", "running": "ring", "waiting": "ring", "fail": "square"}
WORDS = {"complete": "complete", "fail": "failed", "running": "running or interrupted", "waiting": "waiting"}
HINT = "Point at a mark, or tap it, to read it here."
# Scores so far (in interquartile ranges) from the middle half would flatten all others.
FENCE = 3.0
N_SHADES = 6
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


# --- words --------------------------------------------------------------------------------------


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


def _share(cut: Cut) -> str:
    return f"{cut.frozen_mac_share:.1%} of the MACs frozen".replace("%", " %", 1)


def marked_lines(layout: Layout, *rows: str) -> tuple[str, ...]:
    """Break what is to be read of a mark into the lines that there are."""
    broken = [line for row in rows for line in textwrap.wrap(row, layout.n_letters)]
    if len(broken) > layout.n_lines:
        broken = [*broken[: layout.n_lines - 1], f"{broken[layout.n_lines - 1][: layout.n_letters - 1]}…"]
    return tuple(broken)


def _trial_lines(layout: Layout, trial: TrialSummary) -> tuple[str, ...]:
    again = ", trained again" if trial.confirms is not None else ""
    return marked_lines(
        layout,
        f"Trial {trial.number}{again}: {shown(trial.score)}, {state_of(trial)}",
        f"{trial.cut}; {trial.cut.kind}; {_share(trial.cut)}",
        setting_of(trial.params),
    )


# --- axes ---------------------------------------------------------------------------------------


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


def _depth_axis(summary: Summary, layout: Layout) -> Axis:
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


def _borders(summary: Summary) -> list[Layer]:
    return [Border(x=start - 0.5, end=end - 0.5, label=name) for start, end, name in stages(summary.cuts)]


def score_axis(values: Iterable[float], kept: Iterable[float], layout: Layout, summary: Summary) -> Axis:
    """Choose the range of scores: all of ``kept``, and what is no outlier of ``values``."""
    must = [value for value in kept if math.isfinite(value)]
    found = [value for value in values if math.isfinite(value)]
    shown_too = [*found, *(score for score in _scores(summary, *SHAPES) if math.isfinite(score))]
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


# --- score against depth ------------------------------------------------------------------------


def depth_figure(summary: Summary) -> Figure:
    """Draw every trial's score at the depth of its cut, with the baselines and what repetitions say."""
    axis_values = list(_anchoring_scores(summary))

    def chart(layout: Layout) -> Chart:
        axis = score_axis(_scores(summary, "complete"), axis_values, layout, summary)
        if not axis_values:
            axis = score_axis(_scores(summary, *SHAPES), [], layout, summary)
        return Chart(
            title=f"{metric_of(summary)} against depth",
            width=layout.width,
            height=layout.height,
            x=_depth_axis(summary, layout),
            y=axis,
            layers=tuple(_depth_layers(summary, layout, axis)),
            n_lines=layout.n_lines,
            hint=HINT,
            margin_right=layout.label_margin,
            reachable=True,
        )

    wide = chart(WIDE)
    return Figure(
        wide=draw(wide),
        narrow=draw(chart(NARROW)),
        caption=_depth_caption(summary, wide.y),
        legend=tuple(_depth_legend(summary)),
    )


def _scores(summary: Summary, *states: str) -> list[float]:
    return [t.score for t in summary.trials if t.state in states and t.score is not None]


def _anchoring_scores(summary: Summary) -> Iterator[float]:
    """Give the scores that the chart has to have within its range."""
    evidence = summary.evidence
    if summary.best is not None and summary.best.score is not None:
        yield summary.best.score
    yield from (rule for _, rule, _ in _baselines(summary))
    if evidence is not None:
        yield from (score for confirmed in evidence.confirmed for score in confirmed.scores.values())
        yield from (expected.mean for expected in evidence.expected)


def end_score(summary: Summary, index: int) -> float | None:
    """Give the score of the first or last cut: the mean if it was trained again, else its best trial's."""
    # With one candidate both ends are it, and nothing is ever frozen.
    if summary.evidence is not None and (index == 0 or len(summary.cuts) > 1):
        for confirmed in summary.evidence.confirmed:
            if confirmed.cut == summary.cuts[index]:
                return confirmed.mean
    return summary.feature_extraction if index else summary.full_fine_tuning


def _baselines(summary: Summary) -> list[tuple[str, float, str]]:
    both = (
        ("head only", end_score(summary, -1), "head-only"),
        ("everything trained", end_score(summary, 0), "everything"),
    )
    return [(name, score, kind) for name, score, kind in both if score is not None]


def _depth_layers(summary: Summary, layout: Layout, axis: Axis) -> Iterator[Layer]:
    evidence = summary.evidence
    if evidence is not None:
        yield from (Span(low=low - 0.5, high=high + 0.5, kind="level") for low, high in _runs(evidence.level))
        band = [(float(i), e.low, e.high) for i, e in enumerate(evidence.expected)]
        if band:
            yield Area(points=tuple(band), kind="expected")
            mean = tuple((float(i), e.mean) for i, e in enumerate(evidence.expected))
            yield Curve(points=mean, kind="expected")
    yield from _borders(summary)
    yield from (Pointer(x=float(cut.index), label=str(cut.layer)) for cut in summary.marked)
    for name, score, kind in _baselines(summary):
        yield Rule(y=score, label=f"{name} {shown(score)}", kind=kind)
    # Where the trials stand that have no score.
    worst = axis.low + (axis.high - axis.low) * (0.04 if summary.maximize else 0.96)
    for trial in _by_prominence(summary):
        yield trial_mark(
            trial, layout, float(trial.cut.index), _or(trial.score, worst), _kind(trial, summary)
        )
    if evidence is not None:
        yield from (_confirmed_mark(summary, confirmed, layout) for confirmed in evidence.confirmed)


def _or(score: float | None, otherwise: float) -> float:
    return otherwise if score is None or not math.isfinite(score) else score


def _by_prominence(summary: Summary) -> list[TrialSummary]:
    """Order the trials so that those that matter lie on top."""
    order = ("fail", "pruned", "waiting", "running", "complete")
    best = summary.best.number if summary.best else None
    return sorted(summary.trials, key=lambda t: (t.number == best, order.index(t.state), t.number))


def _kind(trial: TrialSummary, summary: Summary) -> str:
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
        lines=_trial_lines(layout, trial),
        kind=kind,
        radius=6.0 if "best" in kind else 3.0 if again else 4.5,
    )


def _confirmed_mark(summary: Summary, confirmed: Confirmed, layout: Layout) -> Mark:
    evidence = summary.evidence
    error = confirmed.standard_error
    answer = evidence is not None and confirmed.cut == evidence.answer.cut
    spread = f" ± {error:.4f}" if error is not None else ""
    return Mark(
        shape="diamond",
        x=float(confirmed.cut.index),
        y=confirmed.mean,
        lines=marked_lines(
            layout,
            f"Mean of {len(confirmed.scores)} seeds: {shown(confirmed.mean)}{spread}",
            f"{confirmed.cut}; {confirmed.cut.kind}; {_share(confirmed.cut)}",
            setting_of(confirmed.params),
        ),
        kind="confirmed best" if answer else "confirmed",
        radius=6.0,
        spread=None if error is None else (confirmed.mean - error, confirmed.mean + error),
    )


def _runs(places: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Give the first and last of each run of consecutive numbers."""
    for _, run in groupby(enumerate(sorted(set(places))), key=lambda pair: pair[1] - pair[0]):
        members = [place for _, place in run]
        yield members[0], members[-1]


def _depth_caption(summary: Summary, axis: Axis) -> str:
    parts = ["Each mark is a trial; the layers before its cut were frozen."]
    n_beyond = sum(
        trial.score is not None and not axis.low <= trial.score <= axis.high for trial in summary.trials
    )
    if n_beyond:
        mark = "mark lies" if n_beyond == 1 else "marks lie"
        parts.append(f"{n_beyond} {mark} beyond the axis, drawn at its edge with an arrow.")
    if any(trial.score is None for trial in summary.trials):
        parts.append(f"Trials without any score stand at the {'bottom' if summary.maximize else 'top'}.")
    if summary.evidence is not None:
        parts.append(
            "Large diamonds are means over seeds with their standard errors; the line is the score expected "
            "at each depth with its best setting, in a band of 95 %; shaded depths cannot be told from the "
            "best."
        )
    if summary.marked:
        parts.append("Arrows point out layers that were asked for.")
    return " ".join(parts)


def _depth_legend(summary: Summary) -> Iterator[Legend]:
    evidence = summary.evidence
    yield from _best_legend(summary)
    yield from _state_legend(summary.trials)
    if evidence is not None:
        said = "answer" if summary.holds_answer else "best of this backbone"
        yield Legend(symbol=symbol("diamond", "confirmed best"), label=said)
        yield Legend(symbol=symbol("diamond", "confirmed"), label="mean over seeds ± standard error")
        if evidence.expected:
            yield Legend(symbol=symbol("line", "curve expected line"), label="expected")
        if evidence.level:
            yield Legend(symbol=symbol("patch", "span level"), label="cannot be told from the best")
    for name, score, kind in _baselines(summary):
        yield Legend(symbol=symbol("line", f"rule {kind}"), label=f"{name} {shown(score)}")


def _best_legend(summary: Summary) -> Iterator[Legend]:
    if summary.best is not None and summary.evidence is None:
        yield Legend(symbol=symbol("dot", "complete best"), label="best")


def _state_legend(trials: Sequence[TrialSummary]) -> Iterator[Legend]:
    words = {**WORDS, "pruned": "pruned", "running": "running"}
    for state, shape in SHAPES.items():
        if any(t.state == state and (t.confirms is None or state != "complete") for t in trials):
            yield Legend(symbol=symbol(shape, state), label=words[state])
    if any(t.confirms is not None and t.state == "complete" for t in trials):
        yield Legend(symbol=symbol("diamond", "complete again"), label="trained again, another seed")


# --- several backbones --------------------------------------------------------------------------


def backbones_figure(summary: Summary, found: Sequence[Standing]) -> Figure:
    """Draw each backbone's best score against what an image takes to train, its trials behind it."""
    trials = [t for t in _by_prominence(summary) if t.state == "complete" and t.confirms is None]
    most = max([t.cut.training_macs for t in trials] or [1])
    unit, name = (1e9, "G") if most >= 1e9 else (1e6, "M")
    scores = [standing.score for standing in found if standing.score is not None]

    def chart(layout: Layout) -> Chart:
        behind = [
            trial_mark(trial, layout, trial.cut.training_macs / unit, _or(trial.score, 0.0), trial.state)
            for trial in trials
        ]
        best = [_standing_mark(standing, layout, unit) for standing in found if standing.score is not None]
        high = most / unit
        return Chart(
            title=f"{metric_of(summary)} against the cost of training, by backbone",
            width=layout.width,
            height=layout.height - 40,
            x=Axis(
                low=-0.03 * high,
                high=1.05 * high,
                ticks=ticks(0.0, high, layout.n_x),
                label=f"training MACs of an image ({name})",
            ),
            y=score_axis(_scores(summary, "complete"), scores, layout, summary),
            layers=(*behind, *best),
            n_lines=layout.n_lines,
            hint=HINT,
        )

    return Figure(
        wide=draw(chart(WIDE)),
        narrow=draw(chart(NARROW)),
        caption="Large diamonds are the backbones at their best cuts, small marks all complete trials.",
        legend=(
            Legend(symbol=symbol("diamond", "confirmed best"), label="answer"),
            Legend(symbol=symbol("diamond", "confirmed"), label="another backbone's best"),
            Legend(symbol=symbol("dot", "complete"), label="trial"),
        ),
    )


def _standing_mark(standing: Standing, layout: Layout, unit: float) -> Mark:
    score, error, cut = standing.score or 0.0, standing.standard_error, standing.trial.cut
    behind = f" ± {error:.4f}, mean of {standing.n_trainings} seeds" if error is not None else ""
    return Mark(
        shape="diamond",
        x=cut.training_macs / unit,
        y=score,
        lines=marked_lines(
            layout,
            f"{standing.backbone}: {shown(score)}{behind}",
            str(cut),
            setting_of(standing.trial.params),
        ),
        kind="confirmed best" if standing.is_answer else "confirmed",
        radius=6.0,
        spread=None if error is None else (score - error, score + error),
        label=standing.backbone,
    )


# --- transfer curve -----------------------------------------------------------------------------


def transfer_figure(summary: Summary) -> Figure:
    """Draw the accuracy of linear probes of the frozen features over depth."""
    points = sorted(summary.curve, key=lambda point: point.cut)
    start = plateau_start(points)
    ends = [(point.score - point.standard_error, point.score + point.standard_error) for point in points]

    def chart(layout: Layout) -> Chart:
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        pad = (high - low) * 0.07
        marks = tuple(
            Mark(
                shape="dot",
                x=float(point.cut),
                y=point.score,
                lines=marked_lines(
                    layout,
                    f"Linear probe: {shown(point.score)} ± {point.standard_error:.4f} "
                    f"from {point.n_features} features",
                    f"features before {summary.cuts[point.cut]}",
                ),
                kind="probe best" if point is start else "probe",
                radius=6.0 if point is start else 4.0,
                spread=spread,
            )
            for point, spread in zip(points, ends, strict=True)
        )
        line = Curve(points=tuple((float(point.cut), point.score) for point in points), kind="probe")
        return Chart(
            title="accuracy of a linear probe of the frozen features against depth",
            width=layout.width,
            height=layout.height - 70,
            x=_depth_axis(summary, layout),
            y=Axis(
                low=low - pad,
                high=high + pad,
                ticks=tuple(t for t in ticks(low - pad, high + pad, layout.n_y) if t[0] <= 1 + 1e-9),
                label="accuracy of a linear probe",
            ),
            layers=(*_borders(summary), line, *marks),
            n_lines=layout.n_lines - 1,
            hint=HINT,
        )

    rows = tuple(
        (
            str(point.layer),
            names_of(summary.cuts[point.cut]),
            str(point.n_features),
            shown(point.score),
            f"{point.standard_error:.4f}",
        )
        for point in points
    )
    headings = ("layer", "features before", "features", "accuracy", "standard error")
    numbers = frozenset(headings) - {"features before"}
    marked = points.index(start) if start is not None else None
    return Figure(
        wide=draw(chart(WIDE)),
        narrow=draw(chart(NARROW)),
        caption="Bars are binomial standard errors.",
        table=Table(headings=headings, rows=rows, numbers=numbers, marked=marked),
        legend=(
            Legend(symbol=symbol("dot", "probe"), label="linear probe"),
            Legend(symbol=symbol("dot", "probe best"), label="the first that is as good as the best"),
        ),
    )


# --- learning curves ----------------------------------------------------------------------------


def learning_figure(summary: Summary, record: Record) -> Figure:
    """Draw each trial's score over its epochs; pruned ones end with a cross."""
    curves = {
        trial.number: [epoch for epoch in record.epochs.get(trial.number, ()) if math.isfinite(epoch.score)]
        for trial in summary.trials
    }
    trials = [trial for trial in _by_prominence(summary) if curves[trial.number]]
    best = summary.best.number if summary.best else None
    n_epochs = max([record.recipe.get("epochs", 1), *(e.number for c in curves.values() for e in c)])

    def chart(layout: Layout) -> Chart:
        every = [epoch.score for curve in curves.values() for epoch in curve]
        return Chart(
            title=f"{metric_of(summary)} of each trial over its epochs",
            width=layout.width,
            height=layout.height - 40,
            x=_epoch_axis(n_epochs, layout),
            y=score_axis(every, [], layout, summary),
            layers=tuple(
                Curve(
                    points=tuple((float(epoch.number), epoch.score) for epoch in curves[trial.number]),
                    kind=f"{trial.state} best" if trial.number == best else _curve_kind(trial),
                    lines=_trial_lines(layout, trial),
                    end=SHAPES[trial.state],
                )
                for trial in trials
            ),
            n_lines=layout.n_lines,
            hint=HINT.replace("a mark", "a curve"),
        )

    headings = (
        "trial",
        "layer",
        "state",
        "epochs",
        "curve",
        "first",
        "last",
        "training loss",
        "validation loss",
    )
    by_number = sorted(trials, key=lambda trial: trial.number)
    rows = tuple(_curve_row(trial, curves[trial.number]) for trial in by_number)
    marked = next((place for place, trial in enumerate(by_number) if trial.number == best), None)
    return Figure(
        wide=draw(chart(WIDE)),
        narrow=draw(chart(NARROW)),
        caption="A line a trial; the best is the thick one, those pruned end with a cross.",
        table=Table(
            headings=headings, rows=rows, numbers=frozenset(headings) - {"state", "curve"}, marked=marked
        ),
    )


def _curve_kind(trial: TrialSummary) -> str:
    return f"{trial.state} again" if trial.confirms is not None else trial.state


def _curve_row(trial: TrialSummary, curve: Sequence[Epoch]) -> tuple[Inline, ...]:
    return (
        str(trial.number),
        str(trial.cut.layer),
        state_of(trial),
        str(len(curve)),
        sparkline([epoch.score for epoch in curve]),
        shown(curve[0].score),
        shown(curve[-1].score),
        shown(curve[-1].train_loss),
        shown(curve[-1].val_loss),
    )


def _epoch_axis(n_epochs: int, layout: Layout) -> Axis:
    step = math.ceil(n_epochs / layout.n_x)
    marks = range(1, n_epochs + 1) if step == 1 else range(step, n_epochs + 1, step)
    return Axis(
        low=1 - max(0.15, n_epochs * 0.02),
        high=n_epochs + max(0.15, n_epochs * 0.02),
        ticks=tuple((float(epoch), str(epoch)) for epoch in marks),
        label="epoch",
    )


# --- learning rate and depth --------------------------------------------------------------------


def rate_figure(summary: Summary) -> Figure:
    """Draw each trial by depth and learning rate, its score as the darkness of the mark."""
    trials = [t for t in _by_prominence(summary) if "learning_rate" in t.params and t.confirms is None]
    shade, legend = _shades(summary)
    rates = [trial.params["learning_rate"] for trial in trials] or [1e-3]
    low, high = min(rates) / 1.3, max(rates) * 1.3

    def chart(layout: Layout) -> Chart:
        marks = [
            trial_mark(
                trial,
                layout,
                float(trial.cut.index),
                trial.params["learning_rate"],
                f"{_kind(trial, summary)} {shade(trial.score)}",
            )
            for trial in trials
        ]
        return Chart(
            title="learning rate and depth of each trial",
            width=layout.width,
            height=layout.height - 40,
            x=_depth_axis(summary, layout),
            y=Axis(low=low, high=high, ticks=log_ticks(low, high), label="learning rate", log=True),
            layers=(*_borders(summary), *marks),
            n_lines=layout.n_lines,
            hint=HINT,
        )

    return Figure(
        wide=draw(chart(WIDE)),
        narrow=draw(chart(NARROW)),
        caption="Where good trials lie: the stronger the colour, the better the score.",
        legend=(*legend, *_best_legend(summary), *_state_legend(trials)),
    )


def _shades(summary: Summary) -> tuple[Callable[[float | None], str], tuple[Legend, ...]]:
    """Divide the scores from the worst tenth to the best into shades of one colour."""
    sign = 1.0 if summary.maximize else -1.0
    values = sorted(sign * s for s in _scores(summary, *SHAPES) if math.isfinite(s))
    if not values:
        return (lambda _: "unscored"), ()
    low, high = values[len(values) // 10], values[-1]

    def shade(score: float | None) -> str:
        if score is None or not math.isfinite(score):
            return "unscored"
        share = (sign * score - low) / ((high - low) or 1.0)
        return f"shade-{min(N_SHADES - 1, max(0, int(share * N_SHADES)))}"

    patches = [
        element("rect", x=i * 14, y=1, width=14, height=12, class_=f"shade-{i}") for i in range(N_SHADES)
    ]
    width = 14 * N_SHADES
    ramp = element("svg", *patches, viewBox=f"0 0 {width} 14", width=width, height=14, aria_hidden="true")
    label = f"{metric_of(summary)}: {shown(sign * low)} or worse, to {shown(sign * high)}"
    return shade, (Legend(symbol=ramp, label=label),)


# --- importance ---------------------------------------------------------------------------------


def importance_figure(importance: Mapping[str, float]) -> Figure:
    """Draw the share of the scores' variance that each parameter explains."""
    found = sorted(importance.items(), key=lambda pair: (-pair[1], pair[0]))
    bars = Bars(shares=tuple((name.replace("_", " "), share) for name, share in found))
    rows = tuple((name.replace("_", " "), f"{share:.2f}") for name, share in found)
    title = "share of the variance of the scores"
    return Figure(
        wide=draw_bars(title, bars, width=860),
        narrow=draw_bars(title, bars, width=340),
        caption="How much of what single parameters explain of the scores' variance each explains (fANOVA).",
        table=Table(headings=("parameter", "share"), rows=rows, numbers=frozenset({"share"})),
    )
