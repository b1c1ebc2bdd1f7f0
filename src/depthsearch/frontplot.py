"""The front in optuna-dashboard: a figure for plotly.js, kept in the study. Written without plotly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna_dashboard import save_plotly_graph_object

from depthsearch.aims import read_cost_aim
from depthsearch.front import Front, FrontPoint, front_of
from depthsearch.interrupts import deferred
from depthsearch.report import setting_of
from depthsearch.summary import Summary, summarize

__all__ = ["PLOT", "front_plot", "keep_front"]

# What the dashboard calls the figure.
PLOT = "front"


@dataclass(frozen=True, slots=True)
class _Figure:
    """All that the dashboard asks of a figure."""

    content: dict[str, Any]

    def to_json(self) -> str:
        """Write it as plotly.js reads it."""
        return json.dumps(self.content)


def keep_front(study: optuna.Study) -> None:
    """Keep a study's front where optuna-dashboard shows it; nothing where it aims at the score alone.

    A database that is busy or full stops no study for a picture: the next trial that ends draws it anew.
    """
    if read_cost_aim(study) is None:
        return
    try:
        summary = summarize(study)
        front = front_of(summary)
        if front is None:
            return
        with deferred():
            save_plotly_graph_object(study, _Figure(front_plot(summary, front)), graph_object_id=PLOT)
    except (StorageInternalError, OSError):
        return


def front_plot(summary: Summary, front: Front) -> dict[str, Any]:
    """Draw score against cost for plotly.js: points, the front as a step line, the answer."""
    metric = f"validation {summary.metric.replace('_', ' ')}"
    how = "means over seeds" if front.is_confirmed else "single trainings, so too good"
    n = summary.n_finished
    answer = [point for point in front.every if point.is_answer]
    traces = [
        _trace(front.others, name="dominated", marker={"size": 7, "color": "#8fa6bf"}),
        {
            **_trace(front.points, name="front", marker={"size": 9, "color": "#1f66b0"}),
            "mode": "lines+markers",
            "line": {"shape": "hv", "color": "#1f66b0"},
        },
        _trace(answer, name=front.answer_word, marker={"size": 13, "color": "#c8430b", "symbol": "diamond"}),
    ]
    layout = {
        # Half a window has no room for it in one line.
        "title": {"text": f"{metric}<br>against {front.cost_name}<br>{n} trials; {how}"},
        "font": {"size": 11},
        "margin": {"t": 90},
        "legend": {"orientation": "h", "y": -0.3},
        "xaxis": {"title": {"text": front.cost_name}, "type": _scale(front.every)},
        "yaxis": {"title": {"text": metric}},
        "hovermode": "closest",
    }
    return {"data": [trace for trace in traces if trace["x"]], "layout": layout}


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
        "text": [
            f"trial {p.trial.number}: layer {p.trial.cut.layer}, {setting_of(p.trial.params)}" for p in points
        ],
        "marker": marker,
        **bars,
    }
