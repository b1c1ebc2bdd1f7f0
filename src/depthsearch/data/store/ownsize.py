"""Small images kept at their own size in one memory-mapped file, and enlarged when they are gathered.

What is enlarged is not stored: 32 pixels made 224 would take 49 times the room, and say no more. So the file,
see `imagefile`, does not depend on the size that images are shown at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from depthsearch.data.decode import Decoded, Geometry, UnknownRangeError, UnreadableError
from depthsearch.data.listing import Listing
from depthsearch.data.ranges import ValueRange
from depthsearch.data.store.enlarge import agrees_with_pillow, enlarged, enlarges
from depthsearch.data.store.imagefile import ImageFile
from depthsearch.data.store.mapping import mapped_pixels

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
    ranges: tuple[ValueRange, ...]


class _NotSmallError(Exception):
    """An image that is not enlarged: all of them are stored as squares."""


def open_small(
    squares: ImageFile, geometry: Geometry, ranges: Ranges, progress: Callable[[int, int], None] | None
) -> Store | None:
    """Map the images of a listing at their own size, if all of them are to be enlarged.

    Args:
        squares: The file of the same images as squares.
        geometry: Of the squares.
        ranges: Of the set's numbers of more than 8 bits; called where nothing is stored.
        progress: Called with (done, total) after each image decoded.

    Returns:
        The images; None if some are to be stored as squares.

    Raises:
        UnreadableError: If an image cannot be read and none is to be skipped.
        OSError: If the store cannot be written.
    """
    file = replace(squares, geometry=None)
    check = partial(_check_small, geometry)
    stored = file.read()
    if stored is None:
        try:
            seen_in = ranges()
            _check_first(file.listing, seen_in, check)
            stored = file.write(seen_in, progress, check)
        except _NotSmallError:
            return None
    shown = sorted({size for size in stored.sizes if size[0]})
    if not shown or not all(enlarges(geometry, *size) for size in shown):
        return None
    if not agrees_with_pillow(geometry, *shown[0]):
        return None
    sizes = torch.tensor(stored.sizes, dtype=torch.int64)
    lengths = 3 * sizes.prod(1)
    pixels = mapped_pixels(file.path, (int(lengths.sum()),))
    images = SmallImages(pixels=pixels, sizes=sizes, starts=lengths.cumsum(0) - lengths, geometry=geometry)
    return Store(images=images, digests=stored.digests, ranges=stored.ranges)


def _check_small(geometry: Geometry, decoded: Decoded) -> None:
    if not enlarges(geometry, *decoded.pixels.shape[1:]):
        raise _NotSmallError


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
