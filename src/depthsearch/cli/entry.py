"""The command line: a thin skin. PyTorch is imported only once a command runs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from depthsearch.cli.output import run_writing
from depthsearch.cli.parser import make_parser, options_from, without_passwords
from depthsearch.errors import DepthsearchError, SettingsError
from depthsearch.signals import sigterm_interrupts
from depthsearch.text import one_line, printable

__all__ = ["main"]

INTERRUPTED = 130
# What sysexits.h calls EX_TEMPFAIL: later, the same may work.
AWAY = 75


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status: 0, 2 for a user's mistake, 130 for an interrupt.

    A study that ``depthsearch stop`` has stopped did what it was asked to: 0. Where the database went away
    and stayed away it is 75: the same command goes on once it is back. Of output that nobody reads to its
    end, as with ``| head``, it is 141.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    return run_writing(lambda: _run(given))


def _run(argv: list[str]) -> int:
    given = vars(make_parser().parse_args(argv))
    command = given.pop("command")
    try:
        _refuse_gone_folder()
        options = options_from(command, given)
        with sigterm_interrupts():
            from depthsearch.cli import commands

            run: Callable[[Any], bool | None] = getattr(commands, command)
            is_stopped = run(options)
    except DepthsearchError as error:
        print(one_line(without_passwords(f"depthsearch {command}: {error}")), file=sys.stderr)
        return AWAY if _is_outage(error) else 2
    except KeyboardInterrupt:
        # What others wait for, such as the study of stop --wait, may well go on.
        ended = f"Stopped.{_kept(argv)}" if command in ("study", "fit") else "Interrupted."
        print(ended, file=sys.stderr)
        return INTERRUPTED
    if is_stopped:
        # Somebody meant it, so that it is no failure.
        print(f"Stopped on request.{_kept(argv)}", file=sys.stderr)
    return 0


def _refuse_gone_folder() -> None:
    """Refuse to run in a folder that has been deleted: not even PyTorch finds its parts from there."""
    try:
        Path.cwd()
    except OSError as error:
        raise SettingsError(
            f"The folder that you are in is gone ({error.strerror}). cd to one that is there, "
            "and run the same command again."
        ) from error


def _is_outage(error: DepthsearchError) -> bool:
    """Say whether a database that was there has gone; that it cannot even be opened is another matter."""
    if isinstance(error, SettingsError):
        return False
    from depthsearch.study.storage.outage import Away, chain

    return any(isinstance(cause, Away) for cause in chain(error))


def _kept(argv: Sequence[str]) -> str:
    command = shlex.join(without_passwords(argument) for argument in argv)
    return f" What is finished is kept; go on with: depthsearch {printable(command)}"
