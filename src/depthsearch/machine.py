"""What numbers of processes belong to, and whether a process is still the one that it was."""

from __future__ import annotations

import contextlib
import platform
from pathlib import Path

import psutil

__all__ = ["process_lives", "start_of", "this_machine"]


def this_machine() -> str | None:
    """Name what process numbers belong to, where the system tells it: this boot, this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def start_of(pid: int) -> str | None:
    """Give what tells a process from an earlier one of its number: when it started.

    Args:
        pid: Its number.

    Returns:
        In clock ticks since boot on Linux, else in seconds since 1970; ``ended`` of a zombie; None: there is
        no such process, or the system does not tell.
    """
    if platform.system() != "Linux":
        # Of Linux, psutil's changes with the clock.
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            return "ended" if process.status() == psutil.STATUS_ZOMBIE else repr(process.create_time())
        return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
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
