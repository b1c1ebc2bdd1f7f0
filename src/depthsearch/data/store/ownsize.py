"""Small images kept at their own size in one memory-mapped file, and enlarged when they are gathered.

What is enlarged is not stored: 32 pixels made 224 would take 49 times the room, and say no more. The file is
the pixels of each image, ``(c, h, w)`` uint8, one behind the other; then one JSON object with their digests
and sizes; then the place where that begins, 8 bytes. It does not depend on the size that images are shown at.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from depthsearch.data.decode import Decoded, Geometry, UnknownRangeError, UnreadableError
from depthsearch.data.listing import Listing
from depthsearch.data.ranges import ValueRange
from depthsearch.data.store.decoding import decoded_in_order, gaps_remain
from depthsearch.data.store.enlarge import agrees_with_pillow, enlarged, enlarges
from depthsearch.data.store.mapping import mapped_pixels
from depthsearch.files import remove_abandoned, written_whole

_FORMAT = 3
_END = struct.Struct("<Q")
Ranges = Callable[[], Sequence[ValueRange]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SmallImages:
    """The small images of a listing, ``n`` of them.

    Attributes:
        pixels: All of them, uint8, mapped from the file and private to this process.
        sizes: ``(n, 2)``, int64, height and width of each; 0 for one that could not be read.
        starts: ``(n,)``, int64, where each begins.
        geometry: Of the squares that they are enlarged to.
    """

    pixels: Tensor
    sizes: Tensor
    starts: Tensor
    geometry: Geometry

    def __len__(self) -> int:
        """Count the images."""
        return len(self.sizes)

    def whole(self, row: int) -> Tensor:
        """Return one image as it is stored, ``(3, h, w)``."""
        height, width = self.sizes[row].tolist()
        start = int(self.starts[row])
        return self.pixels[start : start + 3 * height * width].view(3, height, width)

    def squares(self, rows: Tensor, move: Callable[[Tensor], Tensor]) -> Tensor:
        """Copy some images and enlarge them: the same pixels as if Pillow had done it before.

        Args:
            rows: ``(b,)``, int64, in [0, n).
            move: Brings a tensor to the device to enlarge on.

        Returns:
            ``(b, 3, s, s)``, uint8, on that device.
        """
        kinds, kind_of = self.sizes[rows].unique(dim=0, return_inverse=True)
        parts = [
            self._of_one_size(rows[kind_of == place], tuple(kind), move)
            for place, kind in enumerate(kinds.tolist())
        ]
        if len(parts) == 1:
            return parts[0]
        order = torch.cat([(kind_of == place).nonzero().flatten() for place in range(len(kinds))])
        return torch.cat(parts)[order.argsort().to(parts[0].device)]

    def _of_one_size(self, rows: Tensor, size: tuple[int, int], move: Callable[[Tensor], Tensor]) -> Tensor:
        height, width = size
        n_values = 3 * height * width
        starts = self.starts[rows].tolist()
        whole = torch.stack([self.pixels[start : start + n_values] for start in starts])
        stored = whole.view(-1, 3, height, width)
        moved = move(stored)
        if moved.device.type == "mps":  # has no float64
            return move(enlarged(stored, self.geometry))
        return enlarged(moved, self.geometry)


class _NotSmallError(Exception):
    """An image that is not enlarged: all of them are stored as squares."""


def open_small(
    listing: Listing,
    geometry: Geometry,
    *,
    folder: Path,
    ranges: Ranges,
    skip_unreadable: bool,
    progress: Callable[[int, int], None] | None,
) -> tuple[SmallImages, Sequence[str | None], Sequence[ValueRange]] | None:
    """Map the images of a listing at their own size, if all of them are to be enlarged.

    Args:
        listing: The images.
        geometry: Of the squares.
        folder: Where the stores lie.
        ranges: Of the set's numbers of more than 8 bits; called where nothing is stored.
        skip_unreadable: Whether to leave out images that cannot be read.
        progress: Called with (done, total) after each image decoded.

    Returns:
        The images, the digest of each and the ranges that they are seen in; None if some are to be stored
        as squares.

    Raises:
        UnreadableError: If an image cannot be read and none is to be skipped.
        OSError: If the store cannot be written.
    """
    content = json.dumps(["own size", _FORMAT, listing.stamp])
    key = hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
    path = folder / f"{key}.images"
    stored = _read(path, key, len(listing.paths))
    if stored is None or not gaps_remain(
        listing, None, stored[2], stored[1], skip_unreadable=skip_unreadable
    ):
        try:
            _write(path, key, listing, geometry, ranges, skip_unreadable, progress)
        except _NotSmallError:
            return None
        stored = _read(path, key, len(listing.paths))
    if stored is None:
        return None
    sizes, digests, seen_in = stored
    shown = [tuple(size) for size in sizes.unique(dim=0).tolist() if size[0]]
    if not shown or not all(enlarges(geometry, *size) for size in shown):
        return None
    if not agrees_with_pillow(geometry, *shown[0]):
        return None
    lengths = 3 * sizes.prod(1)
    pixels = mapped_pixels(path, (int(lengths.sum()),))
    starts = lengths.cumsum(0) - lengths
    images = SmallImages(pixels=pixels, sizes=sizes, starts=starts, geometry=geometry)
    return images, digests, seen_in


def _read(
    path: Path, key: str, n_images: int
) -> tuple[Tensor, list[str | None], tuple[ValueRange, ...]] | None:
    """Read sizes, digests and ranges; None if the store is missing or damaged."""
    try:
        with path.open("rb") as file:
            file.seek(-_END.size, 2)
            end = file.tell()
            (begin,) = _END.unpack(file.read())
            file.seek(min(begin, end))
            about = json.loads(file.read(end - file.tell()))
    except (OSError, ValueError, OverflowError):
        return None
    match about:
        case {"key": str(found), "digests": list(digests), "sizes": list(listed), "ranges": list(ranges)}:
            sizes = torch.tensor(listed, dtype=torch.int64).view(-1, 2)
            whole = int(3 * sizes.prod(1).sum()) == begin
            return (
                (sizes, digests, tuple(ValueRange(**each) for each in ranges))
                if found == key and len(digests) == len(sizes) == n_images and whole
                else None
            )
    return None


def _write(
    path: Path,
    key: str,
    listing: Listing,
    geometry: Geometry,
    ranges: Ranges,
    skip_unreadable: bool,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Decode all images whole into a file of its own, then give it the store's name.

    Raises:
        _NotSmallError: At the first image that is not small.
    """

    def check(decoded: Decoded) -> None:
        if not enlarges(geometry, *decoded.pixels.shape[1:]):
            raise _NotSmallError

    seen_in = ranges()
    _check_first(listing, seen_in, check)
    remove_abandoned(path.parent)
    digests: list[str | None] = []
    sizes: list[tuple[int, ...]] = []
    with (
        written_whole(path, durable=True) as file,
        closing(
            decoded_in_order(listing, None, seen_in, skip_unreadable=skip_unreadable, check=check)
        ) as images,
    ):
        for decoded in images:
            digests.append(None if decoded is None else decoded.digest)
            sizes.append((0, 0) if decoded is None else decoded.pixels.shape[1:])
            if decoded is not None:
                file.write(decoded.pixels.tobytes())
            if progress is not None:
                progress(len(digests), len(listing.paths))
        begin = file.tell()
        about = {"key": key, "digests": digests, "sizes": sizes, "ranges": list(map(asdict, seen_in))}
        file.write(json.dumps(about).encode())
        file.write(_END.pack(begin))


def _check_first(listing: Listing, ranges: Sequence[ValueRange], check: Callable[[Decoded], None]) -> None:
    """Look at one image alone: of large ones, many would be decoded at once before the first is seen."""
    for index in range(len(listing.paths)):
        try:
            return check(listing.decode(index, None, ranges))
        except UnknownRangeError:
            raise
        except UnreadableError:
            continue
    raise _NotSmallError
