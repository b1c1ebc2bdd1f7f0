"""``depthsearch report`` and ``dashboard``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from depthsearch.artifacts import small_pictures
from depthsearch.commands.console import console_for, say
from depthsearch.commands.places import artifacts_of, existing, named_study
from depthsearch.dashboard import serve
from depthsearch.errors import SettingsError
from depthsearch.page import write_report
from depthsearch.report import as_json, render, render_trials
from depthsearch.study import open_storage
from depthsearch.summary import summarize

__all__ = ["dashboard", "report"]


def report(arguments: argparse.Namespace) -> None:
    """Show a stored study, every trial of it, and write its report where one is asked for.

    Raises:
        SettingsError: If there is no such study, or the report cannot be written.
    """
    store = artifacts_of(arguments)
    stored = named_study(arguments)
    summary = summarize(stored)
    written: Sequence[Path] = ()
    if arguments.out is not None:
        pictures = small_pictures(stored, store) if store else {}
        written = write_report(stored, Path(arguments.out), pictures)
    if arguments.json:
        print(json.dumps(as_json(summary)))
    else:
        console_for().print(render(summary), render_trials(summary))
    if written:
        say(console_for(stderr=arguments.json), f"Report    {' '.join(map(str, written))}")


def dashboard(arguments: argparse.Namespace) -> None:
    """Serve optuna-dashboard on the stored studies until interrupted."""
    if arguments.port > 65535:
        raise SettingsError(f"--port {arguments.port} is no port: give one up to 65535.")
    # Somebody waits for each of its pages.
    storage = open_storage(existing(arguments.storage), patience_seconds=10)
    serve(storage, arguments.host, arguments.port, artifacts_of(arguments))
