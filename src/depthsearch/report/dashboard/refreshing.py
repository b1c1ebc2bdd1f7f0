"""Bring a study's note and plots up to date."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace

import optuna
from optuna.exceptions import ExperimentalWarning
from plotly.graph_objects import Figure

from depthsearch.report.dashboard.keeping import keep_note, keep_plot
from depthsearch.report.dashboard.note import note_text
from depthsearch.report.page.plots import figure_name
from depthsearch.results.front import front_of
from depthsearch.results.stored import StoredStudy
from depthsearch.results.summary import Summary, summarize
from depthsearch.signals import deferred
from depthsearch.study.progress import status
from depthsearch.study.storage.optuna_private import database_of
from depthsearch.study.storage.patient import PatientStorage
from depthsearch.text import first_line
from depthsearch.visualization.depth import draw_score_by_depth
from depthsearch.visualization.front import draw_front
from depthsearch.visualization.learning import draw_learning_curves
from depthsearch.visualization.transfer import draw_transfer_curve
from depthsearch.visualization.words import metric_of

logger = logging.getLogger(__name__)

# At most this share of a study's time goes into showing it.
SHARE = 0.05
# How long to wait for a database that is away when the study ends by an error or an interrupt.
LAST_SECONDS = 2.0


@contextlib.contextmanager
def refreshed(study: optuna.Study) -> Iterator[Callable[[], None]]:
    """Keep what the dashboard shows of a study up to date while it runs, and bring it up to date at the end.

    Yields:
        To be called after each trial: it does nothing where trials end so fast that it would hold them up.
    """
    due = 0.0

    def now_and_then() -> None:
        nonlocal due
        started = time.monotonic()
        if started >= due:
            refresh(study)
            due = time.monotonic() + (time.monotonic() - started) / SHARE

    now_and_then()
    try:
        yield now_and_then
    except BaseException:
        # Whoever interrupts, or has waited for the database long enough, is not to wait for it once more.
        with _hurried(study):
            refresh(study, at_end=True)
        raise
    refresh(study, at_end=True)


def refresh(study: optuna.Study, *, at_end: bool = False) -> None:
    """Write anew what optuna-dashboard shows of a study, as far as it has changed.

    Whatever goes wrong here, a full or busy database or a fault of ours, is logged and stops no study: the
    next trial that ends has it written anew.

    Args:
        study: Whose.
        at_end: Whether whoever runs it is about to give its lease back: then nobody runs it.
    """
    try:
        stored = StoredStudy.read(study)
        stored = replace(stored, lease={}) if at_end else stored
        summary = summarize(stored)
        _name_metric(study, summary)
        keep_note(study, note_text(stored, summary, status(study, stored, summary)))
        for name, figure in plots_of(summary):
            keep_plot(study, name, figure)
    except Exception as error:
        # Hours of training are worth more than a plot.
        logger.warning(
            "The dashboard's view of study %r is not up to date: %s", study.study_name, first_line(error)
        )
        logger.debug("What went wrong", exc_info=True)


def plots_of(summary: Summary) -> Iterator[tuple[str, Figure]]:
    """Draw a study's plots, each with its name; those of which nothing is known yet are left out."""
    for part in summary.each:
        if part.trials:
            yield figure_name("depth", summary, part), draw_score_by_depth(part)
        if part.curve:
            yield figure_name("transfer", summary, part), draw_transfer_curve(part)
    if any(trial.scores for trial in summary.trials):
        yield "learning", draw_learning_curves(summary)
    front = front_of(summary)
    if front is not None:
        yield "front", draw_front(summary, front)


def _hurried(study: optuna.Study) -> contextlib.AbstractContextManager[None]:
    storage = database_of(study)
    if isinstance(storage, PatientStorage):
        return storage.hurried(LAST_SECONDS)
    return contextlib.nullcontext()


def _name_metric(study: optuna.Study, summary: Summary) -> None:
    """Name the score for the dashboard, instead of "value"."""
    if study.metric_names is None:
        with deferred(), warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names([metric_of(summary)])
