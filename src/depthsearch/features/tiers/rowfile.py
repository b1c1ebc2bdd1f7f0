"""One kept tensor as a file: its rows, then what it is, then a footer.

    rows       n x row_bytes, image by image
    description  one JSON object: key, dtype, shape, order, n, checksum of the rows, words for people
    footer     length of the description (8 bytes, little-endian), then 8 bytes that no other file ends in

The description comes last, so that rows are written as they are computed and a file that was cut short has no
footer. A file is read only after its checksum was computed again: a damaged one is as good as none.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from depthsearch.features.parts import Layout
from depthsearch.features.tiers.nodes import folders_in
from depthsearch.files import PARTIAL_SUFFIX, written_whole

SUFFIX = ".features"
MAGIC = b"dsfeat01"
CHUNK_BYTES = 2**24
# Mapped pages count as resident memory; they are let go after so many bytes read.
RESIDENT_BYTES = 2**26


class RowWriter:
    """Writes a kept file row by row; it appears under its name once it is ended."""

    def __init__(self, path: Path, *, claimed_bytes: int = 0) -> None:
        """Begin a file.

        Args:
            path: Where it is to appear.
            claimed_bytes: The size that the unfinished file shows from the start, for others who count what
                the folder holds.

        Raises:
            OSError: If it cannot be written; likewise when going on and ending.
        """
        self._whole = written_whole(path, durable=False)
        self._file = self._whole.__enter__()
        # Where that does not work, writing tells what does not.
        with contextlib.suppress(OSError):
            self._file.truncate(claimed_bytes)
        self._checksum = 0
        self._n_bytes = 0

    def write(self, rows: torch.Tensor) -> None:
        """Append rows ``(b, *shape)``, contiguous, on the CPU."""
        content = rows.view(-1).view(torch.uint8).numpy().data
        self._checksum = zlib.crc32(content, self._checksum)
        self._n_bytes += self._file.write(content)

    def end(self, content: Mapping[str, Any], words: Mapping[str, Any]) -> None:
        """Describe the rows: what `content_of` says, and words for people."""
        if self._n_bytes != content["n_bytes"]:
            raise OSError(f"{self._n_bytes} bytes were written, not {content['n_bytes']}")
        description = {**words, **content, "checksum": self._checksum}
        encoded = json.dumps(description).encode()
        self._file.write(encoded + struct.pack("<Q", len(encoded)) + MAGIC)
        self._file.truncate()
        self._whole.__exit__(None, None, None)

    def abandon(self, reason: BaseException) -> None:
        """Remove what was written."""
        # What is still to be written to a full disk cannot be when the file is closed.
        with contextlib.suppress(OSError):
            self._whole.__exit__(type(reason), reason, None)


def content_of(key: str, layout: Layout, n_images: int) -> dict[str, Any]:
    """Describe what a file has to hold: which values, and how they lie in it."""
    return {
        "key": key,
        "dtype": str(layout.dtype).removeprefix("torch."),
        "shape": list(layout.shape),
        "order": list(layout.order),
        "strides": list(layout.strides),
        "n_images": n_images,
        "n_bytes": n_images * layout.row_bytes,
    }


class MappedRows:
    """Rows of a kept file, mapped: read from the disk when asked for."""

    def __init__(self, path: Path, layout: Layout, n_images: int) -> None:
        # Mode "c" (copy on write) gives torch memory that it may write to, without the file changing.
        shape = (n_images, layout.row_bytes)
        self._map = np.memmap(path, dtype=np.uint8, mode="c", shape=shape)
        self._rows = torch.from_numpy(self._map)
        self._layout = layout
        self._read_bytes = 0

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        """Copy the rows ``(b, *shape)`` of the images at ``index`` ``(b,)``."""
        rows = self._rows.index_select(0, index)
        self._read_bytes += rows.nbytes
        if self._read_bytes > RESIDENT_BYTES:
            self.release()
        return rows.view(self._layout.dtype).view(len(index), *self._layout.shape)

    def release(self) -> None:
        """Release the mapped pages; they are read again when needed."""
        self._read_bytes = 0
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFile:
    """A kept file as it describes itself.

    Attributes:
        path: Where it lies.
        n_bytes: Its size.
        used: When it was last used, seconds since the epoch.
        description: See the head of this module; empty if the file is damaged.
    """

    path: Path
    n_bytes: int
    used: float
    description: dict[str, Any]


def is_whole(path: Path, content: Mapping[str, Any]) -> bool:
    """Check whether a file is there, undamaged, and holds what `content_of` says."""
    description = describe(path)
    if not content.items() <= description.items():
        return False
    left, checksum = description["n_bytes"], 0
    buffer = memoryview(bytearray(min(CHUNK_BYTES, left)))
    try:
        with path.open("rb") as file:
            while left:
                chunk = buffer[: min(CHUNK_BYTES, left)]
                if file.readinto(chunk) != len(chunk):
                    return False
                checksum = zlib.crc32(chunk, checksum)
                left -= len(chunk)
    except OSError:
        return False
    return bool(checksum == description["checksum"])


def describe(path: Path) -> dict[str, Any]:
    """Read a file's description; empty if there is none, or it cannot be what was written."""
    footer = struct.calcsize("<Q") + len(MAGIC)
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - footer))
            end = file.read()
            length = struct.unpack("<Q", end[:8])[0] if end[8:] == MAGIC and len(end) == footer else 0
            if not 0 < length <= size - footer:
                return {}
            start = file.seek(size - footer - length)
            description = json.loads(file.read(length))
    except (OSError, ValueError):
        return {}
    if not isinstance(description, dict) or not isinstance(description.get("checksum"), int):
        return {}
    return description if description.get("n_bytes") == start else {}


def kept_files(folder: Path, suffix: str = SUFFIX) -> Iterator[KeptFile]:
    """Look at the kept files of a folder and its nodes, and at what unfinished writing has left there."""
    for path in (path for each in folders_in(folder) for path in sorted(each.glob("*"))):
        if path.suffix in (suffix, PARTIAL_SUFFIX):
            with contextlib.suppress(OSError):
                stat = path.stat()
                yield KeptFile(
                    path=path, n_bytes=stat.st_size, used=stat.st_mtime, description=describe(path)
                )
