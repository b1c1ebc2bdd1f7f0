"""What a command writes to stdout and stderr: it may be no terminal, know ASCII only, be full or closed."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, TextIO

__all__ = ["UNREAD", "run_writing"]

# Whoever reads the output has closed it, as head does: what a shell says of a process that SIGPIPE has ended.
UNREAD = 141
# No room on the disk, or none for this user.
FULL = (errno.ENOSPC, errno.EDQUOT)


class _UnwrittenError(Exception):
    """Output that cannot be written; no other error is one of these."""


class _Guarded:
    """A stream whose errors can be told from those of files and connections.

    Attributes:
        stream: Which.
        drops: Whether to leave out what a full disk does not take, and go on.
    """

    def __init__(self, stream: TextIO, *, drops: bool) -> None:
        self.stream, self.drops = stream, drops

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write text."""
        with self._marked():
            return self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is held back."""
        with self._marked():
            self.stream.flush()

    @contextlib.contextmanager
    def _marked(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not (self.drops and error.errno in FULL):
                raise _UnwrittenError from error


def run_writing(run: Callable[[], int]) -> int:
    """Run what writes to stdout; what cannot be written is one line on stderr, not a traceback.

    What a full disk does not take of stderr is left out: a study is worth more than news of it.

    Args:
        run: Returns an exit status.

    Returns:
        That; `UNREAD` if nobody reads the output any more, 2 if it cannot be written.
    """
    out, err = sys.stdout, sys.stderr
    try:
        with redirect_stdout(_guarded(out)), redirect_stderr(_guarded(err, drops=True)):
            try:
                return run()
            finally:
                # What is still held would fail when Python ends, where nobody can catch it.
                if sys.stdout is not None:
                    sys.stdout.flush()
    except _UnwrittenError as error:
        _drop(out)
        if isinstance(error.__cause__, BrokenPipeError):
            return UNREAD
        reason = getattr(error.__cause__, "strerror", None)
        with contextlib.suppress(OSError):
            print(f"depthsearch: cannot write the output: {reason}.", file=err)
        return 2
    finally:
        try:
            if err is not None:
                err.flush()
        except OSError:
            _drop(err)


def _guarded(stream: TextIO | None, *, drops: bool = False) -> Any:
    """Guard a stream, and have it write what its encoding lacks as escapes: a locale may know ASCII only."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    # A process may have been started with it closed.
    return None if stream is None else _Guarded(stream, drops=drops)


def _drop(stream: TextIO) -> None:
    """Send to nowhere what a stream still holds: Python would try to write it once more when it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
