"""Folders of kept features on a disk that several machines may see: each has its own.

Locks, maps and the time of the last use are only sure among processes of one machine.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import psutil

PREFIX = "node-"
# What psutil calls the disks that others may see as well.
NETWORK_DISKS = {
    *("afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "pvfs2", "smb3"),
    *("smbfs", "wekafs", "fuse.ceph", "fuse.glusterfs", "fuse.sshfs"),
}


def local_folder(folder: Path) -> Path:
    """Name the folder to use for one: itself, or on a network's disk what is this machine's own in it."""
    return node_folder(folder) if _disk_of(folder) in NETWORK_DISKS else folder


def node_folder(folder: Path) -> Path:
    """Name this machine's own folder inside of one that others may see."""
    return folder / f"{PREFIX}{socket.gethostname()}"


def folders_in(folder: Path) -> Iterator[Path]:
    """List a folder and, inside of it, those of all machines."""
    yield folder
    yield from sorted(folder.glob(f"{PREFIX}*"))


def _disk_of(folder: Path) -> str:
    """Name the kind of disk that a folder lies on, or will; empty: the system does not tell."""
    path = folder.resolve()
    mounts = [part for part in psutil.disk_partitions(all=True) if path.is_relative_to(part.mountpoint)]
    # Of those mounted in one place, the last is the one that is seen.
    return max(reversed(mounts), key=lambda part: len(part.mountpoint)).fstype if mounts else ""
