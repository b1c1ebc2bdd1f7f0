"""Options as fields of a dataclass: each declared once, with all that is known of it.

The parser of the command line, ``--help``, study files, what a study stores, the command that runs it again
and the reference page are made from these declarations. However a value is given, as a word of the command
line, a value of TOML or JSON, or from Python, it is written as a text and read by the option's one reader.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, field, fields, replace
from numbers import Real
from typing import Any

from depthsearch.errors import SettingsError
from depthsearch.options.values import one_of

__all__ = ["Declared", "Option", "Rule", "choice", "declared", "flag_of", "options_of", "text_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Another option without which, or beside which, a given one would do nothing.

    Attributes:
        is_broken: Whether options break it.
        message: What to say then; ``{value}`` is that of the option.
    """

    is_broken: Callable[[Any], bool]
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """All that is known of an option but its name, its type and its default, which its field has.

    Attributes:
        help: For ``--help`` and the reference page.
        read: Reads a text, and refuses one that is wrong with a `SettingsError`; None: the option is a flag.
        metavar: What stands for its value in the help.
        group: Heading that it stands under in the help.
        separator: Between the parts of a value that has several.
        is_negatable: Whether a flag can be taken back with ``--no-``, as one of a study file must be.
        positional: How many words without a dash it takes, as argparse writes it: ``1``, ``?``, ``*`` or
            ``+``; empty: it begins with dashes.
        bare: Its value where it is given without one; None: it needs one.
        is_kept: Whether a study stores it: it says something of what is trained, and holds no password.
        path_words: Whether its value is a path, by the words that are none; None: it is not.
        rules: What it needs and excludes.
    """

    help: str
    read: Callable[[str], Any] | None = None
    metavar: str | None = None
    group: str | None = None
    separator: str = ","
    is_negatable: bool = False
    positional: str = ""
    bare: Any = None
    is_kept: bool = True
    path_words: tuple[str, ...] | None = None
    rules: tuple[Rule, ...] = ()

    @property
    def has_many(self) -> bool:
        """Whether each of several words is a value."""
        return self.positional in ("*", "+")


def choice(words: Iterable[str], help: str, **more: Any) -> Option:
    """Make an option that is one of some words."""
    known = tuple(words)
    return Option(read=one_of(known), metavar=f"{{{','.join(known)}}}", help=help, **more)


def declared(option: Option, default: Any = MISSING, **changes: Any) -> Any:
    """Declare a field of a dataclass as an option, with some of what is known of the option changed."""
    return field(default=default, metadata={"option": replace(option, **changes)})


def options_of(cls: type[Any]) -> dict[str, Option]:
    """List the options of a dataclass by their names in Python."""
    return {each.name: each.metadata["option"] for each in fields(cls)}


def flag_of(name: str) -> str:
    """Write an option's name as the command line has it."""
    return f"--{name.replace('_', '-')}"


def text_of(option: Option, value: Any) -> str:
    """Write a value as the command line takes it.

    Raises:
        SettingsError: If no option has such a value.
    """
    parts = value if isinstance(value, list | tuple) else [value]
    if isinstance(value, bool):
        raise SettingsError(f"{value!r} is none of its values; give a value, not true or false.")
    if not all(isinstance(p, str | os.PathLike | Real) and not isinstance(p, bool) for p in parts):
        raise SettingsError(f"{value} is none of its values; give a number, a text or a list.")
    return option.separator.join(os.fspath(p) if isinstance(p, os.PathLike) else str(p) for p in parts)


class Declared:
    """A dataclass of options, its values read as the command line reads them."""

    __slots__ = ()

    def __post_init__(self) -> None:
        """Read each value.

        Raises:
            SettingsError: If one is wrong, or would be ignored beside another.
        """
        given = []
        for each in fields(self):  # type: ignore[arg-type]
            option, value = each.metadata["option"], getattr(self, each.name)
            # An empty list has no text.
            if value is each.default or (value == [] and each.default == ()):
                value = each.default
            else:
                try:
                    value = _read(option, value)
                except SettingsError as error:
                    raise SettingsError(f"{each.name}: {error}") from None
            object.__setattr__(self, each.name, value)
            if value != each.default:
                given += [(value, rule) for rule in option.rules]
        for value, rule in given:
            if rule.is_broken(self):
                raise SettingsError(rule.message.format(value=value))


def _read(option: Option, value: Any) -> Any:
    if option.read is None:
        if not isinstance(value, bool):
            raise SettingsError(f"{value!r} is none of its values; give true or false.")
        return value
    if option.bare is not None and value is option.bare:
        return value
    if option.has_many:
        values = value if isinstance(value, list | tuple) else [value]
        return tuple(option.read(text_of(option, each)) for each in values)
    return option.read(text_of(option, value))
