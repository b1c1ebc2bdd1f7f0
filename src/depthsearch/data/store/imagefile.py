"""One file of decoded images: written whole or not at all, and read again without decoding.

First the pixels of each image, ``(c, h, w)`` uint8, one behind the other; then one JSON object with the key
of what they are, and the digest and size of each image; then the place where that begins, 8 bytes. What
describes the pixels comes last, so a file that was cut short is none.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from depthsearch.data.decode import Decoded, Geometry
from depthsearch.data.listing import Listing
from depthsearch.data.ranges import ValueRange
from depthsearch.data.store.decoding import decoded_in_order
from depthsearch.files import remove_abandoned, written_whole

__all__ = ["FORMAT", "Contents", "read_contents", "write_images"]

FORMAT = 4
_END = struct.Struct("<Q")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The contents of a file, in the order of its images.

    Attributes:
        digests: Hash of the bytes of each image; None where it could not be read.
        sizes: Height and width of each as stored.
        ranges: Which numbers are black and white, of images of more than 8 bits.
    """

    digests: tuple[str | None, ...]
    sizes: tuple[tuple[int, int], ...]
    ranges: tuple[ValueRange, ...]


def read_contents(path: Path, key: str, *, n_images: int, channels: int = 3) -> Contents | None:
    """Read what a file holds; None if it is missing, damaged, or of something else than the key names."""
    try:
        with path.open("rb") as file:
            end = file.seek(-_END.size, 2)
            (begin,) = _END.unpack(file.read())
            file.seek(min(begin, end))
            about = json.loads(file.read(end - file.tell()))
    except (OSError, ValueError, OverflowError):
        return None
    match about:
        case {"key": str(name), "digests": list(digests), "sizes": list(sizes), "ranges": list(ranges)}:
            n_bytes = sum(channels * height * width for height, width in sizes)
            if name == key and len(digests) == len(sizes) == n_images and n_bytes == begin:
                return Contents(
                    digests=tuple(digests),
                    sizes=tuple((height, width) for height, width in sizes),
                    ranges=tuple(ValueRange(**each) for each in ranges),
                )
    return None


def write_images(
    path: Path,
    key: str,
    listing: Listing,
    geometry: Geometry | None,
    ranges: Sequence[ValueRange],
    *,
    skip_unreadable: bool,
    progress: Callable[[int, int], None] | None,
    check: Callable[[Decoded], None] = lambda _: None,
) -> None:
    """Decode all images into a file under another name, then give it its own.

    Args:
        path: The file.
        key: Names what determines its contents.
        listing: The images.
        geometry: How each becomes a square; one that cannot be read is black then. None: whole.
        ranges: Of the set's numbers of more than 8 bits.
        skip_unreadable: Whether to leave out images that cannot be read.
        progress: Called with (done, total) after each image.
        check: Called with each image in its thread; what it raises stops everything.

    Raises:
        OSError: If it cannot be written.
    """
    remove_abandoned(path.parent)
    side = 0 if geometry is None else geometry.image_size
    unread = bytes(0 if geometry is None else geometry.channels * side**2)
    digests: list[str | None] = []
    sizes: list[tuple[int, ...]] = []
    images = decoded_in_order(listing, geometry, ranges, skip_unreadable=skip_unreadable, check=check)
    with written_whole(path, durable=True) as file, closing(images):
        for decoded in images:
            digests.append(None if decoded is None else decoded.digest)
            sizes.append((side, side) if decoded is None else decoded.pixels.shape[1:])
            file.write(unread if decoded is None else decoded.pixels.tobytes())
            if progress is not None:
                progress(len(digests), len(listing.paths))
        begin = file.tell()
        about = {"key": key, "digests": digests, "sizes": sizes, "ranges": list(map(asdict, ranges))}
        file.write(json.dumps(about).encode() + _END.pack(begin))
