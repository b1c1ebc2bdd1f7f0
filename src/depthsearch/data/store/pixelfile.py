"""Decoded images in one memory-mapped file, so that no image is decoded twice.

Images that are all to be enlarged are kept at their own size, see `ownsize`. Of others the file is
the pixels of all ``n`` images, ``(n, c, s, s)`` uint8, then one JSON object with the digest of each
image (null where it could not be read: its pixels are zeros) and the ranges that numbers of more than 8
bits are seen in. The object comes last, so a file that was cut short has none. Being one file, it appears
whole or not at all, whoever else is writing it.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

from PIL import Image
from torch import Tensor

from depthsearch.data.decode import Geometry
from depthsearch.data.listing import Listing
from depthsearch.data.ranges import ValueRange
from depthsearch.data.store.decoding import decoded_in_order, find_ranges, gaps_remain
from depthsearch.data.store.mapping import mapped_pixels
from depthsearch.data.store.ownsize import Ranges, SmallImages, open_small
from depthsearch.errors import DataError
from depthsearch.files import remove_abandoned, written_whole

_FORMAT = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Store:
    """The decoded images of a listing.

    Attributes:
        images: ``(n, c, s, s)``, uint8, mapped from the file and private to this process: pages are
            read when touched, and what is written to them reaches neither the file nor others. Or
            small images, which become such squares when they are gathered.
        digests: Hash of the bytes of each image; None where it could not be read.
        ranges: Which of their numbers are black and white, of images of more than 8 bits.
    """

    images: Tensor | SmallImages
    digests: tuple[str | None, ...]
    ranges: tuple[ValueRange, ...] = ()


def open_store(
    listing: Listing,
    geometry: Geometry,
    folder: Path,
    *,
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
    ranges: Ranges = cache(partial(find_ranges, listing))
    key = _key(listing, geometry)
    path = folder / f"{key}.images"
    shape = (len(listing.paths), geometry.channels, geometry.image_size, geometry.image_size)
    n_bytes = math.prod(shape)
    trailer = _read_trailer(path, key=key, n_bytes=n_bytes, n_images=len(listing.paths))
    if trailer is None or not gaps_remain(
        listing, geometry, trailer[1], trailer[0], skip_unreadable=skip_unreadable
    ):
        try:
            small = None
            # Filters but nearest can be told in numbers, and digits are kept whole at any size.
            if geometry.interpolation != "nearest" and not listing.keeps_whole:
                small = open_small(
                    listing,
                    geometry,
                    folder=folder,
                    ranges=ranges,
                    skip_unreadable=skip_unreadable,
                    progress=progress,
                )
            if small is not None:
                return Store(images=small[0], digests=tuple(small[1]), ranges=tuple(small[2]))
            trailer = _write(path, key, listing, geometry, ranges(), skip_unreadable, progress)
        except OSError as error:
            raise DataError(
                f"Cannot write {n_bytes / 2**20:.0f} MiB of decoded images to {folder}: "
                f"{error.strerror}. Make room there or give another cache folder."
            ) from error
    return Store(images=mapped_pixels(path, shape), digests=tuple(trailer[0]), ranges=tuple(trailer[1]))


def _key(listing: Listing, geometry: Geometry) -> str:
    """Name what determines the store's content, without reading the images."""
    how = asdict(geometry)
    if geometry.channels == 3:
        # As it was before there was another number: what is stored is found again.
        del how["channels"]
    parts = json.dumps([_FORMAT, listing.stamp, how])
    return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()


def _read_trailer(
    path: Path, *, key: str, n_bytes: int, n_images: int
) -> tuple[Sequence[str | None], Sequence[ValueRange]] | None:
    """Read what stands after the pixels, digests and ranges; None if the store is missing or damaged."""
    try:
        with path.open("rb") as file:
            file.seek(n_bytes)
            trailer = json.load(file)
    except (OSError, ValueError):
        return None
    match trailer:
        case {"key": str(found), "digests": list(digests), "ranges": list(ranges)}:
            whole = found == key and len(digests) == n_images
            return (digests, [ValueRange(**each) for each in ranges]) if whole else None
    return None


def _write(
    path: Path,
    key: str,
    listing: Listing,
    geometry: Geometry,
    ranges: Sequence[ValueRange],
    skip_unreadable: bool,
    progress: Callable[[int, int], None] | None,
) -> tuple[Sequence[str | None], Sequence[ValueRange]]:
    """Decode all images into a file of its own, then give it the store's name."""
    remove_abandoned(path.parent)
    unread = bytes(geometry.channels * geometry.image_size**2)
    digests: list[str | None] = []
    with (
        written_whole(path, durable=True) as file,
        closing(decoded_in_order(listing, geometry, ranges, skip_unreadable=skip_unreadable)) as images,
    ):
        for decoded in images:
            file.write(unread if decoded is None else decoded.pixels.tobytes())
            digests.append(None if decoded is None else decoded.digest)
            if progress is not None:
                progress(len(digests), len(listing.paths))
        about = {"key": key, "digests": digests, "ranges": list(map(asdict, ranges))}
        file.write(json.dumps(about).encode())
    return digests, ranges
