"""Score against depth: every trial, the baselines, and what repetitions say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from depthsearch.report.charts import (
    Area,
    Axis,
    Chart,
    Curve,
    Layer,
    Mark,
    Pointer,
    Rule,
    Span,
    draw,
    symbol,
)
from depthsearch.report.document import Figure, Legend
from depthsearch.report.plots.frame import (
    HINT,
    NARROW,
    SHAPES,
    WIDE,
    Layout,
    best_legend,
    by_prominence,
    depth_axis,
    frozen_share,
    kind_of,
    marked_lines,
    metric_of,
    score_axis,
    score_or,
    scores_of,
    shown,
    stage_borders,
    state_legend,
    trial_mark,
)
from depthsearch.report.text import setting_of
from depthsearch.results.evidence import Confirmed
from depthsearch.results.summary import Summary


def depth_figure(summary: Summary) -> Figure:
    """Draw every trial's score at the depth of its cut, with the baselines and what repetitions say."""
    axis_values = list(_anchoring_scores(summary))

    def chart(layout: Layout) -> Chart:
        axis = score_axis(scores_of(summary, "complete"), axis_values, layout, summary)
        if not axis_values:
            axis = score_axis(scores_of(summary, *SHAPES), [], layout, summary)
        return Chart(
            title=f"{metric_of(summary)} against depth",
            width=layout.width,
            height=layout.height,
            x=depth_axis(summary, layout),
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
    yield from stage_borders(summary)
    yield from (Pointer(x=float(cut.index), label=str(cut.layer)) for cut in summary.marked)
    for name, score, kind in _baselines(summary):
        yield Rule(y=score, label=f"{name} {shown(score)}", kind=kind)
    # Where the trials stand that have no score.
    worst = axis.low + (axis.high - axis.low) * (0.04 if summary.maximize else 0.96)
    for trial in by_prominence(summary):
        yield trial_mark(
            trial, layout, float(trial.cut.index), score_or(trial.score, worst), kind_of(trial, summary)
        )
    if evidence is not None:
        yield from (_confirmed_mark(summary, confirmed, layout) for confirmed in evidence.confirmed)


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
            f"{confirmed.cut}; {confirmed.cut.kind}; {frozen_share(confirmed.cut)}",
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
    yield from best_legend(summary)
    yield from state_legend(summary.trials)
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
