"""What a database's error tells: whether it passes by itself, and its reason in a line without a password."""

from __future__ import annotations

import re
import sqlite3

from depthsearch.text import first_line

__all__ = ["Away", "chain", "lacks_log", "passes", "reason_of"]

# SQLite's result codes: the database is busy, a table locked, an I/O error, the disk full, the file not to
# be opened (its folder is away), a race for the lock of the write-ahead log.
LOCKS = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
PASSING = (*LOCKS, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN)
# SQLSTATE, or its class: connection, resources (disk full, too many connections), the system's I/O, shutting
# down or starting, deadlock, serialization, lock not available. Not a database that was dropped.
# Source: PostgreSQL documentation, appendix A, error codes.
STATES = ("08", "53", "58", "57014", "57P01", "57P02", "57P03", "57P05", "40001", "40P01", "55P03")
# PostgreSQL's client tells why there is no connection in words alone. These stay as they are.
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
    """A database that cannot be used at this moment; another may do.

    Attributes:
        reason: In a line.
        is_lock: Whether somebody else holds its lock: no outage yet.
        may_be_done: Whether what was asked of it may have been done, and only the answer be lost.
    """

    def __init__(self, error: BaseException, *, is_connected: bool = False) -> None:
        """Describe it by the error that it showed itself by, over a connection or instead of one."""
        super().__init__(error)
        self.reason = reason_of(error)
        self.is_lock = _sqlite_code(error) in LOCKS
        self.may_be_done = is_connected and not self.is_lock


def passes(error: BaseException | None, *, is_disconnect: bool = False) -> bool:
    """Say whether an error is a matter of time: the same may work later.

    Args:
        error: The driver's.
        is_disconnect: Whether SQLAlchemy found the connection broken.
    """
    if isinstance(error, sqlite3.Error):
        return _sqlite_code(error) in PASSING
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if state:
        return str(state).startswith(STATES)
    if is_disconnect:
        return True
    is_operational = any(base.__name__ == "OperationalError" for base in type(error).__mro__)
    return is_operational and not any(words in str(error) for words in REFUSALS)


def lacks_log(error: BaseException) -> bool:
    """Say whether SQLite can neither make nor use the files of its log."""
    return _sqlite_code(chain(error)[-1]) in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)


def chain(error: BaseException | None) -> list[BaseException]:
    """List an error and those that it was raised from."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__
    return found


def reason_of(error: BaseException) -> str:
    """Give the reason at the bottom of a database's error, a line without a password."""
    # libpq names the server, which whoever reads this knows.
    where = r"^connection failed: connection to server at .*? failed: (FATAL: +)?"
    return re.sub(where, "", first_line(chain(error)[-1]))


def _sqlite_code(error: BaseException) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    # The higher bits tell more exactly which of a kind.
    return None if code is None else code & 0xFF
