"""Folders as Hugging Face's ``datasets`` lays them out: with class folders, or with metadata.

``metadata.csv``, ``metadata.jsonl`` or ``metadata.parquet``, in the folder itself or in each of its split
folders, names the images in a column ``file_name`` and their classes in a column ``label``. It comes before
class folders; where it has no such columns, they count.

Source: https://huggingface.co/docs/datasets/image_dataset#imagefolder
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from depthsearch.data.listing import SPLITS, Listing
from depthsearch.data.samples import Columns
from depthsearch.data.sources.folder import folder_there, list_folder
from depthsearch.data.sources.layouts import folder_of_each, split_named, split_names
from depthsearch.data.sources.manifest import Entry, entry_of, listing_of, split_in_column
from depthsearch.data.sources.places import Places
from depthsearch.data.sources.scanning import Tree, scan_folder, unread_notes
from depthsearch.data.sources.tables import Row, Table, read_table
from depthsearch.errors import DataError
from depthsearch.files import is_file
from depthsearch.text import a_few

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_COLUMNS = ("file_name", "label")


def list_image_folder(folder: Path, *, skip_missing: bool) -> Listing:
    """List the images of a folder by its metadata, or by its class folders.

    Args:
        folder: The folder.
        skip_missing: Whether to go on where files that metadata name are missing.

    Raises:
        DataError: If there is no such folder, or its metadata or class folders cannot be used.
    """
    tree = scan_folder(folder_there(folder))
    root = tree.root
    tables = _tables(tree)
    paths = {table.path.relative_to(root).as_posix() for table in tables.values()}
    tree = replace(tree, unread=tuple(path for path in tree.unread if path not in paths))
    unusable = [table for table in tables.values() if not all(map(table.has, _COLUMNS))]
    if unusable:
        return _by_class_folders(tree, unusable[0])
    if not tables:
        return list_folder(tree)
    entries = [entry for split, table in tables.items() for entry in _entries(root, table, split)]
    every = list(tables.values())
    listing = listing_of(
        entries, tables=every, root=root, source=root, columns=Columns(), skip_missing=skip_missing
    )
    notes = (*listing.notes, *_not_named(tree, entries, every), *unread_notes(tree))
    return replace(listing, notes=notes)


def _tables(tree: Tree) -> dict[str, Table]:
    """Read the metadata by split; under ``""`` that of the folder itself."""
    root = tree.root
    if whole := _metadata(root):
        return {"": read_table(whole, needed=(*_COLUMNS, "split"))}
    named = split_names(tree, "")
    found = {name: _metadata(root / name) for name in named}
    one = next(filter(None, found.values()), None)
    if one is None:
        return {}
    folders = folder_of_each(tree, named)
    paths = {split: found[folders[split]] for split in SPLITS if split in folders}
    for split, path in paths.items():
        if path is None:
            raise DataError(
                f"{root}: {one.parent.name} has {one.name}, {folders[split]} none. Give it to both."
            )
    return {split: read_table(path, needed=_COLUMNS) for split, path in paths.items() if path}


def _metadata(folder: Path) -> Path | None:
    there = [folder / name for name in METADATA if is_file(folder / name)]
    if len(there) > 1:
        raise DataError(f"{folder} has both {there[0].name} and {there[1].name}. Keep one.")
    return there[0] if there else None


def _by_class_folders(tree: Tree, table: Table) -> Listing:
    """Fall back on class folders where metadata do not tell the classes; say so."""
    try:
        listing = list_folder(tree)
    except DataError:
        table.require({"file_name": "the file's path", "label": "its class"})
        raise
    name = table.path.relative_to(tree.root).as_posix()
    note = f"{name} has no columns file_name and label and is not read: the folders are the classes."
    return replace(listing, notes=(*listing.notes, note))


def _entries(root: Path, table: Table, split: str) -> list[Entry]:
    split_of = _split_of(table) if not split else lambda _: split
    columns = Columns(images=("file_name",))
    places = Places(table.path.parent)
    return [entry_of(row, columns, places, root, split_of(row)) for row in table.rows]


def _split_of(table: Table) -> Callable[[Row], str | None]:
    """Find where metadata of the whole folder tell the split: in a column, or in the paths."""
    if table.has("split"):
        return split_in_column
    if all(split_named(_first_folder(row)) for row in table.rows):
        return lambda row: split_named(_first_folder(row))
    return lambda _: None


def _first_folder(row: Row) -> str:
    parts = PurePosixPath(row.text("file_name").replace("\\", "/")).parts
    return parts[0] if len(parts) > 1 else ""


def _not_named(tree: Tree, entries: Sequence[Entry], tables: Sequence[Table]) -> Iterator[str]:
    """Name the images that have no row: those beside each table, and others."""
    named = {file for entry in entries for file in entry.files}
    others = [tree.root / path for path in tree.images if tree.root / path not in named]
    for table in tables:
        beside = [path for path in others if path.is_relative_to(table.path.parent)]
        if beside:
            shown = a_few(path.relative_to(table.path.parent).as_posix() for path in beside)
            yield f"Images that {table.path.parent.name}/{table.path.name} does not name, left out: {shown}."
        others = [path for path in others if not path.is_relative_to(table.path.parent)]
    if others:
        shown = a_few(path.relative_to(tree.root).as_posix() for path in others)
        yield f"Images in no split folder, left out: {shown}."
