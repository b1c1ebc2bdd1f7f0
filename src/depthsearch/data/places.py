"""Where the files are that a table names: also in the writing of Windows, and of a Mac."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path


class Places:
    """Finds files from a folder, and remembers what the folders hold.

    Names that differ in nothing but their Unicode form are one, as a Mac and other systems write them.
    """

    def __init__(self, folder: Path) -> None:
        """Count paths from a folder."""
        self._folder = folder
        self._seen: dict[Path, dict[str, str]] = {}

    def find(self, named: str) -> Path:
        """Return the file of a name, or where it would be."""
        path = self._at(named)
        # Of most tables every path is plain: these are not looked for twice.
        if (named.isascii() and "\\" not in named) or os.path.lexists(path):
            return path
        with_slashes = named.replace("\\", "/")
        return next(filter(os.path.lexists, (self._at(with_slashes), self._respelt(with_slashes))), path)

    def near(self, path: Path) -> str:
        """Return the name of a file that may be meant by one that is missing; empty if there is none."""
        there = self._names(path.parent).values()
        alike = [name for name in there if name.casefold() == path.name.casefold()]
        longer = [name for name in there if name.startswith(f"{path.name}.")]
        other = [name for name in there if Path(name).stem == path.stem]
        return min(alike or longer or other, default="")

    def _at(self, named: str) -> Path:
        return Path(os.path.normpath(self._folder / named))

    def _respelt(self, named: str) -> Path:
        """Take each part of a path in the spelling that its folder has."""
        path = self._at(named)
        found = Path(path.anchor)
        for part in path.parts[1:] if path.anchor else path.parts:
            below = found / part
            if not os.path.lexists(below):
                below = found / self._names(found).get(unicodedata.normalize("NFC", part), part)
            found = below
        return found

    def _names(self, folder: Path) -> dict[str, str]:
        """Return the names in a folder, by their composed form; none where it cannot be looked into."""
        if folder not in self._seen:
            try:
                names = sorted(path.name for path in folder.iterdir())
            except OSError:
                names = []
            self._seen[folder] = {unicodedata.normalize("NFC", name): name for name in names}
        return self._seen[folder]
