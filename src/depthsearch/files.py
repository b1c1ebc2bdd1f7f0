"""Files that appear whole or not at all, whoever else writes them at the same time."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["PARTIAL_SUFFIX", "folder_written_whole", "remove_abandoned", "written_whole"]

PARTIAL_SUFFIX = ".partial"
ABANDONED_SECONDS = 24 * 3600


@contextlib.contextmanager
def written_whole(path: Path, *, durable: bool) -> Iterator[BinaryIO]:
    """Write a file under another name beside it, and give it its own name once it is complete.

    Written as bytes and not through a memory map, where a full disk kills the process with SIGBUS.

    Args:
        path: What to write; its folder is made.
        durable: Whether to wait until it is on the disk, so that a power failure leaves it whole too.

    Raises:
        OSError: If it cannot be written; nothing is left then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{secrets.token_hex(8)}{PARTIAL_SUFFIX}")
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        partial.replace(path)
    finally:
        # A folder that is gone or locked says nothing new: the error that matters is on its way.
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """Fill a folder under another name beside it, and give it its own name once it is complete.

    A folder of that name is replaced. A kill between the two renamings leaves it under its hidden name.

    Args:
        folder: What to make; the folders above it are made.

    Yields:
        The folder to write files into.

    Raises:
        OSError: If it cannot be written; what was there before is there still.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    hidden = f".{folder.name}.{secrets.token_hex(8)}"
    partial, old = (folder.with_name(hidden + ending) for ending in (PARTIAL_SUFFIX, ".old"))
    partial.mkdir()
    try:
        yield partial
        for file in partial.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        if folder.exists():
            folder.rename(old)
        try:
            partial.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_abandoned(folder: Path) -> None:
    """Remove what processes that were killed while writing have left behind a day ago or earlier."""
    for partial in folder.glob(f"*{PARTIAL_SUFFIX}"):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime > ABANDONED_SECONDS:
                partial.unlink()
