"""What a report says of a front: a figure of all trials by cost and score, and a table."""

from __future__ import annotations

from collections.abc import Iterator

from depthsearch.options.words import COSTS
from depthsearch.report.charts import Axis, Chart, Curve, Layer, Mark, draw, log_ticks, symbol, ticks
from depthsearch.report.document import Block, Figure, Legend, Paragraph, Table
from depthsearch.report.plots import (
    HINT,
    NARROW,
    WIDE,
    Layout,
    marked_lines,
    metric_of,
    names_of,
    score_axis,
    trial_mark,
)
from depthsearch.report.text import millions, score_with_error, setting_of
from depthsearch.results.front import Front, FrontPoint, front_of
from depthsearch.results.summary import Summary

__all__ = ["front_blocks"]

# Above this ratio of the dearest to the cheapest the axis of costs is logarithmic.
WIDE_RANGE = 10


def front_blocks(summary: Summary) -> Iterator[Block]:
    """Say what score costs: nothing where a study aims at the score alone."""
    front = front_of(summary)
    if front is None:
        return
    yield Paragraph(_words(front))
    yield _figure(summary, front)
    headings = (front.cost_name, "score", "layer", "first trainable", "setting", "trial", "")
    yield Table(
        headings=headings,
        rows=tuple(
            (
                millions(point.cost),
                score_with_error(point),
                str(point.trial.cut.layer),
                names_of(point.trial.cut),
                setting_of(point.trial.params),
                str(point.trial.number),
                front.answer_word if point.is_answer else "",
            )
            for point in front.points
        ),
        numbers=frozenset({front.cost_name, "score", "layer", "trial"}),
        marked=next((place for place, point in enumerate(front.points) if point.is_answer), None),
    )


def _words(front: Front) -> str:
    what = (
        "The front: of the settings that were trained again, those of which no other has a better mean and "
        "costs no more. The answer is the cheapest to train that cannot be told from the best; where less "
        "will do, take another point."
        if front.is_confirmed
        else "The front: the complete trials of which no other scores better and costs no more. Each is a "
        "single training, and the lucky ones are on it, so it is too good."
    )
    return (
        f"{what} The cost is known before any training: {front.cost_name}, the head included. With "
        "two aims a trial is pruned only by comparison with trials that cost at most as much."
    )


def _figure(summary: Summary, front: Front) -> Figure:
    wide, narrow = (draw(_chart(summary, front, layout)) for layout in (WIDE, NARROW))
    return Figure(
        wide=wide,
        narrow=narrow,
        caption="The line is the front: the best score that a cost buys. "
        + ("Large diamonds are means over seeds." if front.is_confirmed else "Each mark is one training."),
        legend=tuple(_legend(front)),
    )


def _chart(summary: Summary, front: Front, layout: Layout) -> Chart:
    field_of = COSTS[front.cost]
    trials = [t for t in summary.searched if t.state == "complete" and getattr(t, field_of) > 0]
    paid = [getattr(t, field_of) for t in trials] + [point.cost for point in front.every]
    unit, name = (1e9, "G") if max(paid) >= 1e9 else (1e6, "M")
    axis = _cost_axis(min(paid) / unit, max(paid) / unit, f"{front.cost_name} ({name})", layout)
    step = Curve(points=tuple(_steps(front, unit, axis.high)), kind="front")
    behind = [
        trial_mark(t, layout, getattr(t, field_of) / unit, t.score or 0.0, t.state)
        for t in trials
        if front.is_confirmed or t.number not in {point.trial.number for point in front.points}
    ]
    layers: list[Layer] = [step, *behind]
    layers += (
        [_mark(point, front, layout, unit) for point in reversed(front.every)] if front.is_confirmed else []
    )
    layers += [] if front.is_confirmed else [_mark(point, front, layout, unit) for point in front.points]
    return Chart(
        title=f"{metric_of(summary)} against {front.cost_name}",
        width=layout.width,
        height=layout.height - 40,
        x=axis,
        y=score_axis(
            [t.score for t in trials if t.score is not None],
            [point.score for point in front.points],
            layout,
            summary,
        ),
        layers=tuple(layers),
        n_lines=layout.n_lines,
        hint=HINT,
        reachable=True,
    )


def _cost_axis(low: float, high: float, label: str, layout: Layout) -> Axis:
    if high > WIDE_RANGE * low:
        low, high = low / 1.3, high * 1.3
        return Axis(low=low, high=high, ticks=log_ticks(low, high), label=label, log=True)
    pad = (high - low) * 0.05 or high * 0.05
    marks = ticks(low - pad, high + pad, layout.n_x)
    return Axis(low=low - pad, high=high + pad, ticks=marks, label=label)


def _steps(front: Front, unit: float, end: float) -> Iterator[tuple[float, float]]:
    """Go along the front: level until the next point's cost, then up to its score."""
    for place, point in enumerate(front.points):
        if place:
            yield point.cost / unit, front.points[place - 1].score
        yield point.cost / unit, point.score
    yield end, front.points[-1].score


def _mark(point: FrontPoint, front: Front, layout: Layout, unit: float) -> Mark:
    error = point.standard_error
    how = f", mean of {point.n_trainings} seeds" if front.is_confirmed else ", one training"
    kind = "confirmed" if front.is_confirmed else "complete"
    return Mark(
        shape="diamond" if front.is_confirmed else "dot",
        x=point.cost / unit,
        y=point.score,
        lines=marked_lines(
            layout,
            f"Trial {point.trial.number}: {score_with_error(point)}{how}",
            f"{point.trial.cut}; {millions(point.cost)} {front.cost_name}",
            setting_of(point.trial.params),
        ),
        kind=f"{kind} best" if point.is_answer else kind,
        radius=6.0,
        spread=None if error is None else (point.score - error, point.score + error),
    )


def _legend(front: Front) -> Iterator[Legend]:
    shape, kind = ("diamond", "confirmed") if front.is_confirmed else ("dot", "complete")
    yield Legend(symbol=symbol("line", "curve front line"), label="front")
    if any(point.is_answer for point in front.every):
        yield Legend(symbol=symbol(shape, f"{kind} best"), label=front.answer_word)
    if front.is_confirmed:
        yield Legend(symbol=symbol("diamond", "confirmed"), label="mean over seeds ± standard error")
    yield Legend(symbol=symbol("dot", "complete"), label="complete trial")
