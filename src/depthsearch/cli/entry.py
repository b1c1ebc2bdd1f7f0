"""The entry point of the command line. What a command needs is imported only once it runs."""

from __future__ import annotations

import gc
import shlex
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from depthsearch.cli import commands
from depthsearch.cli.output import run_writing
from depthsearch.cli.parser import make_parser, options_from, without_passwords
from depthsearch.errors import DepthsearchError, SettingsError
from depthsearch.options.declaring import Declared
from depthsearch.signals import sigterm_interrupts
from depthsearch.text import one_line, printable

INTERRUPTED = 130
# EX_TEMPFAIL of sysexits.h: a later try may succeed.
AWAY = 75


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status: 0, 2 for a user's mistake, 130 for an interrupt.

    A study that ``depthsearch stop`` has stopped ends with 0. If the database stayed away for too long, the
    status is 75: the same command goes on once it is back. If the reader has closed the output, as with
    ``| head``, it is 141.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run_writing(lambda: _run(arguments))


def _run(argv: list[str]) -> int:
    given = vars(make_parser().parse_args(argv))
    command = given.pop("command")
    try:
        _refuse_gone_folder()
        options = options_from(command, given)
        with sigterm_interrupts():
            _check(command, options)
            is_stopped = _command_named(command)(options)
    except DepthsearchError as error:
        print(one_line(without_passwords(f"depthsearch {command}: {error}")), file=sys.stderr)
        return AWAY if _is_outage(error) else 2
    except KeyboardInterrupt:
        # Other commands have stopped nothing: the study that stop --wait waits for may go on.
        message = f"Stopped.{_how_to_go_on(argv)}" if command in ("study", "fit") else "Interrupted."
        print(message, file=sys.stderr)
        return INTERRUPTED
    if is_stopped:
        print(f"Stopped on request.{_how_to_go_on(argv)}", file=sys.stderr)
    return 0


def _check(command: str, options: Declared) -> None:
    """Refuse what can be known to be wrong without PyTorch."""
    # Imported here, as the parser and the help need none of it.
    from depthsearch.cli.checks import CHECKS

    if command in CHECKS:
        CHECKS[command](options)


def _command_named(name: str) -> Callable[[Any], bool | None]:
    """Import a command, and with it what it needs: most need PyTorch and its kin.

    Hundreds of thousands of objects are made, and nearly all of them stay. To look through them for garbage
    again and again is a sixth of the time that it takes.
    """
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        run: Callable[[Any], bool | None] = getattr(import_module(f"{commands.__name__}.{name}"), name)
    finally:
        if was_collecting:
            gc.enable()
    return run


def _refuse_gone_folder() -> None:
    """Refuse to run in a folder that has been deleted, where even importing PyTorch fails."""
    try:
        Path.cwd()
    except OSError as error:
        raise SettingsError(
            f"The current folder is gone ({error.strerror}). cd to another, and run the same command again."
        ) from error


def _is_outage(error: DepthsearchError) -> bool:
    """Return whether a database has gone away after it was opened."""
    if isinstance(error, SettingsError):
        return False
    from depthsearch.study.storage.outage import Away, chain

    return any(isinstance(cause, Away) for cause in chain(error))


def _how_to_go_on(argv: Sequence[str]) -> str:
    command = shlex.join(without_passwords(argument) for argument in argv)
    return f" What is finished is kept; go on with: depthsearch {printable(command)}"
