"""What the templates of pages and texts are given beside plain strings."""

from __future__ import annotations

from dataclasses import dataclass

from plotly.graph_objects import Figure

from depthsearch.models.cuts import Cut


@dataclass(frozen=True, slots=True)
class Code:
    """A name as it is written in code."""

    text: str


Cell = str | Code | tuple[str | Code, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under headings.

    Attributes:
        headings: One for each column.
        rows: As many cells each.
        numbers: Headings of the columns that are set right.
        marked: Which row to emphasise, counted from 0.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numbers: frozenset[str] = frozenset()
    marked: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A figure, with the words and the table that say the same.

    Attributes:
        name: Of its file, and in the page.
        title: What it shows.
        figure: As `depthsearch.visualization` draws it.
        caption: What to see in it.
        table: Its values; None where another table of the document has them.
    """

    name: str
    title: str
    figure: Figure
    caption: str
    table: Table | None = None


def names_of(cut: Cut) -> Cell:
    """Write a cut's backbone if of several, its module path, and its Keras name where it has one."""
    before = (f"{cut.backbone} ",) if cut.backbone else ()
    behind = (f" ({cut.keras_name})",) if cut.keras_name else ()
    return (*before, Code(cut.name), *behind)
