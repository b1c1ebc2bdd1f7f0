"""Connections to a database: SQLite with a write-ahead log, PostgreSQL with timeouts."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, ExceptionContext
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.pool import SingletonThreadPool

from depthsearch.errors import SettingsError
from depthsearch.files import is_allowed
from depthsearch.study.storage.databasefile import database_file
from depthsearch.study.storage.outage import Away, chain, is_transient, lacks_log

# How long SQLite itself waits for a lock; Ctrl-C does not interrupt that.
LOCK_SECONDS = 0.2
# Between two tries to open a database that other processes open too.
PAUSE_SECONDS = 0.1
# psycopg's: a server that does not answer counts as away too.
POSTGRESQL: dict[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
CREATION_TRIES = 20


def is_of_one_thread(storage: RDBStorage) -> bool:
    """Return whether another thread would see another database: SQLite's in memory."""
    return isinstance(storage.engine.pool, SingletonThreadPool)


class ConnectedStorage(RDBStorage):
    """Optuna's storage over connections of our own.

    SQLite has a write-ahead log, so that readers never wait; a writer takes the lock at the beginning of its
    transaction, so that what it reads there stays true.

    Attributes:
        guards: Called at the beginning of each transaction that writes; each may raise.
    """

    def __init__(self, address: URL, shown: str, *, busy_seconds: float) -> None:
        """Open or create the database.

        Args:
            address: Where.
            shown: The same for messages, without a password.
            busy_seconds: See `open_storage`.

        Raises:
            Away: If it cannot be opened now.
            ImportError: If there is no driver for it.
        """
        self.guards: set[Callable[[Connection], object]] = set()
        self._engine: Engine | None = None
        self._address, self._shown, self._busy = address, shown, busy_seconds
        self._local = threading.local()
        # An SQLite URI itself says how the file is opened.
        file = None if address.query.get("uri") else database_file(address)
        self._file = file and file.absolute()
        # SQLite's: open for reading and writing; create the file only at this first time.
        self._mode = "mode=rw" if self._file and self._file.exists() else "mode=rwc"
        self._open()
        self._mode = self._mode.replace("rwc", "rw")

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
            time.sleep(PAUSE_SECONDS)

    def _open_once(self) -> None:
        url = self._address.render_as_string(hide_password=False)
        # Optuna fills in its schema's version where it finds braces.
        url = url.replace("{", "{{").replace("}", "}}")
        # Optuna reads over one connection while it writes over another: neither may lock at once.
        with self._as_reader():
            try:
                # To a complete database nothing is written, and no lock is taken.
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
        options = {key: value for key, value in POSTGRESQL.items() if key not in self._address.query}
        return {"pool_pre_ping": True, "connect_args": options}

    def _can_be_frozen(self, error: BaseException) -> bool:
        """Return whether SQLite cannot write its log, and this process may only read the file."""
        file = self._file
        if file is None or self._mode != "mode=rw" or not lacks_log(error):
            return False
        return is_allowed(file, os.R_OK) and not is_allowed(file.parent, os.W_OK)

    def _freeze(self) -> None:
        """Open the file as one that does not change.

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
        event.listen(engine, "handle_error", _as_away)
        event.listen(engine, "begin", _weakly(self._begin))
        # A database in memory has one connection only, and no lock to wait for.
        if engine.dialect.name == "sqlite" and not is_of_one_thread(self):
            event.listen(engine, "do_connect", _weakly(self._name_file))
            event.listen(engine, "connect", _begin_by_hand)

    def _name_file(self, dialect: Any, record: Any, arguments: list[Any], options: dict[str, Any]) -> None:
        """Open an existing file: a missing one must not be replaced by an empty one."""
        if self._file is not None:
            arguments[0] = f"{self._file.as_uri()}?{self._mode}"
            options["uri"] = True

    def _begin(self, connection: Connection) -> None:
        reads = getattr(self._local, "reads", False)
        if connection.dialect.name == "sqlite" and not is_of_one_thread(self):
            if reads:
                # Of the driver, as it asks the database for nothing, not even for a lock.
                _driver_of(connection).execute("BEGIN")
            else:
                if self._file is not None:
                    _use_log(connection)
                connection.exec_driver_sql("BEGIN IMMEDIATE")
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


def _weakly(method: Callable[..., None]) -> Callable[..., None]:
    """Make a listener that does not keep a storage alive, so that its connections are closed with it."""
    reference = weakref.WeakMethod(method)

    def listen(*arguments: Any) -> None:
        if living := reference():
            living(*arguments)

    return listen


def _as_away(context: ExceptionContext) -> Away | None:
    """Turn an error that a retry may mend into `Away`, before Optuna turns all errors into one class."""
    error = context.original_exception
    if context.is_pre_ping or not is_transient(error, is_disconnect=context.is_disconnect):
        return None
    return Away(error, is_connected=context.connection is not None)


def _begin_by_hand(connection: Any, record: Any) -> None:
    # Python's sqlite3 would begin a transaction only before a write, and never lock at once.
    connection.isolation_level = None


def _use_log(connection: Connection) -> None:
    """Switch SQLite to a write-ahead log, if the file system can; once for each connection."""
    if connection.info.get("depthsearch_log"):
        return
    connection.info["depthsearch_log"] = True
    driver = _driver_of(connection)
    try:
        (mode,) = driver.execute("PRAGMA journal_mode=WAL").fetchone()
        (synchronous,) = driver.execute("PRAGMA synchronous").fetchone()
    except sqlite3.OperationalError:
        # Another process reads it, or it cannot be written to: then the next statement fails.
        return
    if mode == "wal" and synchronous > 1:
        # NORMAL: a power cut may undo the last writes, but never damages the file.
        driver.execute("PRAGMA synchronous=NORMAL")


def _driver_of(connection: Connection) -> sqlite3.Connection:
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


def _is_race(error: BaseException) -> bool:
    """Return whether another process has made a table, or written its first row, just before this one."""
    return any(isinstance(cause, IntegrityError) or "already exists" in str(cause) for cause in chain(error))
