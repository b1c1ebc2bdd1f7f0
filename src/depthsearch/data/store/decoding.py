"""Decode the images of a listing in threads, in its order."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

from depthsearch.data.decode import Decoded, Geometry, UnknownRangeError, UnreadableError
from depthsearch.data.listing import Listing
from depthsearch.data.ranges import ValueRange, pool_ranges
from depthsearch.machine import usable_cores

_BATCH = 256


def find_ranges(listing: Listing) -> tuple[ValueRange, ...]:
    """Read the numbers of all images of more than 8 bits in threads, of the others how they begin.

    Args:
        listing: The images.

    Returns:
        The range of each kind of them; empty where there are none.
    """
    executor = ThreadPoolExecutor(max_workers=usable_cores())
    try:
        return pool_ranges(executor.map(listing.range_at, range(len(listing.paths))))
    finally:
        executor.shutdown(cancel_futures=True)


def decoded_in_order(
    listing: Listing,
    geometry: Geometry | None,
    ranges: Sequence[ValueRange],
    *,
    skip_unreadable: bool,
    check: Callable[[Decoded], None] = lambda _: None,
) -> Generator[Decoded | None]:
    """Decode in threads and yield in order.

    Args:
        listing: The images.
        geometry: How each becomes a square; None: whole.
        ranges: Of the set's numbers of more than 8 bits.
        skip_unreadable: Whether to yield None for images that cannot be read, instead of stopping.
        check: Called with each image in its thread; what it raises stops everything.
    """

    def decode(index: int) -> Decoded | None:
        try:
            decoded = listing.decode(index, geometry, ranges)
        except UnknownRangeError:
            raise
        except UnreadableError:
            if not skip_unreadable:
                raise
            return None
        check(decoded)
        return decoded

    executor = ThreadPoolExecutor(max_workers=usable_cores())
    try:
        # A batch at a time, so that one slow image does not let the others pile up in memory.
        for start in range(0, len(listing.paths), _BATCH):
            yield from executor.map(decode, range(start, min(start + _BATCH, len(listing.paths))))
    finally:
        executor.shutdown(cancel_futures=True)


def gaps_remain(
    listing: Listing,
    geometry: Geometry | None,
    ranges: Sequence[ValueRange],
    digests: Sequence[str | None],
    *,
    skip_unreadable: bool,
) -> bool:
    """Return whether the images missing in a store are still unreadable.

    A file can become readable with its size and time unchanged: by its permissions, or by a disk
    that is back.
    """
    for index, digest in enumerate(digests):
        if digest is None:
            try:
                listing.decode(index, geometry, ranges)
            except UnknownRangeError:
                return False
            except UnreadableError:
                if not skip_unreadable:
                    raise
            else:
                return False
    return True
