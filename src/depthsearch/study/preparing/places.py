"""Where studies and what is computed for them are kept."""

from __future__ import annotations

import tempfile
from pathlib import Path

import optuna
import platformdirs

from depthsearch.errors import SettingsError
from depthsearch.files import is_file, nearest_folder
from depthsearch.study.storage import open_storage
from depthsearch.study.storage.databasefile import database_file
from depthsearch.text import without_password

__all__ = ["cache_folder", "check_cache", "existing", "is_stored"]


def existing(url: str) -> str:
    """Refuse a database file that is not there or empty: opening it would make one of studies."""
    path = database_file(url)
    if path is not None and not is_file(path):
        raise SettingsError(f"No file {str(path)!r} with studies. Run depthsearch study, or give --storage.")
    if path is not None and path.stat().st_size == 0:
        raise SettingsError(f"{str(path)!r} is empty. Run depthsearch study, or give --storage.")
    if path is None and url.startswith("sqlite") and "://" in url:
        raise SettingsError(
            f"--storage {without_password(url)} is in memory and holds no study that is finished. "
            "Give sqlite:///FILE."
        )
    return url


def is_stored(url: str, name: str) -> bool:
    """Say whether there is a study of this name; no database is made for that."""
    try:
        storage = open_storage(existing(url))
    except SettingsError:
        # Not there yet, or whoever opens it to write says what is wrong.
        return False
    return name in optuna.get_all_study_names(storage)


def cache_folder(kind: str = "") -> Path:
    """Name the folder that things of a kind are kept in."""
    return Path(platformdirs.user_cache_dir("depthsearch")) / kind


def check_cache(keep_disk: int | None) -> None:
    """Refuse a cache folder that cannot be written to, before anything is loaded; nothing is left in it.

    Raises:
        SettingsError: Naming the variable that names it.
    """
    for kind in ("images", "checkpoints", "features"):
        if kind == "features" and keep_disk == 0:
            continue
        folder = cache_folder(kind)
        try:
            with tempfile.TemporaryDirectory(dir=nearest_folder(folder), prefix=".depthsearch-"):
                pass
        except OSError as error:
            also = ", or say --keep-disk 0" if kind == "features" else ""
            raise SettingsError(
                f"The cache folder {folder} cannot be written to: {error.strerror}. Set XDG_CACHE_HOME to a "
                f"folder that can be{also}."
            ) from error
