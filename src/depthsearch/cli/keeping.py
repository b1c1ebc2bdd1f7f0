"""Files that commands store with a study, for its dashboard."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from PIL.Image import Image
from rich.console import Console

from depthsearch.cli.console import say
from depthsearch.cli.places import artifacts_of
from depthsearch.errors import DepthsearchError
from depthsearch.report.page.composing import Report, compose
from depthsearch.results.stored import StoredStudy
from depthsearch.results.summary import summarize
from depthsearch.signals import deferred
from depthsearch.study.artifacts import Artifacts, keep_latest, small_pictures
from depthsearch.text import first_line

REPORT, CARD, CONFUSIONS = "report.html", "model-card.md", "confusions.png"


def keep_report(
    study: optuna.Study,
    console: Console,
    storage: str,
    artifacts: str | None = None,
    *,
    report: Report | None = None,
) -> None:
    """Store the report of a study, made here unless given, as its artifact, replacing an earlier one."""
    with _failure_said(REPORT, console):
        if (store := artifacts_of(storage, artifacts)) is not None:
            if report is None:
                stored = StoredStudy.read(study)
                report = compose(summarize(stored), stored, small_pictures(study, store))
            _keep(store, study, {REPORT: report.html().encode()})


def keep_fit(
    study: optuna.Study,
    confusions: Image,
    card: Path,
    console: Console,
    storage: str,
    artifacts: str | None = None,
) -> None:
    """Store a picture of what a test confused and the model's card, replacing earlier ones."""
    with _failure_said(f"{CONFUSIONS} and {CARD}", console):
        if (store := artifacts_of(storage, artifacts)) is not None:
            picture = io.BytesIO()
            confusions.save(picture, "PNG", optimize=True)
            _keep(store, study, {CONFUSIONS: picture.getvalue(), CARD: card.read_bytes()})


@contextmanager
def _failure_said(what: str, console: Console) -> Iterator[None]:
    """Print a line if files cannot be stored: the training that they describe is still good."""
    try:
        yield
    except (DepthsearchError, OSError, StorageInternalError) as error:
        say(console, f"Not kept for the dashboard, {what}: {first_line(error)}", style="yellow")


def _keep(store: Artifacts, stored: optuna.Study, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        with deferred():
            keep_latest(stored, store, name, content)
