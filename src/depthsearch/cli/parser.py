"""The parser of the command line, made from the declared options."""

from __future__ import annotations

import argparse
import difflib
import functools
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from importlib import metadata
from typing import Any, NoReturn

from depthsearch import __version__
from depthsearch.errors import SettingsError
from depthsearch.options.commands import COMMANDS
from depthsearch.options.declaring import Declared, Option, default_text, flag_of, options_of
from depthsearch.options.study import StudyOptions
from depthsearch.text import hidden, one_line

# Those that decide what a study computes, as a report of a problem has to name them.
LIBRARIES = ("torch", "timm", "optuna")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def __init__(self, **options: Any) -> None:
        # An abbreviation may become ambiguous in a later version.
        super().__init__(**{"allow_abbrev": False, **options})

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the command line; refuse ``--option=--``, which argparse would take for no value."""
        for text in args or ():
            if text == "--":
                break
            if re.fullmatch(r"--[a-z-]+=--", text):
                self.error(f"argument {text[:-3]}: '--' is no value")
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            command = getattr(parsed, "command", None)
            self._refuse(
                f"unrecognized arguments: {' '.join(unknown)}{_meant(unknown, command)}",
                # The command's own help says more.
                " ".join(filter(None, (self.prog, command))),
            )
        return parsed

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and one line."""
        if match := re.match(r"argument COMMAND: invalid choice: '(.*?)' \(choose", message, re.DOTALL):
            message = _unknown_command(match[1])
        elif message.endswith("required: COMMAND"):
            message = f"no command is given. Commands: {', '.join(COMMANDS)}."
        self._refuse(message, self.prog)

    def _refuse(self, message: str, prog: str) -> NoReturn:
        self.exit(2, one_line(f"{prog}: {without_passwords(message)} (see {prog} --help)") + "\n")


class _Version(argparse.Action):
    """Prints versions and exits; the libraries themselves are not imported."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        """Print them."""
        libraries = ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES)
        print(f"depthsearch {__version__} ({libraries}, Python {platform.python_version()})")
        parser.exit()


@functools.cache
def make_parser() -> Parser:
    """Make the parser of all commands, once; its result holds only the options that were given."""
    parser = Parser(
        prog="depthsearch",
        description="Find out which layers of a pretrained image model should stay frozen.",
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="show the versions of it and its libraries"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for name, (options, help_) in COMMANDS.items():
        _add_options(commands.add_parser(name, help=help_), options)
    return parser


def options_from(command: str, given: dict[str, Any]) -> Declared:
    """Make the options of a command from its parsed command line.

    Raises:
        SettingsError: If a study file cannot be read, or an option would be ignored beside another.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if command != "study":
        return COMMANDS[command][0](**given)
    if (path := given.pop("file", None)) is not None:
        return StudyOptions.from_file(path, **given)
    return StudyOptions.from_given(given)


def without_passwords(text: str) -> str:
    """Replace passwords in addresses by ``***``; fast for a text without addresses."""
    return hidden(text) if "://" in text else text


def _add_options(parser: argparse.ArgumentParser, options: type[Declared]) -> None:
    groups: dict[str | None, argparse._ActionsContainer] = {None: parser}
    for each in fields(options):  # type: ignore[arg-type]
        option: Option = each.metadata["option"]
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        # The backbone of a study may be given in its file.
        is_required = each.default is MISSING and options is not StudyOptions
        default = default_text(option, each.default)
        help_ = f"{option.help} ({default})" if default else option.help
        _add_option(groups[option.group], each.name, option, help_, is_required=is_required)


def _add_option(
    group: argparse._ActionsContainer, name: str, option: Option, help_: str, *, is_required: bool
) -> None:
    how: dict[str, Any] = {"help": help_.replace("%", "%%"), "default": argparse.SUPPRESS}
    if option.kind is None:
        # The command line can unset what a study file sets.
        action = argparse.BooleanOptionalAction if option.group else "store_true"
        group.add_argument(flag_of(name), action=action, **how)
        return
    how |= {"type": _type_of(option.kind.read), "metavar": option.kind.metavar}
    if option.positional:
        if option.positional != "1":
            # argparse would parse a default that is a text.
            how |= {"nargs": option.positional, "default": () if option.has_many else None}
        group.add_argument(name, **how)
        return
    if option.bare is not None:
        how |= {"nargs": "?", "const": option.bare}
    group.add_argument(flag_of(name), required=is_required, **how)


def _meant(unknown: Sequence[str], command: str | None) -> str:
    """Return the option that is nearest to each unknown one; empty if none is near."""
    if command is None:
        return ""
    flags = [
        flag_of(name) for name, option in options_of(COMMANDS[command][0]).items() if not option.positional
    ]
    given = [word.partition("=")[0] for word in unknown if word.startswith("-")]
    near = [flag for word in given for flag in difflib.get_close_matches(word, flags, n=1, cutoff=0.7)]
    return f". Did you mean {' and '.join(dict.fromkeys(near))}?" if near else ""


def _unknown_command(given: str) -> str:
    near = difflib.get_close_matches(given, COMMANDS, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}? " if near else ""
    return f"no command {given!r}. {hint}Commands: {', '.join(COMMANDS)}."


def _type_of(read: Callable[[str], Any]) -> Callable[[str], Any]:
    def read_word(text: str) -> Any:
        try:
            return read(text)
        except SettingsError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read_word
