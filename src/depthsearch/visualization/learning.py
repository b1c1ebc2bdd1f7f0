"""Learning curves: each trial's score over its epochs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import optuna
from plotly.graph_objects import Figure

from depthsearch.results.stored import StoredStudy
from depthsearch.results.summary import Summary, summarize
from depthsearch.results.trials import StoredTrial
from depthsearch.text import counted
from depthsearch.visualization.axes import score_axis, score_range
from depthsearch.visualization.marks import kind_of, trial_text
from depthsearch.visualization.style import COLOURS, SYMBOLS, Trace, figure

# More lines than this hide each other, and every look at the study would carry them.
MOST_CURVES = 60
# Up to here each has a tick; of fewer plotly.js would mark halves, all written as whole ones.
FEW_EPOCHS = 12
# The kinds of lines, the first lowest, with what the legend says.
KINDS = {
    "fail": "failed",
    "pruned": "pruned",
    "again": "trained again",
    "complete": "complete",
    "waiting": "waiting",
    "running": "running",
    "paused": "paused",
    "best": "best of the search",
}


def plot_learning_curves(study: optuna.Study | StoredStudy) -> Figure:
    """Plot a line for each trial, of all backbones: the best thick, those that were pruned end with a cross.

    Of many trials those that began last are drawn, and the best.

    Raises:
        StudyError: If depthsearch did not make the study.
    """
    return draw_learning_curves(summarize(study))


def draw_learning_curves(summary: Summary) -> Figure:
    """Draw a summary, see `plot_learning_curves`."""
    best = summary.best.number if summary.best else None
    curves = [trial for trial in summary.trials if _points(trial)]
    drawn = [t for t in curves if t.number == best or t in curves[-MOST_CURVES:]]
    more = f", the last of {len(curves)}" if len(drawn) < len(curves) else ""
    n_epochs = max((epoch for trial in drawn for epoch in trial.scores), default=0)
    low, high = score_range(summary, [score for trial in drawn for _, score in _points(trial)])
    ticks = {"dtick": 1} if n_epochs <= FEW_EPOCHS else {}
    return figure(
        ("Learning curves", f"{counted(len(drawn), 'trial')}{more}; point at a line to see its layer"),
        _lines(drawn, best),
        x={"title": "epoch", "tickformat": "d", "showgrid": False, **ticks},
        y=score_axis(summary, low, high),
    )


def _points(trial: StoredTrial) -> list[tuple[int, float]]:
    return [(epoch, score) for epoch, score in sorted(trial.scores.items()) if math.isfinite(score)]


def _lines(trials: Sequence[StoredTrial], best: int | None) -> Iterator[Trace]:
    """Draw the trials, the best last; a legend has one entry for all of a kind."""
    shown: set[str] = set()
    order = [*KINDS]
    kinds = {trial.number: "best" if trial.number == best else kind_of(trial) for trial in trials}
    for trial in sorted(trials, key=lambda trial: (order.index(kinds[trial.number]), trial.number)):
        kind = kinds[trial.number]
        curve = _points(trial)
        colour, is_best = COLOURS[kind], kind == "best"
        # The last point has the shape of the kind.
        sizes = [*[3] * (len(curve) - 1), 10 if is_best else 7]
        yield {
            "type": "scatter",
            "mode": "lines+markers",
            "name": KINDS[kind],
            "legendgroup": kind,
            "showlegend": kind not in shown,
            "x": [epoch for epoch, _ in curve],
            "y": [round(score, 6) for _, score in curve],
            "customdata": [trial.number] * len(curve),
            "line": {"color": colour, "width": 3 if is_best else 1.2},
            "marker": {
                "symbol": [*["circle"] * (len(curve) - 1), SYMBOLS[kind]],
                "size": sizes,
                "color": colour,
                "line": {"width": 1.4, "color": colour},
            },
            "text": trial_text(trial),
            "hovertemplate": "epoch %{x}: %{y:.4f}<br>%{text}<extra></extra>",
        }
        shown.add(kind)
