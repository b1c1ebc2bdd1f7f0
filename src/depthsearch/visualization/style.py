"""What all figures share: colours and shapes, text that stays text, and the frame around the traces.

The colours differ in lightness and hue for colour-blind readers, and are dark enough for a white ground and
light enough for a dark one. What a mark stands for is told by its shape as well.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from plotly.graph_objects import Figure

from depthsearch.text import one_line

# A trace as plotly.js reads it; the figure checks its names and values.
Trace = dict[str, Any]

COLOURS = {
    "complete": "#2b83c6",
    "pruned": "#8b949e",
    "running": "#b07d00",
    "paused": "#8b949e",
    "waiting": "#b07d00",
    "fail": "#b5589a",
    "again": "#009e73",
    "mean": "#009e73",
    "best": "#d55e00",
    "line": "#7a828a",
}
SYMBOLS = {
    "complete": "circle",
    "pruned": "x-thin",
    "running": "circle-open",
    "paused": "line-ew",
    "waiting": "circle-open-dot",
    "fail": "square-open",
    "again": "diamond-open",
    "mean": "diamond",
    "best": "star",
}
# A label is not broken by plotly.js: this fits beside a mark on a telephone.
N_LETTERS, N_LINES = 46, 8
INK, GRID, GROUND = "#333a42", "#e3e6ea", "#ffffff"
FONT = (
    'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "DejaVu Sans", sans-serif'
)


def plain(text: object) -> str:
    """Write a text so that plotly.js, which knows some of HTML, shows it as it is."""
    return html.escape(one_line(str(text), longest=None), quote=False)


def hover(*rows: str) -> str:
    """Write what is to be read of a mark that is pointed at, in the lines that fit there."""
    lines = [line for row in rows for line in textwrap.wrap(one_line(row, longest=None), N_LETTERS)]
    if len(lines) > N_LINES:
        lines = [*lines[: N_LINES - 1], f"{lines[N_LINES - 1][: N_LETTERS - 1]}…"]
    return "<br>".join(map(plain, lines))


def marker(kind: str, size: float, **more: Any) -> Trace:
    """Describe the marks of a kind, one of `SYMBOLS`."""
    colour = COLOURS[kind]
    return {
        "symbol": SYMBOLS[kind],
        "size": size,
        "color": colour,
        "line": {"width": 1.6, "color": colour},
        **more,
    }


def points(
    name: str,
    kind: str,
    x: Sequence[float],
    y: Sequence[float | None],
    texts: Sequence[str],
    *,
    size: float = 8,
    errors: Sequence[float | None] = (),
    **more: Any,
) -> Trace:
    """Describe marks of one kind.

    Args:
        name: What the legend calls them.
        kind: One of `SYMBOLS`.
        x: Where.
        y: Where.
        texts: What is to be read of each, see `hover`.
        size: In pixels.
        errors: Standard errors, drawn as bars; empty: there are none.
        more: What else plotly.js is to know of them.
    """
    bars = {"error_y": {"type": "data", "array": list(errors), "width": 4, "thickness": 1.5}}
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plain(name),
        "x": list(x),
        "y": list(y),
        "text": list(texts),
        "hovertemplate": "%{text}<extra></extra>",
        "marker": marker(kind, size),
        **(bars if any(error is not None for error in errors) else {}),
        **more,
    }


def figure(
    title: Sequence[str],
    traces: Iterable[Mapping[str, Any]],
    *,
    x: Mapping[str, Any],
    y: Mapping[str, Any],
    **layout: Any,
) -> Figure:
    """Make a figure; traces without points are left out.

    Args:
        title: Its lines, the first the largest. Half a window, which the dashboard gives it, has no room for
            long ones.
        traces: What to draw, the first lowest.
        x: Horizontal axis; ``title`` is its text.
        y: Vertical axis.
        layout: What else plotly.js is to know of it.
    """
    first, *more = (plain(line) for line in title if line)
    small = "".join(f"<br><sup>{line}</sup>" for line in more)
    return Figure(
        {
            "data": [dict(trace) for trace in traces if len(trace["x"])],
            "layout": {
                # The reader's default would bring colours of its own, and 7 kB into each figure.
                "template": "none",
                "title": {"text": f"{first}{small}", "x": 0.02, "xanchor": "left", "font": {"size": 15}},
                "font": {"size": 12, "family": FONT, "color": INK},
                "paper_bgcolor": GROUND,
                "plot_bgcolor": GROUND,
                "margin": {"t": 76, "r": 20, "b": 50, "l": 56},
                # At the bottom of all, so that its lines, few or many, stay clear of the axis.
                "legend": {
                    "orientation": "h",
                    "x": 0,
                    "yref": "container",
                    "y": 0,
                    "yanchor": "bottom",
                    "font": {"size": 11},
                },
                "xaxis": _axis(x),
                "yaxis": _axis(y),
                "hovermode": "closest",
                "hoverlabel": {"align": "left", "namelength": -1},
                **layout,
            },
        }
    )


def _axis(described: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "automargin": True,
        "zeroline": False,
        "gridcolor": GRID,
        **described,
        "title": {"text": plain(described["title"]), "standoff": 8},
    }
