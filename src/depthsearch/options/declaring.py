"""Options as fields of a dataclass, each declared once with its kind, help and rules.

The parser of the command line, ``--help``, study files, what a study stores, the command that runs it again
and the reference page are made from these declarations. A value may come from the command line, TOML, JSON
or Python: it is written as text and read by the one reader of its kind.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from numbers import Real
from typing import Any

from depthsearch.errors import SettingsError
from depthsearch.options.values import Kind


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition on other options without which a given one would do nothing.

    Attributes:
        is_broken: Whether options break it.
        message: Of the error; ``{value}`` stands for the option's value.
    """

    is_broken: Callable[[Any], bool]
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """What is declared of an option besides the name, type and default of its field.

    Attributes:
        kind: Of its value; None: it is a flag.
        help: For ``--help`` and the reference page.
        rules: What it needs and excludes.
        group: Its heading in the help.
        is_kept: Whether a study stores it: it affects what is trained, and holds no password.
        positional: How many words without a dash it takes, in argparse's notation: ``1``, ``?``, ``*`` or
            ``+``; empty: it begins with dashes.
        bare: Its value where it is given without one; None: it needs one.
    """

    kind: Kind | None
    help: str
    rules: tuple[Rule, ...] = ()
    group: str | None = None
    is_kept: bool = True
    positional: str = ""
    bare: Any = None

    @property
    def has_many(self) -> bool:
        """Whether it takes several words, each a value."""
        return self.positional in ("*", "+")


def declared(default: Any, kind: Kind | None, help: str, *rules: Rule, **more: Any) -> Any:
    """Declare a field of a dataclass as an option."""
    return field(default=default, metadata={"option": Option(kind=kind, help=help, rules=rules, **more)})


def options_of(cls: type[Any]) -> dict[str, Option]:
    """List the options of a dataclass by their names in Python."""
    return {each.name: each.metadata["option"] for each in fields(cls)}


def default_text(option: Option, default: Any) -> str:
    """Write the default of an option; empty if it has none."""
    if option.kind is None or default in (MISSING, None, ()):
        return ""
    return text_of(option.kind, default).removesuffix(".0")


def flag_of(name: str) -> str:
    """Write an option's name with dashes, as on the command line."""
    return f"--{name.replace('_', '-')}"


def text_of(kind: Kind, value: Any) -> str:
    """Write a value as text, as on the command line.

    Raises:
        SettingsError: If no option takes such a value.
    """
    parts = value if isinstance(value, list | tuple) else [value]
    if isinstance(value, bool):
        raise SettingsError(f"{value!r} is none of its values; give a value, not true or false.")
    if not all(isinstance(p, str | os.PathLike | Real) and not isinstance(p, bool) for p in parts):
        raise SettingsError(f"{value} is none of its values; give a number, a text or a list.")
    return kind.separator.join(os.fspath(p) if isinstance(p, os.PathLike) else str(p) for p in parts)


class Declared:
    """Base of the dataclasses of options: their values are read as on the command line."""

    __slots__ = ()

    def __post_init__(self) -> None:
        """Read and check each value.

        Raises:
            SettingsError: If one is wrong, or would be ignored beside another.
        """
        rules = []
        for each in fields(self):  # type: ignore[arg-type]
            option, value = each.metadata["option"], getattr(self, each.name)
            # An empty list has no text.
            if value is each.default or (value == [] and each.default == ()):
                value = each.default
            else:
                try:
                    value = read_value(option, value)
                except SettingsError as error:
                    raise SettingsError(f"{each.name}: {error}") from None
            object.__setattr__(self, each.name, value)
            if value != each.default:
                rules += [(value, rule) for rule in option.rules]
        for value, rule in rules:
            if rule.is_broken(self):
                raise SettingsError(rule.message.format(value=value))


def read_value(option: Option, value: Any) -> Any:
    """Read a value, from text or typed.

    Raises:
        SettingsError: If the option does not take it.
    """
    if option.kind is None:
        if not isinstance(value, bool):
            raise SettingsError(f"{value!r} is none of its values; give true or false.")
        return value
    if option.bare is not None and value is option.bare:
        return value
    if option.has_many:
        return tuple(option.kind.read(text_of(option.kind, each)) for each in value)
    return option.kind.read(text_of(option.kind, value))
