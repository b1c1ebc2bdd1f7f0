"""Learning curves: each trial's score over its epochs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from depthsearch.report.dashboard.figure import COLOURS, figure, trial_text
from depthsearch.report.plots import metric_of
from depthsearch.results.summary import Summary
from depthsearch.results.trials import TrialSummary

__all__ = ["learning_plot"]

# More lines than this hide each other, and every look at the study would carry them.
MOST_CURVES = 60
# Up to here each has a tick; of fewer plotly.js would mark halves, all written as whole ones.
FEW_EPOCHS = 12
# The kinds of lines, the first lowest, with what the legend says.
WORDS = {
    "fail": "failed",
    "pruned": "pruned",
    "again": "trained again",
    "complete": "complete",
    "running": "running",
    "best": "best of the search",
}


def learning_plot(summary: Summary) -> dict[str, Any]:
    """Draw a line for each trial, of all backbones: the best thick, those that were pruned pale.

    Of many trials those that began last are drawn, and the best.
    """
    best = summary.best.number if summary.best else None
    curves = [trial for trial in summary.trials if _points(trial)]
    drawn = [t for t in curves if t.number == best or t in curves[-MOST_CURVES:]]
    more = f", the last of {len(curves)}" if len(drawn) < len(curves) else ""
    n_epochs = max((epoch for trial in drawn for epoch in trial.scores), default=0)
    lower = "" if summary.maximize else " (lower is better)"
    return figure(
        ("Learning curves", f"{len(drawn)} trials{more}; point at a line to see its layer"),
        _traces(drawn, best),
        x={"title": "epoch", "tickformat": "d", **({"dtick": 1} if n_epochs <= FEW_EPOCHS else {})},
        y={"title": f"{metric_of(summary)}{lower}"},
    )


def _points(trial: TrialSummary) -> list[tuple[int, float]]:
    return [(epoch, score) for epoch, score in sorted(trial.scores.items()) if math.isfinite(score)]


def _traces(trials: Sequence[TrialSummary], best: int | None) -> Iterator[dict[str, Any]]:
    """Draw the trials, the best last; a legend has one entry for all in a state."""
    shown: set[str] = set()
    kinds = [_kind(trial, best) for trial in trials]
    order = [*WORDS]
    for kind, trial in sorted(
        zip(kinds, trials, strict=True), key=lambda pair: (order.index(pair[0]), pair[1].number)
    ):
        points = _points(trial)
        yield {
            "type": "scatter",
            "mode": "lines+markers",
            "name": WORDS[kind],
            "legendgroup": kind,
            "showlegend": kind not in shown,
            "x": [epoch for epoch, _ in points],
            "y": [round(score, 6) for _, score in points],
            "line": {"color": COLOURS[kind], "width": 3 if kind == "best" else 1.2},
            "marker": {"size": 6 if kind == "best" else 4},
            "text": trial_text(trial),
            "hovertemplate": "epoch %{x}: %{y:.4f}<br>%{text}<extra></extra>",
        }
        shown.add(kind)


def _kind(trial: TrialSummary, best: int | None) -> str:
    if trial.number == best:
        return "best"
    return "again" if trial.confirms is not None and trial.state == "complete" else trial.state
