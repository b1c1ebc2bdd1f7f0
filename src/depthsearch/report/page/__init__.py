"""The report of a stored study."""

from depthsearch.report.page.composing import Report, compose, write_report

__all__ = ["Report", "compose", "write_report"]
