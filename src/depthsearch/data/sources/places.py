"""Where the files are that a table names: also in the writing of Windows, and of a Mac."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator
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
        """Return the path of a file that may be meant by one that is missing; empty if there is none.

        It differs in case, in a part of it or more, or in its ending.
        """
        found = Path(path.anchor)
        for part in path.parts[1:]:
            below = found / part
            if not os.path.lexists(below):
                names = self._names(found).values()
                is_last = len(found.parts) == len(path.parts) - 1
                below = found / next(_like(part, names, any_ending=is_last), part)
            found = below
        return str(found) if os.path.lexists(found) else ""

    def _at(self, named: str) -> Path:
        return Path(os.path.normpath(self._folder / named))

    def _respelt(self, named: str) -> Path:
        """Return a path with each part spelt as its folder spells it."""
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


def _like(name: str, names: Iterable[str], *, any_ending: bool) -> Iterator[str]:
    """Find names that differ in case, and then those that differ in their ending too."""
    plain = _plain(name)
    known = sorted(names)
    yield from (each for each in known if _plain(each) == plain)
    if any_ending:
        yield from (each for each in known if _plain(each).startswith(f"{plain}."))
        yield from (each for each in known if Path(_plain(each)).stem == Path(plain).stem)


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
