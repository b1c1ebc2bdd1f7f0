"""A lock between the processes of a machine: one computes what is missing, the others wait and read it.

The system frees a lock when the process that holds it ends, in whatever way. A folder that cannot be locked
is used without: what two processes compute at once is the same twice, and files appear whole or not at all.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from depthsearch.features.tiers.nodes import folders_in

# Beside the files that the locks are about.
FOLDER = "locks"
SUFFIX = ".lock"
POLL_SECONDS = 0.05

log = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(folders: Sequence[Path], name: str, *, waits: bool = True) -> Iterator[bool]:
    """Hold a lock, in the first of some folders that can be locked; a thread that holds it already goes on.

    Args:
        folders: Where the lock may lie, the same ones for all who are to wait for each other.
        name: Of the lock.
        waits: Whether to wait for another process that holds it.

    Yields:
        Whether it was taken now: False where none of the folders can be locked, or this thread had it before.

    Raises:
        Timeout: If another process holds it and nobody is to wait.
    """
    with contextlib.ExitStack() as stack:
        paths = (folder / FOLDER / f"{name}{SUFFIX}" for folder in folders)
        taken = (_take(stack, path, waits) for path in paths)
        yield next((is_new for is_new in taken if is_new is not None), False)


def _take(stack: contextlib.ExitStack, path: Path, waits: bool) -> bool | None:
    """Acquire a lock until the stack is closed; return whether it is new, or None if it cannot be had."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # One object for all stores of a process, so that one of them inside another does not wait for itself.
        # A lock that is a mere file, for systems without others, would outlive a process that is killed.
        lock = FileLock(path, is_singleton=True, fallback_to_soft=False)
        was_held = lock.is_locked
        try:
            stack.enter_context(lock.acquire(blocking=False))
        except Timeout:
            if not waits:
                raise
            log.debug("%s: another process computes, this one waits", path)
            stack.enter_context(lock.acquire(poll_interval=POLL_SECONDS))
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:
        log.debug("%s cannot be locked: %s", path, error)
        return None
    return not was_held


def remove_locks(folder: Path) -> None:
    """Remove the locks of a folder and its nodes; who waits for one may then compute what another does."""
    for each in list(folders_in(folder)):
        for path in (each / FOLDER).glob(f"*{SUFFIX}"):
            with contextlib.suppress(OSError):
                path.unlink()
        with contextlib.suppress(OSError):
            (each / FOLDER).rmdir()
            if each != folder:
                each.rmdir()
