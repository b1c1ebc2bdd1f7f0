"""Decoded images in one memory-mapped file, so that no image is decoded twice.

Images that are all to be enlarged are kept at their own size, see `ownsize`. Of others the file, see
`imagefile`, holds the pixels of all ``n`` images as squares, ``(n, c, s, s)``; zeros where an image could not
be read.
"""

import errno
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

from PIL import Image
from torch import Tensor

from depthsearch.data.decode import Geometry
from depthsearch.data.listing import Listing
from depthsearch.data.ranges import ValueRange
from depthsearch.data.store.decoding import find_ranges, gaps_remain
from depthsearch.data.store.imagefile import FORMAT, read_contents, write_images
from depthsearch.data.store.mapping import mapped_pixels
from depthsearch.data.store.ownsize import Ranges, SmallImages, open_small
from depthsearch.errors import DataError


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
    stored = read_contents(path, key, n_images=len(listing.paths), channels=geometry.channels)
    if stored is None or not gaps_remain(
        listing, geometry, stored.ranges, stored.digests, skip_unreadable=skip_unreadable
    ):
        try:
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
                    return Store(images=small[0], digests=small[1].digests, ranges=small[1].ranges)
            write_images(
                path, key, listing, geometry, ranges(), skip_unreadable=skip_unreadable, progress=progress
            )
            stored = read_contents(path, key, n_images=len(listing.paths), channels=geometry.channels)
            if stored is None:
                raise OSError(errno.EIO, "what was written cannot be read again", str(path))
        except OSError as error:
            raise DataError(
                f"Cannot write {math.prod(shape) / 2**20:.0f} MiB of decoded images to {folder}: "
                f"{error.strerror}. Make room there or give another cache folder."
            ) from error
    return Store(images=mapped_pixels(path, shape), digests=stored.digests, ranges=stored.ranges)


def _key(listing: Listing, geometry: Geometry) -> str:
    """Name what determines the store's content, without reading the images."""
    how = asdict(geometry)
    parts = json.dumps([FORMAT, listing.stamp, how])
    return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()
