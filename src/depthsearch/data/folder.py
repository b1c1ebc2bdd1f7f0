"""What a folder of images holds: its files, classes and splits.

Two layouts: ``DIR/<class>/...`` and ``DIR/<split>/<class>/...``, the splits being called as
`listing.SPLIT_WORDS` says. Hidden entries, ``__MACOSX`` and files that are no images are passed over.
"""

import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from depthsearch.data.decode import Decoded, Geometry, decode_file, range_of_file
from depthsearch.data.listing import SPLIT_WORDS, SPLITS, Listing, a_few
from depthsearch.data.ranges import ValueRange
from depthsearch.errors import DataError
from depthsearch.files import full_path, is_file, is_folder, why_no_folder

# Those of torchvision's ImageFolder, and GIF.
_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
# What archives made on a Mac carry along: a folder of that name, its files called like the images.
_NOT_OURS = ("__MACOSX",)


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """An image file: its path in the source, and what changes when it does."""

    path: str
    split: str
    class_name: str
    size_bytes: int
    mtime_ns: int


def list_folder(folder: Path) -> Listing:
    """List the images of a folder.

    Raises:
        DataError: If there is no such folder, or no images in two or more class folders.
    """
    root = full_path(folder)
    if is_file(root):
        raise DataError(
            f"{root} is a file. Give the folder that holds DIR/<class>/<image>, or a table (.csv, .parquet)."
        )
    if not is_folder(root):
        raise DataError(
            f"No folder {root}{why_no_folder(root)}. Give a folder of images, DIR/<class>/<image>, "
            "a table (.csv, .parquet), torchvision:NAME or 'digits'."
        )
    at_split = _folders_by_split(root)
    files = sorted(
        (
            file
            for split, at in at_split.items()
            for class_folder in _subfolders(at)
            for file in _files(class_folder, root=root, split=split, class_name=class_folder.name)
        ),
        key=lambda file: file.path,
    )
    classes = _common_classes(root, at_split, files)
    labels = {name: label for label, name in enumerate(classes)}
    paths = tuple(file.path for file in files)

    def decode(index: int, geometry: Geometry | None, ranges: Sequence[ValueRange]) -> Decoded:
        return decode_file(root / paths[index], geometry, ranges)

    return Listing(
        name=root.name,
        source=str(root),
        classes=classes,
        paths=paths,
        labels=np.array([labels[file.class_name] for file in files], dtype=np.int64),
        splits=np.array([file.split for file in files]),
        # The place is in the stamp since two folders can agree in every name, size and time: sets
        # unpacked from archives that carry one date for all, of uncompressed images of one size.
        stamp=[str(root), [(file.path, file.size_bytes, file.mtime_ns) for file in files]],
        decode=decode,
        range_at=lambda index: range_of_file(root / paths[index]),
        layout=_layout(root, at_split),
    )


def _layout(root: Path, at_split: dict[str, Path]) -> str:
    """Say which folders are the splits, if any are."""
    if root in at_split.values():
        return ""
    return "folders " + ", ".join(at_split[split].name for split in SPLITS if split in at_split)


def image_files(folder: Path) -> list[Path]:
    """List the images in a folder and the folders in it, by path; classes do not matter.

    Raises:
        DataError: If there is none, or the folder cannot be looked into.
    """
    files = files_in(folder)
    if not files:
        raise DataError(f"No images in {folder}. Give image files, or folders with {', '.join(_EXTENSIONS)}.")
    return files


def files_in(folder: Path) -> list[Path]:
    """List the images in a folder and the folders in it, by path.

    Raises:
        DataError: If the folder cannot be looked into.
    """
    return sorted(folder / file.path for file in _files(folder, root=folder, split="", class_name=""))


def split_folders(root: Path) -> list[Path]:
    """List the folders that have the name of a split.

    Raises:
        DataError: If the folder cannot be looked into.
    """
    return [folder for folder in _subfolders(root) if folder.name.lower() in SPLIT_WORDS]


def named_splits(root: Path) -> dict[str, Path]:
    """Find the folders that have the name of a split, by that.

    Raises:
        DataError: If two of them are one split.
    """
    splits: dict[str, Path] = {}
    for folder in split_folders(root):
        earlier = splits.setdefault(SPLIT_WORDS[folder.name.lower()], folder)
        if earlier != folder:
            raise DataError(
                f"{root} has both {earlier.name} and {folder.name}, two names for one split. Keep one."
            )
    return splits


def _folders_by_split(root: Path) -> dict[str, Path]:
    """Find the folders of class folders by split; the root itself, as train, in the flat layout."""
    folders = _subfolders(root)
    named = split_folders(root)
    others = [folder.name for folder in folders if folder not in named]
    train = next((folder for folder in named if SPLIT_WORDS[folder.name.lower()] == "train"), None)
    if not named or (others and train is None):
        return {"train": root}
    if others:
        if len(named) == 1 and train is not None and _loose_images(train):
            return {"train": root}  # a class of railway trains
        raise DataError(
            f"{root} mixes split folders ({a_few(f.name for f in named)}) with others "
            f"({a_few(others)}). Move the others away, or put all classes into the split folders."
        )
    if train is None:
        raise DataError(
            f"{root} has {a_few(f.name for f in named)} but no train folder. Add train/<class>/<image>."
        )
    splits = named_splits(root)
    if loose := _loose_images(root):
        raise _loose_error(root, loose)
    return splits


def _common_classes(root: Path, at_split: dict[str, Path], files: list[_File]) -> tuple[str, ...]:
    """Hold the classes of all splits against each other and against the files."""
    for at in at_split.values():
        if loose := _loose_images(at):
            raise _loose_error(at, loose)
    by_split = {split: {folder.name for folder in _subfolders(at)} for split, at in at_split.items()}
    classes = by_split["train"]
    for split, found in by_split.items():
        if found != classes:
            raise _disagreement(root, at_split[split].name, found ^ classes)
    if not files:
        raise DataError(f"No images in {root}. Put them at DIR/<class>/<image>, as {', '.join(_EXTENSIONS)}.")
    filled = {(file.split, file.class_name) for file in files}
    for split, at in at_split.items():
        for name in sorted(classes):
            if (split, name) not in filled:
                raise DataError(f"Class folder {at / name} holds no image. Add images or remove the folder.")
    if len(classes) == 1:
        raise DataError(
            f"{root} has one class only, {next(iter(classes))!r}. Give two or more class folders."
        )
    return tuple(sorted(classes))


def _disagreement(root: Path, split: str, others: set[str]) -> DataError:
    if len({unicodedata.normalize("NFC", name) for name in others}) < len(others):
        # Names that look the same, of a Mac and of another system.
        others = {ascii(name) for name in others}
    return DataError(
        f"{root}: train and {split} disagree on the classes, only one of them has {a_few(others)}. "
        "Give both the same class folders."
    )


def _files(folder: Path, *, root: Path, split: str, class_name: str) -> Iterator[_File]:
    # With each folder those around it: a link may lead back to one of them.
    folders: list[tuple[Path, tuple[tuple[int, int], ...]]] = [(folder, (_identity(folder),))]
    while folders:
        within, around = folders.pop()
        for entry in _visible(within):
            if _is_folder(entry):
                identity = _identity(Path(entry))
                if identity in around:
                    raise DataError(
                        f"{Path(entry)} leads back to a folder around it, by a link and without end. "
                        "Remove the link."
                    )
                folders.append((Path(entry), (*around, identity)))
            elif _is_image(entry.name):
                size_bytes, mtime_ns = _stamp(entry)
                yield _File(
                    path=Path(entry).relative_to(root).as_posix(),
                    split=split,
                    class_name=class_name,
                    size_bytes=size_bytes,
                    mtime_ns=mtime_ns,
                )


def _identity(folder: Path) -> tuple[int, int]:
    """Tell a folder from others, by whatever path it is reached."""
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


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    try:
        # Path.iterdir asks the disk about each entry again: 3 times slower on 50,000 files.
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith((".", *_NOT_OURS))]
    except OSError as error:
        raise _unseen(folder, error) from error


def _unseen(folder: Path, error: OSError) -> DataError:
    return DataError(f"Cannot look into {folder}: {error.strerror}. Check that it may be read.")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one; a link that goes in circles is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _leads_somewhere(entry: os.DirEntry[str]) -> bool:
    try:
        entry.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _subfolders(folder: Path) -> list[Path]:
    entries = _visible(folder)
    for entry in entries:
        # Of a disk that is not there for one: a class would be missing, and nobody told.
        if entry.is_symlink() and not Path(entry).suffix and not _leads_somewhere(entry):
            raise DataError(f"{Path(entry)} is a link to nowhere. Bring back what it led to, or remove it.")
    return sorted(Path(entry) for entry in entries if _is_folder(entry))


def _loose_images(folder: Path) -> list[str]:
    return sorted(entry.name for entry in _visible(folder) if _is_image(entry.name) and not _is_folder(entry))


def _loose_error(folder: Path, loose: list[str]) -> DataError:
    return DataError(
        f"{len(loose)} image(s) directly in {folder}, in no class folder: {a_few(loose)}. "
        "Move them into class folders, DIR/<class>/<image>."
    )


def _is_image(name: str) -> bool:
    return name.lower().endswith(_EXTENSIONS)
