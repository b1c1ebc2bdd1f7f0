"""Errors of stdout and stderr: closed, on a full disk, or in an encoding that knows only ASCII."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, TextIO

# The reader has closed the output, as head does; a shell reports this status for a process ended by SIGPIPE.
UNREAD = 141
# No room on the disk, or none for this user.
FULL = (errno.ENOSPC, errno.EDQUOT)


class _UnwrittenError(Exception):
    """Output that cannot be written; raised by nothing else."""


class _Guarded:
    """A stream whose errors can be distinguished from those of files and connections.

    Attributes:
        stream: The stream.
        drops: Whether to drop what a full disk does not take, and go on.
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
        """Flush the stream."""
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
    """Run a function that writes to stdout; output that cannot be written is one line on stderr.

    What a full disk does not take of stderr is dropped: a study must not end for lack of messages.

    Args:
        run: Returns an exit status.

    Returns:
        That status; `UNREAD` if the reader has closed the output, 2 if it cannot be written.
    """
    out, err = sys.stdout, sys.stderr
    try:
        with redirect_stdout(_guarded(out)), redirect_stderr(_guarded(err, drops=True)):
            try:
                return run()
            finally:
                # Otherwise the rest would fail when Python ends, where nothing can catch it.
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
    """Guard a stream, and write characters that its encoding lacks as escapes."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    # The process may have been started with the stream closed.
    return None if stream is None else _Guarded(stream, drops=drops)


def _drop(stream: TextIO) -> None:
    """Redirect a stream to nowhere: Python would write what it still buffers once more when it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
