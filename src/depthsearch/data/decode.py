"""From one image file to one square of pixels.

Shapes: ``c`` channels (red, green, blue, or grey alone), ``s`` the side of the square in pixels.
"""

import contextlib
import hashlib
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from depthsearch.errors import DataError
from depthsearch.files import read_regular

_MAX_ELONGATION = 500
"""Longer side over shorter side: beyond it, resizing takes gigabytes to keep next to nothing."""

_MOST_BYTES = 4 * 2**30
"""Of a file: what Pillow takes for no bomb has less, at 16 bytes a pixel."""
_PROGRAMS = ("EPS", "WMF")
"""Formats that Pillow leaves to other programs to draw: Ghostscript runs what a file says."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by the values of the EXIF tag Orientation."""


class UnreadableError(DataError):
    """An image that cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """How an image becomes a square: its shorter side is resized, then the centre is cut out.

    The same steps and rounding as the evaluation transform of timm, so that a model taken away sees
    there what it was trained on.

    Attributes:
        image_size: Side of the square in pixels.
        crop_share: Share of the shorter side that the square keeps, in (0, 1]; timm's ``crop_pct``.
        interpolation: Name of one of Pillow's filters, in lower case.
        channels: 3 for colours, 1 for grey.

    Raises:
        DataError: If a value is out of its range.
    """

    image_size: int
    crop_share: float
    interpolation: str
    channels: int = 3

    def __post_init__(self) -> None:
        """Refuse values that no image can be resized with."""
        if self.image_size < 1:
            raise DataError(f"Image size {self.image_size} is not a size. Give 1 pixel or more.")
        if not 0 < self.crop_share <= 1:
            raise DataError(f"Crop share {self.crop_share} is not a share. Give one in (0, 1].")
        known = [filter_.name.lower() for filter_ in Image.Resampling]
        if self.interpolation not in known:
            raise DataError(f"No interpolation {self.interpolation!r}. Give one of {', '.join(known)}.")
        if self.channels not in (1, 3):
            raise DataError(f"{self.channels} channels: give 3 for colours or 1 for grey.")

    @property
    def shorter_side(self) -> int:
        """Length in pixels that the shorter side is resized to."""
        return math.floor(self.image_size / self.crop_share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """One image as it is stored.

    Attributes:
        pixels: ``(c, s, s)``, uint8; ``(c, h, w)`` of an image that is kept whole.
        digest: Hash of the bytes that the image was read from, or of its pixels.
    """

    pixels: NDArray[np.uint8]
    digest: str


def decode_file(path: Path, geometry: Geometry | None) -> Decoded:
    """Read an image file of any kind that Pillow knows as a square, or whole, in RGB, without a geometry.

    Turned upright as its EXIF tag says, where it has one that can be read; transparent pixels lie on white;
    of an animation and of a file of several pictures (MPO, TIFF) the first; CMYK and the like converted.
    Numbers wider than 8 bits are scaled, not clipped: integers from [0, 65535], floating-point numbers from
    [0, 1] or else [0, 255], and an image that fits none of these from its own least and greatest value.

    A large JPEG is decoded in full. Letting the decoder shrink it to three times its target is
    twice as fast on 12-megapixel photos, but moves pixels by up to 9 of 255 levels (18 at twice the
    target) from what timm makes of the file.

    Raises:
        UnreadableError: If the file cannot be read, is no file but a pipe or device, is damaged, cut short,
            over 500 times as long as wide, or so large that Pillow takes it for a decompression bomb.
    """
    try:
        content = read_regular(path, most_bytes=_MOST_BYTES)
        with Image.open(io.BytesIO(content)) as image:
            if image.format in _PROGRAMS:
                raise ValueError(f"{image.format} is a program that draws, not an image")
            if max(image.size) > _MAX_ELONGATION * min(image.size):
                raise ValueError(f"{image.width} x {image.height} pixels are too long and narrow")
            image.load()
            rgb = _to_rgb(_upright(image))
    except UnidentifiedImageError as error:
        # Pillow's own text names the buffer in memory, which says nothing and differs each time.
        raise _unreadable(path, "it is not in an image format that Pillow knows") from error
    except Exception as error:
        # On damaged bytes Pillow's decoders raise nearly anything, SyntaxError included.
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise _unreadable(path, " ".join(reason.split()) or type(error).__name__) from error
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    return Decoded(pixels=_pixels(rgb, geometry), digest=digest)


def decode_image(image: Image.Image, geometry: Geometry | None) -> Decoded:
    """Make a square of RGB of an image that has been read, or leave it whole; known by its pixels."""
    rgb = _to_rgb(image)
    content = repr(rgb.size).encode() + rgb.tobytes()
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    return Decoded(pixels=_pixels(rgb, geometry), digest=digest)


def _pixels(rgb: Image.Image, geometry: Geometry | None) -> NDArray[np.uint8]:
    if geometry is None:
        return np.ascontiguousarray(np.asarray(rgb).transpose(2, 0, 1))
    return cut_square(rgb, geometry)


def cut_square(image: Image.Image, geometry: Geometry) -> NDArray[np.uint8]:
    """Resize the shorter side of an RGB image and cut out the centre, in grey where that is asked for.

    Returns:
        ``(c, s, s)``.
    """
    if geometry.channels == 1:
        image = image.convert("L")
    shorter, longer = sorted(image.size)
    target = geometry.shorter_side
    width, height = (target if side == shorter else int(target * longer / shorter) for side in image.size)
    resized = image.resize((width, height), Image.Resampling[geometry.interpolation.upper()])
    size = geometry.image_size
    left, top = round((width - size) / 2), round((height - size) / 2)
    square = resized.crop((left, top, left + size, top + size))
    # A copy: what Pillow shows of its own memory may not be written to.
    return np.array(np.atleast_3d(np.asarray(square)).transpose(2, 0, 1), order="C")


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF tag says.

    Pillow's own ``exif_transpose`` writes the tags anew, which fails on damaged ones that nobody needs.
    """
    orientation = None
    with contextlib.suppress(Exception):
        orientation = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if orientation is None else image.transpose(orientation)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Scale one channel ``(h, w)`` of 16 or 32 bits to [0, 255]."""
    wide = values.astype(np.float64)
    low, high = wide.min(), wide.max()
    if not np.isfinite(high - low):
        raise ValueError("it has values that are not finite")
    usual_ranges = (1, 255) if values.dtype.kind == "f" else (65535,)
    full = next((top for top in usual_ranges if low >= 0 and high <= top), None)
    bottom, top = (low, high) if full is None else (0, full)
    return np.round((wide - bottom) * (255 / ((top - bottom) or 1))).astype(np.uint8)


def _unreadable(path: Path, reason: str) -> UnreadableError:
    return UnreadableError(
        f"Cannot read the image {path}: {reason}. Mend or remove it, or leave out every such file "
        "with --skip-unreadable (skip_unreadable=True)."
    )
