"""Tables that name images: CSV, JSON lines or Parquet, a row a sample."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from depthsearch.data.samples import column_key, is_number
from depthsearch.errors import DataError
from depthsearch.text import a_few, counted

# What a file holds: the names of its columns, and its rows.
_Content: TypeAlias = "tuple[tuple[str, ...], list[Row]]"
_OTHER_MARKS = {";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a table.

    Attributes:
        place: Where it stands, for people: ``"samples.csv, line 3"``.
        values: By column, its name in lower case.
    """

    place: str
    values: Mapping[str, object]

    def text(self, column: str) -> str:
        """Return a value as text, without the spaces around it; empty where there is none.

        A whole number that is kept as a floating-point one is text as in CSV, ``1.0``.

        Raises:
            DataError: If it is neither text nor a whole number.
        """
        value = self.values[column]
        if value is None:
            return ""
        if isinstance(value, str | int) or (isinstance(value, float) and value.is_integer()):
            return str(value).strip()
        raise DataError(
            f"{self.place}: {column} is {value!r}, neither text nor a whole number. Give one of these."
        )

    def number(self, column: str) -> float:
        """Return a value as a number; of a column of truth values 0 or 1.

        Raises:
            DataError: If it is none, or none that 32 bits can hold.
        """
        value = self.values[column]
        if value is None or (isinstance(value, str) and not value.strip()):
            raise DataError(f"{self.place}: {column} is empty. Give a number, or remove the row.")
        text = str(float(value) if isinstance(value, bool) else value).strip()
        try:
            # Python would read 1_000 as well.
            number = float(text.replace("_", "?"))
        except ValueError:
            raise DataError(
                f"{self.place}: {column} is {text!r}, no number. Give one such as 12.5, with a point."
            ) from None
        if not is_number(number):
            raise DataError(f"{self.place}: {column} is {text}. Give a finite number of at most 3.4e38.")
        return number


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table that has been read.

    Attributes:
        path: Its file.
        columns: Their names as they stand there.
        rows: In its order.
        needed: The columns that are of use, in lower case.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    needed: Collection[str]

    def has(self, column: str) -> bool:
        """Return whether there is a column, whatever its case."""
        return column in map(column_key, self.columns)

    def require(self, meanings: Mapping[str, str], also: str = "") -> None:
        """Refuse a table that lacks columns.

        Args:
            meanings: What each column holds.
            also: Another way out than other columns, for the message.

        Raises:
            DataError: If it does, naming all that it lacks and the columns that there are.
        """
        missing = [f"{name!r} ({meaning})" for name, meaning in meanings.items() if not self.has(name)]
        if missing:
            columns = ", ".join(self.columns) or "no columns at all"
            parted = any(mark in columns for mark in ";\t|") and len(self.columns) == 1
            step = "Part columns by commas" if parted else f"Rename columns, or add them{also}"
            what = f"column{'s' * (len(missing) > 1)} {' and '.join(missing)}"
            raise DataError(f"{self.path} has no {what}, only: {columns}. {step}.")

    @property
    def others(self) -> list[str]:
        """The names of the columns that are not needed."""
        return [name or "one without a name" for name in self.columns if column_key(name) not in self.needed]


def read_table(path: Path, *, needed: Collection[str]) -> Table:
    """Read a table by what its name ends in: ``.csv``, ``.jsonl`` or ``.parquet``.

    Args:
        path: The file. CSV and JSON lines are UTF-8; CSV has a header and commas.
        needed: Columns, in lower case; of a Parquet file no others are read.

    Raises:
        DataError: If it cannot be read, or two of its columns have one name.
    """
    readers: dict[str, Callable[[Path, Collection[str]], _Content]] = {
        ".csv": _read_csv,
        ".jsonl": _read_json_lines,
        ".parquet": _read_parquet,
    }
    try:
        columns, rows = readers[path.suffix.lower()](path, needed)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not in UTF-8 ({error.reason} at byte {error.start}). Save it so."
        ) from error
    except OSError as error:
        raise DataError(
            f"Cannot read {path}: {error.strerror or error}. Check that it may be read."
        ) from error
    counts = Counter(map(column_key, columns))
    # Those without a name are never read: an index that pandas writes, a comma at the end of each line.
    if twice := [name for name in columns if name.strip() and counts[column_key(name)] > 1]:
        raise DataError(f"{path} has columns of one name: {a_few(twice)}. Rename or remove one.")
    return Table(path=path, columns=columns, rows=tuple(rows), needed=needed)


def _read_csv(path: Path, needed: Collection[str]) -> _Content:
    try:
        # A spreadsheet begins its UTF-8 with a byte order mark.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(_without_nul(path, file), strict=True, skipinitialspace=True)
            header = next((fields for fields in reader if any(map(str.strip, fields))), [])
            columns = tuple(name.strip() for name in header)
            if not columns:
                raise DataError(f"{path} is empty. Give a header, such as image,label,split, and rows.")
            return columns, list(_csv_rows(path, columns, reader))
    except csv.Error as error:
        raise DataError(f"{path} is no CSV: {error} (line {reader.line_num}). Mend that line.") from error


def _without_nul(path: Path, lines: Iterable[str]) -> Iterator[str]:
    """Refuse what no text has, UTF-16 and zeros that a crash has left: no file or class is called so."""
    for number, line in enumerate(lines, start=1):
        if "\0" in line:
            raise DataError(f"{path}, line {number}: it holds NUL characters. Save the table as UTF-8 text.")
        yield line


def _csv_rows(path: Path, columns: tuple[str, ...], reader: Iterator[list[str]]) -> Iterator[Row]:
    keys = [column_key(name) for name in columns]
    for fields in reader:
        place = f"{path.name}, line {reader.line_num}"  # type: ignore[attr-defined]
        if fields and len(fields) != len(columns):
            raise _misfit(place, fields, columns)
        if fields:
            yield Row(place=place, values=dict(zip(keys, fields, strict=True)))


def _misfit(place: str, fields: Sequence[str], columns: Sequence[str]) -> DataError:
    """Return what to say of a row that has more or fewer values than there are columns."""
    line, header = ",".join(fields), ",".join(columns)
    for mark, name in _OTHER_MARKS.items():
        if len(columns) > 1 and line.count(mark) == len(columns) - 1:
            return DataError(
                f"{place}: its values are parted by {name}, those of the header by commas. Part all of them "
                "by commas."
            )
        if len(columns) == 1 and header.count(mark) == len(fields) - 1:
            return DataError(
                f"{place}: its values are parted by commas, the header by {name}. Part it by commas."
            )
    n_fields, n_columns = counted(len(fields), "value"), counted(len(columns), "column")
    return DataError(f"{place}: {n_fields} for {n_columns} ({', '.join(columns)}). {_step(fields, columns)}.")


def _step(fields: Sequence[str], columns: Sequence[str]) -> str:
    """Write what is to be done about a row that has more or fewer values than there are columns."""
    if len(fields) == 1 and fields[0].count(",") == len(columns) - 1:
        return "Leave out the quotation marks around the whole row"
    if len(fields) < len(columns):
        return "Give a value for each, or none between two commas"
    if len(fields) == len(columns) + 1 and not fields[-1].strip():
        return "Leave out the comma at its end"
    if fields[0].strip().isdigit():
        return (
            "Put values that hold a comma in quotation marks, or name the first column if it numbers the rows"
        )
    return "Put values that hold a comma in quotation marks"


def _read_json_lines(path: Path, needed: Collection[str]) -> _Content:
    rows, columns = [], {}
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            place = f"{path.name}, line {number}"
            try:
                values = json.loads(line)
            except (ValueError, RecursionError):
                values = None
            if not isinstance(values, dict):
                raise DataError(
                    f'{place} is no JSON object. Give a line such as {{"{next(iter(needed))}": ...}}.'
                )
            columns.update(dict.fromkeys(values))
            rows.append((place, {column_key(name): value for name, value in values.items()}))
    known = dict.fromkeys(map(column_key, columns))
    # A line may leave out what it has no value of.
    return tuple(columns), [Row(place=place, values={**known, **values}) for place, values in rows]


def _read_parquet(path: Path, needed: Collection[str]) -> _Content:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            f'{path} needs pyarrow: pip install "depthsearch[parquet]", or give the same table as CSV.'
        ) from error
    try:
        with path.open("rb") as file:
            parquet = pyarrow.parquet.ParquetFile(file)
            columns = tuple(parquet.schema_arrow.names)
            read = [name for name in columns if column_key(name) in needed]
            values = parquet.read(columns=read).to_pylist() if read else []
    except pyarrow.ArrowException as error:
        raise DataError(
            f"{path} is no Parquet file: {' '.join(str(error).split())} Write it again."
        ) from error
    return columns, [
        Row(
            place=f"{path.name}, row {number}",
            values={column_key(name): value for name, value in row.items()},
        )
        for number, row in enumerate(values, start=1)
    ]
