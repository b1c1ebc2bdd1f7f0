"""Every file of a folder: the images, and what is left out of it.

Images are files with an ending of a format that Pillow reads, and others whose content is of one. Nothing
else is read; what is visible is counted, and of what is hidden the images.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath

from PIL import Image

from depthsearch.data.decode import PROGRAMS, SCRAMBLED, lacks_memory, too_little_memory
from depthsearch.data.listing import a_few
from depthsearch.errors import DataError
from depthsearch.files import is_file

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
# What Pillow raises on a file that only begins like an image.
_NO_IMAGE = (
    OSError, ValueError, SyntaxError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError,
    struct.error, zlib.error, EOFError, AssertionError,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """An image file: its path in the folder, and what changes when it does."""

    path: str
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """What a folder holds. Paths count from it, with ``/`` between the parts; it is ``""`` itself.

    Attributes:
        root: The folder.
        folders: Names of the visible folders in each folder, by its path; sorted.
        images: By path.
        unread: Visible files that are no images.
        hidden: Images that are hidden, or lie in hidden folders.
    """

    root: Path
    folders: Mapping[str, tuple[str, ...]]
    images: tuple[ImageFile, ...]
    unread: tuple[str, ...]
    hidden: tuple[str, ...]
    _loose: Mapping[str, list[str]] = field(repr=False)
    _below: Mapping[str, int] = field(repr=False)

    def folders_in(self, folder: str) -> tuple[str, ...]:
        """Return the names of the folders in one of them."""
        return self.folders.get(folder, ())

    def images_in(self, folder: str) -> list[str]:
        """Return the names of the images directly in a folder."""
        return self._loose.get(folder, [])

    def n_images_below(self, folder: str) -> int:
        """Count the images of the folders in a folder, at any depth."""
        return self._below.get(folder, 0)

    def holds_images(self, folder: str) -> bool:
        """Return whether there are images in a folder, at any depth."""
        return bool(self.images_in(folder)) or self.n_images_below(folder) > 0

    def filled_folders_in(self, folder: str) -> tuple[str, ...]:
        """Return the names of the folders in one of them that hold images."""
        within = f"{folder}/" if folder else ""
        return tuple(name for name in self.folders_in(folder) if self.holds_images(f"{within}{name}"))

    def is_of_no_images(self, folder: str) -> bool:
        """Return whether a folder holds files, of which none is an image or a picture in another format."""
        if self.holds_images(folder):
            return False
        files = [path for path in self.unread if path.startswith(f"{folder}/")]
        return bool(files) and not any(path.lower().endswith(_PICTURES) for path in files)


def scan_folder(root: Path) -> Tree:
    """List all that a folder holds.

    Raises:
        DataError: If a folder in it cannot be looked into, or a link leads nowhere or in circles.
    """
    found = _Found()
    # With each folder those around it: a link may lead back to one of them.
    around = (_identity(root),)
    folders: list[tuple[Path, str, tuple[tuple[int, int], ...], bool]] = [(root, "", around, False)]
    while folders:
        within, path, outer, is_hidden = folders.pop()
        names = []
        for entry in _entries(within):
            hidden = is_hidden or entry.name.startswith((".", *_NOT_OURS))
            below = f"{path}/{entry.name}" if path else entry.name
            if not _is_folder(entry):
                if not hidden and below.count("/") < 2:
                    _refuse_dead_link(entry)
                found.take(entry, below, path, hidden=hidden)
                continue
            identity = _identity(Path(entry))
            if identity not in outer:
                folders.append((Path(entry), below, (*outer, identity), hidden))
            elif not hidden:
                raise DataError(
                    f"{Path(entry)} leads back to a folder around it, by a link and without end. "
                    "Remove the link."
                )
            if not hidden:
                names.append(entry.name)
        if not is_hidden:
            found.folders[path] = tuple(sorted(names))
    return Tree(
        root=root,
        folders=found.folders,
        images=tuple(sorted(found.images, key=lambda file: file.path)),
        unread=tuple(sorted(found.unread)),
        hidden=tuple(sorted(found.hidden)),
        _loose=found.loose,
        _below=_counted_below(found.loose),
    )


def _counted_below(loose: Mapping[str, list[str]]) -> Mapping[str, int]:
    """Count for each folder the images of the folders in it, at any depth."""
    below: Counter[str] = Counter()
    for path, names in loose.items():
        around = path
        while "/" in around:
            around = around.rpartition("/")[0]
            below[around] += len(names)
    return below


@dataclass(slots=True)
class _Found:
    """The files of a folder, as they are found."""

    folders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    images: list[ImageFile] = field(default_factory=list)
    loose: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    unread: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)

    def take(self, entry: os.DirEntry[str], path: str, folder: str, *, hidden: bool) -> None:
        """Put a file where it belongs."""
        if hidden:
            # Beside each file a Mac may leave one of the same name behind "._", which is no image.
            if entry.name.lower().endswith(image_endings()) and _holds_image(Path(entry)):
                self.hidden.append(path)
        elif entry.name.lower().endswith(image_endings()) or _holds_image(Path(entry)):
            size_bytes, mtime_ns = _stamp(entry)
            self.images.append(ImageFile(path=path, size_bytes=size_bytes, mtime_ns=mtime_ns))
            self.loose[folder].append(entry.name)
        else:
            self.unread.append(path)


@cache
def image_endings() -> tuple[str, ...]:
    """Return the endings, in lower case, of the formats that Pillow reads."""
    known = Image.registered_extensions().items()
    return tuple(sorted(e for e, kind in known if kind in Image.OPEN and kind not in _NOT_READ))


@cache
def _marked_formats() -> tuple[str, ...]:
    """Return the formats that are known by how their files begin."""
    Image.init()
    return tuple(kind for kind, (_, accept) in Image.OPEN.items() if accept and kind not in _NOT_READ)


def _holds_image(path: Path) -> bool:
    """Return whether a file is an image by its content, whatever its name.

    Raises:
        DataError: If the memory does not suffice to find out.
    """
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


def _identity(folder: Path) -> tuple[int, int]:
    """Return what tells a folder from others, by whatever path it is reached."""
    try:
        stat = folder.stat()
    except OSError as error:
        raise _unseen(folder, error) from error
    return (stat.st_dev, stat.st_ino)


def _stamp(entry: os.DirEntry[str]) -> tuple[int, int]:
    try:
        stat = entry.stat()
    except OSError:
        # A link to nowhere is listed, so that reading it says so.
        return (-1, -1)
    return (stat.st_size, stat.st_mtime_ns)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        # Path.iterdir asks the disk about each entry again: 3 times slower on 50,000 files.
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise _unseen(folder, error) from error


def _unseen(folder: Path, error: OSError) -> DataError:
    return DataError(f"Cannot look into {folder}: {error.strerror}. Check that it may be read.")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder, or a link to one; a link that goes in circles is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _refuse_dead_link(entry: os.DirEntry[str]) -> None:
    """Refuse a link to nowhere that may have led to a class: of a disk that is not there for one.

    Raises:
        DataError: If it is one, and not called like a file.
    """
    if entry.is_symlink() and not Path(entry).suffix and not _leads_somewhere(entry):
        raise DataError(f"{Path(entry)} is a link to nowhere. Bring back what it led to, or remove it.")


def _leads_somewhere(entry: os.DirEntry[str]) -> bool:
    try:
        entry.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return True
