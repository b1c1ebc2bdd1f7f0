"""Files that appear whole or not at all, even where several processes write them; what a path leads to."""

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

PARTIAL_SUFFIX = ".partial"
ABANDONED_SECONDS = 24 * 3600
# A file's name may have 255 bytes; the rest is for what is added to it.
MOST_NAME_BYTES = 200
# Names of devices on Windows, with any extension.
RESERVED = r"(con|prn|aux|nul|com\d|lpt\d)(?=\.|$)"


@contextlib.contextmanager
def written_whole(path: Path, *, durable: bool) -> Iterator[BinaryIO]:
    """Write a file under a temporary name beside it, and rename it once it is complete.

    Written as bytes and not through a memory map, where a full disk kills the process with SIGBUS.

    Args:
        path: The file; its folder is made.
        durable: Whether to wait until it is on the disk, so that it is whole after a power failure too.

    Raises:
        OSError: If it cannot be written; nothing is left behind.
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
        # Where its folder is gone or locked, the error that matters is being raised already.
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """Fill a folder under a temporary name beside it, and rename it once it is complete.

    A folder of that name is replaced. A kill between the two renames leaves the old one under a hidden name.

    Args:
        folder: The folder; its parents are made.

    Yields:
        The folder to write files into.

    Raises:
        OSError: If it cannot be written; the old folder is kept.
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
    """Remove what killed processes left half written a day ago or earlier."""
    for partial in folder.glob(f"*{PARTIAL_SUFFIX}"):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime > ABANDONED_SECONDS:
                partial.unlink()


def folder_named(name: str) -> str:
    """Return a folder name for a study, whose own name no folder may be allowed to have.

    Args:
        name: The study's.

    Returns:
        The name itself where a folder may have it, else a similar one with some digits of its digest, so
        that no two studies share a folder.
    """
    is_plain = re.fullmatch(r"\w([\w.-]*[\w-])?", name) and not re.match(RESERVED, name, re.IGNORECASE)
    if is_plain and len(name.encode()) <= MOST_NAME_BYTES:
        return name
    like = re.sub(r"[^\w.-]+", "-", name).lstrip(".-") or "study"
    like = re.sub(RESERVED, r"\g<0>-", like, flags=re.IGNORECASE)
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
    return f"{like.encode()[:MOST_NAME_BYTES].decode(errors='ignore')}-{digest[:6]}"


def lock_folder(folder: Path) -> int | None:
    """Lock a folder among processes; the system frees the lock when the process ends, in whatever way.

    Returns:
        A descriptor that holds the lock until it is closed. None: another process has it or has removed the
        folder, or the folder may not be opened, or this system cannot lock folders.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        # Not through a link, and not for programs that are started from here.
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its last holder may have removed the folder before it freed the lock.
        if os.path.samestat(os.fstat(descriptor), folder.lstat()):
            return descriptor
    os.close(descriptor)
    return None


def is_allowed(path: Path, mode: int) -> bool:
    """Return whether this process may read (``os.R_OK``) or write (``os.W_OK``) a file or folder."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def full_path(path: Path | str) -> Path:
    """Return the absolute path, with ``~`` and links resolved where that is possible."""
    try:
        return Path(path).expanduser().resolve()
    except (OSError, RuntimeError, ValueError):
        # No such user, a loop of links, or a name that no file can have: opening it reports that.
        return Path(path).absolute()


def is_file(path: Path) -> bool:
    """Return whether a path leads to a regular file; False where it cannot be looked at."""
    return not _instead(path, stat.S_ISREG)


def is_folder(path: Path) -> bool:
    """Return whether a path leads to a folder; False where it cannot be looked at."""
    return not _instead(path, stat.S_ISDIR)


def nearest_folder(path: Path) -> Path:
    """Return the path if it exists, else its nearest existing ancestor."""
    return next((p for p in (path, *path.absolute().parents) if is_folder(p) or is_file(p)), Path("/"))


def why_no_file(path: Path) -> str:
    """Return in brackets why a path leads to no file; empty where nothing is there."""
    return _in_brackets(_instead(path, stat.S_ISREG))


def why_no_folder(path: Path) -> str:
    """Return in brackets why a path leads to no folder; empty where nothing is there."""
    return _in_brackets(_instead(path, stat.S_ISDIR))


def read_regular(path: Path, *, most_bytes: int) -> bytes:
    """Read a whole file, but no pipe or device, which may block or have no end.

    Raises:
        OSError: If it cannot be read, is no regular file, or has more bytes.
    """
    # Opening a pipe would otherwise wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        n_bytes = status.st_size
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is a pipe or device, not a file", str(path))
        if n_bytes > most_bytes:
            raise OSError(errno.EFBIG, f"{n_bytes / 2**30:.1f} GiB is more than can be read", str(path))
        return file.read(most_bytes)


def _instead(path: Path, is_wanted: Callable[[int], bool]) -> str:
    """Return what is at a path instead of what is wanted there; empty if that is there."""
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
