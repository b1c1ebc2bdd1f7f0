"""Execute the notebooks of docs/notebooks, from their sources: ``python tools/write_notebooks.py``.

Each source is a Python file with cells, as jupytext reads it. Figures are drawn as pictures, by kaleido in
a Chrome.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
SECONDS_A_CELL = 1200
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def sources() -> list[Path]:
    """List the sources."""
    return sorted(FOLDER.glob("*.py"))


def executed(source: Path, *, renderer: str) -> Any:
    """Execute a source.

    Args:
        source: The Python file.
        renderer: Plotly's, of the figures: ``png``, or ``json`` where nothing can draw them.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell fails.
    """
    notebook = jupytext.read(source)
    notebook.metadata["kernelspec"] = KERNEL
    surroundings = {
        # Cells run commands of this environment.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PLOTLY_RENDERER": renderer,
        "COLUMNS": "120",
        # A hint at widgets that bars of progress could have.
        "PYTHONWARNINGS": "ignore:IProgress",
    }
    with patch.dict(os.environ, surroundings):
        NotebookClient(notebook, timeout=SECONDS_A_CELL, kernel_name=KERNEL["name"]).execute()
    return without_traces(notebook)


def without_traces(notebook: Any) -> Any:
    """Leave out when cells ran, and the colours of a terminal."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", ()):
            if "text" in output:
                output["text"] = re.sub(r"\x1b\[[0-9;]*m", "", output["text"])
    notebook.metadata.pop("jupytext", None)
    notebook.metadata.pop("language_info", None)
    return notebook


def main() -> None:
    """Write every notebook beside its source."""
    for source in sources():
        nbformat.write(executed(source, renderer="png"), source.with_suffix(".ipynb"))


if __name__ == "__main__":
    main()
