"""The machine that this process runs on: its cores, its memory, its processes.

All that only some systems tell is asked here. Where one does not tell, there is an answer all the same.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

__all__ = [
    "free_memory_bytes",
    "name_process",
    "process_lives",
    "processor_model",
    "start_of",
    "this_machine",
    "usable_cores",
]

# Where Linux shows its control groups, and which ones this process is in.
GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Count the cores that this process may use: those it is bound to, and its container's share."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = (GROUPS / "cpu.max").read_text(encoding="utf-8").split()
        return max(1, min(bound, int(quota) // int(period)))
    return bound


def processor_model() -> str:
    """Return the name of the processor, or of its kind."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        if model := next(named, None):
            return model
    return platform.processor() or platform.machine()


class _Names(NamedTuple):
    """What a version of control groups calls a limit, what is used of it, and in what is used, old files."""

    limit: str
    used: str
    old_files: str


_FIRST = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_SECOND = _Names("memory.max", "memory.current", "inactive_file")


def free_memory_bytes(groups: Path = GROUPS, own: Path = OWN_GROUPS) -> int:
    """Return how much memory can be had, in bytes: the machine's, or what the tightest limit leaves.

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
            limit, used = (
                int((folder / name).read_text(encoding="utf-8")) for name in (names.limit, names.used)
            )
            free = min(free, limit - max(0, used - _old_files_bytes(folder, names)))
    return max(0, free)


def _groups_around(groups: Path, own: Path) -> Iterator[tuple[Path, _Names]]:
    """List the folders of the groups that this process is in, from its own to the outermost seen."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            root, names = groups, _SECOND
        elif "memory" in controllers.split(","):
            root, names = groups / "memory", _FIRST
        else:
            continue
        # A container may be shown the path that it has outside, and its own group as the outermost.
        folder = root / path.lstrip("/")
        yield from ((each, names) for each in (folder, *folder.parents) if each.is_relative_to(root))


def _old_files_bytes(folder: Path, names: _Names) -> int:
    """Count what a group's files take of its memory that nobody has read lately."""
    with contextlib.suppress(OSError, ValueError):
        for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines():
            name, number = line.split()
            if name == names.old_files:
                return int(number)
    return 0


def this_machine() -> str | None:
    """Return what process numbers belong to, where the system tells it: this boot, this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def start_of(pid: int) -> str | None:
    """Return what tells a process from an earlier one of its number: when it started.

    Args:
        pid: Its number.

    Returns:
        In clock ticks since boot on Linux, else in seconds since 1970; ``ended`` of a zombie; None: there is
        no such process, or the system does not tell.
    """
    if sys.platform != "linux":
        # Of Linux, psutil's changes with the clock.
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            return "ended" if process.status() == psutil.STATUS_ZOMBIE else repr(process.create_time())
        return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    # Killed, and nobody has asked yet what became of it.
    return "ended" if fields[0] in "ZX" else fields[19]


def process_lives(pid: int, started: str | None) -> bool | None:
    """Return whether a process of this machine is still there; None where the system does not tell.

    Args:
        pid: Its number.
        started: By `start_of`: the same number may have been given to another process since.
    """
    if not psutil.pid_exists(pid):
        return False
    now = start_of(pid)
    # The system may hide other users' processes.
    return None if now is None or started is None else now == started


def name_process(name: str) -> None:
    """Name this process for those who look at processes, as far as Linux shows it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name, encoding="utf-8")
