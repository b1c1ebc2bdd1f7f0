"""Files that commands keep with a study, for its dashboard."""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping

import optuna
from optuna.exceptions import StorageInternalError
from rich.console import Console

from depthsearch.artifacts import keep_latest, small_pictures
from depthsearch.commands.console import say
from depthsearch.commands.places import artifacts_of
from depthsearch.confusion import confusion_picture
from depthsearch.document import as_html
from depthsearch.interrupts import deferred
from depthsearch.page import compose
from depthsearch.record import read
from depthsearch.refit import Fitted
from depthsearch.summary import summarize

__all__ = ["keep_files", "keep_fit", "keep_report"]

REPORT, CARD, CONFUSIONS = "report.html", "model-card.md", "confusions.png"


def keep_report(arguments: argparse.Namespace, stored: optuna.Study, console: Console) -> None:
    """Keep the report of a study as its artifact, in the place of an earlier one."""
    store = artifacts_of(arguments)
    if store is not None:
        page = as_html(compose(summarize(stored), read(stored), small_pictures(stored, store)))
        keep_files(arguments, stored, {REPORT: page.encode()}, console)


def keep_fit(arguments: argparse.Namespace, stored: optuna.Study, fitted: Fitted, console: Console) -> None:
    """Keep the confusions of a test and the model's card."""
    picture = io.BytesIO()
    confusion_picture(fitted.figures, fitted.noun).save(picture, "PNG", optimize=True)
    card = (fitted.folder / "README.md").read_bytes()
    keep_files(arguments, stored, {CONFUSIONS: picture.getvalue(), CARD: card}, console)


def keep_files(
    arguments: argparse.Namespace, stored: optuna.Study, files: Mapping[str, bytes], console: Console
) -> None:
    """Keep files as artifacts of a study, each in the place of an earlier one of its name.

    What is trained is worth more than its picture in the dashboard: where they cannot be kept it is said.
    """
    store = artifacts_of(arguments)
    if store is None:
        return
    try:
        for name, content in files.items():
            with deferred():
                keep_latest(stored, store, name, content)
    except (OSError, StorageInternalError) as error:
        reason = str(error).splitlines()[0]
        say(console, f"Not kept for the dashboard, {', '.join(files)}: {reason}", style="yellow")
