"""Which numbers are black and which are white, in images of more than 8 bits a channel.

Nothing in such a file says how its numbers are to be seen: 12-bit photos lie in 16-bit files, and
floating-point numbers have no end. So the set says it: of all images of one kind, whichever their class and
split, the least number becomes 0 and the greatest 255, and what lies between is scaled evenly. A model keeps
these ranges, and new images are seen in them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from depthsearch.errors import DataError
from depthsearch.text import percent

NARROW = 0.25
"""Share of a range below which what an image uses of it is told."""

INVERTED = " white-at-0"
"""Ends the kind of numbers of which the least is white."""
_GREATEST = {"12-bit": 4095, "16-bit": 65535, "16-bit colour": 65535}


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueRange:
    """The numbers of one kind of images: of one image, or of all such images of a set.

    Attributes:
        format: Pillow's name of the files' format.
        numbers: Kind of the numbers: ``8-bit signed``, ``12-bit``, ``16-bit``, ``16-bit colour``, ``integer``
            or ``float``; with `INVERTED` behind it where the least is white.
        low: Least of them.
        high: Greatest of them.
        n_images: How many images these are.
        n_narrow: How many of them use less than a quarter of the range.
    """

    format: str
    numbers: str
    low: float
    high: float
    n_images: int = field(default=1, compare=False)
    n_narrow: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        """Refuse what is no range.

        Raises:
            DataError: If an end is not finite, or both are the wrong way round.
        """
        if not (np.isfinite(self.high - self.low) and self.low <= self.high):
            raise DataError(f"{self.low} to {self.high} is no range of values. Give two finite numbers.")

    def __str__(self) -> str:
        """Name the kind: ``16-bit TIFF``."""
        return f"{self.numbers} {self.format}"

    @property
    def span(self) -> float:
        """Distance between both ends."""
        return self.high - self.low

    def as_8_bits(self, values: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Scale numbers of any shape to [0, 255]; what lies outside becomes the nearer end.

        A set of one single number, of which nobody can say how bright it is, becomes white, and 0 black.
        """
        low, high = self.low, self.high
        if low == high:
            low, high = min(0.0, low), max(0.0, high)
        pixels = np.clip(np.round((values - low) * (255 / ((high - low) or 1))), 0, 255).astype(np.uint8)
        return 255 - pixels if self.numbers.endswith(INVERTED) else pixels

    def fits(self, values: NDArray[np.float64]) -> bool:
        """Return whether at least half of some numbers lie within."""
        return bool(((values >= self.low) & (values <= self.high)).mean() >= 0.5)


def pool_ranges(found: Iterable[ValueRange | None]) -> tuple[ValueRange, ...]:
    """Return the range of each kind of images from those of single ones; None: an image without."""
    kinds: dict[str, list[ValueRange]] = defaultdict(list)
    for one in found:
        if one is not None:
            kinds[str(one)].append(one)
    return tuple(_joined(kinds[kind]) for kind in sorted(kinds))


def _joined(images: Sequence[ValueRange]) -> ValueRange:
    low, high = min(one.low for one in images), max(one.high for one in images)
    narrow = [one for one in images if one.span < NARROW * (high - low)]
    return replace(images[0], low=low, high=high, n_images=len(images), n_narrow=len(narrow))


def range_for(image: ValueRange, ranges: Sequence[ValueRange]) -> ValueRange | None:
    """Return the range that an image is seen in.

    Args:
        image: Its own numbers.
        ranges: Those of a set.

    Returns:
        That of its kind; of images in other formats with such numbers, the widest, where the set has no
        images of its own kind; None where the set has no such numbers at all.
    """
    alike = [one for one in ranges if one.numbers == image.numbers]
    same = [one for one in alike if one.format == image.format]
    return max(same or alike, key=lambda one: one.span, default=None)


def range_notes(ranges: Iterable[ValueRange]) -> Iterator[str]:
    """Write a line for each kind: what the images use of what they could, and which numbers are seen how."""
    for one in ranges:
        images = f"{one.n_images} {one} image{'s' * (one.n_images > 1)}"
        greatest = _GREATEST.get(one.numbers.removesuffix(INVERTED))
        used = ""
        if greatest:
            verb, whose = ("uses", "its") if one.n_images == 1 else ("use", "their")
            used = f" {verb} {percent(one.span / greatest)} of {whose} range"
        black, white = (one.high, one.low) if one.numbers.endswith(INVERTED) else (one.low, one.high)
        yield f"{images}{used}: {black:g} is seen as black, {white:g} as white."
        if one.n_narrow:
            yield (
                f"{one.n_narrow} of these {one.n_images} {one} images use less than {percent(NARROW)} of "
                "that each: little contrast. If stray pixels or files of another scale are the reason, "
                "scale all alike."
            )
