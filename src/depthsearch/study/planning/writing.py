"""The study file of a plan."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from depthsearch import __version__
from depthsearch.data.sources.torchvision_sets import PREFIX
from depthsearch.errors import SettingsError
from depthsearch.files import full_path
from depthsearch.options.file import TABLES
from depthsearch.study.planning.choosing import Setting
from depthsearch.study.planning.making import Plan, pace
from depthsearch.text import one_line


def write_study_file(planned: Plan, path: Path) -> None:
    """Write a plan as a new study file.

    Raises:
        SettingsError: If something is there already, or it cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(study_file(planned, path))
    except OSError as error:
        raise SettingsError(f"Cannot write {path}: {error.strerror}. Give another --out.") from error


def study_file(planned: Plan, path: Path) -> str:
    """Write a plan as TOML, for a file at a path.

    Raises:
        SettingsError: If the path of the images cannot be written.
    """
    return "\n".join([*_lines(planned, path), ""])


def _lines(planned: Plan, path: Path) -> Iterator[str]:
    yield f"# Written by depthsearch init, {__version__}. Every option: depthsearch study --help"
    yield _comment(f"Planned for {planned.machine}.")
    yield _comment(f"Measured: {pace(planned)}.")
    order = ("", *TABLES)
    settings = sorted(planned.settings, key=lambda each: order.index(each.table))
    for table, some in groupby(settings, key=lambda each: each.table):
        yield ""
        if table:
            yield f"[{table}]"
        for setting in some:
            yield _comment(setting.reason)
            yield f"{'' if setting.is_set else '# '}{setting.key} = {_value(setting, path)}"


def _comment(text: str) -> str:
    return f"# {one_line(text)}"


def _value(setting: Setting, path: Path) -> str:
    value: Any = setting.value
    if setting.key == "data":
        value = _seen_from(path.parent, value)
    elif isinstance(value, list) and len(value) == 1:
        value = value[0]
    return _toml(value)


def _seen_from(folder: Path, source: str) -> str:
    """Write a source of images as a file in a folder is to name it: a relative path from there."""
    if source == "digits" or source.startswith(PREFIX) or Path(source).expanduser().is_absolute():
        return source
    place = os.path.relpath(full_path(source), full_path(folder))
    return "./digits" if place == "digits" else place


def _toml(value: str | float | bool | list[str]) -> str:
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SettingsError(
            f"{one_line(str(value))} is no UTF-8, which a study file needs. Rename it."
        ) from error
    return text
