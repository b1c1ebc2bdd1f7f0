"""Folders of kept features on a disk that several machines may see: each has its own.

Locks, maps and the time of the last use are only sure among processes of one machine.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

__all__ = ["folders_in", "node_folder"]

PREFIX = "node-"


def node_folder(folder: Path) -> Path:
    """Name this machine's own folder inside of one that others may see."""
    return folder / f"{PREFIX}{socket.gethostname()}"


def folders_in(folder: Path) -> Iterator[Path]:
    """List a folder and, inside of it, those of all machines."""
    yield folder
    yield from sorted(folder.glob(f"{PREFIX}*"))
