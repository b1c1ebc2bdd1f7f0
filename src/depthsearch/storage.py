"""The database that studies live in: SQLite on one machine, PostgreSQL for several.

While it is away (restarting, locked, its disk full), whoever needs it waits: an outage is no matter of any
study. What a lost connection leaves open, whether the last write was done, is looked up afterwards.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sqlite3
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy
from optuna.exceptions import DuplicatedStudyError, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError, TimeoutError
from sqlalchemy.pool import SingletonThreadPool

from depthsearch.databasefile import refuse_foreign
from depthsearch.errors import DepthsearchError, SettingsError
from depthsearch.interrupts import let_through
from depthsearch.outage import Away, chain, first_line, lacks_log, passes, without_password

__all__ = ["PatientStorage", "StorageError", "is_of_one_thread", "open_storage", "without_password"]

PATIENCE_SECONDS = 600.0
# SQLite: for so long a lock is no outage yet.
BUSY_SECONDS = 60.0
# How long SQLite itself waits for a lock: nothing interrupts it meanwhile.
LOCK_SECONDS = 0.2
# Between two looks whether it is back.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0
# psycopg's: a server that is silent counts as away, not only one that says no.
POSTGRESQL: dict[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
CREATION_TRIES = 20

T = TypeVar("T")
_logger = logging.getLogger(__name__)


class StorageError(DepthsearchError, StorageInternalError):
    """A database that cannot be used: away for too long, or it refuses."""


def open_storage(
    url: str, *, patience_seconds: float = PATIENCE_SECONDS, busy_seconds: float = BUSY_SECONDS
) -> RDBStorage:
    """Open or create the database that studies live in.

    Args:
        url: SQLAlchemy's, such as ``sqlite:///depthsearch.db`` or ``postgresql://user@host/database``.
        patience_seconds: How long to wait when it goes away later on. Opening does not wait.
        busy_seconds: How long a lock of SQLite is waited for without a word, also to open it.

    Raises:
        SettingsError: If there is no such database or it cannot be used.
    """
    shown = without_password(url)
    address = _address(url, shown)
    refuse_foreign(url)
    try:
        return PatientStorage(address, shown, patience_seconds=patience_seconds, busy_seconds=busy_seconds)
    except DepthsearchError:
        raise
    except ImportError as error:
        missing = chain(error)[-1]
        raise SettingsError(f"--storage {shown} needs a driver: {_needed(address, missing)}") from None
    except Away as error:
        raise SettingsError(f"--storage {shown} cannot be opened: {error.reason}") from error
    except Exception as error:
        raise SettingsError(f"--storage {shown} cannot be opened: {first_line(error)}") from error


def _address(url: str, shown: str) -> URL:
    """Read a URL.

    Raises:
        SettingsError: If it is none.
    """
    if "://" not in url:
        raise SettingsError(f"--storage {shown!r} is no database URL: give sqlite:///{shown} or another.")
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        raise SettingsError(
            f"--storage {shown} is no database URL: give sqlite:///FILE or postgresql://USER@HOST/DATABASE."
        ) from None
    if address.password is not None and url.count("@") > 1:
        raise SettingsError(f"--storage {shown} has more than one @: write those of the password %40.")
    if address.drivername in ("postgresql", "postgres"):
        # What this means without a driver depends on SQLAlchemy's version.
        return address.set(drivername="postgresql+psycopg")
    return address


def _needed(address: URL, missing: BaseException) -> str:
    if address.drivername == "postgresql+psycopg":
        return "pip install 'depthsearch[postgres]'."
    return f"{missing}. Install it, or give a database of another kind."


def is_of_one_thread(storage: RDBStorage) -> bool:
    """Say whether another thread sees another database: SQLite's in memory."""
    return isinstance(storage.engine.pool, SingletonThreadPool)


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


class PatientStorage(RDBStorage):
    """Optuna's storage, which waits while the database is away.

    SQLite has a write-ahead log, so that who reads waits for nobody; who writes takes the lock at once, so
    that what it has read before is still so.

    Attributes:
        guards: Called with each transaction that is to write, at its beginning; each may raise.
    """

    def __init__(self, address: URL, shown: str, *, patience_seconds: float, busy_seconds: float) -> None:
        """Open or create the database.

        Args:
            address: Where.
            shown: The same for messages, without a password.
            patience_seconds: See `open_storage`.
            busy_seconds: See `open_storage`.

        Raises:
            Away: If it cannot be opened now.
            ImportError: If there is no driver for it.
        """
        self.guards: list[Callable[[Connection], object]] = []
        self._engine: Engine | None = None
        self._address, self._shown = address, shown
        self._patience, self._busy = patience_seconds, busy_seconds
        self._local = threading.local()
        self._outage_lock = threading.Lock()
        self._away_since: float | None = None
        self._file = _file_of(address)
        # SQLite's: open for reading and writing, and create it only now.
        self._mode = "mode=rw" if self._file and self._file.exists() else "mode=rwc"
        self._open()
        self._mode = self._mode.replace("rwc", "rw")

    def __reduce__(self) -> tuple[Any, ...]:
        """Let another process open it anew."""
        url = self._address.render_as_string(hide_password=False)
        make = functools.partial(open_storage, patience_seconds=self._patience, busy_seconds=self._busy)
        return make, (url,)

    def _open(self) -> None:
        """Open the database, or create what it lacks; several processes may do so at the same time."""
        deadline = time.monotonic() + self._busy
        n_races = 0
        while True:
            try:
                return self._open_once()
            except Away as error:
                if not error.is_lock or time.monotonic() > deadline:
                    raise
            except (SQLAlchemyError, StorageInternalError) as error:
                n_races += 1
                if not _is_race(error) or n_races == CREATION_TRIES:
                    raise
            time.sleep(FIRST_PAUSE_SECONDS)

    def _open_once(self) -> None:
        url = self._address.render_as_string(hide_password=False)
        # Optuna fills in its schema's version where it finds braces.
        url = url.replace("{", "{{").replace("}", "}}")
        # Optuna reads over one connection while it writes over another: neither may lock at once.
        with self._as_reader():
            try:
                # Of a database that is complete nothing is written, not even a lock taken.
                super().__init__(url, self._options(), skip_table_creation=True)
            except (Away, StorageInternalError) as error:
                if self._can_be_frozen(error):
                    self._freeze()
                    super().__init__(url, self._options(), skip_table_creation=True)
                elif isinstance(error, Away):
                    raise
                else:
                    super().__init__(url, self._options())

    def _options(self) -> dict[str, Any]:
        if self._address.get_backend_name() == "sqlite":
            return {"connect_args": {"timeout": min(LOCK_SECONDS, self._busy)}}
        if self._address.get_driver_name() not in ("psycopg", "psycopg2"):
            return {"pool_pre_ping": True}
        asked = self._address.query
        return {
            "pool_pre_ping": True,
            "connect_args": {key: value for key, value in POSTGRESQL.items() if key not in asked},
        }

    def _can_be_frozen(self, error: BaseException) -> bool:
        """Say whether SQLite fails for want of a place for its log, beside a file that nobody here writes."""
        file = self._file
        if file is None or self._mode != "mode=rw" or not lacks_log(error):
            return False
        return _may(file, os.R_OK) and not _may(file.parent, os.W_OK)

    def _freeze(self) -> None:
        """Read a file as one that does not change.

        Raises:
            SettingsError: If part of it is still in its log.
        """
        assert self._file is not None
        log = self._file.with_name(f"{self._file.name}-wal")
        if log.exists() and log.stat().st_size:
            raise SettingsError(
                f"--storage {self._shown} has its latest writes in {log.name}, and {self._file.parent} "
                "cannot be written to. Copy both files to a folder that can."
            )
        self._mode = "mode=ro&immutable=1"

    # --- how it is spoken to --------------------------------------------------------------------

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's."""
        assert self._engine is not None
        return self._engine

    @engine.setter
    def engine(self, engine: Engine) -> None:
        # Set by Optuna before anything is read or written; again if a database had to be created.
        if self._engine is not None:
            self._engine.dispose()
        self._engine = engine
        weakref.finalize(self, engine.dispose)
        event.listen(engine, "handle_error", _recognise)
        event.listen(engine, "begin", _weakly(self._begin))
        # In memory there is but one connection, and nobody to wait for.
        if engine.dialect.name == "sqlite" and not is_of_one_thread(self):
            event.listen(engine, "do_connect", _weakly(self._name_file))
            event.listen(engine, "connect", _begin_by_hand)

    def _name_file(self, dialect: Any, record: Any, arguments: list[Any], options: dict[str, Any]) -> None:
        """Open an existing file: one that went away is not to be replaced by an empty one."""
        if self._file is not None:
            arguments[0] = f"{self._file.as_uri()}?{self._mode}"
            options["uri"] = True

    def _begin(self, connection: Connection) -> None:
        reads = getattr(self._local, "reads", False)
        if connection.dialect.name == "sqlite" and not is_of_one_thread(self):
            if not reads and self._file is not None:
                _use_log(connection)
            connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
        if not reads:
            for guard in tuple(self.guards):
                guard(connection)

    @contextlib.contextmanager
    def _as_reader(self, reads: bool = True) -> Iterator[None]:
        before = getattr(self._local, "reads", False)
        self._local.reads = reads
        try:
            yield
        finally:
            self._local.reads = before

    # --- how it is waited for -------------------------------------------------------------------

    def patiently(
        self, work: Callable[[bool], T], *, writes: bool, patience_seconds: float | None = None
    ) -> T:
        """Do something with the database; while that is away, wait and do it again.

        Args:
            work: What to do. It is told whether it may have been done already, and only the answer been lost.
            writes: Whether it writes.
            patience_seconds: How long to wait; None: as the storage was opened with, and saying so.

        Raises:
            StorageError: If the database refuses, or is away for longer.
        """
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
            raise StorageError(f"The database {self._shown} cannot be used: {first_line(error)}") from error
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
    _get_stale_trial_ids = _reading(RDBStorage._get_stale_trial_ids)
    set_study_user_attr = _writing(RDBStorage.set_study_user_attr)
    set_study_system_attr = _writing(RDBStorage.set_study_system_attr)
    _set_trial_param = _writing(RDBStorage._set_trial_param)
    set_trial_intermediate_value = _writing(RDBStorage.set_trial_intermediate_value)
    set_trial_user_attr = _writing(RDBStorage.set_trial_user_attr)
    set_trial_system_attr = _writing(RDBStorage.set_trial_system_attr)
    record_heartbeat = _writing(RDBStorage.record_heartbeat)

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


def _weakly(method: Callable[..., None]) -> Callable[..., None]:
    """Make a listener that does not keep a storage alive, so that its connections are closed with it."""
    known = weakref.WeakMethod(method)

    def listen(*arguments: Any) -> None:
        if found := known():
            found(*arguments)

    return listen


def _file_of(address: URL) -> Path | None:
    """Name the file of an SQLite database; None: in memory, a URI that says itself how, or no SQLite."""
    if address.get_backend_name() != "sqlite" or address.query.get("uri"):
        return None
    if address.database in (None, "", ":memory:"):
        return None
    return Path(address.database).absolute()


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _recognise(context: ExceptionContext) -> Away | None:
    """Tell what passes by itself from other errors, before Optuna makes one of both."""
    error = context.original_exception
    if context.is_pre_ping or not passes(error, is_disconnect=context.is_disconnect):
        return None
    return Away(error, is_connected=context.connection is not None)


def _begin_by_hand(connection: Any, record: Any) -> None:
    # Python's sqlite3 would begin a transaction only before a write, and never lock at once.
    connection.isolation_level = None


def _use_log(connection: Connection) -> None:
    """Have SQLite use a write-ahead log, if the file system can; asked once by each connection."""
    if connection.info.get("depthsearch_log"):
        return
    connection.info["depthsearch_log"] = True
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    try:
        (mode,) = driver.execute("PRAGMA journal_mode=WAL").fetchone()
        (synchronous,) = driver.execute("PRAGMA synchronous").fetchone()
    except sqlite3.OperationalError:
        # Somebody reads it as it is, or it cannot be written to, which the next statement tells.
        return
    if mode == "wal" and synchronous > 1:
        # NORMAL: a power cut may take the last writes back, and never damages the file.
        driver.execute("PRAGMA synchronous=NORMAL")


def _is_race(error: BaseException) -> bool:
    """Say whether another process has made a table, or written its first row, just before this one."""
    return any(isinstance(cause, IntegrityError) or "already exists" in str(cause) for cause in chain(error))


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
