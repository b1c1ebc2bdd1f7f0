"""The kinds of values that options take: each reads a text, or says what would be right."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from depthsearch.errors import SettingsError
from depthsearch.options.augmentation import written
from depthsearch.options.backbones import normal
from depthsearch.text import is_plain

# Limits on counts and on the width of a head.
MOST, WIDEST = 10**6, 2**16
# Of a study's name: databases store no longer ones.
LONGEST_NAME = 512
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of value.

    Attributes:
        read: Reads a text; raises `SettingsError` if it is wrong.
        metavar: Placeholder in the help.
        separator: Between the parts of a value that has several.
        path_words: For a path, the words that are not paths; None: it is no path.
    """

    read: Callable[[str], Any]
    metavar: str | None = None
    separator: str = ","
    path_words: tuple[str, ...] | None = None


def _not_empty(text: str) -> str:
    """Refuse an empty text, which a shell makes of an unset variable: it would be taken for a default."""
    if not text.strip():
        raise SettingsError("it is empty: give a value, or leave it out")
    return text


def _read_name(text: str) -> str:
    if not is_plain(_not_empty(text)):
        raise SettingsError(f"{text!r} holds characters that cannot be shown: take others")
    if len(text) > LONGEST_NAME:
        raise SettingsError(f"{text!r} is too long: give at most {LONGEST_NAME} characters")
    return text


def name(metavar: str | None = None) -> Kind:
    """Make the kind of names, such as a study's, which are stored in databases and shown in terminals."""
    return Kind(read=_read_name, metavar=metavar)


def _read_place(text: str) -> str:
    if "\0" in _not_empty(text):
        raise SettingsError(f"{text!r} is no path: none holds a NUL character")
    return text


def place(metavar: str, path_words: tuple[str, ...] | None = None) -> Kind:
    """Make the kind of paths and addresses as text, which may hold any character but NUL."""
    return Kind(read=_read_place, metavar=metavar, path_words=path_words)


def path(metavar: str) -> Kind:
    """Make the kind of paths."""
    return Kind(read=lambda text: Path(_read_place(text)), metavar=metavar, path_words=())


def _as_number(text: str, convert: Callable[[str], T]) -> T | None:
    """Read a number; 1_000 and digits of other scripts, which Python takes too, are none."""
    try:
        return convert(text) if text.isascii() and "_" not in text else None
    except ValueError:
        return None


def _whole(text: str, lowest: int, most: int = MOST) -> int:
    value = _as_number(text, int)
    if value is None or value < lowest:
        raise SettingsError(f"{text!r} is no whole number from {lowest} on")
    if value > most:
        raise SettingsError(f"{text!r} is too large: give at most {most}")
    return value


def whole(lowest: int, most: int = MOST, metavar: str | None = "N") -> Kind:
    """Make the kind of whole numbers within limits."""
    return Kind(read=lambda text: _whole(text, lowest, most), metavar=metavar)


def number(metavar: str, right: str, is_right: Callable[[float], bool]) -> Kind:
    """Make a kind of numbers; NaN is none."""

    def read(text: str) -> float:
        value = _as_number(text, float)
        if value is None or math.isnan(value) or not is_right(value):
            raise SettingsError(f"{text!r} is no {right}")
        return value

    return Kind(read=read, metavar=metavar)


def _channel_values(example: str, is_right: Callable[[float], bool]) -> Kind:
    """Make a kind of one number for all channels, or one for each channel."""

    def read(text: str) -> tuple[float, ...]:
        values = [_as_number(item, float) for item in text.split(",")]
        right = tuple(value for value in values if value is not None and is_right(value))
        if len(values) not in (1, 3) or len(right) < len(values):
            raise SettingsError(f"{text!r} is no number or three of them, such as {example}")
        return right

    return Kind(read=read, metavar="X[,X,X]")


def _listed(text: str, example: str) -> tuple[str, ...]:
    items = tuple(dict.fromkeys(item.strip() for item in text.split(",") if item.strip()))
    if not items:
        raise SettingsError(f"{text!r} is no list, such as {example}")
    return items


def list_such_as(example: str) -> Kind:
    """Make the kind of lists of names."""
    return Kind(read=lambda text: _listed(text, example), metavar="LIST")


def choice(words: Iterable[str]) -> Kind:
    """Make the kind of one word out of several."""
    known = tuple(words)

    def read(text: str) -> str:
        if text not in known:
            raise SettingsError(f"invalid choice: {text!r} (choose from {', '.join(known)})")
        return text

    return Kind(read=read, metavar=f"{{{','.join(known)}}}")


def some_of(words: Iterable[str]) -> Kind:
    """Make the kind of lists of known words."""
    known = tuple(words)

    def read(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(item.strip() for item in text.split(",")))
        unknown = [item for item in names if item not in known]
        if unknown:
            raise SettingsError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return names

    return Kind(read=read, metavar="LIST")


def _read_channels(text: str) -> int:
    if text not in ("1", "3"):
        raise SettingsError(f"{text!r} is neither 1 nor 3")
    return int(text)


def _read_confirmed(text: str) -> int | str:
    if text in ("auto", "all"):
        return text
    try:
        return _whole(text, 0)
    except SettingsError as error:
        raise SettingsError(f"{error}, nor auto or all") from None


def _read_seed(text: str) -> int:
    seed = _whole(text, 0, 10**18)
    if seed >= 2**32:
        raise SettingsError(f"{text!r} is no whole number from 0 to 2**32 - 1")
    return seed


def _read_size(text: str) -> int:
    """Read a number of bytes, such as 512MiB or 4G."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if not match or not text.isascii() or len(text) > 30:
        raise SettingsError(f"{text!r} is no size, such as 0, 512MiB or 4GiB")
    base = 1000 if match[2] and not match[3] and text.strip()[-1] in "bB" else 1024
    return int(float(match[1]) * base ** " KMGT".index(match[2].upper() or " "))


def _read_duration(text: str) -> float:
    """Read a time in seconds, such as 90, 30m or 2h."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([smh]?)", text.strip(), re.IGNORECASE)
    if not match or not text.isascii() or len(text) > 30 or not float(match[1]):
        raise SettingsError(f"{text!r} is no time above 0, such as 90s, 30m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2].lower()]


def _read_range(text: str) -> tuple[float, float]:
    """Read the two ends of a range, or one value for both."""
    first, _, last = text.partition(":")
    low, high = _as_number(first, float), _as_number(last or first, float)
    if low is None or high is None or not 0 < low <= high < math.inf:
        raise SettingsError(f"{text!r} is no LOW:HIGH with 0 < LOW <= HIGH, such as 1e-4:1e-2")
    return low, high


def _read_rates(text: str) -> tuple[float, ...]:
    rates = {_as_number(item, float) or 0.0 for item in text.split(",")}
    if not all(0 < rate < math.inf for rate in rates):
        raise SettingsError(f"{text!r} is no list of numbers above 0, such as 1e-4,1e-3")
    return tuple(sorted(rates))


def _read_width(text: str) -> tuple[int, int] | int:
    """Read the widest head and the step, or one width; 0: no hidden layer."""
    right = f"{text!r} is neither a width nor MAX:STEP with STEP dividing MAX, such as 1024:256"
    match = re.fullmatch(r"([0-9]{1,9})(?::([0-9]{1,9}))?", text)
    if not match:
        raise SettingsError(right)
    widest, step = int(match[1]), int(match[2] or 0)
    if widest > WIDEST:
        raise SettingsError(f"{text!r} is too wide: give at most {WIDEST}")
    if match[2] is None:
        return widest
    if not 0 < step <= widest or widest % step:
        raise SettingsError(right)
    return widest, step


def _read_backbones(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(normal, _listed(text, "densenet121,resnet50"))))


def _read_columns(text: str) -> tuple[str, ...]:
    """Read names of columns; duplicates stay, for reading the table to refuse them."""
    _listed(_not_empty(text), "front,side")
    return tuple(item.strip() for item in text.split(",") if item.strip())


AUGMENTATION = Kind(read=written, metavar="LIST")
BACKBONES = Kind(read=_read_backbones, metavar="NAME,...")
CHANNELS = Kind(read=_read_channels, metavar="N")
COLUMNS = Kind(read=_read_columns, metavar="LIST")
CONFIRMED = Kind(read=_read_confirmed, metavar="N")
LAYERS = list_such_as("52,144,features.norm5")
RANGE = Kind(read=_read_range, metavar="LOW:HIGH", separator=":")
RATES = Kind(read=_read_rates, metavar="LIST")
SEED = Kind(read=_read_seed, metavar="N")
DURATION = Kind(read=_read_duration, metavar="TIME")
SIZE = Kind(read=_read_size, metavar="SIZE")
WIDTH = Kind(read=_read_width, metavar="MAX:STEP", separator=":")
SHARE, MOMENTUM = (
    number("P", f"number in [0, 1), such as {example}", lambda value: 0 <= value < 1)
    for example in (0.2, 0.9)
)
POINTS = number("POINTS", "number from 0 to 100, such as 0.5", lambda value: 0 <= value <= 100)
PART = number("P", "number in (0, 1], such as 0.5", lambda value: 0 < value <= 1)
DECAY = number("X", "number from 0 on, such as 0.01", lambda value: 0 <= value < math.inf)
BUDGET, RATE, SECONDS = (
    number(metavar, f"number above 0, such as {example}", lambda value: 0 < value < math.inf)
    for metavar, example in (("X", "4"), ("X", "1e-3"), ("SECONDS", "300"))
)
WAIT = number("SECONDS", "number of seconds from 0 on, such as 600", lambda value: 0 <= value < math.inf)
MEANS = _channel_values("0.5 or 0.485,0.456,0.406, in [0, 1]", lambda value: 0 <= value <= 1)
DEVIATIONS = _channel_values("0.5 or 0.229,0.224,0.225, above 0", lambda value: 0 < value < math.inf)
