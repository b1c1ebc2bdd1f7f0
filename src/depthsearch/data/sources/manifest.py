"""Images that the user's own table names, a row a sample."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from depthsearch.data.decode import range_of_file
from depthsearch.data.listing import SPLIT_WORDS, Listing
from depthsearch.data.samples import Columns, Sample, column_key
from depthsearch.data.sources.layouts import splits_in_paths
from depthsearch.data.sources.places import Places
from depthsearch.data.sources.scanning import decode_listed, stamp_of
from depthsearch.data.sources.tables import Row, Table, read_table
from depthsearch.errors import DataError
from depthsearch.files import full_path, is_file, why_no_file
from depthsearch.text import a_few

MANIFEST_SUFFIXES = (".csv", ".parquet")
# What programs write into tables where there is no value.
_NO_LABELS = {
    "nan", "NaN", "NAN", "None", "NULL", "null", "NaT", "N/A", "n/a", "#N/A", "NA", "<NA>", "undefined",
}  # fmt: skip
# Of a web page or a store, in a path, in which two slashes have become one.
_ADDRESS = re.compile(r"(?:^|/)([A-Za-z][A-Za-z0-9+.-]+):/+(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A row's sample.

    Attributes:
        place: Of the row, for people.
        paths: Of its images in the source, or absolute where they lie elsewhere.
        files: Where they are.
        label: Name of its class.
        split: As the source says; None where it says nothing.
        numbers: Of it.
    """

    place: str
    paths: tuple[str, ...]
    files: tuple[Path, ...]
    label: str
    split: str | None
    numbers: tuple[float, ...] = ()


def list_manifest(file: Path, *, columns: Columns, skip_missing: bool) -> Listing:
    """List the images of a table with columns of images, ``label`` and, optionally, ``split``.

    Args:
        file: CSV or Parquet; paths in it count from its folder.
        columns: Of the images and numbers of a sample.
        skip_missing: Whether to go on where files are missing.

    Raises:
        DataError: If there is no such file, or a row of it cannot be used.
    """
    path = full_path(file)
    if not is_file(path):
        raise DataError(
            f"No file {path}{why_no_file(path)}. Give a table with the columns "
            f"{', '.join(columns.images)}, label and, if you like, split."
        )
    table = _read(path, columns, "label", "split")
    lacks_images = not all(map(table.has, columns.images))
    table.require(
        {**_meanings(columns), "label": "its class"},
        also=", or name those of the images with --image-columns" if lacks_images else "",
    )
    has_split, places = table.has("split"), Places(path.parent)
    entries = [
        entry_of(row, columns, places, path.parent, split_in_column(row) if has_split else None)
        for row in table.rows
    ]
    return listing_of(
        entries, tables=[table], root=path.parent, source=path, columns=columns, skip_missing=skip_missing
    )


def read_samples(file: Path, columns: Columns) -> list[Sample]:
    """Read the samples of a table in its order, for a model to tell their classes.

    Args:
        file: CSV or Parquet; paths in it count from its folder.
        columns: Of their images and numbers; others are not read.

    Raises:
        DataError: If there is no such file or column, or a row of it cannot be used.
    """
    if not is_file(file):
        names = ", ".join((*columns.images, *columns.numbers))
        raise DataError(f"No file {file}{why_no_file(file)}. Give a table with the columns {names}.")
    table = _read(file, columns)
    table.require(_meanings(columns))
    rows = table.rows
    if not rows:
        raise DataError(f"{file}: no rows. Give one for each sample.")
    places = Places(file.parent)
    return [
        Sample(
            images=tuple(places.find(_path(row, column)) for column in columns.images),
            numbers=tuple(row.number(column_key(column)) for column in columns.numbers),
            place=row.place,
        )
        for row in rows
    ]


def _read(file: Path, columns: Columns, *others: str) -> Table:
    """Read the columns of a sample from a table, and perhaps others."""
    return read_table(file, needed=(*map(column_key, (*columns.images, *columns.numbers)), *others))


def _meanings(columns: Columns) -> dict[str, str]:
    """Describe the columns of a sample."""
    images = dict.fromkeys(columns.images, "the file's path")
    return images | dict.fromkeys(columns.numbers, "a number of the sample")


def _path(row: Row, column: str) -> str:
    """Read where an image is."""
    named = row.text(column_key(column))
    if not named:
        raise DataError(f"{row.place}: {column} is empty. Give it, or remove the row.")
    return named


def split_in_column(row: Row) -> str:
    """Read a row's split.

    Raises:
        DataError: If it is no name of a split.
    """
    word = row.text("split")
    if word.lower() not in SPLIT_WORDS:
        raise DataError(
            f"{row.place}: split is {word!r}. Give train, val or test in every row, or no column split."
        )
    return SPLIT_WORDS[word.lower()]


def entry_of(row: Row, columns: Columns, places: Places, root: Path, split: str | None) -> Entry:
    """Read a row's images, which `places` finds and `root` names, its numbers and its label.

    Raises:
        DataError: If one is missing, or no number.
    """
    named = [_path(row, column) for column in columns.images]
    label = row.text("label")
    if not label:
        raise DataError(f"{row.place}: label is empty. Give it, or remove the row.")
    files = tuple(map(places.find, named))
    return Entry(
        place=row.place,
        paths=tuple((f.relative_to(root) if f.is_relative_to(root) else f).as_posix() for f in files),
        files=files,
        label=label,
        split=split,
        numbers=tuple(row.number(column_key(column)) for column in columns.numbers),
    )


def listing_of(
    entries: Iterable[Entry],
    *,
    tables: Sequence[Table],
    root: Path,
    source: Path,
    columns: Columns,
    skip_missing: bool,
) -> Listing:
    """Make a listing of samples, known by class and content: the same images elsewhere are the same set.

    Args:
        entries: In any order.
        tables: That they come from.
        root: That relative paths count from.
        source: The folder, or the table in it.
        columns: What a sample is made of.
        skip_missing: Whether to go on where files are missing.

    Raises:
        DataError: If there are none, files are missing, or labels or splits contradict each other.
    """
    entries = sorted(entries, key=lambda entry: (entry.paths, entry.split or "", entry.numbers))
    tables_named = " and ".join(str(table.path) for table in tables)
    if not entries:
        raise DataError(f"{tables_named}: no rows. Give one for each {columns.noun}.")
    _refuse_contradictions(entries, columns)
    images = [
        (entry, path, file) for entry in entries for path, file in zip(entry.paths, entry.files, strict=True)
    ]
    stamps = [stamp_of(file) for _, _, file in images]
    missing = [(e.place, f) for (e, _, f), (size, _) in zip(images, stamps, strict=True) if size < 0]
    if missing and not skip_missing:
        raise _missing_files(missing, tables_named)
    classes = _classes(entries, tables_named, columns.noun)
    labels = {label: place for place, label in enumerate(classes)}
    files = tuple(file for _, _, file in images)

    return Listing(
        name=root.name if source == root else source.stem,
        source=str(source),
        classes=classes,
        paths=tuple(path for _, path, _ in images),
        labels=np.array([labels[entry.label] for entry, _, _ in images], dtype=np.int64),
        splits=np.array([entry.split or "train" for entry, _, _ in images]),
        stamp=[str(root), [(path, *stamp) for (_, path, _), stamp in zip(images, stamps, strict=True)]],
        decode=lambda index, *how: decode_listed(files[index], stamps[index], *how),
        range_at=lambda index: range_of_file(files[index]),
        known_by=tuple(entry.label for entry, _, _ in images),
        layout=", ".join(table.path.relative_to(root).as_posix() for table in tables),
        notes=tuple(_notes(entries, tables, root, columns.noun)),
        columns=columns,
        numbers=np.array([e.numbers for e in entries], dtype=np.float32) if columns.numbers else None,
    )


def _notes(entries: Sequence[Entry], tables: Sequence[Table], root: Path, noun: str) -> Iterator[str]:
    """Write lines on columns that are not read, splits in paths that no column has, words for no label."""
    for table in tables:
        if table.others:
            name = table.path.relative_to(root).as_posix()
            yield f"Columns of {name} that are not read: {a_few(table.others)}."
    if all(entry.split is None for entry in entries) and (
        named := splits_in_paths(path for entry in entries for path in entry.paths)
    ):
        yield (
            f"The paths name splits ({a_few(named)}), and no column does: all rows are one set, of which "
            "validation and test are taken. To keep these splits, add a column split with train, val or test."
        )
    counts = Counter(entry.label for entry in entries)
    for label in sorted(counts.keys() & _NO_LABELS):
        yield (
            f"{label!r} is the class of {counts[label]} {noun}{'s' * (counts[label] > 1)}, and what programs "
            "write where a value is missing. If it is no class, remove these rows."
        )


def _refuse_contradictions(entries: Sequence[Entry], columns: Columns) -> None:
    """Refuse a sample of two classes, or listed twice in one split; in two splits it is a duplicate."""
    seen: dict[object, list[Entry]] = defaultdict(list)
    for entry in entries:
        shown = ", ".join(entry.paths) + (", with the same numbers," if columns.numbers else "")
        for earlier in seen[entry.paths, entry.numbers]:
            if earlier.label != entry.label:
                raise DataError(
                    f"{shown} is {earlier.label!r} in {earlier.place} and {entry.label!r} in "
                    f"{entry.place}. Give one {columns.noun} one label."
                )
            if earlier.split == entry.split:
                raise DataError(f"{shown} stands in {earlier.place} and {entry.place}. Remove one row.")
        seen[entry.paths, entry.numbers].append(entry)


def _missing_files(missing: Sequence[tuple[str, Path]], tables_named: str) -> DataError:
    """Return the error of files that are missing, naming the first of them."""
    place, file = missing[0]
    if address := _ADDRESS.search(file.as_posix()):
        return DataError(
            f"{place}: {address[1]}://{address[2]} is an address (URL), no file. Download the images, and "
            f"give their paths, from the folder of {tables_named}."
        )
    more = f" (and {len(missing) - 1} more missing files)" if len(missing) > 1 else ""
    return DataError(
        f"{place}: no file {file}{more}. {_step(file)}Paths count from the folder of {tables_named}; "
        "--skip-unreadable leaves missing files out."
    )


def _step(file: Path) -> str:
    """Write what may be wrong with the path of a file that is missing."""
    if "\\" in file.name:
        return "Its path holds backslashes, as on Windows: write it with /, from the folder of the table. "
    near = Places(file.parent).near(file)
    return f"There is {near}: write it so, letter by letter. " if near else ""


def _classes(entries: Sequence[Entry], where: str, noun: str) -> tuple[str, ...]:
    """Name the classes, sorted; each has to be in each split that the source has."""
    by_split: Mapping[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for entry in entries:
        by_split[entry.split or "train"][entry.label] += 1
    classes = sorted({entry.label for entry in entries})
    if len(classes) == 1:
        raise DataError(f"{where}: one class only, {classes[0]!r}. Give {noun}s of two or more classes.")
    if "train" not in by_split:
        raise DataError(
            f"{where}: no row has the split train, only {' and '.join(by_split)}. Add training {noun}s."
        )
    for split, counts in by_split.items():
        for label in classes:
            if label not in counts:
                there = ", ".join(f"{n[label]} in {s}" for s, n in by_split.items() if label in n)
                raise DataError(
                    f"{where}: class {label!r} has no {noun} in {split} ({there}). "
                    "Add rows to it, or remove the class."
                )
    return tuple(classes)
