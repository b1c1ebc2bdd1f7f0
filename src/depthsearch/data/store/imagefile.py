"""One file of decoded images: written whole or not at all, and read again without decoding.

First the pixels of each image, ``(c, h, w)`` uint8, one behind the other; then one JSON object with the key
of what they are, and the digest and size of each image; then the place where that begins, 8 bytes. What
describes the pixels comes last, so a file that was cut short is none.
"""

from __future__ import annotations

import errno
import json
import struct
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from depthsearch.data.decode import Decoded, Geometry, UnknownRangeError, UnreadableError
from depthsearch.data.listing import Listing
from depthsearch.data.ranges import ValueRange, pool_ranges
from depthsearch.files import remove_abandoned, written_whole
from depthsearch.hashing import digest_of
from depthsearch.machine import usable_cores

FORMAT = 4
_END = struct.Struct("<Q")
_BATCH = 256


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


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFile:
    """The file of a listing's images, which may not be there yet.

    Attributes:
        listing: The images.
        geometry: How each becomes a square, black where it cannot be read; None: whole.
        folder: Where the file lies.
    """

    listing: Listing
    geometry: Geometry | None
    folder: Path

    @cached_property
    def key(self) -> str:
        """Name what determines the contents, without reading the images."""
        how = "own size" if self.geometry is None else asdict(self.geometry)
        return digest_of(json.dumps([FORMAT, self.listing.stamp, how]))

    @property
    def path(self) -> Path:
        """Where the file is, or would be."""
        return self.folder / f"{self.key}.images"

    def read(self) -> Contents | None:
        """Read the file; None if it is missing or damaged, or lacks an image that can be read by now.

        Raises:
            UnreadableError: If an image that it lacks cannot be read and none is to be skipped.
        """
        contents = self._read()
        return contents if contents is not None and self._gaps_remain(contents) else None

    def write(
        self,
        ranges: Sequence[ValueRange],
        progress: Callable[[int, int], None] | None,
        check: Callable[[Decoded], None] = lambda _: None,
    ) -> Contents:
        """Decode all images into a file under another name, then give it its own.

        Args:
            ranges: Of the set's numbers of more than 8 bits.
            progress: Called with (done, total) after each image.
            check: Called with each image in its thread; what it raises stops everything.

        Raises:
            UnreadableError: If an image cannot be read and none is to be skipped; the first by path.
            OSError: If the file cannot be written.
        """
        remove_abandoned(self.folder)
        side = 0 if self.geometry is None else self.geometry.image_size
        unread = bytes(0 if self.geometry is None else self.geometry.channels * side**2)
        digests: list[str | None] = []
        sizes: list[tuple[int, ...]] = []
        with written_whole(self.path, durable=True) as file, closing(self._decoded(ranges, check)) as images:
            for decoded in images:
                digests.append(None if decoded is None else decoded.digest)
                sizes.append((side, side) if decoded is None else decoded.pixels.shape[1:])
                file.write(unread if decoded is None else decoded.pixels.tobytes())
                if progress is not None:
                    progress(len(digests), len(self.listing.paths))
            begin = file.tell()
            about = {"key": self.key, "digests": digests, "sizes": sizes, "ranges": list(map(asdict, ranges))}
            file.write(json.dumps(about).encode() + _END.pack(begin))
        contents = self._read()
        if contents is None:
            raise OSError(errno.EIO, "what was written cannot be read again", str(self.path))
        return contents

    def _read(self) -> Contents | None:
        """Read the file; None if it is missing, damaged, or of something else than the key names."""
        try:
            with self.path.open("rb") as file:
                end = file.seek(-_END.size, 2)
                (begin,) = _END.unpack(file.read())
                file.seek(min(begin, end))
                about = json.loads(file.read(end - file.tell()))
        except (OSError, ValueError, OverflowError):
            return None
        n_images = len(self.listing.paths)
        channels = 3 if self.geometry is None else self.geometry.channels
        match about:
            case {"key": self.key, "digests": list(digests), "sizes": list(sizes), "ranges": list(ranges)}:
                n_bytes = sum(channels * height * width for height, width in sizes)
                if len(digests) == len(sizes) == n_images and n_bytes == begin:
                    return Contents(
                        digests=tuple(digests),
                        sizes=tuple((height, width) for height, width in sizes),
                        ranges=tuple(ValueRange(**each) for each in ranges),
                    )
        return None

    def _gaps_remain(self, contents: Contents) -> bool:
        """Return whether the images that the file lacks are still unreadable.

        A file can become readable with its size and time unchanged: by its permissions, or by a disk
        that is back.
        """
        for index, digest in enumerate(contents.digests):
            if digest is None:
                try:
                    self.listing.decode(index, self.geometry, contents.ranges)
                except UnknownRangeError:
                    return False
                except UnreadableError:
                    if not self.listing.skip_unreadable:
                        raise
                else:
                    return False
        return True

    def _decoded(
        self, ranges: Sequence[ValueRange], check: Callable[[Decoded], None]
    ) -> Generator[Decoded | None]:
        """Decode in threads and yield in order; None for an image that is left out."""

        def decode(index: int) -> Decoded | None:
            try:
                decoded = self.listing.decode(index, self.geometry, ranges)
            except UnknownRangeError:
                raise
            except UnreadableError:
                if not self.listing.skip_unreadable:
                    raise
                return None
            check(decoded)
            return decoded

        n_images = len(self.listing.paths)
        executor = ThreadPoolExecutor(max_workers=usable_cores())
        try:
            # A batch at a time, so that one slow image does not let the others pile up in memory.
            for start in range(0, n_images, _BATCH):
                yield from executor.map(decode, range(start, min(start + _BATCH, n_images)))
        finally:
            executor.shutdown(cancel_futures=True)


def find_ranges(listing: Listing) -> tuple[ValueRange, ...]:
    """Read in threads the range of each kind of images of more than 8 bits; of others how they begin."""
    executor = ThreadPoolExecutor(max_workers=usable_cores())
    try:
        return pool_ranges(executor.map(listing.range_at, range(len(listing.paths))))
    finally:
        executor.shutdown(cancel_futures=True)
