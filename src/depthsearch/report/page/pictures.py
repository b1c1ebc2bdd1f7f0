"""The figures of a report as files, for Markdown, slides and papers: drawn by kaleido in a Chrome."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from plotly.io import write_images

from depthsearch.passwords import first_line
from depthsearch.report.page.values import Plot

__all__ = ["draw_files"]

WIDTH, HEIGHT = 860, 460


def draw_files(plots: Iterable[Plot]) -> tuple[dict[str, bytes], str]:
    """Draw figures as SVG.

    Returns:
        The files by the figures' names, and why there are none where nothing here can draw them.
    """
    every = list(plots)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{plot.name}.svg" for plot in every]
        try:
            write_images(
                [plot.figure for plot in every],
                [str(path) for path in paths],
                width=WIDTH,
                height=HEIGHT,
            )
        # kaleido may be missing, find no Chrome, or fail in it: each has exceptions of its own.
        except Exception as error:  # noqa: BLE001
            reason = f"No pictures of the figures: {first_line(error)}"
            return {}, f"{reason} They take depthsearch[images] and a Chrome; report.html has the figures."
        return {plot.name: path.read_bytes() for plot, path in zip(every, paths, strict=True)}, ""
