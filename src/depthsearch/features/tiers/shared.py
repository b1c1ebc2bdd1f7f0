"""Folders in memory that the processes of a study share, and those that killed ones have left.

The process that makes one holds a lock on it for as long as it lives. The system frees the lock when the
process ends, in whatever way, and shows it in every container that sees the folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import psutil

from depthsearch.files import lock_folder

# Where Linux has files in memory, and how folders there begin.
SHARED_MEMORY = Path("/dev/shm")
PREFIX = "depthsearch-shared-"
# A new folder is lost only to another that starts at the same moment.
TRIES = 10

# What holds the locks of this process's folders.
_held: dict[Path, int] = {}


def shared_memory_folder() -> Path | None:
    """Make a folder of this process in memory that other processes can read; see `remove_shared`.

    Folders whose processes have ended are removed first.

    Returns:
        The folder; None where the system has no such memory.
    """
    mounted = psutil.disk_partitions(all=True)
    if not any(Path(part.mountpoint) == SHARED_MEMORY and part.fstype == "tmpfs" for part in mounted):
        return None
    with contextlib.suppress(OSError):
        for left in SHARED_MEMORY.glob(f"{PREFIX}*"):
            _remove_left(left)
        for _ in range(TRIES):
            made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=SHARED_MEMORY))
            if (lock := lock_folder(made)) is not None:
                _held[made] = lock
                return made
            # Until it was locked, another process may have taken it for one that was left.
            with contextlib.suppress(OSError):
                made.rmdir()
    return None


def remove_shared(folder: Path) -> None:
    """Remove a folder of `shared_memory_folder`, at the end; what still reads its files can go on."""
    shutil.rmtree(folder, ignore_errors=True)
    if (lock := _held.pop(folder, None)) is not None:
        os.close(lock)


def _remove_left(folder: Path) -> None:
    """Remove a folder, unless a process lives that has it, or it is another user's."""
    if (lock := lock_folder(folder)) is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
