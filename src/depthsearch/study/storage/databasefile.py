"""Checks of an SQLite file before Optuna opens it, which would add its tables to any database."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from depthsearch.errors import SettingsError
from depthsearch.files import is_file
from depthsearch.text import printable

# Tables that every version of Optuna makes.
TABLES = frozenset({"version_info", "studies", "study_user_attributes", "trials"})
OPTUNAS = "alembic_version"


def database_file(url: str | URL) -> Path | None:
    """Return the file of an SQLite database; None for one in memory, on a server, or that is no database."""
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        # Opening it reports what is wrong.
        return None
    name = address.database
    if address.get_backend_name() != "sqlite" or not name or name == ":memory:":
        return None
    # Of an SQLite URI only the file's name matters here.
    return Path(name.removeprefix("file:").split("?")[0] if name.startswith("file:") else name)


def refuse_foreign(url: str) -> None:
    """Refuse a database file of another program, or one that is damaged, before anything is written to it.

    Raises:
        SettingsError: Naming its tables.
    """
    path = database_file(url)
    if path is None or not is_file(path):
        return
    tables = _tables(path)
    if tables and not tables >= TABLES:
        if tables & TABLES and OPTUNAS in tables:
            reason = f"it lacks {', '.join(sorted(TABLES - tables))}: restore a copy"
        else:
            names = ", ".join(map(printable, sorted(tables)[:3])) + (", ..." if len(tables) > 3 else "")
            reason = f"it is another program's, with the tables {names}: give another file"
        raise SettingsError(f"--storage {url} cannot be opened: {reason}. Nothing in it was changed.")


def _tables(path: Path) -> set[str]:
    """Return the tables of a database; empty also where it cannot be read, which opening it reports."""
    with contextlib.suppress(sqlite3.Error, ValueError):
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1)
        with contextlib.closing(connection):
            rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {str(name) for (name,) in rows}
    return set()
