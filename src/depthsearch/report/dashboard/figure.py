"""What the plots in the dashboard share: a figure as plotly.js reads it, made without plotly."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from depthsearch.models.cuts import Cut
from depthsearch.report.charts import Axis
from depthsearch.report.plots import shown, state_of
from depthsearch.report.text import setting_of
from depthsearch.results.summary import Summary
from depthsearch.results.trials import TrialSummary

__all__ = ["COLOURS", "figure", "names_x", "plot_name", "plotted", "trial_text"]

# Of a trial's state; the best, or the answer, stands out from all.
COLOURS = {
    "complete": "#1f66b0",
    "pruned": "#8fa6bf",
    "running": "#2a7f3b",
    "again": "#8a5fb0",
    "fail": "#c0262d",
    "best": "#c8430b",
    "pale": "#6b6b6b",
}


def figure(
    title: Sequence[str],
    traces: Iterable[Mapping[str, Any]],
    *,
    x: Mapping[str, Any],
    y: Mapping[str, Any],
    **layout: Any,
) -> dict[str, Any]:
    """Make a figure; traces without points are left out.

    Args:
        title: Its lines, the first the largest. Half a window, which the dashboard gives it, has no room for
            long ones.
        traces: What to draw, the first lowest.
        x: Horizontal axis; `title` is its text.
        y: Vertical axis.
        layout: What else plotly.js is to know of it.
    """
    first, *more = (plotted(line) for line in title)
    small = "".join(f"<br><sup>{line}</sup>" for line in more)
    return {
        "data": [dict(trace) for trace in traces if len(trace["x"])],
        "layout": {
            "title": {"text": f"{first}{small}", "x": 0.02, "xanchor": "left", "font": {"size": 15}},
            "font": {"size": 12},
            "margin": {"t": 70, "r": 20, "b": 50, "l": 60},
            "legend": {
                # At the bottom of all, so that its lines, few or many, stay clear of the axis.
                "orientation": "h",
                "yref": "container",
                "y": 0,
                "yanchor": "bottom",
                "font": {"size": 11},
            },
            "xaxis": {**x, "title": {"text": plotted(x["title"])}, "automargin": True},
            "yaxis": {**y, "title": {"text": plotted(y["title"])}, "automargin": True},
            "hovermode": "closest",
            "hoverlabel": {"align": "left", "namelength": -1},
            **layout,
        },
    }


def plotted(text: object) -> str:
    """Write a text so that plotly.js, which knows some of HTML, shows it as it is."""
    return html.escape(str(text), quote=False)


def plot_name(kind: str, summary: Summary, part: Summary) -> str:
    """Name a plot of a backbone: by its kind alone where there is only one."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", f"{kind}-{part.backbone}") if summary.parts else kind


def names_x(axis: Axis) -> dict[str, Any]:
    """Give an axis of positions the layer numbers that stand there."""
    return {
        "title": axis.label,
        "range": [axis.low, axis.high],
        "tickmode": "array",
        "tickvals": [value for value, _ in axis.ticks],
        "ticktext": [label for _, label in axis.ticks],
        "showgrid": False,
        "zeroline": False,
    }


def trial_text(trial: TrialSummary) -> str:
    """Say what is to be read of a trial that is pointed at."""
    again = ", trained again" if trial.confirms is not None else ""
    rows = (
        f"trial {trial.number}{again}: {shown(trial.score)}, {state_of(trial)}",
        cut_text(trial.cut),
        setting_of(trial.params),
    )
    return "<br>".join(map(plotted, rows))


def cut_text(cut: Cut) -> str:
    """Name a cut on a line, short enough for a label in half a window."""
    named = str(cut)
    return named if len(named) < 90 else f"{named[:60]}…{named[-28:]}"
