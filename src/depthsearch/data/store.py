"""Decoded images in one memory-mapped file, so that no image is decoded twice.

The file is the pixels of all ``n`` images, ``(n, c, s, s)`` uint8, then one JSON object with the
digest of each image (null where it could not be read: its pixels are zeros). The object comes last,
so a file that was cut short has none. Being one file, it appears whole or not at all, whoever else
is writing it.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from depthsearch.data.decode import Geometry, UnreadableError
from depthsearch.data.listing import Listing
from depthsearch.errors import DataError
from depthsearch.files import remove_abandoned, written_whole

_FORMAT = 1
_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Store:
    """The decoded images of a listing.

    Attributes:
        images: ``(n, c, s, s)``, uint8, mapped from the file and private to this process: pages are
            read when touched, and what is written to them reaches neither the file nor others.
        digests: Hash of the bytes of each image; None where it could not be read.
    """

    images: Tensor
    digests: tuple[str | None, ...]


def open_store(
    listing: Listing,
    geometry: Geometry,
    *,
    folder: Path,
    skip_unreadable: bool,
    progress: Callable[[int, int], None] | None,
) -> Store:
    """Map the decoded images of a listing, decoding them where that has not been done yet.

    Args:
        listing: The images.
        geometry: How each becomes a square.
        folder: Where the stores lie.
        skip_unreadable: Whether to leave out images that cannot be read.
        progress: Called with (done, total) after each image decoded; not called for a store that is
            already there.

    Raises:
        UnreadableError: If an image cannot be read and none is to be skipped; the first by path.
        DataError: If the store cannot be written.
    """
    # Pillow loads its rarer formats at the first file that needs one. Threads that meet there at
    # once can find the list half filled and take a good file for an unknown one.
    Image.init()
    key = _key(listing, geometry)
    path = folder / f"{key}.images"
    shape = (len(listing.paths), geometry.channels, geometry.image_size, geometry.image_size)
    n_bytes = math.prod(shape)
    digests = _read_digests(path, key=key, n_bytes=n_bytes, n_images=len(listing.paths))
    if digests is None or not _gaps_remain(listing, geometry, digests, skip_unreadable):
        try:
            digests = _write(path, key, listing, geometry, skip_unreadable, progress)
        except OSError as error:
            raise DataError(
                f"Cannot write {n_bytes / 2**20:.0f} MiB of decoded images to {folder}: "
                f"{error.strerror}. Make room there or give another cache folder."
            ) from error
    # Mode "c" (copy on write) gives torch memory that it may write to, without the store changing.
    images = torch.from_numpy(np.memmap(path, dtype=np.uint8, mode="c", shape=shape))
    return Store(images=images, digests=tuple(digests))


def _key(listing: Listing, geometry: Geometry) -> str:
    """Name what determines the store's content, without reading the images."""
    how = asdict(geometry)
    if geometry.channels == 3:
        # As it was before there was another number: what is stored is found again.
        del how["channels"]
    parts = json.dumps([_FORMAT, listing.stamp, how])
    return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()


def _read_digests(path: Path, *, key: str, n_bytes: int, n_images: int) -> list[str | None] | None:
    """Read what stands after the pixels; None if the store is missing or damaged."""
    try:
        with path.open("rb") as file:
            file.seek(n_bytes)
            trailer = json.load(file)
    except (OSError, ValueError):
        return None
    match trailer:
        case {"key": str(found), "digests": list(digests)}:
            return digests if found == key and len(digests) == n_images else None
    return None


def _gaps_remain(
    listing: Listing, geometry: Geometry, digests: list[str | None], skip_unreadable: bool
) -> bool:
    """Whether the images missing in a store are still unreadable.

    A file can become readable with its size and time unchanged: by its permissions, or by a disk
    that is back.
    """
    for index, digest in enumerate(digests):
        if digest is None:
            try:
                listing.decode(index, geometry)
            except UnreadableError:
                if not skip_unreadable:
                    raise
            else:
                return False
    return True


def _write(
    path: Path,
    key: str,
    listing: Listing,
    geometry: Geometry,
    skip_unreadable: bool,
    progress: Callable[[int, int], None] | None,
) -> list[str | None]:
    """Decode all images into a file of its own, then give it the store's name."""
    remove_abandoned(path.parent)
    digests: list[str | None] = []
    with (
        written_whole(path, durable=True) as file,
        closing(_decode_into(file, listing, geometry, skip_unreadable)) as decoded,
    ):
        for digest in decoded:
            digests.append(digest)
            if progress is not None:
                progress(len(digests), len(listing.paths))
        file.write(json.dumps({"key": key, "digests": digests}).encode())
    return digests


def _decode_into(
    file: BinaryIO, listing: Listing, geometry: Geometry, skip_unreadable: bool
) -> Generator[str | None]:
    """Decode in threads, write in order, yield the digests."""
    unread = bytes(geometry.channels * geometry.image_size**2)

    def decode(index: int) -> tuple[bytes, str | None]:
        try:
            decoded = listing.decode(index, geometry)
        except UnreadableError:
            if not skip_unreadable:
                raise
            return unread, None
        return decoded.pixels.tobytes(), decoded.digest

    executor = ThreadPoolExecutor(max_workers=os.cpu_count())
    try:
        # A batch at a time, so that one slow image does not let the others pile up in memory.
        for start in range(0, len(listing.paths), _BATCH):
            batch = range(start, min(start + _BATCH, len(listing.paths)))
            for pixels, digest in executor.map(decode, batch):
                file.write(pixels)
                yield digest
    finally:
        executor.shutdown(cancel_futures=True)
