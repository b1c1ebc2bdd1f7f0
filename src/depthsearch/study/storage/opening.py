"""Opening a database by its URL; an error is one line that says why it cannot be opened."""

from __future__ import annotations

from optuna.storages import RDBStorage
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from depthsearch.errors import DepthsearchError, SettingsError
from depthsearch.study.storage.databasefile import refuse_foreign
from depthsearch.study.storage.outage import Away, chain, reason_of
from depthsearch.study.storage.patient import BUSY_SECONDS, PATIENCE_SECONDS, PatientStorage
from depthsearch.text import without_password


def check_storage(url: str) -> None:
    """Check that a database can be used, before anything else is done; no file is made.

    Raises:
        SettingsError: See `open_storage`.
    """
    if _usable(url).get_backend_name() != "sqlite":
        open_storage(url)


def open_storage(
    url: str, *, patience_seconds: float = PATIENCE_SECONDS, busy_seconds: float = BUSY_SECONDS
) -> RDBStorage:
    """Open or create the database that studies live in.

    Args:
        url: SQLAlchemy's, such as ``sqlite:///depthsearch.db`` or ``postgresql://user@host/database``.
        patience_seconds: How long to wait when it goes away later. Opening does not wait.
        busy_seconds: How long to wait for a lock of SQLite without a warning, also to open it.

    Raises:
        SettingsError: If there is no such database or it cannot be used.
    """
    address, shown = _usable(url), without_password(url)
    try:
        return PatientStorage(address, shown, patience_seconds=patience_seconds, busy_seconds=busy_seconds)
    except DepthsearchError:
        raise
    except Away as error:
        raise SettingsError(f"--storage {shown} cannot be opened: {error.reason}") from error
    except Exception as error:  # Dialects and drivers of other databases raise anything.
        raise SettingsError(f"--storage {shown} cannot be opened: {reason_of(error)}") from error


def _usable(url: str) -> URL:
    """Read the URL of a database, and check that it has a driver and is not another program's.

    Raises:
        SettingsError: If it cannot be used.
    """
    address = _address(url)
    try:
        address.get_dialect().import_dbapi()
    except ImportError as error:
        needed = _needed(address, chain(error)[-1])
        raise SettingsError(f"--storage {without_password(url)} needs a driver: {needed}") from None
    except NoSuchModuleError as error:
        raise SettingsError(f"--storage {without_password(url)} cannot be opened: {error}") from None
    refuse_foreign(url)
    return address


def _address(url: str) -> URL:
    """Read a URL.

    Raises:
        SettingsError: If it is not a database URL.
    """
    shown = without_password(url)
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
        # The driver that SQLAlchemy chooses by default depends on its version.
        return address.set(drivername="postgresql+psycopg")
    return address


def _needed(address: URL, missing: BaseException) -> str:
    if address.drivername == "postgresql+psycopg":
        return "pip install 'depthsearch[postgres]'."
    return f"{missing}. Install it, or give a database of another kind."
