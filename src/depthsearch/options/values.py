"""How the texts of options are read; each refusal says what would be right."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from depthsearch.errors import SettingsError
from depthsearch.options.augmentation import written
from depthsearch.options.backbones import normal
from depthsearch.text import is_plain

__all__ = [
    "WIDEST",
    "at_least",
    "list_such_as",
    "one_of",
    "read_above_0",
    "read_augmentation",
    "read_backbones",
    "read_channels",
    "read_columns",
    "read_confirmed",
    "read_decay",
    "read_deviations",
    "read_means",
    "read_name",
    "read_number",
    "read_part",
    "read_path",
    "read_place",
    "read_range",
    "read_rates",
    "read_seconds",
    "read_seed",
    "read_share",
    "read_size",
    "read_whole",
    "read_width",
    "some_of",
]

# No number of things is larger, nor a head wider.
MOST, WIDEST = 10**6, 2**16
# Of a study; databases keep no longer ones.
LONGEST_NAME = 512


def read_whole(text: str) -> int:
    """Read a whole number as everybody writes it: Python takes 1_000, and digits of any script, too.

    Raises:
        ValueError: If it is none.
    """
    if not text.isascii() or "_" in text:
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


def read_number(text: str) -> float:
    """Read a number as everybody writes it; also ``inf`` and ``nan``.

    Raises:
        ValueError: If it is none.
    """
    if not text.isascii() or "_" in text:
        raise ValueError(f"{text!r} is no number")
    return float(text)


def read_name(text: str) -> str:
    """Read a name, such as a study's: it is kept in databases and shown in terminals."""
    _refuse_empty(text)
    if not is_plain(text):
        raise SettingsError(f"{text!r} holds characters that cannot be shown: take others")
    if len(text) > LONGEST_NAME:
        raise SettingsError(f"{text!r} is too long: give at most {LONGEST_NAME} characters")
    return text


def read_place(text: str) -> str:
    """Read where something is: the name of a file may hold any character but NUL."""
    _refuse_empty(text)
    if "\0" in text:
        raise SettingsError(f"{text!r} is no path: none holds a NUL character")
    return text


def read_path(text: str) -> Path:
    """Read where something is, as a path."""
    return Path(read_place(text))


def _refuse_empty(text: str) -> None:
    """Refuse what a shell makes of a variable that is not set: it would be taken for a default."""
    if not text.strip():
        raise SettingsError("it is empty: give a value, or leave it out")


def at_least(lowest: int, most: int = MOST) -> Callable[[str], int]:
    """Make a reader of whole numbers from one number to another."""

    def checked(text: str) -> int:
        try:
            value = read_whole(text)
        except ValueError:
            value = lowest - 1
        if value < lowest:
            raise SettingsError(f"{text!r} is no whole number from {lowest} on")
        if value > most:
            raise SettingsError(f"{text!r} is too large: give at most {most}")
        return value

    return checked


def read_channels(text: str) -> int:
    """Read a number of channels."""
    if text not in ("1", "3"):
        raise SettingsError(f"{text!r} is neither 1 nor 3")
    return int(text)


def read_augmentation(text: str) -> str:
    """Read what views may do."""
    return written(text)


def read_confirmed(text: str) -> int | str:
    """Read how many cuts are to be confirmed."""
    if text == "all":
        return text
    try:
        return at_least(0)(text)
    except SettingsError as error:
        raise SettingsError(f"{error}, nor all") from None


def read_seed(text: str) -> int:
    """Read a seed."""
    seed = at_least(0, 10**18)(text)
    if seed >= 2**32:
        raise SettingsError(f"{text!r} is no whole number from 0 to 2**32 - 1")
    return seed


def read_size(text: str) -> int:
    """Read a number of bytes, such as 512MiB or 4G."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if not found or not text.isascii() or len(text) > 30:
        raise SettingsError(f"{text!r} is no size, such as 0, 512MiB or 4GiB")
    base = 1000 if found[2] and not found[3] and text.strip()[-1] in "bB" else 1024
    return int(float(found[1]) * base ** " KMGT".index(found[2].upper() or " "))


def _in_range(text: str, is_right: Callable[[float], bool], right: str) -> float:
    """Read a number; NaN is none."""
    try:
        value = read_number(text)
    except ValueError:
        value = math.nan
    if math.isnan(value) or not is_right(value):
        raise SettingsError(f"{text!r} is no {right}")
    return value


def read_share(text: str) -> float:
    """Read a share that is not all."""
    return _in_range(text, lambda value: 0 <= value < 1, "number in [0, 1)")


def read_part(text: str) -> float:
    """Read a share that is not nothing."""
    return _in_range(text, lambda value: 0 < value <= 1, "number in (0, 1]")


def read_range(text: str) -> tuple[float, float]:
    """Read the two ends of a range, or the one value that is both."""
    low, _, high = text.partition(":")
    try:
        ends = read_number(low), read_number(high or low)
    except ValueError:
        ends = 0.0, 0.0
    if not 0 < ends[0] <= ends[1] < float("inf"):
        raise SettingsError(f"{text!r} is no LOW:HIGH with 0 < LOW <= HIGH, such as 1e-5:1e-2")
    return ends


def read_seconds(text: str) -> float:
    """Read a time."""
    return _in_range(
        text, lambda value: 0 <= value < float("inf"), "number of seconds from 0 on, such as 600"
    )


def read_above_0(text: str) -> float:
    """Read a number above 0."""
    return _in_range(text, lambda value: 0 < value < float("inf"), "number above 0, such as 1e-3")


def read_decay(text: str) -> float:
    """Read a number from 0 on."""
    return _in_range(text, lambda value: 0 <= value < float("inf"), "number from 0 on")


def read_rates(text: str) -> tuple[float, ...]:
    """Read learning rates."""
    try:
        rates = {read_number(item) for item in text.split(",")}
    except ValueError:
        rates = {0.0}
    if not all(0 < rate < float("inf") for rate in rates):
        raise SettingsError(f"{text!r} is no list of numbers above 0, such as 1e-4,1e-3")
    return tuple(sorted(rates))


def read_width(text: str) -> tuple[int, int] | int:
    """Read the widest head and the step, or one width; 0: no hidden layer."""
    right = f"{text!r} is neither a width nor MAX:STEP with STEP dividing MAX, such as 1024:256"
    found = re.fullmatch(r"([0-9]{1,9})(?::([0-9]{1,9}))?", text)
    if not found:
        raise SettingsError(right)
    widest, step = int(found[1]), int(found[2] or 0)
    if widest > WIDEST:
        raise SettingsError(f"{text!r} is too wide: give at most {WIDEST}")
    if found[2] is None:
        return widest
    if not 0 < step <= widest or widest % step:
        raise SettingsError(right)
    return widest, step


def list_such_as(example: str) -> Callable[[str], tuple[str, ...]]:
    """Make a reader of lists of names."""

    def listed(text: str) -> tuple[str, ...]:
        items = tuple(dict.fromkeys(item.strip() for item in text.split(",") if item.strip()))
        if not items:
            raise SettingsError(f"{text!r} is no list, such as {example}")
        return items

    return listed


def read_backbones(text: str) -> tuple[str, ...]:
    """Read names of backbones."""
    names = list_such_as("densenet121,resnet50")(text)
    return tuple(dict.fromkeys(normal(name) for name in names))


def read_means(text: str) -> tuple[float, ...]:
    """Read what pixels are on the average, for all channels or for each."""
    return _of_channels(text, "0.5 or 0.485,0.456,0.406, in [0, 1]", lambda value: 0 <= value <= 1)


def read_deviations(text: str) -> tuple[float, ...]:
    """Read how far pixels deviate from that, for all channels or for each."""
    return _of_channels(text, "0.5 or 0.229,0.224,0.225, above 0", lambda value: 0 < value < float("inf"))


def _of_channels(text: str, example: str, is_right: Callable[[float], bool]) -> tuple[float, ...]:
    try:
        values = tuple(read_number(item) for item in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (1, 3) or not all(map(is_right, values)):
        raise SettingsError(f"{text!r} is no number or three of them, such as {example}")
    return values


def read_columns(text: str) -> tuple[str, ...]:
    """Read names of columns; whoever reads the table says what is wrong with them."""
    _refuse_empty(text)
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise SettingsError(f"{text!r} is no list, such as front,side")
    return names


def one_of(known: Sequence[str]) -> Callable[[str], str]:
    """Make a reader of one of some words."""

    def chosen(text: str) -> str:
        if text not in known:
            raise SettingsError(f"invalid choice: {text!r} (choose from {', '.join(known)})")
        return text

    return chosen


def some_of(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """Make a reader of a list of known words."""

    def listed(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
        unknown = [name for name in names if name not in known]
        if unknown:
            raise SettingsError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return names

    return listed
