"""What numbers of processes belong to, and whether a process is still the one that it was."""

from __future__ import annotations

import platform
from pathlib import Path

__all__ = ["start_of", "this_machine"]


def this_machine() -> str | None:
    """Name what process numbers belong to, where the system tells it: this boot, this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def start_of(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot, where the system tells it; ``ended`` of a zombie."""
    if platform.system() != "Linux":
        return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # Killed, and nobody has asked yet what became of it.
    return "ended" if fields[0] in "ZX" else fields[19]
