"""Study files: the options of ``depthsearch study`` in a TOML file, so that a study can be kept and shared.

A key is the name of a long option, with dashes or underscores: at the top, or under one of the tables
``[train]``, ``[search]`` and ``[run]``, which are there for the reader. A value is what the command line
takes: a number, a text, true or false for a flag, an array for a list or for the two ends of a range.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from depthsearch.errors import SettingsError
from depthsearch.files import full_path
from depthsearch.options.backbones import counted_from
from depthsearch.options.declaring import Option, flag_of, options_of, text_of

__all__ = ["TABLES", "read_study_file"]

TABLES = ("train", "search", "run")
# A study file has some dozens of lines.
MOST_BYTES = 2**20
# A backbone's name, before the "=" of its weights.
BACKBONE = r"\w[\w.]*|torchvision:[\w@]+|hf:[^=]+|[^=]+\.py:\w+"


def read_study_file(path: Path, options: type[Any]) -> dict[str, Any]:
    """Read a study file.

    Args:
        path: Of the file.
        options: The dataclass whose options it may have.

    Returns:
        Values by the names of the options in Python.

    Raises:
        SettingsError: If the file cannot be read, or a key is none of the options or stands there twice, or
            a value is wrong.
    """
    known = {name: option for name, option in options_of(options).items() if not option.positional}
    values: dict[str, Any] = {}
    for key, value in _entries(path, _load(path)):
        name = key.replace("-", "_")
        if name not in known:
            raise SettingsError(f"{path}: no option {key!r}. {_near(name, known)}")
        if name in values:
            raise SettingsError(f"{path}: {key!r} is given twice. Keep one of them.")
        values[name] = _value(path, key, value, known[name])
    return values


def _load(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        hint = f" A backbone is given as --backbone {path}." if path.suffix != ".toml" else ""
        raise SettingsError(f"No study file {str(path)!r}: {error.strerror}.{hint}") from error
    if len(content) > MOST_BYTES:
        raise SettingsError(f"{path} is no study file: it has more than {MOST_BYTES / 2**20:.0f} MiB.")
    try:
        # Some editors begin a file with a byte order mark.
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is no TOML file: byte {error.start} is not UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is no TOML file: {error}.") from error
    except RecursionError as error:
        raise SettingsError(f"{path} is no study file: its values are nested too deeply.") from error


def _entries(path: Path, content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if not isinstance(value, dict):
            yield key, value
        elif key in TABLES:
            yield from value.items()
        else:
            tables = ", ".join(f"[{table}]" for table in TABLES)
            raise SettingsError(f"{path}: no table [{key}]. Give options at the top or under {tables}.")


def _near(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"The nearest is {near[0]!r}. " if near else ""
    return f"{hint}A key is a long option of depthsearch study."


def _value(path: Path, key: str, value: Any, option: Option) -> Any:
    name = key.replace("-", "_")
    if option.kind is None:
        if not isinstance(value, bool):
            raise SettingsError(f"{path}, {key}: {value!r} is none of its values; give true or false.")
        return value
    try:
        text_of(option.kind, value)
    except SettingsError as error:
        raise SettingsError(f"{path}, {key}: {error}") from None
    texts = [str(part) for part in (value if isinstance(value, list) else [value])]
    if name == "backbone":
        texts = [",".join(_counted(path, each.strip()) for each in text.split(",")) for text in texts]
    if option.kind.path_words is not None:
        texts = [_from_file(path, text, option.kind.path_words) for text in texts]
    try:
        return option.kind.read(option.kind.separator.join(texts))
    except SettingsError as error:
        raise SettingsError(
            f"{path}, {key}: argument {flag_of(name)}: {error} (see depthsearch study --help)"
        ) from None


def _counted(path: Path, backbone: str) -> str:
    """Let a backbone that is a file or folder count from the study file."""
    try:
        return counted_from(path.parent, backbone)
    except SettingsError:
        # Whoever builds it says what is wrong with its name.
        return backbone


def _from_file(path: Path, text: str, words: Collection[str]) -> str:
    """Let a path count from the study file; ``NAME=``, of a backbone, may stand before it."""
    found = re.fullmatch(rf"(?:({BACKBONE})=)?(.*)", text, re.DOTALL)
    owner, place = (found[1] or "", found[2]) if found else ("", text)
    owner = f"{_counted(path, owner)}=" if owner else ""
    if not place or place in words or re.match(r"\w{2,}:", place):
        return text
    if place.startswith("~"):
        # Whoever opens it says what is wrong if there is no such home.
        return f"{owner}{full_path(place)}"
    return f"{owner}{path.parent / place}"
