"""Enlarge small images in batches, to the bit as Pillow does.

Pillow resizes each axis with integer weights of 22 bits and rounds to 8 bits after each of both. Here the
same weights stand in matrices of float64, which hold such sums exactly: in any order, batch and device.

Shapes: ``b`` images, ``c`` channels, ``h`` and ``w`` pixels before, ``s`` and ``s`` after.

Source: Pillow, ``src/libImaging/Resample.c``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from depthsearch.data.decode import Geometry, cut_square

_PRECISION = 1 << 22
# Rows of a result made at once: they need few of the image's rows, and the others cost nothing.
_BLOCK = 56
# Images at once: more need more memory and are no faster.
_CHUNK = 16


def enlarges(geometry: Geometry, height: int, width: int) -> bool:
    """Return whether an image is enlarged, and smaller than the square made of it."""
    return min(height, width) < geometry.shorter_side and height * width < geometry.image_size**2


def agrees_with_pillow(geometry: Geometry, height: int, width: int) -> bool:
    """Return whether the installed Pillow enlarges as this module does; others may round otherwise."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels = torch.from_numpy(noise.transpose(2, 0, 1).copy())[None]
    try:
        ours = enlarged(pixels, geometry)[0].numpy()
    except KeyError:
        return False
    return np.array_equal(ours, cut_square(Image.fromarray(noise), geometry))


def enlarged(images: Tensor, geometry: Geometry) -> Tensor:
    """Enlarge images of one size and cut out the centre.

    Args:
        images: ``(b, c, h, w)``, uint8, on a device that knows float64; of colours for a grey square too.
        geometry: Of the squares.

    Returns:
        ``(b, c, s, s)``, uint8, on the same device.
    """
    if geometry.channels == 1:
        images = _grey(images)
    height, width = images.shape[-2:]
    down, across = (
        [(first, last, weights.to(images.device)) for first, last, weights in blocks]
        for blocks in _blocks(height, width, geometry)
    )
    size = geometry.image_size
    result = images.new_empty((*images.shape[:2], size, size))
    for chunk, place in zip(images.split(_CHUNK), result.split(_CHUNK), strict=True):
        exact = chunk.double()
        wide = torch.cat([exact[..., first:last] @ w.T for first, last, w in across], dim=-1)
        # Pillow rounds half up and clips after each axis; becoming uint8 cuts the rest off.
        wide.add_(0.5).floor_().clamp_(0, 255)
        high = torch.cat([w @ wide[..., first:last, :] for first, last, w in down], dim=-2)
        place.copy_(high.add_(0.5).clamp_(0, 255))
    return result


def _grey(images: Tensor) -> Tensor:
    """Weigh red, green and blue as Pillow does, in integers of 16 bits after the point."""
    red, green, blue = images.to(torch.int32).split(1, dim=1)
    grey: Tensor = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
    return grey.to(torch.uint8)


@lru_cache(maxsize=256)
def _blocks(
    height: int, width: int, geometry: Geometry
) -> tuple[list[tuple[int, int, Tensor]], list[tuple[int, int, Tensor]]]:
    """Make the matrices down and across, in blocks of rows with the range of pixels that they need."""
    size = geometry.image_size
    shorter, longer = sorted((height, width))
    target = geometry.shorter_side
    blocks = []
    for side in (height, width):
        length = target if side == shorter else int(target * longer / shorter)
        first = round((length - size) / 2)
        blocks.append(_in_blocks(_weights(side, length, first, size, geometry.interpolation)))
    return blocks[0], blocks[1]


def _in_blocks(weights: Tensor) -> list[tuple[int, int, Tensor]]:
    blocks = []
    for block in weights.split(_BLOCK):
        used = block.abs().sum(0).nonzero().flatten().tolist()
        first, last = used[0], used[-1] + 1
        blocks.append((first, last, block[:, first:last].contiguous()))
    return blocks


def _weights(side: int, length: int, first: int, size: int, interpolation: str) -> Tensor:
    """Compute the weights ``(size, side)`` of pixels ``first`` to ``first + size`` of an axis made longer."""
    weight_at, support = _FILTERS[interpolation]
    scale = side / length
    weights = torch.zeros(size, side, dtype=torch.float64)
    for row in range(size):
        centre = (first + row + 0.5) * scale
        low = max(0, int(centre - support + 0.5))
        high = min(side, int(centre + support + 0.5))
        taps = [weight_at(place - centre + 0.5) for place in range(low, high)]
        total = 0.0
        for tap in taps:  # in Pillow's order
            total += tap
        for place, tap in enumerate(taps, start=low):
            exact = tap / total * _PRECISION if total else tap * _PRECISION
            weights[row, place] = int(exact + math.copysign(0.5, exact)) / _PRECISION
    return weights


def _box(x: float) -> float:
    return 1.0 if -0.5 < x <= 0.5 else 0.0


def _bilinear(x: float) -> float:
    return max(0.0, 1.0 - abs(x))


def _hamming(x: float) -> float:
    x = abs(x)
    if x == 0:
        return 1.0
    if x >= 1:
        return 0.0
    return math.sin(x * math.pi) / (x * math.pi) * (0.54 + 0.46 * math.cos(x * math.pi))


def _bicubic(x: float) -> float:
    x, a = abs(x), -0.5
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def _sinc(x: float) -> float:
    return math.sin(x * math.pi) / (x * math.pi) if x else 1.0


def _lanczos(x: float) -> float:
    return _sinc(x) * _sinc(x / 3) if -3 <= x < 3 else 0.0


# Weight at a distance in pixels, and how far it reaches. Nearest is made in another way.
_FILTERS: dict[str, tuple[Callable[[float], float], float]] = {
    "box": (_box, 0.5),
    "bilinear": (_bilinear, 1.0),
    "hamming": (_hamming, 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}
