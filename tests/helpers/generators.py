"""Trainings are generators: what a test wants of one that has ended."""

from collections.abc import Generator
from typing import Any


def run_out(generator: Generator[Any, None, Any]) -> tuple[list[Any], Any]:
    """Run a generator to its end: what it yielded, and what it returned."""
    yielded = []
    while True:
        try:
            yielded.append(next(generator))
        except StopIteration as ended:
            return yielded, ended.value
