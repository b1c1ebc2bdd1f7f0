"""What a command writes to stdout and stderr: it may be no terminal, know ASCII only, be full or closed."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable

__all__ = ["UNREAD", "run_writing"]

# Whoever reads the output has closed it, as head does: what a shell says of a process that SIGPIPE has ended.
UNREAD = 141
# How writing to a terminal, pipe or file fails that is no fault of ours.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)


def run_writing(run: Callable[[], int]) -> int:
    """Run what writes to stdout; what cannot be written is one line on stderr, not a traceback.

    Args:
        run: Gives an exit status.

    Returns:
        That; `UNREAD` if nobody reads the output any more, 2 if it cannot be written.
    """
    _write_anything()
    try:
        try:
            return run()
        finally:
            # What is still held would fail when Python ends, where nobody can catch it.
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        return UNREAD
    except OSError as error:
        # That of a file has its name: whoever opened it should have seen to it.
        if error.errno not in _NO_ROOM or error.filename is not None:
            raise
        _drop_output()
        print(f"depthsearch: cannot write the output: {error.strerror}.", file=sys.stderr)
        return 2


def _write_anything() -> None:
    """Let what the encoding of a stream lacks be written as escapes: a locale may know ASCII only."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Send to nowhere what stdout still holds: Python would try to write it once more when it ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
