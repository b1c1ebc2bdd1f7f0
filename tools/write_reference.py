"""Write docs/reference/options.md from the declared options: ``python tools/write_reference.py``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from itertools import groupby
from pathlib import Path
from typing import Any

from depthsearch.options.commands import COMMANDS
from depthsearch.options.declaring import Declared, Option, default_text, flag_of

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "options.md"
HEAD = """# Command line and options

Written by `tools/write_reference.py` from the declarations in `src/depthsearch/options`.

The options of `depthsearch study` are the keys of a [study file](study-file.md) too, with dashes or
underscores, and the fields of `depthsearch.StudyOptions`, with underscores. A range is written `LOW:HIGH` on
the command line and may be an array in a file and a pair in Python; a list is written with commas, and may be
an array or a tuple.
Where no default stands in its column, the option is off, or its explanation says what is taken.
*Refused* quotes the answer to an option that would do nothing beside another.
"""


def page() -> str:
    """Write the page."""
    parts = [HEAD]
    for name, (options, purpose) in COMMANDS.items():
        parts += [f"## depthsearch {name}\n", f"{purpose[0].upper()}{purpose[1:]}.\n"]
        for group, some in groupby(fields(options), key=lambda each: _option(each).group):  # type: ignore[arg-type]
            if group:
                parts.append(f"### {group[0].upper()}{group[1:]}\n")
            parts.append("\n".join(_table(some, options)) + "\n")
    return "\n".join(parts)


def _table(some: Iterator[Field[Any]], options: type[Declared]) -> Iterator[str]:
    yield "| option | default | |"
    yield "|---|---|---|"
    for each in some:
        option = _option(each)
        # What is refused stands on lines of its own.
        refused = "".join(
            f"<br>*Refused:* {_escaped(rule.message.format(value='...'))}" for rule in option.rules
        )
        yield f"| {_written(each.name, option)} | {_default(each)} | {_escaped(option.help)}{refused} |"


def _option(each: Field[Any]) -> Option:
    option: Option = each.metadata["option"]
    return option


def _written(name: str, option: Option) -> str:
    if option.positional:
        return f"`{option.kind and option.kind.metavar}`"
    metavar = option.kind.metavar or name.upper() if option.kind else ""
    value = f"[{metavar}]" if option.bare else metavar
    return f"`{_escaped(f'{flag_of(name)} {value}'.strip())}`"


def _default(each: Field[Any]) -> str:
    text = "required" if each.default is MISSING else default_text(_option(each), each.default)
    return f"`{text}`" if text and text != "required" else text


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
