"""The front of score and cost, where a study has two aims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from depthsearch.report.dashboard.figure import COLOURS, figure, trial_text
from depthsearch.report.plots import metric_of
from depthsearch.results.front import Front, FrontPoint
from depthsearch.results.summary import Summary

__all__ = ["front_plot"]


def front_plot(summary: Summary, front: Front) -> dict[str, Any]:
    """Draw score against cost: points, the front as a step line, the answer."""
    how = "means over seeds" if front.is_confirmed else "single trainings, so too good"
    answer = [point for point in front.every if point.is_answer]
    traces = [
        _trace(front.others, name="dominated", marker={"size": 7, "color": COLOURS["pruned"]}),
        {
            **_trace(front.points, name="front", marker={"size": 9, "color": COLOURS["complete"]}),
            "mode": "lines+markers",
            "line": {"shape": "hv", "color": COLOURS["complete"]},
        },
        _trace(
            answer,
            name=front.answer_word,
            marker={"size": 13, "color": COLOURS["best"], "symbol": "diamond"},
        ),
    ]
    return figure(
        (f"Score against {front.cost_name}", f"{summary.n_finished} trials; {how}"),
        traces,
        x={"title": front.cost_name, "type": _scale(front.every)},
        y={"title": metric_of(summary)},
    )


def _scale(points: Sequence[FrontPoint]) -> str:
    costs = [point.cost for point in points]
    return "log" if max(costs) > 10 * min(costs) else "linear"


def _trace(points: Sequence[FrontPoint], *, name: str, marker: dict[str, Any]) -> dict[str, Any]:
    errors = [point.standard_error for point in points]
    bars = {"error_y": {"type": "data", "array": errors}} if any(e is not None for e in errors) else {}
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [point.cost for point in points],
        "y": [point.score for point in points],
        "text": [trial_text(point.trial) for point in points],
        "hovertemplate": "cost %{x}, score %{y:.4f}<br>%{text}<extra></extra>",
        "marker": marker,
        **bars,
    }
