"""Files that appear whole or not at all, whoever else writes them, and what a path leads to."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = [
    "PARTIAL_SUFFIX",
    "folder_named",
    "folder_written_whole",
    "full_path",
    "is_allowed",
    "is_file",
    "is_folder",
    "lock_folder",
    "nearest_folder",
    "read_regular",
    "remove_abandoned",
    "why_no_file",
    "why_no_folder",
    "written_whole",
]

PARTIAL_SUFFIX = ".partial"
ABANDONED_SECONDS = 24 * 3600
# Of the 255 bytes that a file's name may have, what is added to it needs some.
MOST_NAME_BYTES = 200
# Devices of Windows, whatever stands behind the dot.
RESERVED = r"(con|prn|aux|nul|com\d|lpt\d)(?=\.|$)"


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
            # For writing too: Windows refuses to sync what was opened to read.
            with file.open("rb+") as written:
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


def folder_named(name: str) -> str:
    """Name a folder for a study, which may be called what no folder can: each study has a folder of its own.

    Args:
        name: The study's.

    Returns:
        The name itself where a folder may have it, else what is like it, with some digits of its digest.
    """
    is_plain = re.fullmatch(r"\w([\w.-]*[\w-])?", name) and not re.match(RESERVED, name, re.IGNORECASE)
    if is_plain and len(name.encode()) <= MOST_NAME_BYTES:
        return name
    like = re.sub(r"[^\w.-]+", "-", name).lstrip(".-") or "study"
    like = re.sub(RESERVED, r"\g<0>-", like, flags=re.IGNORECASE)
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
    return f"{like.encode()[:MOST_NAME_BYTES].decode(errors='ignore')}-{digest[:6]}"


def lock_folder(folder: Path) -> int | None:
    """Lock a folder among processes, and return what holds the lock until it is closed.

    The system frees it when the process ends, in whatever way.

    Returns:
        None: another process has it, or has removed the folder, or it may not be opened, or this system
        cannot lock folders.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        # Not through a link, and not for programs that are started from here.
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Before the lock was free, whoever had it may have removed the folder.
        if os.path.samestat(os.fstat(opened), folder.lstat()):
            return opened
    except OSError:
        pass
    os.close(opened)
    return None


def is_allowed(path: Path, mode: int) -> bool:
    """Return whether this process may do something with a file or folder: ``os.R_OK``, ``os.W_OK``."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def full_path(path: Path | str) -> Path:
    """Give the full path, without ``~`` and links so far as they lead anywhere."""
    try:
        return Path(path).expanduser().resolve()
    except (OSError, RuntimeError, ValueError):
        # No such user, a loop of links, or a name that no file can have: whoever opens it says so.
        return Path(path).absolute()


def is_file(path: Path) -> bool:
    """Whether a path leads to a file, no folder, pipe or device; False where that cannot be found out."""
    return not _found(path, stat.S_ISREG)


def is_folder(path: Path) -> bool:
    """Whether a path leads to a folder; False where that cannot be found out."""
    return not _found(path, stat.S_ISDIR)


def nearest_folder(path: Path) -> Path:
    """Give what is there of a path: itself, or the nearest folder around it, or a file in its way."""
    return next((p for p in (path, *path.absolute().parents) if is_folder(p) or is_file(p)), Path("/"))


def why_no_file(path: Path) -> str:
    """Say in brackets why a path leads to no file; nothing where nothing is there."""
    return _in_brackets(_found(path, stat.S_ISREG))


def why_no_folder(path: Path) -> str:
    """Say in brackets why a path leads to no folder; nothing where nothing is there."""
    return _in_brackets(_found(path, stat.S_ISDIR))


def read_regular(path: Path, *, most_bytes: int) -> bytes:
    """Read a file, whole.

    A pipe or device, which may have no end or wait for ever for its beginning, is not read.

    Raises:
        OSError: If it cannot be read, is no regular file, or has more bytes.
    """
    # Opening a pipe would wait for somebody who writes into it.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is a pipe or device, not a file", str(path))
        if found.st_size > most_bytes:
            raise OSError(errno.EFBIG, f"{found.st_size / 2**30:.1f} GiB is more than can be read", str(path))
        return file.read(most_bytes)


def _found(path: Path, is_wanted: Callable[[int], bool]) -> str:
    """Say what is at a path instead of what is wanted there; empty if that is there."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "nothing"
    except OSError as error:
        return error.strerror or type(error).__name__
    except ValueError:
        return "no file can have that name"
    if is_wanted(mode):
        return ""
    if stat.S_ISDIR(mode):
        return "it is a folder"
    return "it is a file" if stat.S_ISREG(mode) else "it is a pipe or device"


def _in_brackets(reason: str) -> str:
    return "" if reason in ("", "nothing") else f" ({reason})"
