"""The transfer curve of one backbone: a linear probe of the frozen features at several depths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from depthsearch.report.dashboard.figure import COLOURS, cut_text, figure, names_x, plotted
from depthsearch.report.plots import WIDE, shown
from depthsearch.report.plots.frame import depth_axis
from depthsearch.results.summary import Summary
from depthsearch.training.probe import ProbePoint, plateau_start

__all__ = ["transfer_plot"]


def transfer_plot(summary: Summary) -> dict[str, Any]:
    """Draw the accuracy of linear probes over depth.

    Args:
        summary: Of one backbone, with a curve.
    """
    points = sorted(summary.curve, key=lambda point: point.cut)
    start = plateau_start(points)
    line = {"mode": "lines+markers", "line": {"color": COLOURS["complete"], "width": 1.5}}
    helped = "" if start is None else f"pretrained layers stop helping a linear classifier at {start.layer}"
    first = [] if start is None else [start]
    return figure(
        (f"Transfer curve: {summary.backbone}", helped),
        (
            {**_trace(summary, points, "linear probe ± standard error"), **line},
            {
                **_trace(summary, first, "the first as good as the best"),
                "mode": "markers",
                "marker": {"size": 14, "symbol": "star", "color": COLOURS["best"]},
            },
        ),
        x={
            **names_x(depth_axis(summary, WIDE)),
            "title": "layer whose input is probed (deeper to the right)",
        },
        y={"title": "accuracy of a linear probe"},
    )


def _trace(summary: Summary, points: Sequence[ProbePoint], name: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "name": name,
        "x": [point.cut for point in points],
        "y": [point.score for point in points],
        "error_y": {"type": "data", "array": [point.standard_error for point in points]},
        "text": [_told(summary, point) for point in points],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _told(summary: Summary, point: ProbePoint) -> str:
    rows = (
        f"linear probe: {shown(point.score)} ± {point.standard_error:.4f} from {point.n_features} features",
        f"before {cut_text(summary.cuts[point.cut])}",
    )
    return "<br>".join(map(plotted, rows))
