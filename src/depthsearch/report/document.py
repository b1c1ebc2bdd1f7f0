"""A document of a few kinds of blocks, written as Markdown or as one HTML page that says the same.

What comes from users (names of classes, files and studies) goes in as plain text and is escaped here, once
for each format; charts come in as SVG, which HTML holds and Markdown shows from files (see `chartfile`).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from depthsearch.report.charts import CONTROL, element, escape

__all__ = [
    "Block",
    "Code",
    "Commands",
    "Details",
    "Document",
    "Facts",
    "Figure",
    "Inline",
    "Items",
    "Legend",
    "Paragraph",
    "Picture",
    "Section",
    "Strong",
    "Table",
    "as_html",
    "as_markdown",
]

# No script, no network, no frame: the page is what it holds.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
# Of these Markdown makes markup wherever they stand; of an underscore only beside a word.
MARKUP = re.compile(r"[\\`*\[\]<>|~&$]|(?<![^\W_])_|_(?![^\W_])")


@dataclass(frozen=True, slots=True)
class Code:
    """A name as it is written in code."""

    text: str


@dataclass(frozen=True, slots=True)
class Strong:
    """What matters most in its sentence."""

    text: str


Span = str | Code | Strong
Inline = str | Code | Strong | tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Sentences; ``kind`` is ``lead`` for the answer, ``note`` for what is beside the point."""

    text: Inline
    kind: str = ""


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
    rows: tuple[tuple[Inline, ...], ...]
    numbers: frozenset[str] = frozenset()
    marked: int | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """Named values, the name first."""

    items: tuple[tuple[str, Inline, Inline], ...]


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    items: tuple[Inline, ...]


@dataclass(frozen=True, slots=True)
class Commands:
    """What to type into a shell."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Legend:
    """One entry of a chart's legend: a symbol (markup) and what it means."""

    symbol: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A chart, with the table that says the same.

    Attributes:
        wide: SVG for a wide window.
        narrow: SVG for a telephone.
        caption: What to see in it.
        table: Its values; None where another table of the document has them.
        legend: What its symbols mean.
    """

    wide: str
    narrow: str
    caption: Inline
    table: Table | None = None
    legend: tuple[Legend, ...] = ()


@dataclass(frozen=True, slots=True)
class Details:
    """What is folded away until asked for."""

    summary: str
    block: Items | Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture that the page carries in itself; Markdown shows it from a file.

    Attributes:
        jpeg: The file.
        width: In pixels.
        height: In pixels.
        caption: What to see in it.
    """

    jpeg: bytes
    width: int
    height: int
    caption: str


Block = Paragraph | Table | Facts | Items | Commands | Figure | Details | Picture


@dataclass(frozen=True, slots=True)
class Section:
    """Blocks under a heading."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A title, what stands above all sections, and the sections."""

    title: str
    subtitle: Inline
    blocks: tuple[Block, ...]
    sections: tuple[Section, ...]

    def images(self) -> Iterator[tuple[str, Figure | Picture]]:
        """Give each figure and picture with a file's name: its section's, numbered where it has several."""
        for section in self.sections:
            shown = [block for block in section.blocks if isinstance(block, Figure | Picture)]
            slug = re.sub(r"\W+", "-", section.title.lower())
            for number, block in enumerate(shown, start=1):
                ending = "svg" if isinstance(block, Figure) else "jpg"
                yield f"{slug}{f'-{number}' if len(shown) > 1 else ''}.{ending}", block


def as_markdown(document: Document, *, charts: str = "charts") -> str:
    """Write a document as Markdown (GitHub's, for its tables).

    Args:
        document: What to write.
        charts: Folder of the files of figures and pictures, see `Document.images`, from the Markdown's.
    """
    parts = [f"# {_plain(document.title)}", _marked_down(document.subtitle)]
    parts += [_block_as_markdown(block) for block in document.blocks]
    names = iter([name for name, _ in document.images()])
    for section in document.sections:
        parts.append(f"## {_plain(section.title)}")
        for block in section.blocks:
            if isinstance(block, Figure | Picture):
                parts.append(f"![{_plain(section.title)}]({charts}/{next(names)})")
            parts.append(_block_as_markdown(block))
    return "\n\n".join(part for part in parts if part) + "\n"


def as_html(document: Document) -> str:
    """Write a document as one HTML page that needs nothing else."""
    style = (files("depthsearch.report.page") / "page.css").read_text(encoding="utf-8")
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        '<link rel="icon" href="data:,">',
        element("title", escape(f"{document.title} – depthsearch")),  # noqa: RUF001 (between two names)
        element("style", style),
    ]
    header = element(
        "header",
        element("p", _marked_up(document.subtitle), class_="over"),
        element("h1", escape(document.title)),
        *(_block_as_html(block) for block in document.blocks),
    )
    sections = [
        element("section", element("h2", escape(section.title)), *map(_block_as_html, section.blocks))
        for section in document.sections
    ]
    body = element("body", element("main", header, *sections))
    return "\n".join(["<!doctype html>", '<html lang="en">', "<head>", *head, "</head>", body, "</html>", ""])


# --- Markdown -----------------------------------------------------------------------------------


def _block_as_markdown(block: Block) -> str:
    if isinstance(block, Paragraph):
        text = _marked_down(block.text)
        return f"**{text}**" if block.kind == "lead" and "**" not in text else text
    if isinstance(block, Table):
        return _table_as_markdown(block)
    if isinstance(block, Facts):
        return "\n".join(f"- {_plain(name)}: {_fact(value, more)}" for name, value, more in block.items)
    if isinstance(block, Items):
        return "\n".join(f"- {_marked_down(item)}" for item in block.items)
    if isinstance(block, Commands):
        fence = "`" * max(3, _longest_run(block.text) + 1)
        return f"{fence}console\n{block.text}\n{fence}"
    if isinstance(block, Details):
        return f"{_plain(block.summary)}:\n\n{_block_as_markdown(block.block)}"
    if isinstance(block, Picture):
        return _plain(block.caption)
    parts = [_marked_down(block.caption), _table_as_markdown(block.table) if block.table else ""]
    return "\n\n".join(part for part in parts if part)


def _fact(value: Inline, more: Inline) -> str:
    return f"{_marked_down(value)} ({_marked_down(more)})" if more else _marked_down(value)


def _table_as_markdown(table: Table) -> str:
    rules = ["---:" if heading in table.numbers else "---" for heading in table.headings]
    rows = [[_plain(heading) for heading in table.headings], rules]
    for place, row in enumerate(table.rows):
        cells = [_marked_down(cell, in_table=True) for cell in row]
        if place == table.marked and cells[0]:
            cells[0] = f"**{cells[0]}**"
        rows.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _marked_down(text: Inline, *, in_table: bool = False) -> str:
    spans = text if isinstance(text, tuple) else (text,)
    return "".join(_span_as_markdown(span, in_table=in_table) for span in spans)


def _span_as_markdown(span: Span, *, in_table: bool) -> str:
    if isinstance(span, Code):
        return _code(span.text, in_table=in_table)
    if isinstance(span, Strong):
        return f"**{_plain(span.text)}**"
    return _plain(span)


def _code(text: str, *, in_table: bool) -> str:
    """Fence a text with one backtick more than it holds in a row; a table wants bars escaped even there."""
    text = _one_line(text)
    fence = "`" * (_longest_run(text) + 1)
    space = " " if len(fence) > 1 else ""
    shown = text.replace("|", "\\|") if in_table else text
    return f"{fence}{space}{shown}{space}{fence}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def _plain(text: str) -> str:
    return MARKUP.sub(lambda found: "\\" + found[0], _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(CONTROL.sub("\ufffd", text).split("\n")).replace("\r", " ")


# --- HTML ---------------------------------------------------------------------------------------


def _block_as_html(block: Block) -> str:
    if isinstance(block, Paragraph):
        return element("p", _marked_up(block.text), class_=block.kind or None)
    if isinstance(block, Table):
        return _table_as_html(block)
    if isinstance(block, Facts):
        return element("dl", *(_fact_as_html(*item) for item in block.items), class_="facts")
    if isinstance(block, Items):
        return element("ul", *(element("li", _marked_up(item)) for item in block.items))
    if isinstance(block, Commands):
        return element("pre", element("code", escape(block.text)), tabindex=0)
    if isinstance(block, Picture):
        return _picture_as_html(block)
    if isinstance(block, Details):
        return element("details", element("summary", escape(block.summary)), _block_as_html(block.block))
    return _figure_as_html(block)


def _fact_as_html(name: str, value: Inline, more: Inline) -> str:
    shown = [element("dd", _marked_up(value))]
    if more:
        shown.append(element("dd", _marked_up(more), class_="more"))
    return element("div", element("dt", escape(name)), *shown)


def _figure_as_html(figure: Figure) -> str:
    parts = [
        element("div", figure.wide, class_="chart wide"),
        element("div", figure.narrow, class_="chart narrow"),
    ]
    if figure.legend:
        entries = (element("li", entry.symbol, escape(entry.label)) for entry in figure.legend)
        parts.append(element("ul", *entries, class_="legend"))
    parts.append(element("figcaption", _marked_up(figure.caption)))
    if figure.table:
        parts.append(_block_as_html(Details("The same as a table", figure.table)))
    return element("figure", *parts)


def _picture_as_html(picture: Picture) -> str:
    source = f"data:image/jpeg;base64,{base64.b64encode(picture.jpeg).decode()}"
    # HTML's img has no end.
    image = element("img", src=source, alt=picture.caption, width=picture.width, height=picture.height)
    image = image.removesuffix("</img>")
    return element("figure", image, element("figcaption", escape(picture.caption)), class_="picture")


def _table_as_html(table: Table) -> str:
    kinds = ["number" if heading in table.numbers else None for heading in table.headings]
    head = element("tr", *(element("th", escape(h), class_=k, scope="col") for h, k in _pairs(table, kinds)))
    rows = [
        element(
            "tr",
            *(element("td", _marked_up(cell), class_=kind) for cell, kind in zip(row, kinds, strict=True)),
            class_="marked" if place == table.marked else None,
        )
        for place, row in enumerate(table.rows)
    ]
    whole = element("table", element("thead", head), element("tbody", *rows))
    # Wider than a telephone: it scrolls by itself, also with the keyboard.
    return element("div", whole, class_="scroll", tabindex=0, role="region", aria_label="Table")


def _pairs(table: Table, kinds: list[str | None]) -> Iterator[tuple[str, str | None]]:
    return zip(table.headings, kinds, strict=True)


def _marked_up(text: Inline) -> str:
    spans = text if isinstance(text, tuple) else (text,)
    return "".join(_span_as_html(span) for span in spans)


def _span_as_html(span: Span) -> str:
    if isinstance(span, Code):
        # A module path or a file's may be broken behind its dots and slashes.
        return element("code", re.sub(r"(?<=[./_])(?=\w)", "<wbr>", escape(span.text)))
    if isinstance(span, Strong):
        return element("strong", escape(span.text))
    return escape(span)
