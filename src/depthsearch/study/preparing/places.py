"""Where studies are stored, and the cache folder."""

from __future__ import annotations

import tempfile
from pathlib import Path

import optuna
import platformdirs

from depthsearch.errors import SettingsError
from depthsearch.files import is_file, nearest_folder
from depthsearch.study.storage.databasefile import database_file
from depthsearch.study.storage.opening import open_storage
from depthsearch.text import without_password


def existing(url: str) -> str:
    """Refuse a database file that is missing or empty, which opening would turn into one of studies."""
    path = database_file(url)
    if path is not None and not is_file(path):
        raise SettingsError(f"No file {str(path)!r} with studies. Run depthsearch study, or give --storage.")
    if path is not None and path.stat().st_size == 0:
        raise SettingsError(f"{str(path)!r} is empty. Run depthsearch study, or give --storage.")
    if path is None and url.startswith("sqlite") and "://" in url:
        raise SettingsError(
            f"--storage {without_password(url)} is in memory and holds no stored study. Give sqlite:///FILE."
        )
    return url


def is_stored(url: str, name: str) -> bool:
    """Return whether there is a study of this name; no database is made."""
    try:
        storage = open_storage(existing(url))
    except SettingsError:
        # It does not exist yet, or opening it to write reports what is wrong.
        return False
    return name in optuna.get_all_study_names(storage)


def cache_folder(kind: str = "") -> Path:
    """Return the cache folder of a kind of files."""
    return Path(platformdirs.user_cache_dir("depthsearch")) / kind


def check_cache(keep_disk: int | None) -> None:
    """Check that the cache folder can be written to, before anything is loaded; nothing is left in it.

    Raises:
        SettingsError: If not, with the variable to set.
    """
    for kind in ("images", "checkpoints", "features"):
        if kind == "features" and keep_disk == 0:
            continue
        folder = cache_folder(kind)
        try:
            with tempfile.TemporaryDirectory(dir=nearest_folder(folder), prefix=".depthsearch-"):
                pass
        except OSError as error:
            also = ", or give --keep-disk 0" if kind == "features" else ""
            raise SettingsError(
                f"The cache folder {folder} cannot be written to: {error.strerror}. Set XDG_CACHE_HOME to a "
                f"writable folder{also}."
            ) from error
