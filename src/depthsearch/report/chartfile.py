"""Charts of a document as SVG files of their own, for where a page cannot be shown: Markdown, slides, papers.

The document's figures carry classes and no colours; here the page's stylesheet goes into the file, so that it
follows the reader's choice of light or dark by itself, and the legend is drawn below the chart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files

from depthsearch.report.charts import LETTER, element, escape
from depthsearch.report.document import Document, Figure, Legend, Picture

__all__ = ["image_files"]

MARGIN = 12
FONT_SIZE = 12
LINE = 20
# What only a page can do: to point at a mark and to read of it below.
POINTING = re.compile(r'<g class="tip".*?</g>|<text[^>]*class="hint".*?</text>', re.DOTALL)
STYLE = """
svg { font-family: system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, "DejaVu Sans", sans-serif; }
.ground { fill: var(--ground); }
"""


def image_files(document: Document) -> Iterator[tuple[str, bytes]]:
    """Give the name and the content of a file for each figure and picture, in the order of the document."""
    style = (files("depthsearch.report.page") / "page.css").read_text(encoding="utf-8") + STYLE
    for name, block in document.images():
        yield name, block.jpeg if isinstance(block, Picture) else _as_svg(block, style).encode()


def _as_svg(figure: Figure, style: str) -> str:
    found = re.match(r'<svg viewBox="0 0 (\d+) (\d+)"', figure.wide)
    if found is None:
        raise ValueError("A figure's chart is an <svg> with a viewBox from 0 0.")
    width, height = (int(side) for side in found.groups())
    chart = POINTING.sub("", figure.wide).replace("<svg ", f'<svg width="{width}" height="{height}" ', 1)
    entries, rows = _legend(figure.legend, width)
    whole = (width + 2 * MARGIN, height + rows * LINE + 2 * MARGIN)
    parts = [
        element("style", escape(style).replace("&quot;", '"')),
        element("rect", width="100%", height="100%", class_="ground"),
        element("g", chart, transform=f"translate({MARGIN} {MARGIN})"),
        element("g", *entries, transform=f"translate({MARGIN} {MARGIN + height})"),
    ]
    return element(
        "svg",
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        width=whole[0],
        height=whole[1],
        viewBox=f"0 0 {whole[0]} {whole[1]}",
    )


def _legend(entries: tuple[Legend, ...], width: int) -> tuple[list[str], int]:
    """Draw a legend, wrapped to a width; return its parts and the number of its rows."""
    parts, x, row = [], 0.0, 0
    for entry in entries:
        needed = 26 + len(entry.label) * FONT_SIZE * LETTER + 18
        if x and x + needed > width:
            x, row = 0.0, row + 1
        label = element("text", escape(entry.label), x=26, y=11)
        parts.append(element("g", entry.symbol, label, transform=f"translate({x:.0f} {row * LINE + 4})"))
        x += needed
    return parts, row + 1 if parts else 0
