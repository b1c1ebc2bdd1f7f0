"""A database that is waited for: while it is away (restarting, locked, its disk full), nothing is lost.

An outage is no matter of any study. What a lost connection leaves open, whether the last write was done, is
looked up afterwards.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy
from optuna.exceptions import DuplicatedStudyError, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError, TimeoutError

from depthsearch.errors import DepthsearchError
from depthsearch.signals import let_through
from depthsearch.study.storage.connecting import ConnectedStorage, is_of_one_thread
from depthsearch.study.storage.outage import Away, chain, reason_of

__all__ = ["PatientStorage", "StorageError", "patiently"]

PATIENCE_SECONDS = 600.0
# SQLite: for so long a lock is no outage yet.
BUSY_SECONDS = 60.0
# Between two looks whether it is back.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0

T = TypeVar("T")
_logger = logging.getLogger(__name__)


class StorageError(DepthsearchError, StorageInternalError):
    """A database that cannot be used: away for too long, or it refuses."""


def _reading(method: Callable[..., Any]) -> Any:
    """Make a method that reads wait for a database that is away."""
    return _patient(method, writes=False)


def _writing(method: Callable[..., Any]) -> Any:
    """Make a method wait that writes the same when it is done twice."""
    return _patient(method, writes=True)


def _patient(method: Callable[..., Any], *, writes: bool) -> Any:
    @functools.wraps(method)
    def patient(self: PatientStorage, *args: Any, **kwargs: Any) -> Any:
        return self.patiently(lambda _: method(self, *args, **kwargs), writes=writes)

    return patient


class PatientStorage(ConnectedStorage):
    """Optuna's storage, which waits while the database is away."""

    def __init__(self, address: URL, shown: str, *, patience_seconds: float, busy_seconds: float) -> None:
        """Open or create the database.

        Args:
            address: Where.
            shown: The same for messages, without a password.
            patience_seconds: See `open_storage`.
            busy_seconds: See `open_storage`.

        Raises:
            Away: If it cannot be opened now.
        """
        self._patience = patience_seconds
        self._outage_lock = threading.Lock()
        self._away_since: float | None = None
        super().__init__(address, shown, busy_seconds=busy_seconds)

    def __reduce__(self) -> tuple[Any, ...]:
        """Let another process open it anew."""
        make = functools.partial(PatientStorage, patience_seconds=self._patience, busy_seconds=self._busy)
        return make, (self._address, self._shown)

    def patiently(
        self, work: Callable[[bool], T], *, writes: bool, patience_seconds: float | None = None
    ) -> T:
        """Do something with the database; while that is away, wait and do it again.

        Args:
            work: What to do. It is told whether it may have been done already, and only the answer been lost.
            writes: Whether it writes.
            patience_seconds: How long to wait without a word; None: see `hurried`, or as it was opened with.

        Raises:
            StorageError: If the database refuses, or is away for longer.
        """
        if patience_seconds is None:
            patience_seconds = getattr(self._local, "patience_seconds", None)
        patience = self._patience if patience_seconds is None else patience_seconds
        began: float | None = None
        may_be_done = False
        while True:
            try:
                with self._as_reader(not writes):
                    result = work(may_be_done)
            except (Away, SQLAlchemyError, StorageInternalError) as error:
                away = self._away(error)
            else:
                if began is not None:
                    self._is_back()
                return result
            began = time.monotonic() if began is None else began
            may_be_done |= away.may_be_done
            self._wait(away, began, patience, tell=patience_seconds is None)

    @contextlib.contextmanager
    def hurried(self, patience_seconds: float) -> Iterator[None]:
        """Wait no longer for whatever this thread asks of the database meanwhile, and say nothing of it."""
        self._local.patience_seconds = patience_seconds
        try:
            yield
        finally:
            self._local.patience_seconds = None

    def _away(self, error: Away | SQLAlchemyError | StorageInternalError) -> Away:
        """Recognise an outage.

        Raises:
            StorageError: If it is none.
        """
        if isinstance(error, StorageError):
            raise error
        causes = chain(error)
        away = next((cause for cause in causes if isinstance(cause, Away)), None)
        if away is None and any(isinstance(cause, TimeoutError) for cause in causes):
            # All connections of the pool are in use.
            away = Away(error)
        if away is None:
            raise StorageError(f"The database {self._shown} cannot be used: {reason_of(error)}") from error
        return away

    def _wait(self, away: Away, began: float, patience: float, *, tell: bool) -> None:
        """Wait until the database answers.

        Raises:
            StorageError: If it does not in time.
        """
        pause = FIRST_PAUSE_SECONDS
        with let_through():
            while True:
                gone = time.monotonic() - began
                if gone >= patience:
                    if tell:
                        self._away_since = None
                    raise StorageError(
                        f"The database {self._shown} has been away for {gone:.0f} s: {away.reason}"
                    ) from away
                if tell and (not away.is_lock or gone >= self._busy):
                    self._is_away(began, away, patience)
                time.sleep(min(pause, patience - gone))
                if away.is_lock:
                    # Whoever wants the lock asks for it again.
                    return
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                try:
                    return self._look()
                except (Away, SQLAlchemyError) as error:
                    away = self._away(error)

    def _look(self) -> None:
        """Ask the database for anything, over a new connection."""
        if not is_of_one_thread(self):
            self.engine.dispose()
        with self._as_reader(), self.engine.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT 1"))

    def _is_away(self, began: float, away: Away, patience: float) -> None:
        with self._outage_lock:
            if self._away_since is None:
                self._away_since = began
                _logger.warning(
                    "The database %s is away (%s): waiting for it, up to %.0f s.",
                    self._shown,
                    away.reason,
                    patience,
                )

    def _is_back(self) -> None:
        with self._outage_lock:
            if self._away_since is not None:
                gone = time.monotonic() - self._away_since
                self._away_since = None
                _logger.warning("The database %s is back after %.0f s.", self._shown, gone)

    # --- what Optuna asks of it -----------------------------------------------------------------

    get_current_version = _reading(RDBStorage.get_current_version)
    get_study_id_from_name = _reading(RDBStorage.get_study_id_from_name)
    get_study_name_from_id = _reading(RDBStorage.get_study_name_from_id)
    get_study_directions = _reading(RDBStorage.get_study_directions)
    get_study_user_attrs = _reading(RDBStorage.get_study_user_attrs)
    get_study_system_attrs = _reading(RDBStorage.get_study_system_attrs)
    get_all_studies = _reading(RDBStorage.get_all_studies)
    get_trial_user_attrs = _reading(RDBStorage.get_trial_user_attrs)
    get_trial_system_attrs = _reading(RDBStorage.get_trial_system_attrs)
    get_trial_param = _reading(RDBStorage.get_trial_param)
    get_trial_id_from_study_id_trial_number = _reading(RDBStorage.get_trial_id_from_study_id_trial_number)
    get_trial = _reading(RDBStorage.get_trial)
    _get_trials = _reading(RDBStorage._get_trials)
    _get_best_trial_id = _reading(RDBStorage._get_best_trial_id)
    set_study_user_attr = _writing(RDBStorage.set_study_user_attr)
    set_study_system_attr = _writing(RDBStorage.set_study_system_attr)
    _set_trial_param = _writing(RDBStorage._set_trial_param)
    set_trial_intermediate_value = _writing(RDBStorage.set_trial_intermediate_value)
    set_trial_user_attr = _writing(RDBStorage.set_trial_user_attr)
    set_trial_system_attr = _writing(RDBStorage.set_trial_system_attr)

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Create a study; one without anything in it was made by this call, its answer lost."""
        # Chosen here, so that a second try makes the same study.
        name = study_name or f"no-name-{uuid.uuid4()}"
        create = super().create_new_study

        def work(may_be_done: bool) -> int:
            try:
                return create(directions, name)
            except DuplicatedStudyError:
                if may_be_done and (study_id := self._empty_study(name)) is not None:
                    return study_id
                raise

        return self.patiently(work, writes=True)

    def _empty_study(self, name: str) -> int | None:
        study_id = self.get_study_id_from_name(name)
        is_used = self.get_study_user_attrs(study_id) or self._get_trials(study_id, None, set(), -1)
        return None if is_used else study_id

    def delete_study(self, study_id: int) -> None:
        """Delete a study, or find that it was deleted."""
        delete = super().delete_study

        def work(may_be_done: bool) -> None:
            try:
                delete(study_id)
            except KeyError:
                if not may_be_done:
                    raise

        self.patiently(work, writes=True)

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        """Create a trial; look first whether a try with a lost answer has made it."""
        template = _bare_trial() if template_trial is None else template_trial
        newest = self.patiently(lambda _: self._newest_trial_id(), writes=False)
        create = super()._create_new_trial

        def work(may_be_done: bool) -> FrozenTrial:
            made = self._get_trials(study_id, None, set(), newest) if may_be_done else []
            found = next((trial for trial in made if _is_made_from(trial, template)), None)
            return create(study_id, template) if found is None else found

        return self.patiently(work, writes=True)

    def _newest_trial_id(self) -> int:
        with self.engine.connect() as connection:
            # Numbers begin with 1.
            return int(connection.execute(sqlalchemy.text("SELECT MAX(trial_id) FROM trials")).scalar() or 0)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Set a trial's state; what a try with a lost answer may have set is looked up."""
        set_ = super().set_trial_state_values
        tries: list[tuple[datetime, datetime]] = []

        def work(may_be_done: bool) -> bool:
            began = datetime.now()
            try:
                is_set = set_(trial_id, state, values)
            except UpdateFinishedTrialError:
                if may_be_done and _is_as_wanted(self.get_trial(trial_id), state, values, tries):
                    return True
                raise
            finally:
                tries.append((began, datetime.now()))
            # It runs: begun by another, or by a try whose answer was lost.
            return is_set or (may_be_done and _is_as_wanted(self.get_trial(trial_id), state, values, tries))

        return self.patiently(work, writes=True)


def patiently(
    storage: RDBStorage, work: Callable[[bool], T], *, writes: bool, patience_seconds: float | None = None
) -> T:
    """Do something with a database as `PatientStorage.patiently` does; at once with one of another kind."""
    if isinstance(storage, PatientStorage):
        return storage.patiently(work, writes=writes, patience_seconds=patience_seconds)
    return work(False)


def _bare_trial() -> FrozenTrial:
    """Make what Optuna makes of a trial without a template: running, begun now."""
    return FrozenTrial(
        number=-1,
        trial_id=-1,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=datetime.now(),
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
    )


def _is_made_from(trial: FrozenTrial, template: FrozenTrial) -> bool:
    """Say whether a trial was made from a template; it may have been begun since."""
    if template.datetime_start is not None and trial.datetime_start != template.datetime_start:
        return False
    pairs = ((trial.user_attrs, template.user_attrs), (trial.system_attrs, template.system_attrs))
    return all(made.get(key) == value for made, asked in pairs for key, value in asked.items())


def _is_as_wanted(
    trial: FrozenTrial,
    state: TrialState,
    values: Sequence[float] | None,
    tries: Sequence[tuple[datetime, datetime]],
) -> bool:
    """Say whether a trial has a state and values that one of these tries has set."""
    when = trial.datetime_start if state == TrialState.RUNNING else trial.datetime_complete
    is_ours = when is not None and any(began <= when <= ended for began, ended in tries)
    return is_ours and trial.state == state and (values is None or list(values) == trial.values)
