"""How much of the main memory can still be had: of the machine's, or of what a job or container may have."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

__all__ = ["free_memory_bytes"]

# Where Linux shows its control groups, and which ones this process is in.
GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


class _Names(NamedTuple):
    """What a version of control groups calls a limit, what is used of it, and in what is used, old files."""

    limit: str
    used: str
    old_files: str


FIRST = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
SECOND = _Names("memory.max", "memory.current", "inactive_file")


def free_memory_bytes(groups: Path = GROUPS, own: Path = OWN_GROUPS) -> int:
    """Say how much memory can be had, in bytes: the machine's, or what the tightest limit leaves.

    A limit may be on the group of this process, as a job of Slurm's has it, or on any around it. Files that
    the system holds in memory and nobody has read lately count as free: they make room for others.

    Args:
        groups: Where the system shows control groups.
        own: The file that names those of this process.
    """
    free = int(psutil.virtual_memory().available)
    for folder, names in _groups_around(groups, own):
        # Without a limit there is no file, or no number in it.
        with contextlib.suppress(OSError, ValueError):
            limit, used = (int((folder / name).read_text()) for name in (names.limit, names.used))
            free = min(free, limit - max(0, used - _old_files_bytes(folder, names)))
    return max(0, free)


def _groups_around(groups: Path, own: Path) -> Iterator[tuple[Path, _Names]]:
    """List the folders of the groups that this process is in, from its own to the outermost seen."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            root, names = groups, SECOND
        elif "memory" in controllers.split(","):
            root, names = groups / "memory", FIRST
        else:
            continue
        # A container may be shown the path that it has outside, and its own group as the outermost.
        folder = root / path.lstrip("/")
        yield from ((each, names) for each in (folder, *folder.parents) if each.is_relative_to(root))


def _old_files_bytes(folder: Path, names: _Names) -> int:
    """Count what a group's files take of its memory that nobody has read lately."""
    with contextlib.suppress(OSError, ValueError):
        for line in (folder / "memory.stat").read_text().splitlines():
            name, number = line.split()
            if name == names.old_files:
                return int(number)
    return 0
