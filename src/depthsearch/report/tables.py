"""Tables for a terminal of any width: where not all columns fit, names stay whole and others are left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

Thing = TypeVar("Thing")
# Of a column beside its text: a border and a space on each side; and one border more at the end.
BESIDE, END = 3, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table.

    Attributes:
        heading: Its name.
        is_right: Whether its cells stand to the right, as numbers do.
        rank: Where the table is too wide, those of a low rank are shown before others; 0: always.
        wraps: Whether its cells may be broken into lines, between words.
    """

    heading: str
    is_right: bool = False
    rank: int = 0
    wraps: bool = False


# Columns of several tables.
LAYER = Column(heading="layer", is_right=True)
NAME = Column(heading="first trainable", wraps=True)
KIND = Column(heading="kind", rank=6)
MACS = Column(heading="frozen MACs", is_right=True, rank=5)
SETTING = Column(heading="setting", rank=3, wraps=True)
SCORE = Column(heading="score", is_right=True)
TRIAL = Column(heading="trial", is_right=True, rank=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class FittingTable:
    """A table that shows as many of its columns as fit, and says which it leaves out.

    Attributes:
        title: Above it.
        columns: From left to right.
        rows: A text for each column.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    title: str | None = None

    @classmethod
    def of(
        cls,
        things: Iterable[Thing],
        columns: Mapping[Column, Callable[[Thing], str]],
        title: str | None = None,
    ) -> Self:
        """Write things as rows: what to write of each stands beside its column."""
        rows = [tuple(write(thing) for write in columns.values()) for thing in things]
        return cls(columns=tuple(columns), rows=rows, title=title)

    def fits(self, width: int) -> bool:
        """Return whether all columns fit into a width with no name broken."""
        return self._width(range(len(self.columns)), [self._least(i) for i in self._places]) <= width

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw what fits."""
        width = options.max_width
        shown = self._shown(width)
        widths = self._widths(shown, width)
        table = Table(title=self.title, title_justify="left")
        for place in shown:
            column = self.columns[place]
            table.add_column(
                Text(column.heading),
                justify="right" if column.is_right else "left",
                overflow="fold",
                width=widths[place],
            )
        for row in self.rows:
            table.add_row(*(Text(row[place]) for place in shown))
        yield table
        left_out = [self.columns[place].heading for place in self._places if place not in shown]
        if left_out:
            yield Text(f"Too narrow here for: {', '.join(left_out)}.", style="italic")

    @property
    def _places(self) -> range:
        return range(len(self.columns))

    def _shown(self, width: int) -> list[int]:
        """Choose the columns that fit, those of a low rank before others."""
        least = [self._least(place) for place in self._places]
        shown: list[int] = []
        for place in sorted(self._places, key=lambda place: self.columns[place].rank):
            if not self.columns[place].rank or self._width([*shown, place], least) <= width:
                shown.append(place)
        return sorted(shown)

    def _widths(self, shown: Sequence[int], width: int) -> dict[int, int | None]:
        """Return each column's own width, those that may be broken less where that is needed."""
        widths = {place: self._most(place) for place in shown}
        for place in shown:
            too_much = sum(widths.values()) + BESIDE * len(shown) + END - width
            if too_much > 0 and self.columns[place].wraps:
                widths[place] = max(self._least(place), widths[place] - too_much)
        is_too_wide = sum(widths.values()) + BESIDE * len(shown) + END > width
        # Narrower than its names: rich folds them as it can.
        return dict.fromkeys(shown) if is_too_wide else {**widths}

    def _width(self, shown: Sequence[int], widths: Sequence[int]) -> int:
        return sum(widths[place] + BESIDE for place in shown) + END

    def _most(self, place: int) -> int:
        """Measure a column that is not broken."""
        return max(map(cell_len, self._texts(place)), default=0)

    def _least(self, place: int) -> int:
        """Measure a column that is broken as far as it may be."""
        if not self.columns[place].wraps:
            return self._most(place)
        return max((cell_len(word) for text in self._texts(place) for word in text.split()), default=0)

    def _texts(self, place: int) -> list[str]:
        return [self.columns[place].heading, *(row[place] for row in self.rows)]
