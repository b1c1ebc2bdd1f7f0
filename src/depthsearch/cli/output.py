"""What a command writes to stdout and stderr: it may be no terminal, know ASCII only, be full or closed."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast

__all__ = ["UNREAD", "run_writing"]

# Whoever reads the output has closed it, as head does: what a shell says of a process that SIGPIPE has ended.
UNREAD = 141
# No room on the disk, or none for this user.
FULL = (errno.ENOSPC, errno.EDQUOT)


class _UnwrittenError(Exception):
    """Output that cannot be written; no other error is one of these."""


class _Guarded:
    """A stream whose errors can be told from those of files and connections."""

    def __init__(self, stream: TextIO, *, drops: bool) -> None:
        """Guard a stream.

        Args:
            stream: Which.
            drops: Whether to leave out what a full disk does not take, and go on.
        """
        self._stream = stream
        self._drops = drops

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text."""
        with self._telling():
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is held back."""
        with self._telling():
            self._stream.flush()

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not (self._drops and error.errno in FULL):
                raise _UnwrittenError from error


def run_writing(run: Callable[[], int]) -> int:
    """Run what writes to stdout; what cannot be written is one line on stderr, not a traceback.

    What a full disk does not take of stderr is left out: a study is worth more than news of it.

    Args:
        run: Gives an exit status.

    Returns:
        That; `UNREAD` if nobody reads the output any more, 2 if it cannot be written.
    """
    before = sys.stdout, sys.stderr
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        # A process may have been started with it closed.
        if stream is not None:
            _write_anything(stream)
            setattr(sys, name, cast(TextIO, _Guarded(stream, drops=name == "stderr")))
    try:
        try:
            return run()
        finally:
            # What is still held would fail when Python ends, where nobody can catch it.
            if sys.stdout is not None:
                sys.stdout.flush()
    except _UnwrittenError as error:
        sys.stdout, sys.stderr = before
        _drop(sys.stdout)
        if isinstance(error.__cause__, BrokenPipeError):
            return UNREAD
        reason = getattr(error.__cause__, "strerror", None)
        with contextlib.suppress(OSError):
            print(f"depthsearch: cannot write the output: {reason}.", file=sys.stderr)
        return 2
    finally:
        sys.stdout, sys.stderr = before
        try:
            if sys.stderr is not None:
                sys.stderr.flush()
        except OSError:
            _drop(sys.stderr)


def _write_anything(stream: TextIO) -> None:
    """Let what the encoding of a stream lacks be written as escapes: a locale may know ASCII only."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def _drop(stream: TextIO) -> None:
    """Send to nowhere what a stream still holds: Python would try to write it once more when it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
