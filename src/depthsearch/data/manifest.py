"""Images that a table names: a file of one's own, a row a sample."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from depthsearch.data.decode import Decoded, Geometry, decode_file
from depthsearch.data.listing import SPLIT_WORDS, Listing, a_few
from depthsearch.data.tables import Row, Table, read_table
from depthsearch.errors import DataError

MANIFEST_SUFFIXES = (".csv", ".parquet")
_COLUMNS = ("image", "label", "split")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A row's image.

    Attributes:
        place: Of the row, for people.
        path: In the source, or absolute where it lies elsewhere.
        file: Where it is.
        label: Name of its class.
        split: As the source says; None where it says nothing.
    """

    place: str
    path: str
    file: Path
    label: str
    split: str | None


def list_manifest(file: Path, *, skip_missing: bool) -> Listing:
    """List the images of a table with the columns ``image``, ``label`` and, optionally, ``split``.

    Args:
        file: CSV or Parquet; paths in it count from its folder.
        skip_missing: Whether to go on where files are missing.

    Raises:
        DataError: If there is no such file, or a row of it cannot be used.
    """
    path = file.expanduser().resolve()
    if not path.is_file():
        raise DataError(
            f"No file {path}. Give a table with the columns image, label and, if you like, split."
        )
    table = read_table(path, wanted=_COLUMNS)
    for column, meaning in (("image", "the file's path"), ("label", "its class")):
        table.require(column, meaning)
    split_of = split_in_column if table.has("split") else split_unknown
    samples = [sample_of(row, "image", path.parent, path.parent, split_of(row)) for row in table.rows]
    return listing_of(
        samples, tables=[table], root=path.parent, name=path.stem, source=path, skip_missing=skip_missing
    )


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


def split_unknown(row: Row) -> None:
    """Say nothing of a row's split."""


def sample_of(row: Row, column: str, folder: Path, root: Path, split: str | None) -> Sample:
    """Read a row's image and label.

    Args:
        row: The row.
        column: That names the image.
        folder: That its path counts from.
        root: Of the source.
        split: What is known of its split.

    Raises:
        DataError: If either is missing.
    """
    named, label = row.text(column), row.text("label")
    for what, value in ((column, named), ("label", label)):
        if not value:
            raise DataError(f"{row.place}: {what} is empty. Give it, or remove the row.")
    file = Path(os.path.normpath(folder / named))
    path = file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()
    return Sample(place=row.place, path=path, file=file, label=label, split=split)


def listing_of(
    samples: Iterable[Sample],
    *,
    tables: Sequence[Table],
    root: Path,
    name: str,
    source: Path,
    skip_missing: bool,
    read: Collection[str] = _COLUMNS,
) -> Listing:
    """Make a listing of samples.

    Known by class and content, not by path: the same images elsewhere are the same data set.

    Args:
        samples: In any order.
        tables: That they come from.
        root: That relative paths count from.
        name: What to call the source.
        source: Where it is.
        skip_missing: Whether to go on where files are missing.
        read: Columns that are read.

    Raises:
        DataError: If there are none, files are missing, or labels or splits contradict each other.
    """
    samples = sorted(samples, key=lambda sample: (sample.path, sample.split or ""))
    told = " and ".join(str(table.path) for table in tables)
    if not samples:
        raise DataError(f"{told}: no rows. Give one for each image.")
    _refuse_contradictions(samples)
    stamps = [_stamp(sample.file) for sample in samples]
    if not skip_missing:
        _refuse_missing([s for s, (size, _) in zip(samples, stamps, strict=True) if size < 0], told)
    classes = _classes(samples, told)
    labels = {label: place for place, label in enumerate(classes)}
    files = tuple(sample.file for sample in samples)

    def decode(index: int, geometry: Geometry | None) -> Decoded:
        return decode_file(files[index], geometry)

    return Listing(
        name=name,
        source=str(source),
        classes=classes,
        paths=tuple(sample.path for sample in samples),
        labels=np.array([labels[sample.label] for sample in samples], dtype=np.int64),
        splits=np.array([sample.split or "train" for sample in samples]),
        stamp=[str(root), [(s.path, *stamp) for s, stamp in zip(samples, stamps, strict=True)]],
        decode=decode,
        known_by=tuple(sample.label for sample in samples),
        layout=", ".join(_shown(table.path, source) for table in tables),
        notes=tuple(
            f"Columns of {_shown(table.path, source)} that are not read: {a_few(others)}."
            for table in tables
            if (others := table.others(read))
        ),
    )


def _shown(path: Path, source: Path) -> str:
    """Name a table: by its path in the source if that is a folder."""
    return path.relative_to(source).as_posix() if path != source else path.name


def _stamp(file: Path) -> tuple[int, int]:
    """Give size in bytes and time of change in ns; -1 for a file that is missing."""
    try:
        stat = file.stat()
    except OSError:
        return (-1, -1)
    return (stat.st_size, stat.st_mtime_ns)


def _refuse_contradictions(samples: Sequence[Sample]) -> None:
    """Refuse an image of two classes, or listed twice in one split; in two splits it is a duplicate."""
    seen: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        for earlier in seen[sample.path]:
            if earlier.label != sample.label:
                raise DataError(
                    f"{sample.path} is {earlier.label!r} in {earlier.place} and {sample.label!r} in "
                    f"{sample.place}. Give one image one label."
                )
            if earlier.split == sample.split:
                raise DataError(
                    f"{sample.path} stands in {earlier.place} and {sample.place}. Remove one row."
                )
        seen[sample.path].append(sample)


def _refuse_missing(missing: Sequence[Sample], told: str) -> None:
    if not missing:
        return
    first = missing[0]
    more = f" (and {len(missing) - 1} more missing files)" if len(missing) > 1 else ""
    raise DataError(
        f"{first.place}: no file {first.file}{more}. Paths count from the folder of {told}; "
        "--skip-unreadable leaves missing files out."
    )


def _classes(samples: Sequence[Sample], told: str) -> tuple[str, ...]:
    """Name the classes, sorted; each has to be in each split that the source has."""
    by_split: Mapping[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for sample in samples:
        by_split[sample.split or "train"][sample.label] += 1
    classes = sorted({sample.label for sample in samples})
    if len(classes) == 1:
        raise DataError(f"{told}: one class only, {classes[0]!r}. Give images of two or more classes.")
    if "train" not in by_split:
        raise DataError(
            f"{told}: no row has the split train, only {' and '.join(by_split)}. Add training images."
        )
    for split, counts in by_split.items():
        for label in classes:
            if label not in counts:
                there = ", ".join(f"{n[label]} in {s}" for s, n in by_split.items() if label in n)
                raise DataError(
                    f"{told}: class {label!r} has no image in {split} ({there}). "
                    "Add rows to it, or remove the class."
                )
    return tuple(classes)
