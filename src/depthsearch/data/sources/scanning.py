"""Every file of a folder: the images, and what is left out of it.

Images are files with an ending of a format that Pillow reads, and others whose content is of one. Nothing
else is read; what is visible is counted, and of what is hidden the images.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path, PurePosixPath

from PIL import Image

from depthsearch.data.decode import (
    PROGRAMS,
    SCRAMBLED,
    Decoded,
    Geometry,
    UnreadableError,
    decode_file,
    lacks_memory,
    too_little_memory,
)
from depthsearch.data.ranges import ValueRange
from depthsearch.errors import DataError
from depthsearch.files import is_file
from depthsearch.text import a_few

# Formats that Pillow only names or hands to other programs, and some that are no pictures.
_NOT_READ = (*PROGRAMS, *SCRAMBLED, "BUFR", "GRIB", "HDF5", "IPTC", "MPEG", "PDF")
# Folders that systems put beside the images, with copies and thumbnails in them or files called like images.
_NOT_OURS = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN")
# Endings of pictures in formats that Pillow lacks or that have to be drawn first.
_PICTURES = (
    ".arw", ".cr2", ".cr3", ".dcm", ".dng", ".eps", ".fit", ".fits", ".heic", ".heif", ".jxl", ".jxr",
    ".mp4", ".nef", ".npy", ".npz", ".orf", ".pdf", ".raw", ".rw2", ".svg", ".wmf",
)  # fmt: skip
_N_FIRST_BYTES = 64
# The stamp of a file that is not there.
_MISSING = (-1, -1)
# What Pillow raises on a file that only begins like an image.
_NO_IMAGE = (
    OSError, ValueError, SyntaxError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError,
    struct.error, zlib.error, EOFError, AssertionError,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Tree:
    """What a folder holds. Paths count from it, with ``/`` between the parts; it is ``""`` itself.

    Attributes:
        root: The folder.
        folders: Names of the visible folders in each folder, by its path; sorted.
        images: By path, sorted: what changes when an image does, see `stamp_of`.
        unread: Visible files that are no images.
        hidden: Images that are hidden, or lie in hidden folders.
    """

    root: Path
    folders: Mapping[str, tuple[str, ...]]
    images: Mapping[str, tuple[int, int]]
    unread: tuple[str, ...]
    hidden: tuple[str, ...]

    def folders_in(self, folder: str) -> tuple[str, ...]:
        """Return the names of the folders in one of them."""
        return self.folders.get(folder, ())

    def images_in(self, folder: str) -> list[str]:
        """Return the names of the images directly in a folder."""
        return self._loose.get(folder, [])

    def n_images_below(self, folder: str) -> int:
        """Count the images of the folders in a folder, at any depth."""
        return self._below[folder]

    def filled_folders_in(self, folder: str) -> tuple[str, ...]:
        """Return the names of the folders in one of them that hold images."""
        within = f"{folder}/" if folder else ""
        return tuple(name for name in self.folders_in(folder) if self._holds_images(f"{within}{name}"))

    def is_of_no_images(self, folder: str) -> bool:
        """Return whether a folder holds files, of which none is an image or a picture in another format."""
        if self._holds_images(folder):
            return False
        files = [path for path in self.unread if path.startswith(f"{folder}/")]
        return bool(files) and not any(path.lower().endswith(_PICTURES) for path in files)

    def _holds_images(self, folder: str) -> bool:
        return bool(self.images_in(folder)) or self.n_images_below(folder) > 0

    @cached_property
    def _loose(self) -> dict[str, list[str]]:
        """The names of the images by the path of their folder."""
        loose: dict[str, list[str]] = {}
        for path in self.images:
            folder, _, name = path.rpartition("/")
            loose.setdefault(folder, []).append(name)
        return loose

    @cached_property
    def _below(self) -> Counter[str]:
        """The number of images in the folders of a folder, by its path."""
        below: Counter[str] = Counter()
        for path, names in self._loose.items():
            below.update(dict.fromkeys(folders_around(path), len(names)))
        return below


def scan_folder(root: Path) -> Tree:
    """List all that a folder holds.

    Raises:
        DataError: If a folder in it cannot be looked into, or a link leads nowhere or in circles.
    """
    folders: dict[str, tuple[str, ...]] = {}
    images: dict[str, tuple[int, int]] = {}
    unread, hidden = [], []
    for entry, path, is_hidden in _files(root, folders):
        is_image = _is_image(entry, hidden=is_hidden)
        if is_image and is_hidden:
            hidden.append(path)
        elif is_image:
            images[path] = stamp_of(entry)
        elif not is_hidden:
            unread.append(path)
    return Tree(
        root=root,
        folders=folders,
        images=dict(sorted(images.items())),
        unread=tuple(sorted(unread)),
        hidden=tuple(sorted(hidden)),
    )


def _files(root: Path, names_in: dict[str, tuple[str, ...]]) -> Iterator[tuple[os.DirEntry[str], str, bool]]:
    """Yield each file with its path and whether it is hidden; note the names of the visible folders."""
    # With each folder those around it: a link may lead back to one of them.
    folders: list[tuple[Path, str, tuple[tuple[int, int], ...], bool]] = [(root, "", (), False)]
    while folders:
        within, path, outer, is_hidden = folders.pop()
        identity, entries = _look_into(within)
        if identity in outer:
            if is_hidden:
                continue
            raise DataError(
                f"{within} leads back to a folder around it, by a link and without end. Remove the link."
            )
        names = []
        for entry in entries:
            hidden = is_hidden or entry.name.startswith((".", *_NOT_OURS))
            below = f"{path}/{entry.name}" if path else entry.name
            if _is_folder(entry):
                folders.append((Path(entry), below, (*outer, identity), hidden))
                if not hidden:
                    names.append(entry.name)
                continue
            if not hidden and below.count("/") < 2:
                _refuse_dead_link(entry)
            yield entry, below, hidden
        if not is_hidden:
            names_in[path] = tuple(sorted(names))


def _is_image(entry: os.DirEntry[str], *, hidden: bool) -> bool:
    """Return whether a file is an image, by its ending or by its content."""
    is_called_so = entry.name.lower().endswith(_image_endings())
    if hidden:
        # Beside each file a Mac may leave one of the same name behind "._", which is no image.
        return is_called_so and _holds_image(Path(entry))
    return is_called_so or _holds_image(Path(entry))


@cache
def _image_endings() -> tuple[str, ...]:
    """Return the endings, in lower case, of the formats that Pillow reads."""
    known = Image.registered_extensions().items()
    return tuple(sorted(e for e, kind in known if kind in Image.OPEN and kind not in _NOT_READ))


@cache
def _marked_formats() -> tuple[str, ...]:
    """Return the formats that are known by how their files begin."""
    Image.init()
    return tuple(kind for kind, (_, accept) in Image.OPEN.items() if accept and kind not in _NOT_READ)


def _holds_image(path: Path) -> bool:
    """Return whether a file is an image by its content, whatever its name."""
    if not is_file(path):
        return False
    try:
        with path.open("rb") as file:
            begin = file.read(_N_FIRST_BYTES)
            likely = [kind for kind in _marked_formats() if _accepts(kind, begin)]
            if likely:
                file.seek(0)
                with Image.open(file, formats=likely):
                    return True
    except Image.DecompressionBombError:
        return True  # decoding it says that it is too large
    except (MemoryError, *_NO_IMAGE) as error:
        if lacks_memory(error):
            raise too_little_memory(path) from error
    return False


def _accepts(kind: str, begin: bytes) -> bool:
    accept = Image.OPEN[kind][1]
    # Text says why a format is known and yet not read.
    return accept is not None and accept(begin) is True


def folders_around(path: str) -> list[str]:
    """Return the folders around a path, without the root, the outermost first."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]


def unread_notes(tree: Tree) -> Iterator[str]:
    """Write a line on the visible files that are no images, and one on hidden images."""
    if tree.unread:
        n_files, total = len(tree.unread), len(tree.unread) + len(tree.images)
        pictures = {PurePosixPath(path).suffix.lower() for path in tree.unread} & set(_PICTURES)
        step = f" To have {a_few(pictures)} read, convert them to PNG or JPEG." if pictures else ""
        yield (
            f"{n_files} file{'s' * (n_files > 1)} of {total} not read, no images that Pillow knows: "
            f"{kinds_of(tree.unread)}.{step}"
        )
    if tree.hidden:
        n_images = len(tree.hidden)
        places = a_few(set(map(_hidden_part, tree.hidden)))
        yield f"{n_images} hidden image{'s' * (n_images > 1)} not read: {places}. Rename what is to be read."


def _hidden_part(path: str) -> str:
    """Return the first folder of a path that is hidden, or the path."""
    parts = path.split("/")
    hidden = next(i for i, part in enumerate(parts) if part.startswith((".", *_NOT_OURS)))
    return "/".join(parts[: hidden + 1]) + ("/" if hidden + 1 < len(parts) else "")


def kinds_of(paths: Iterable[str]) -> str:
    """Write how many files there are of each ending, most first: ``20 .heic``."""
    counts = Counter(PurePosixPath(path).suffix.lower() or PurePosixPath(path).name for path in paths)
    shown = [f"{n} {ending}" for ending, n in counts.most_common(5)]
    return ", ".join(shown) + (f" and {len(counts) - 5} other kinds" if len(counts) > 5 else "")


def stamp_of(file: Path | os.DirEntry[str]) -> tuple[int, int]:
    """Return a file's size in bytes and its time of change in ns; -1 for a file that is missing."""
    try:
        stat = os.stat(file)  # noqa: PTH116 (what an entry says itself may be out of date on Windows)
    except (OSError, ValueError):
        # The latter of a name with a NUL character, which no file has.
        return _MISSING
    return (stat.st_size, stat.st_mtime_ns)


def decode_listed(
    file: Path, stamp: tuple[int, int], geometry: Geometry | None, ranges: Sequence[ValueRange]
) -> Decoded:
    """Decode an image that has not changed since it was listed: it is kept under what it was then.

    Raises:
        UnreadableError: If it cannot be read.
        DataError: If it has changed.
    """
    try:
        decoded = decode_file(file, geometry, ranges)
    except UnreadableError:
        _refuse_changed(file, stamp)
        raise
    _refuse_changed(file, stamp)
    return decoded


def _refuse_changed(file: Path, stamp: tuple[int, int]) -> None:
    """Refuse a file that is another than it was when it was listed; one that is gone cannot be read."""
    now = stamp_of(file)
    if now not in (stamp, _MISSING):
        raise DataError(
            f"{file} has changed while the images were read. Run the same command again; if this file system "
            "notes the times of files late, copy the images to another."
        )


def _look_into(folder: Path) -> tuple[tuple[int, int], list[os.DirEntry[str]]]:
    """Return what tells a folder from others, by whatever path it is reached, and what is in it."""
    try:
        stat = folder.stat()
        # Path.iterdir asks the disk about each entry again: 3 times slower on 50,000 files.
        with os.scandir(folder) as entries:
            return (stat.st_dev, stat.st_ino), list(entries)
    except OSError as error:
        raise DataError(f"Cannot look into {folder}: {error.strerror}. Check that it may be read.") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder, or a link to one; a link that goes in circles is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _refuse_dead_link(entry: os.DirEntry[str]) -> None:
    """Refuse a link to nowhere that may have led to a class: of a disk that is not there for one."""
    if not entry.is_symlink() or Path(entry).suffix:
        return
    try:
        entry.stat()
    except PermissionError:
        pass
    except OSError as error:
        raise DataError(
            f"{Path(entry)} is a link to nowhere. Bring back what it led to, or remove it."
        ) from error
