"""The notebooks of the documentation run, and show what their sources do."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "notebooks"
SOURCES = sorted(FOLDER.glob("*.py"))
# A reader waits for it, and every clone carries it.
MOST_BYTES = 400_000


def code_of(notebook: dict[str, Any]) -> list[str]:
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_is_of_its_source_executed_and_small(source: Path) -> None:
    jupytext = pytest.importorskip("jupytext")
    path = source.with_suffix(".ipynb")
    kept = json.loads(path.read_text(encoding="utf-8"))
    wanted = [cell.source for cell in jupytext.read(source).cells if cell.cell_type == "code"]
    assert code_of(kept) == wanted, "python tools/write_notebooks.py"
    assert all(cell["execution_count"] for cell in kept["cells"] if cell["cell_type"] == "code")
    assert any(
        "image/png" in output.get("data", {}) for cell in kept["cells"] for output in cell.get("outputs", ())
    )
    assert path.stat().st_size < MOST_BYTES
    assert not [
        word for word in (str(Path.home()), str(Path.cwd())) if word in path.read_text(encoding="utf-8")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_runs(source: Path) -> None:
    """Guards the Python interface as readers copy it: from a network over a study to its model."""
    tool = runpy.run_path(str(ROOT / "tools" / "write_notebooks.py"))
    executed = tool["executed"](source, renderer="json")
    texts = [output.get("text", "") for cell in executed.cells for output in cell.get("outputs", ())]
    assert "is taken for" in "".join(texts)
