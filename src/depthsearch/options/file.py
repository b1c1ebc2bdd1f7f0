"""Study files: the options of ``depthsearch study`` in a TOML file, so that a study can be kept and shared.

A key is the name of a long option, with dashes or underscores: at the top, or under one of the tables
``[train]``, ``[search]`` and ``[run]``, which only help the reader. A value is what the command line takes:
a number, a text, true or false for a flag, an array for a list or for the two ends of a range. A relative
path is resolved from the folder of the file.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from depthsearch.errors import SettingsError
from depthsearch.files import full_path, is_folder
from depthsearch.options.backbones import counted_from
from depthsearch.options.declaring import Option, options_of, read_value

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
        SettingsError: If the file cannot be read, a key is no option or given twice, or a value is wrong.
    """
    known = {name: option for name, option in options_of(options).items() if not option.positional}
    values: dict[str, Any] = {}
    for key, value in _entries(path, _load(path)):
        name = key.replace("-", "_")
        if name not in known:
            raise SettingsError(f"{path}: no option {key!r}. {_near(name, known)}")
        if name in values:
            raise SettingsError(f"{path}: {key!r} is given twice. Keep one of them.")
        try:
            values[name] = read_value(known[name], _resolved(path, name, value, known[name]))
        except SettingsError as error:
            raise SettingsError(f"{path}, {key}: {error}") from None
    return values


def _load(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"No study file {str(path)!r}: {error.strerror}.{_instead(path)}") from error
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


def _instead(path: Path) -> str:
    """Write what may be meant by a path that is no file, or how to get one."""
    if is_folder(path):
        return f" Images are given as --data {path}; depthsearch init {path} writes a study file for them."
    with contextlib.suppress(OSError):
        files = sorted(file.name for file in path.parent.glob("*.toml"))
        if near := difflib.get_close_matches(path.name, files, n=1, cutoff=0.7):
            return f" The nearest is {str(path.parent / near[0])!r}."
        if files and path.suffix == ".toml":
            return f" Beside it: {', '.join(files[:5])}{', ...' if len(files) > 5 else ''}."
    if path.suffix == ".toml":
        return " depthsearch init DIR writes one for the images in a folder."
    return f" A backbone is given as --backbone {path}."


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


def _resolved(path: Path, name: str, value: Any, option: Option) -> Any:
    """Resolve the relative paths in a value from the study file; other values stay as they are."""
    if isinstance(value, list):
        return [_resolved(path, name, part, option) for part in value]
    if isinstance(value, str) and name == "backbone":
        return ",".join(_resolved_backbone(path, each.strip()) for each in value.split(","))
    if isinstance(value, str) and option.kind is not None and option.kind.path_words is not None:
        return _resolved_path(path, value, option.kind.path_words)
    return value


def _resolved_backbone(path: Path, backbone: str) -> str:
    """Resolve a backbone that is a file or folder."""
    try:
        return counted_from(path.parent, backbone)
    except SettingsError:
        # Reading the option reports what is wrong with its name.
        return backbone


def _resolved_path(path: Path, text: str, words: Collection[str]) -> str:
    """Resolve a path, which may follow a backbone's ``NAME=``."""
    match = re.fullmatch(rf"(?:({BACKBONE})=)?(.*)", text, re.DOTALL)
    owner, place = (match[1] or "", match[2]) if match else ("", text)
    owner = f"{_resolved_backbone(path, owner)}=" if owner else ""
    if not place or place in words or re.match(r"\w{2,}:", place):
        return text
    if place.startswith("~"):
        # Opening it reports a home that does not exist.
        return f"{owner}{full_path(place)}"
    return f"{owner}{path.parent / place}"
