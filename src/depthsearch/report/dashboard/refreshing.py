"""Bring a study's note and plots up to date."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, cast

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from depthsearch.report.dashboard.depth import depth_plot
from depthsearch.report.dashboard.figure import plot_name
from depthsearch.report.dashboard.front import front_plot
from depthsearch.report.dashboard.keeping import keep_note, keep_plot
from depthsearch.report.dashboard.learning import learning_plot
from depthsearch.report.dashboard.note import note_text
from depthsearch.report.dashboard.transfer import transfer_plot
from depthsearch.report.plots import metric_of
from depthsearch.report.record import read
from depthsearch.results.front import front_of
from depthsearch.results.summary import Summary, summarize
from depthsearch.signals import deferred
from depthsearch.study.lease import COORDINATOR
from depthsearch.study.progress import status
from depthsearch.study.storage import PatientStorage, database_of
from depthsearch.text import first_line

__all__ = ["plots_of", "refresh", "refreshed"]

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
        seen = cast("optuna.Study", _Snapshot(study, leave_out={COORDINATOR} if at_end else frozenset()))
        summary = summarize(seen)
        _name_metric(study, summary)
        keep_note(study, note_text(seen, summary, read(seen, importance=False), status(seen, summary)))
        for name, figure in plots_of(summary):
            keep_plot(study, name, figure)
    except Exception as error:
        # Hours of training are worth more than a plot.
        logger.warning(
            "The dashboard's view of study %r is not up to date: %s", study.study_name, first_line(error)
        )
        logger.debug("What went wrong", exc_info=True)


def plots_of(summary: Summary) -> Iterator[tuple[str, dict[str, Any]]]:
    """Draw a study's plots, each with its name; those of which nothing is known yet are left out."""
    for part in summary.each:
        if part.trials:
            yield plot_name("depth", summary, part), depth_plot(part)
        if part.curve:
            yield plot_name("transfer", summary, part), transfer_plot(part)
    if any(trial.scores for trial in summary.trials):
        yield "learning", learning_plot(summary)
    front = front_of(summary)
    if front is not None:
        yield "front", front_plot(summary, front)


def _hurried(study: optuna.Study) -> contextlib.AbstractContextManager[None]:
    storage = database_of(study)
    if isinstance(storage, PatientStorage):
        return storage.hurried(LAST_SECONDS)
    return contextlib.nullcontext()


class _Snapshot:
    """A study as it is at one moment, to be read only.

    A `Study` asks its database and copies each time it is asked, which is a dozen times for one summary.
    """

    def __init__(self, study: optuna.Study, *, leave_out: Collection[str]) -> None:
        self.study_name = study.study_name
        self.direction = study.direction
        self.user_attrs = {key: each for key, each in study.user_attrs.items() if key not in leave_out}
        self._storage = study._storage
        self._trials = study.get_trials(deepcopy=False)

    def get_trials(
        self, deepcopy: bool = True, states: Sequence[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """List the trials as `Study.get_trials` does, never as copies."""
        return [trial for trial in self._trials if states is None or trial.state in states]


def _name_metric(study: optuna.Study, summary: Summary) -> None:
    """Have the dashboard call the score by its name instead of "value"."""
    if study.metric_names is None:
        with deferred(), warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names([metric_of(summary)])
