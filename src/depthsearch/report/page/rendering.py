"""Templates to text: the same words as one HTML page or as Markdown.

What comes from users (names of classes, files and studies) goes into a template as plain text and is escaped
there, once for each format: by Jinja's autoescape for HTML, by `plain_markdown` for Markdown.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.io.json import to_json_plotly

from depthsearch.report.page.values import Cell, Code, Plot, Table
from depthsearch.study.artifacts import SmallPicture
from depthsearch.text import plural
from depthsearch.visualization.words import shown, with_error

# What XML and HTML cannot hold, not even escaped.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
# Of these Markdown makes markup wherever they stand; of an underscore only beside a word.
MARKDOWN = re.compile(r"[\\`*\[\]<>|~&$]|(?<![^\W_])_|_(?![^\W_])")


def as_html(template: str, values: Mapping[str, Any]) -> str:
    """Fill a template in for a browser."""
    return _environment("html").get_template(template).render(values)


def as_markdown(template: str, values: Mapping[str, Any]) -> str:
    """Fill a template in as Markdown (GitHub's, for its tables)."""
    text = _environment("markdown").get_template(template).render(values)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


@cache
def _environment(form: str) -> Environment:
    # What Jinja has marked as safe is left alone by both: macros return it.
    environment = Environment(
        loader=PackageLoader("depthsearch.report.page"),
        autoescape=True,
        finalize=plain_html if form == "html" else plain_markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"form": f"{form}.j2", "plural": plural, "shown": shown, "with_error": with_error}
    environment.filters |= {
        "flat": flat,
        "whole_options": whole_options,
        "code_html": code_html,
        "code_markdown": code_markdown,
        "fence": fence,
    }
    environment.filters |= {
        "table_markdown": markdown_table,
        "spec": figure_json,
        "data_address": data_address,
    }
    environment.tests["code"] = lambda value: isinstance(value, Code)
    environment.tests["parts"] = lambda value: isinstance(value, tuple)
    return environment


def plain_html(value: Any) -> Markup:
    """Write a value so that a browser sees no markup in it."""
    return value if isinstance(value, Markup) else escape(CONTROL.sub("\ufffd", _whole(str(value))))


def plain_markdown(value: Any) -> Markup:
    """Write a value on one line so that Markdown sees no markup in it."""
    return (
        value
        if isinstance(value, Markup)
        else Markup(MARKDOWN.sub(r"\\\g<0>", _one_line(_whole(str(value)))))
    )


def _whole(text: str) -> str:
    """Keep numbers from being broken before their per cent sign."""
    return re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", text)


def flat(text: Markup) -> Markup:
    """Join the lines that a template breaks its sentences into."""
    return Markup(re.sub(r"\s*\n\s*", " ", text).strip())


def whole_options(text: Markup) -> Markup:
    """Keep the options in a text of HTML from being broken behind their hyphens."""
    return Markup(re.sub(r"(?<![\w-])--[a-z][a-z-]*", r'<span class="whole">\g<0></span>', str(text)))


def code_html(text: str) -> Markup:
    """Write a name in code: a module path or a file's may be broken behind its dots and slashes."""
    breakable = re.sub(r"(?<=[./_])(?=\w)", "<wbr>", plain_html(text))
    return Markup(f"<code>{breakable}</code>")


def code_markdown(text: str, *, in_table: bool = False) -> Markup:
    """Fence a name with one backtick more than it holds in a row; a table wants bars escaped even there."""
    text = _one_line(text)
    ticks = fence(text, 1)
    space = " " if len(ticks) > 1 else ""
    shown = text.replace("|", r"\|") if in_table else text
    return Markup(f"{ticks}{space}{shown}{space}{ticks}")


def fence(text: str, at_least: int = 3) -> Markup:
    """Return more backticks than a text holds in a row."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return Markup("`" * max(at_least, longest + 1))


def markdown_table(table: Table, gap: str = "") -> Markup:
    """Write a table; ``gap`` stands behind each cell, for readers that set the columns side by side."""
    rules = ["---:" if heading in table.numbers else "---" for heading in table.headings]
    lines = [[f"{plain_markdown(heading)}{gap}" for heading in table.headings], rules]
    for place, row in enumerate(table.rows):
        first, *others = (_markdown_cell(cell) for cell in row)
        lines.append(
            [
                f"**{first}**" if place == table.marked and first else first,
                *(f"{cell}{gap}" for cell in others),
            ]
        )
    return Markup("\n".join(f"| {' | '.join(cells)} |" for cells in lines))


def _markdown_cell(cell: Cell) -> str:
    parts = cell if isinstance(cell, tuple) else (cell,)
    return "".join(
        code_markdown(part.text, in_table=True) if isinstance(part, Code) else plain_markdown(part)
        for part in parts
    )


def figure_json(plot: Plot) -> Markup:
    """Write a figure as JSON that may stand in a script element; its title stands in the page already."""
    described = plot.figure.to_plotly_json()
    described["layout"] |= {"title": None, "template": None}
    text = to_json_plotly(described)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def data_address(picture: SmallPicture) -> str:
    """Write a picture into an address."""
    return f"data:image/jpeg;base64,{base64.b64encode(picture.jpeg).decode()}"


def _one_line(text: str) -> str:
    return " ".join(CONTROL.sub("\ufffd", text).split("\n")).replace("\r", " ")
