"""A table of recorded trainings too small for its figures to mean anything."""

from pathlib import Path

from benchmarks.search import record
from benchmarks.search.tables import Table

GRID = (
    *("--data", "digits", "--backbone", "test_resnet", "--weights", "random", "--image-size", "32"),
    *("--max-train", "60", "--max-val", "40", "--epochs", "2", "--cuts", "4", "--precision", "float32"),
    *("--learning-rates", "1e-3", "1e-2", "--memory-mb", "64"),
)


def record_table(path: Path, *options: str) -> Table:
    """Record a table, or go on with the one in a file."""
    record.main([*GRID, "--out", str(path), *options])
    return Table.read(path)
