"""The report of a stored study."""

from depthsearch.report.page.composing import compose, write_report

__all__ = ["compose", "write_report"]
