"""Where a study file may be written."""

from __future__ import annotations

import os
from pathlib import Path

from depthsearch.errors import SettingsError
from depthsearch.files import is_allowed, is_folder


def check_place(path: Path) -> None:
    """Refuse a path that cannot be a new file, before anything is measured.

    Raises:
        SettingsError: If something is there already, or the folder around it cannot be written to.
    """
    if os.path.lexists(path):
        raise SettingsError(f"{path} is there already, and is kept. Give another --out, or remove it first.")
    if not is_folder(path.parent):
        raise SettingsError(f"No folder {path.parent} for {path.name}. Make it, or give another --out.")
    if not is_allowed(path.parent, os.W_OK):
        raise SettingsError(f"{path.parent} may not be written to. Give another --out.")
