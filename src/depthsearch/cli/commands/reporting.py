"""``depthsearch report`` and ``dashboard``."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from depthsearch.cli.commands.console import console_for, say
from depthsearch.cli.commands.keeping import keep_report
from depthsearch.cli.commands.places import artifacts_of, existing, named_study
from depthsearch.errors import SettingsError
from depthsearch.report.dashboard import refresh
from depthsearch.report.dashboard.serving import serve
from depthsearch.report.page import write_report
from depthsearch.report.text import as_json, render, render_trials
from depthsearch.results.summary import summarize
from depthsearch.study import open_storage
from depthsearch.study.artifacts import small_pictures

__all__ = ["dashboard", "report"]

# Not seen by others, unlike what is on a command line.
PASSWORD_VARIABLE = "DEPTHSEARCH_DASHBOARD_PASSWORD"


def report(arguments: argparse.Namespace) -> None:
    """Show a stored study, every trial of it, and write its report where one is asked for.

    Raises:
        SettingsError: If there is no such study, or the report cannot be written.
    """
    if arguments.images and arguments.out is None:
        raise SettingsError("--images draws files beside report.md: say where with --out DIR.")
    store = artifacts_of(arguments)
    stored = named_study(arguments)
    summary = summarize(stored)
    written: Sequence[Path] = ()
    if arguments.out is not None:
        pictures = small_pictures(stored, store) if store else {}
        written = write_report(stored, Path(arguments.out), pictures, images=arguments.images)
        keep_report(arguments, stored, console_for(stderr=True))
        refresh(stored)
    if arguments.json:
        print(json.dumps(as_json(summary)))
    else:
        console = console_for()
        console.print(render(summary))
        if summary.trials:
            console.print(render_trials(summary))
    if written:
        say(console_for(stderr=arguments.json), f"Report    {' '.join(map(str, written))}")


def dashboard(arguments: argparse.Namespace) -> None:
    """Serve optuna-dashboard on the stored studies until interrupted.

    Raises:
        SettingsError: If there are none, or it cannot be served as asked.
    """
    if arguments.port > 65535:
        raise SettingsError(f"--port {arguments.port} is no port: give one up to 65535.")
    password = _password(arguments.password)
    # Somebody waits for each of its pages.
    storage = open_storage(existing(arguments.storage), patience_seconds=10)
    serve(
        storage,
        arguments.host,
        arguments.port,
        artifacts_of(arguments),
        password=password,
        writable=arguments.writable,
    )


def _password(given: str | bool | None) -> str | None:
    """Take the password from the command line, a prompt or the environment; None: there is none.

    Raises:
        SettingsError: If it is empty, or nobody is there to be asked.
    """
    source = "--password"
    if given is True:
        if not sys.stdin.isatty():
            raise SettingsError(f"--password asks for it, and there is no terminal: set {PASSWORD_VARIABLE}.")
        given = getpass.getpass("Password for the dashboard: ")
    elif given:
        hint = f"Others on this machine see --password among the processes; {PASSWORD_VARIABLE} is not seen."
        say(console_for(stderr=True), hint, style="yellow")
    elif given is None and PASSWORD_VARIABLE in os.environ:
        source, given = PASSWORD_VARIABLE, os.environ[PASSWORD_VARIABLE]
    if given == "":
        raise SettingsError(f"{source} is empty: give a password, or leave it out.")
    try:
        str(given).encode()
    except UnicodeEncodeError:
        raise SettingsError(f"{source} is no UTF-8: give a password that is.") from None
    return None if given is None else str(given)
