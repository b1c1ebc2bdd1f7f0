"""The errors of a database: whether a retry may succeed, and the reason in a line without a password."""

from __future__ import annotations

import re
import sqlite3

from depthsearch.text import first_line

# SQLite's result codes: the database is busy, a table locked, an I/O error, the disk full, the file not to
# be opened (its folder is away), a race for the lock of the write-ahead log.
LOCKS = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
TRANSIENT = (*LOCKS, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN)
# SQLSTATE, or its class: connection, resources (disk full, too many connections), the system's I/O, shutting
# down or starting, deadlock, serialization, lock not available. Not a database that was dropped.
# Source: PostgreSQL documentation, appendix A, error codes.
STATES = ("08", "53", "58", "57014", "57P01", "57P02", "57P03", "57P05", "40001", "40P01", "55P03")
# PostgreSQL's client gives the reason of a failed connection only in words. After these a retry fails too.
REFUSALS = (
    "authentication failed",
    "no password supplied",
    "does not exist",
    "no pg_hba.conf entry",
    "permission denied",
    "not permitted",
    "not currently accepting connections",
    "does not support",
    "certificate",
    "invalid",
)


class Away(Exception):
    """A database that cannot be used at this moment; a retry may succeed.

    Attributes:
        reason: In a line.
        is_lock: Whether another process holds its lock: no outage yet.
        may_be_done: Whether a write may have been done, and only its answer been lost.
    """

    def __init__(self, error: BaseException, *, is_connected: bool = False) -> None:
        """Describe it by the error raised over a connection, or while connecting."""
        super().__init__(error)
        self.reason = reason_of(error)
        self.is_lock = _sqlite_code(error) in LOCKS
        self.may_be_done = is_connected and not self.is_lock


def is_transient(error: BaseException | None, *, is_disconnect: bool = False) -> bool:
    """Return whether a retry may succeed.

    Args:
        error: The driver's.
        is_disconnect: Whether SQLAlchemy found the connection broken.
    """
    if isinstance(error, sqlite3.Error):
        return _sqlite_code(error) in TRANSIENT
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if state:
        return str(state).startswith(STATES)
    if is_disconnect:
        return True
    is_operational = any(base.__name__ == "OperationalError" for base in type(error).__mro__)
    return is_operational and not any(words in str(error) for words in REFUSALS)


def lacks_log(error: BaseException) -> bool:
    """Return whether SQLite can neither make nor use the files of its log."""
    return _sqlite_code(chain(error)[-1]) in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)


def chain(error: BaseException | None) -> list[BaseException]:
    """Return an error and those that it was raised from, the first cause last."""
    errors: list[BaseException] = []
    while error is not None and error not in errors:
        errors.append(error)
        error = error.__cause__
    return errors


def reason_of(error: BaseException) -> str:
    """Return the reason at the bottom of a database's error, a line without a password."""
    # libpq names the server, which the message does already.
    where = r"^connection failed: connection to server at .*? failed: (FATAL: +)?"
    return re.sub(where, "", first_line(chain(error)[-1]))


def _sqlite_code(error: BaseException) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    # The higher bits hold the extended code.
    return None if code is None else code & 0xFF
