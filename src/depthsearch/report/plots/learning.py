"""Learning curves, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from depthsearch.report.charts import (
    Axis,
    Chart,
    Curve,
    draw,
)
from depthsearch.report.document import Figure, Inline, Table
from depthsearch.report.plots.frame import (
    HINT,
    NARROW,
    SHAPES,
    WIDE,
    Layout,
    by_prominence,
    metric_of,
    score_axis,
    shown,
    state_of,
    trial_lines,
)
from depthsearch.report.record import Epoch, Record
from depthsearch.report.text import sparkline
from depthsearch.results.summary import Summary
from depthsearch.results.trials import TrialSummary


def learning_figure(summary: Summary, record: Record) -> Figure:
    """Draw each trial's score over its epochs; pruned ones end with a cross."""
    curves = {
        trial.number: [epoch for epoch in record.epochs.get(trial.number, ()) if math.isfinite(epoch.score)]
        for trial in summary.trials
    }
    trials = [trial for trial in by_prominence(summary) if curves[trial.number]]
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
                    lines=trial_lines(layout, trial),
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
