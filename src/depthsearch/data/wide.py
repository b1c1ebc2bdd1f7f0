"""The numbers of images that have more than 8 bits a channel, as they stand in the file.

Pillow keeps them in one channel, and cuts colours off after their upper 8 bits.
"""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from depthsearch.data.ranges import INVERTED, ValueRange

_SAMPLE_FORMAT, _PHOTOMETRIC = 339, 262
_UNSIGNED, _SIGNED, _WHITE_IS_ZERO = 1, 2, 0
# By how Pillow reads colours of 16 bits, their upper halves, how it reads the lower ones.
_LOWER = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}
_COLOURS = ("RGB", "RGBA", "RGBX")
# Of grey and opacity, Pillow's name for their upper halves.
_GREY_AND_OPACITY = "LA;16B"


N_FIRST_BYTES = 26
_PNG = b"\x89PNG\r\n\x1a\n"
# How files of formats begin that never have more.
_OF_8_BITS = (b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM")


def has_8_bits(begin: bytes) -> bool:
    """Return whether a file certainly has at most 8 bits, by how it begins: quicker than to open it.

    Args:
        begin: Its first 26 bytes.
    """
    if begin.startswith(_PNG) and len(begin) == N_FIRST_BYTES:
        return begin[24] <= 8  # the depth, behind width and height
    return begin.startswith(_OF_8_BITS)


def wide_numbers(image: Image.Image) -> str:
    """Return what kind of numbers an opened image has, see `ranges`; empty where 8 bits hold them."""
    raw_mode = _raw_mode(image)
    colours, _, depth = raw_mode.partition(";")
    numbers = ""
    if image.mode.startswith("I;16"):
        numbers = "12-bit" if raw_mode == "I;12" else "16-bit"
    elif image.mode in ("I", "F"):
        numbers = {"I": "integer", "F": "float"}[image.mode]
    elif image.mode == "L" and _tag(image, _SAMPLE_FORMAT) == _SIGNED:
        numbers = "8-bit signed"
    elif raw_mode == _GREY_AND_OPACITY or (colours in _COLOURS and depth in _LOWER):
        return "16-bit colour"
    inverted = numbers and image.mode != "L" and _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO
    return f"{numbers}{INVERTED}" if inverted else numbers


def wide_values(image: Image.Image, content: bytes) -> NDArray[np.float64]:
    """Return the numbers of such an image.

    Args:
        image: Opened, not loaded.
        content: Its file.

    Returns:
        ``(h, w)`` of one channel, ``(h, w, 3)`` of colours, ``(h, w, 4)`` with their opacity in [0, 65535].
    """
    if wide_numbers(image) != "16-bit colour":
        image.load()
        return _with_opacity(image, _one_channel(image))
    if _raw_mode(image) == _GREY_AND_OPACITY:
        # All four bytes of a pixel, one after the other.
        image.tile = [tile._replace(args="RGBA") for tile in image.tile]  # type: ignore[attr-defined]
        read = np.asarray(image, dtype=np.float64)
        return (read[..., ::2] * 256 + read[..., 1::2])[..., [0, 0, 0, 1]]
    with Image.open(io.BytesIO(content)) as lower:
        lower.tile = [tile._replace(args=_lower_half(tile.args)) for tile in lower.tile]
        lower.load()
        image.load()
        upper = np.asarray(image).astype(np.float64)
        return _with_opacity(image, upper * 256 + np.asarray(lower, dtype=np.float64))


def _with_opacity(image: Image.Image, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Add the opacity of a PNG in which one grey or colour is transparent."""
    clear = image.info.get("transparency")
    if image.format != "PNG" or not isinstance(clear, int | tuple):
        return values
    colours = values[..., None] if values.ndim == 2 else values
    if colours.shape[2] not in (1, 3) or (isinstance(clear, tuple) and len(clear) != colours.shape[2]):
        return values
    opacity = np.where((colours == np.array(clear)).all(2), 0.0, 65535.0)
    return np.dstack([np.broadcast_to(colours, (*colours.shape[:2], 3)), opacity])


def seen_as_8_bits(values: NDArray[np.float64], seen_in: ValueRange) -> Image.Image:
    """Return the picture that numbers make, of 8 bits."""
    pixels = seen_in.as_8_bits(values)
    if values.ndim == 3 and values.shape[2] == 4:
        pixels[..., 3] = np.round(values[..., 3] / 257)
    return Image.fromarray(pixels)


def _one_channel(image: Image.Image) -> NDArray[np.float64]:
    values = np.asarray(image)
    if image.mode == "I" and image.format == "TIFF" and _tag(image, _SAMPLE_FORMAT) in (None, _UNSIGNED):
        # Pillow takes their upper half for negative.
        values = values.view(np.uint32)
    if image.mode == "L":
        values = values.view(np.int8)
    return values.astype(np.float64)


def _tag(image: Image.Image, tag: int) -> object:
    """Return what a TIFF says of itself, of several equal values the first; None where it says nothing."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return None
    value = image.tag_v2.get(tag)
    return value[0] if isinstance(value, tuple) and value else value


def _raw_mode(image: Image.Image) -> str:
    """Return how Pillow is going to read an opened image; empty where it does not say, or has read it."""
    tiles = getattr(image, "tile", None)
    args = tiles[0].args if tiles else ""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _lower_half(args: Any) -> Any:
    """Have Pillow read the lower halves of 16-bit colours."""
    if isinstance(args, tuple):
        return (_lower_half(args[0]), *args[1:])
    colours, _, depth = str(args).partition(";")
    return f"{colours};{_LOWER[depth]}"
