"""A storage that waits while its database is away: restarting, locked, or its disk full.

After a lost connection it looks up whether the last write was done.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
import uuid
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy
from optuna.exceptions import DuplicatedStudyError, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import SQLAlchemyError, TimeoutError

from depthsearch.errors import DepthsearchError
from depthsearch.signals import let_through
from depthsearch.study.storage.connecting import ConnectedStorage, is_of_one_thread
from depthsearch.study.storage.fetching import fetch_trial, fetch_trials, fetch_user_attrs
from depthsearch.study.storage.optuna_private import models
from depthsearch.study.storage.outage import Away, chain, reason_of
from depthsearch.study.storage.writing import can_write, state_of, write_score, write_user_attrs

PATIENCE_SECONDS = 600.0
# SQLite: a lock is no outage before that.
BUSY_SECONDS = 60.0
# Between two checks whether it is back.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0

SELECT_NEWEST = sqlalchemy.select(sqlalchemy.func.max(models.TrialModel.trial_id))

T = TypeVar("T")
_logger = logging.getLogger(__name__)


class StorageError(DepthsearchError, StorageInternalError):
    """A database that cannot be used: away for too long, or it refuses."""


def _patient(method: Callable[..., Any], *, writes: bool = False) -> Any:
    """Make a method wait for a database that is away; one that writes must be idempotent."""

    @functools.wraps(method)
    def patient(self: PatientStorage, *args: Any, **kwargs: Any) -> Any:
        return self.patiently(lambda _: method(self, *args, **kwargs), writes=writes)

    return patient


class PatientStorage(ConnectedStorage):
    """Optuna's storage, which waits while the database is away."""

    def __init__(self, address: URL, shown: str, *, patience_seconds: float, busy_seconds: float) -> None:
        """Open or create the database, see `ConnectedStorage` and `open_storage`."""
        self._patience = patience_seconds
        self._outage_lock = threading.Lock()
        self._away_since: float | None = None
        super().__init__(address, shown, busy_seconds=busy_seconds)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle it as its address: another process opens it anew."""
        make = functools.partial(PatientStorage, patience_seconds=self._patience, busy_seconds=self._busy)
        return make, (self._address, self._shown)

    def patiently(
        self, work: Callable[[bool], T], *, writes: bool, patience_seconds: float | None = None
    ) -> T:
        """Run work on the database; while that is away, wait and run it again.

        Args:
            work: Its argument is whether it may have been done already, and only the answer been lost.
            writes: Whether it writes.
            patience_seconds: How long to wait, without a warning; None: as `hurried` says, or as at opening.

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
            self._wait(away, began, patience, warns=patience_seconds is None)

    @contextlib.contextmanager
    def hurried(self, patience_seconds: float) -> Iterator[None]:
        """Shorten the patience of this thread in this context, without warnings."""
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

    def _wait(self, away: Away, began: float, patience: float, *, warns: bool) -> None:
        """Wait until the database answers.

        Raises:
            StorageError: If it does not in time.
        """
        pause = FIRST_PAUSE_SECONDS
        with let_through():
            while True:
                gone = time.monotonic() - began
                if gone >= patience:
                    if warns:
                        self._away_since = None
                    raise StorageError(
                        f"The database {self._shown} has been away for {gone:.0f} s: {away.reason}"
                    ) from away
                if warns and (not away.is_lock or gone >= self._busy):
                    self._is_away(began, away, patience)
                time.sleep(min(pause, patience - gone))
                if away.is_lock:
                    # The retry asks for the lock again.
                    return
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                try:
                    return self._look()
                except (Away, SQLAlchemyError) as error:
                    away = self._away(error)

    def _look(self) -> None:
        """Query the database over a new connection."""
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

    # --- the methods that Optuna calls ----------------------------------------------------------

    get_current_version = _patient(RDBStorage.get_current_version)
    get_study_id_from_name = _patient(RDBStorage.get_study_id_from_name)
    get_study_name_from_id = _patient(RDBStorage.get_study_name_from_id)
    get_study_directions = _patient(RDBStorage.get_study_directions)
    get_study_system_attrs = _patient(RDBStorage.get_study_system_attrs)
    get_all_studies = _patient(RDBStorage.get_all_studies)
    get_trial_user_attrs = _patient(RDBStorage.get_trial_user_attrs)
    get_trial_system_attrs = _patient(RDBStorage.get_trial_system_attrs)
    get_trial_param = _patient(RDBStorage.get_trial_param)
    get_trial_id_from_study_id_trial_number = _patient(RDBStorage.get_trial_id_from_study_id_trial_number)
    _get_best_trial_id = _patient(RDBStorage._get_best_trial_id)
    set_study_user_attr = _patient(RDBStorage.set_study_user_attr, writes=True)
    set_study_system_attr = _patient(RDBStorage.set_study_system_attr, writes=True)
    _set_trial_param = _patient(RDBStorage._set_trial_param, writes=True)
    _set_score_by_optuna = _patient(RDBStorage.set_trial_intermediate_value, writes=True)
    _set_user_attr_by_optuna = _patient(RDBStorage.set_trial_user_attr, writes=True)
    set_trial_system_attr = _patient(RDBStorage.set_trial_system_attr, writes=True)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Read a study's user attributes in one query."""
        return query(self, lambda connection: fetch_user_attrs(connection, study_id))

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Read a trial in two queries."""
        return query(self, lambda connection: fetch_trial(connection, trial_id))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set a user attribute of a trial that has not ended."""
        self.set_trial_user_attrs(trial_id, {key: value})

    def set_trial_user_attrs(self, trial_id: int, values: Mapping[str, Any]) -> None:
        """Set user attributes of a trial that has not ended, JSON values by name, in one transaction.

        Raises:
            UpdateFinishedTrialError: If it has ended.
        """
        if can_write(self.engine.dialect.name):
            self._write(trial_id, lambda connection: write_user_attrs(connection, trial_id, values))
            return
        for key, value in values.items():
            self._set_user_attr_by_optuna(trial_id, key, value)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Set the score at a step of a trial that has not ended."""
        if can_write(self.engine.dialect.name):
            self._write(
                trial_id, lambda connection: write_score(connection, trial_id, step, intermediate_value)
            )
        else:
            self._set_score_by_optuna(trial_id, step, intermediate_value)

    def _write(self, trial_id: int, write: Callable[[Connection], None]) -> None:
        """Write something of a trial, unless it has ended."""

        def work(_: bool) -> None:
            with self.engine.begin() as connection:
                self.check_trial_is_updatable(trial_id, state_of(connection, trial_id))
                write(connection)

        self.patiently(work, writes=True)

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """Read trials in two queries, or in one where there are none."""
        wanted = study_id, states, included_trial_ids, trial_id_greater_than
        return query(self, lambda connection: fetch_trials(connection, *wanted))

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Create a study; an empty one that is found after a lost answer was made by this call."""
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
        """Delete a study; after a lost answer it may be gone already."""
        delete = super().delete_study

        def work(may_be_done: bool) -> None:
            try:
                delete(study_id)
            except KeyError:
                if not may_be_done:
                    raise

        self.patiently(work, writes=True)

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        """Create a trial, unless a try with a lost answer has made it."""
        template = create_trial(state=TrialState.RUNNING) if template_trial is None else template_trial
        # Identifiers begin with 1.
        newest = query(self, lambda connection: connection.execute(SELECT_NEWEST).scalar() or 0)
        create = super()._create_new_trial

        def work(may_be_done: bool) -> FrozenTrial:
            later = self._get_trials(study_id, None, set(), newest) if may_be_done else []
            made = next((trial for trial in later if _is_made_from(trial, template)), None)
            return create(study_id, template) if made is None else made

        return self.patiently(work, writes=True)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Set a trial's state; after a lost answer, check whether it was set."""
        set_ = super().set_trial_state_values
        tries: list[tuple[datetime, datetime]] = []

        def work(may_be_done: bool) -> bool:
            began = datetime.now()
            try:
                is_set = set_(trial_id, state, values)
            except UpdateFinishedTrialError:
                if may_be_done and _is_set_by_us(self.get_trial(trial_id), state, values, tries):
                    return True
                raise
            finally:
                tries.append((began, datetime.now()))
            # False: it was begun by another process, or by a try whose answer was lost.
            return is_set or (may_be_done and _is_set_by_us(self.get_trial(trial_id), state, values, tries))

        return self.patiently(work, writes=True)


def patiently(
    storage: RDBStorage, work: Callable[[bool], T], *, writes: bool, patience_seconds: float | None = None
) -> T:
    """Run work on a database as `PatientStorage.patiently` does; on another kind of storage at once."""
    if isinstance(storage, PatientStorage):
        return storage.patiently(work, writes=writes, patience_seconds=patience_seconds)
    return work(False)


def query(storage: RDBStorage, read: Callable[[Connection], T]) -> T:
    """Read from a database over a connection, as `patiently`."""

    def work(_: bool) -> T:
        with storage.engine.connect() as connection:
            return read(connection)

    return patiently(storage, work, writes=False)


def _is_made_from(trial: FrozenTrial, template: FrozenTrial) -> bool:
    """Return whether a trial was made from a template; it may have begun since."""
    if template.datetime_start is not None and trial.datetime_start != template.datetime_start:
        return False
    pairs = ((trial.user_attrs, template.user_attrs), (trial.system_attrs, template.system_attrs))
    return all(made.get(key) == value for made, asked in pairs for key, value in asked.items())


def _is_set_by_us(
    trial: FrozenTrial,
    state: TrialState,
    values: Sequence[float] | None,
    tries: Sequence[tuple[datetime, datetime]],
) -> bool:
    """Return whether one of these tries has set a trial's state and values."""
    when = trial.datetime_start if state == TrialState.RUNNING else trial.datetime_complete
    is_ours = when is not None and any(began <= when <= ended for began, ended in tries)
    return is_ours and trial.state == state and (values is None or list(values) == trial.values)
