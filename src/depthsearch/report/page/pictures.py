"""The figures of a report as files, for Markdown, slides and papers: drawn by kaleido in a Chrome."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from depthsearch.report.page.values import Plot
from depthsearch.text import first_line

logger = logging.getLogger(__name__)

SIZE = {"width": 860, "height": 460, "format": "svg"}


def draw_files(plots: Iterable[Plot]) -> tuple[dict[str, bytes], str]:
    """Draw figures as SVG.

    Returns:
        The files by the figures' names, and why there are none where nothing here can draw them.
    """
    figures = {plot.name: plot.figure.to_plotly_json() for plot in plots}
    try:
        return _drawn(figures), ""
    except ImportError:
        reason = "kaleido is not installed."
    # No Chrome, one that does not start, one that fails: each has an exception of its own.
    except Exception as error:  # noqa: BLE001
        reason = f"{first_line(error).rstrip('.')}."
    reason = f"No pictures of the figures: {reason} They take depthsearch[images] and a Chrome or Chromium."
    logger.warning(reason)
    return {}, f"{reason} The page report.html has the figures."


def _drawn(figures: Mapping[str, Any]) -> dict[str, bytes]:
    from kaleido import write_fig_from_object_sync

    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.svg" for name in figures}
        drawings = [{"fig": fig, "path": paths[name], "opts": SIZE} for name, fig in figures.items()]
        # MathJax would come from the network, and take a name between dollars for a formula.
        write_fig_from_object_sync(drawings, kopts={"mathjax": False}, cancel_on_error=True)
        return {name: path.read_bytes() for name, path in paths.items()}
