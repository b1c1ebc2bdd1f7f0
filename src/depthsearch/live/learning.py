"""Learning curves: each trial's score over its epochs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from depthsearch.live.figure import COLOURS, figure, trial_text
from depthsearch.plots import metric_of
from depthsearch.summary import Summary
from depthsearch.trials import TrialSummary

__all__ = ["learning_plot"]

# More lines than this hide each other, and every look at the study would carry them.
MOST_CURVES = 60
ORDER = ("fail", "pruned", "complete", "running", "best")
WORDS = {"fail": "failed", "pruned": "pruned", "complete": "complete", "running": "running", "best": "best"}


def learning_plot(summary: Summary) -> dict[str, Any]:
    """Draw a line for each trial, of all backbones: the best thick, those that were pruned pale.

    Of many trials those that began last are drawn, and the best.
    """
    best = summary.best.number if summary.best else None
    curves = [trial for trial in summary.trials if _points(trial)]
    drawn = [t for t in curves if t.number == best or t in curves[-MOST_CURVES:]]
    more = f", the last of {len(curves)}" if len(drawn) < len(curves) else ""
    lower = "" if summary.maximize else " (lower is better)"
    return figure(
        ("Learning curves", f"{len(drawn)} trials{more}; point at a line to see its layer"),
        _traces(drawn, best),
        x={"title": "epoch", "rangemode": "tozero", "tickformat": "d"},
        y={"title": f"{metric_of(summary)}{lower}"},
    )


def _points(trial: TrialSummary) -> list[tuple[int, float]]:
    return [(epoch, score) for epoch, score in sorted(trial.scores.items()) if math.isfinite(score)]


def _traces(trials: Sequence[TrialSummary], best: int | None) -> Iterator[dict[str, Any]]:
    """Draw the trials, the best last; a legend has one entry for all in a state."""
    kinds = [(("best" if trial.number == best else trial.state), trial) for trial in trials]
    shown: set[str] = set()
    for kind, trial in sorted(kinds, key=lambda pair: (ORDER.index(pair[0]), pair[1].number)):
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
