"""The report of a stored study."""

from depthsearch.page.composing import compose, write_report

__all__ = ["compose", "write_report"]
