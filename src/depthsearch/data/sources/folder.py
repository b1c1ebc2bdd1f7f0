"""What a folder of images holds: its files, classes and splits, see `layouts`."""

import contextlib
import difflib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from depthsearch.data.decode import range_of_file
from depthsearch.data.listing import Listing
from depthsearch.data.sources.layouts import Layout, layout_of
from depthsearch.data.sources.scanning import Tree, decode_listed, folders_around, scan_folder, unread_notes
from depthsearch.errors import DataError
from depthsearch.files import full_path, is_file, is_folder, why_no_folder
from depthsearch.text import a_few

# Tables that are not read, but can be saved as ones that are.
_OTHER_TABLES = (
    ".tsv", ".tab", ".txt", ".psv", ".xlsx", ".xls", ".xlsm", ".ods", ".numbers", ".json", ".jsonl",
    ".ndjson", ".feather", ".arrow", ".pkl", ".orc",
)  # fmt: skip


def folder_there(folder: Path) -> Path:
    """Return the full path of a folder of images.

    Raises:
        DataError: If there is none.
    """
    root = full_path(folder)
    if is_file(root):
        if root.suffix.lower() in _OTHER_TABLES:
            raise DataError(f"{root} is a table in another format. Save it as .csv, and give that to --data.")
        raise DataError(
            f"{root} is a file. Give the folder that holds DIR/<class>/<image>, or a table (.csv, .parquet)."
        )
    if not is_folder(root):
        raise DataError(
            f"No folder {root}{why_no_folder(root)}. {_near(root)}Give a folder of images, "
            "DIR/<class>/<image>, a table (.csv, .parquet), torchvision:NAME or 'digits'."
        )
    return root


def _near(missing: Path) -> str:
    """Name what is beside a missing folder and spelt like it; empty if nothing is."""
    with contextlib.suppress(OSError):
        names = [path.name for path in missing.parent.iterdir()]
        if near := difflib.get_close_matches(missing.name, names, n=1, cutoff=0.7):
            return f"Near: {near[0]}. "
    return ""


def list_folder(tree: Tree) -> Listing:
    """List the images of a folder by its class folders.

    Raises:
        DataError: If there are no images in two or more of them.
    """
    root = tree.root
    layout = layout_of(tree)
    layout.check(tree)
    place_of = {
        path: (split, name) for split, by_class in layout.classes.items() for name, path in by_class.items()
    }
    paths = tuple(tree.images)
    placed = [next(place_of[f] for f in folders_around(path) if f in place_of) for path in paths]
    classes = tuple(sorted(layout.classes["train"]))
    labels = {name: label for label, name in enumerate(classes)}

    return Listing(
        name=root.name,
        source=str(root),
        classes=classes,
        paths=paths,
        labels=np.array([labels[name] for _, name in placed], dtype=np.int64),
        splits=np.array([split for split, _ in placed]),
        # The place is in the stamp since two folders can agree in every name, size and time: sets
        # unpacked from archives that carry one date for all, of uncompressed images of one size.
        stamp=[str(root), [(path, *stamp) for path, stamp in tree.images.items()]],
        decode=lambda index, *how: decode_listed(root / paths[index], tree.images[paths[index]], *how),
        range_at=lambda index: range_of_file(root / paths[index]),
        known_by=paths,
        layout=layout.description,
        notes=(*layout.notes, *unread_notes(tree), *_nested(tree, layout)),
    )


def _nested(tree: Tree, layout: Layout) -> Iterator[str]:
    """Write a line on images in folders inside class folders."""
    if deeper := {path.rpartition("/")[0] for path in tree.images} - layout.class_folders:
        yield f"Images in folders within class folders belong to these classes: {a_few(deeper)}."


def image_files(folder: Path) -> list[Path]:
    """List the images in a folder and the folders in it, by path; classes do not matter.

    Raises:
        DataError: If there is none, or the folder cannot be looked into.
    """
    tree = scan_folder(folder)
    if not tree.images:
        raise DataError(
            f"No images in {folder}. Give image files, or folders with .jpg, .png, .tif or others that "
            "Pillow reads."
        )
    return sorted(folder / path for path in tree.images)


def files_left_out(folder: Path) -> tuple[str, ...]:
    """Return a line each on what `image_files` does not list: files that are no images, hidden images."""
    return tuple(unread_notes(scan_folder(folder)))
