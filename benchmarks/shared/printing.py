"""How benchmarks print what they have measured."""

from __future__ import annotations

from collections.abc import Sequence


def print_table(lines: Sequence[Sequence[str]]) -> None:
    """Print lines as a Markdown table, the first as its head."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for i, line in enumerate(lines):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")
        if i == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|", flush=True)
