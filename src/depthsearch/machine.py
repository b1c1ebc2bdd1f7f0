"""The machine that this process runs on: its cores, its memory, its processes.

Whatever only some systems report is read here, with a fallback for those that do not.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

# Where Linux mounts its control groups, and the file that lists those of this process.
GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Count the cores that this process may use: its affinity, limited by its container's share."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = (GROUPS / "cpu.max").read_text(encoding="utf-8").split()
        return max(1, min(bound, int(quota) // int(period)))
    return bound


def excess_load() -> float | None:
    """Return the load of the last minute where it is above the cores, so that programs wait; else None.

    Load and cores are the whole machine's, whatever part of it this process may use.
    """
    load = psutil.getloadavg()[0]
    return load if load > (os.cpu_count() or 1) else None


def processor_model() -> str:
    """Return the name of the processor, or of its kind."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        if model := next(named, None):
            return model
    return platform.processor() or platform.machine()


class _Names(NamedTuple):
    """A version's file names of the memory limit and usage, and its name for cached files not used lately."""

    limit: str
    used: str
    old_files: str


_FIRST = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_SECOND = _Names("memory.max", "memory.current", "inactive_file")


def free_memory_bytes(groups: Path = GROUPS, own: Path = OWN_GROUPS) -> int:
    """Return the free memory in bytes: the machine's, or what the tightest limit leaves.

    A limit may be on the group of this process, as in a Slurm job, or on any group around it. Cached files
    that were not read lately count as free: the system drops them when memory is needed.

    Args:
        groups: Where control groups are mounted.
        own: The file that lists those of this process.
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
    """List the folders of the groups that this process is in, from its own to the outermost visible."""
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
        # A container may see the path that it has outside, with its own group as the outermost.
        folder = root / path.lstrip("/")
        yield from ((each, names) for each in (folder, *folder.parents) if each.is_relative_to(root))


def _old_files_bytes(folder: Path, names: _Names) -> int:
    """Return the bytes of a group's cached files that were not read lately."""
    with contextlib.suppress(OSError, ValueError):
        for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines():
            name, number = line.split()
            if name == names.old_files:
                return int(number)
    return 0


def this_machine() -> str | None:
    """Return an identifier of this boot and container, to which process numbers belong; None if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def start_of(pid: int) -> str | None:
    """Return when a process started, which tells it from an earlier one of the same number.

    Returns:
        Clock ticks since boot on Linux, else seconds since 1970; ``ended`` for a zombie; None: there is no
        such process, or the system does not report it.
    """
    if sys.platform != "linux":
        # Not on Linux: there psutil's value changes when the clock is set.
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            return "ended" if process.status() == psutil.STATUS_ZOMBIE else repr(process.create_time())
        return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    # A zombie: its parent has not waited for it yet.
    return "ended" if fields[0] in "ZX" else fields[19]


def process_lives(pid: int, started: str | None) -> bool | None:
    """Return whether a process of this machine still runs; None where that cannot be known.

    By when it started, see `start_of`: its number may belong to another one by now.
    """
    now = start_of(pid)
    if now is not None and started is not None:
        return now == started
    # The system may hide other users' processes, also from psutil.
    try:
        if sys.platform != "win32":  # where signal 0 would end the process
            os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return None


def thread_clock() -> Callable[[], float] | None:
    """Return a function that reads this thread's processor time in seconds, also from other threads.

    The time of the whole process would include threads of libraries that are never idle.

    Returns:
        None: the system has no such clocks.
    """
    if sys.platform in ("win32", "darwin"):
        return None
    return functools.partial(time.clock_gettime, time.pthread_getcpuclockid(threading.get_ident()))


def name_process(name: str) -> None:
    """Set the name of this process that tools such as top show, on Linux."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name, encoding="utf-8")
