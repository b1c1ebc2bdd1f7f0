"""The command line."""

from depthsearch.cli.entry import main

__all__ = ["main"]
