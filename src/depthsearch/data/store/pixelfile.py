"""Decoded images in one memory-mapped file, so that no image is decoded twice.

Images that are all to be enlarged are kept at their own size, see `ownsize`. Of others the file, see
`imagefile`, holds the pixels of all ``n`` images as squares, ``(n, c, s, s)``; zeros where an image could not
be read.
"""

import math
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from PIL import Image

from depthsearch.data.decode import Geometry
from depthsearch.data.listing import Listing
from depthsearch.data.store.imagefile import ImageFile, find_ranges
from depthsearch.data.store.mapping import mapped_pixels
from depthsearch.data.store.ownsize import Ranges, Store, open_small
from depthsearch.errors import DataError


def open_store(
    listing: Listing,
    geometry: Geometry,
    folder: Path,
    progress: Callable[[int, int], None] | None,
) -> Store:
    """Map the decoded images of a listing, decoding them where that has not been done yet.

    Args:
        listing: The images.
        geometry: How each becomes a square.
        folder: Where the stores lie.
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
    file = ImageFile(listing=listing, geometry=geometry, folder=folder)
    shape = (len(listing.paths), geometry.channels, geometry.image_size, geometry.image_size)
    stored = file.read()
    if stored is None:
        try:
            # Filters but nearest can be told in numbers, and digits are kept whole at any size.
            if geometry.interpolation != "nearest" and not listing.keeps_whole:
                small = open_small(file, geometry, ranges, progress)
                if small is not None:
                    return small
            stored = file.write(ranges(), progress)
        except OSError as error:
            raise DataError(
                f"Cannot write {math.prod(shape) / 2**20:.0f} MiB of decoded images to {folder}: "
                f"{error.strerror}. Make room there or give another cache folder."
            ) from error
    return Store(images=mapped_pixels(file.path, shape), digests=stored.digests, ranges=stored.ranges)
