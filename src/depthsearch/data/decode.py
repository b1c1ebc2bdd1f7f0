"""From one image file to one square of pixels.

Shapes: ``c`` channels (red, green, blue, or grey alone), ``s`` the side of the square in pixels.
"""

import contextlib
import io
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from depthsearch.data.ranges import ValueRange, range_for
from depthsearch.data.wide import N_FIRST_BYTES, has_8_bits, seen_as_8_bits, wide_numbers, wide_values
from depthsearch.errors import DataError
from depthsearch.files import is_file, read_regular
from depthsearch.hashing import digest_of

_MAX_ELONGATION = 500
"""Longer side over shorter side: beyond it, resizing takes gigabytes to keep next to nothing."""

_MOST_BYTES = 4 * 2**30
"""Of a file: what Pillow takes for no bomb has less, at 16 bytes a pixel."""
PROGRAMS = ("EPS", "WMF")
"""Formats that Pillow leaves to other programs to draw: Ghostscript runs what a file says."""
SCRAMBLED = ("FITS",)
"""Formats of which Pillow takes the bytes of a number in the wrong order."""
_OUT_OF_MEMORY = "out of memory"
"""What Pillow's decoders call a lack of memory, in an OSError."""
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
    """An image that cannot be read.

    Attributes:
        problem: Which image, and why; without what to do about it.
    """

    def __init__(self, problem: str, advice: str = "") -> None:
        """Make the message."""
        super().__init__(f"{problem} {advice}".rstrip())
        self.problem = problem


class UnknownRangeError(UnreadableError):
    """An image of more than 8 bits a channel, of which nobody knows which numbers are black and white."""


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


def decode_file(path: Path, geometry: Geometry | None, ranges: Sequence[ValueRange] = ()) -> Decoded:
    """Read an image file of any kind that Pillow knows as a square, or whole, in RGB, without a geometry.

    Turned upright as its EXIF tag says, where it has one that can be read; transparent pixels lie on white;
    of an animation and of a file of several pictures (MPO, TIFF) the first; CMYK and the like converted.
    Numbers wider than 8 bits are scaled by the range that such images have in their set, see `ranges`.

    A large JPEG is decoded in full. Letting the decoder shrink it to three times its target is
    twice as fast on 12-megapixel photos, but moves pixels by up to 9 of 255 levels (18 at twice the
    target) from what timm makes of the file.

    Args:
        path: The file.
        geometry: How it becomes a square; None: whole.
        ranges: Of the numbers in the set, by kind of image.

    Raises:
        UnknownRangeError: If its numbers are wider than 8 bits, and the set has none like them.
        UnreadableError: If the file cannot be read, is no file but a pipe or device, is damaged, cut short,
            over 500 times as long as wide, or so large that Pillow takes it for a decompression bomb.
        DataError: If the memory does not suffice for it.
    """
    with _named_failures(path):
        content = read_regular(path, most_bytes=_MOST_BYTES)
        with Image.open(io.BytesIO(content)) as image:
            rgb, seen_in = _as_rgb(image, content, ranges)
    # With its range, as another one makes other pixels of the same bytes.
    seen = "" if seen_in is None else repr((str(seen_in), seen_in.low, seen_in.high))
    return Decoded(pixels=_pixels(rgb, geometry), digest=digest_of(content, seen))


def range_of_file(path: Path) -> ValueRange | None:
    """Return the numbers of an image of more than 8 bits; None for others, of which the header is read alone.

    Also None for what cannot be read: decoding it says why.

    Raises:
        DataError: If the memory does not suffice for it.
    """
    if not is_file(path):
        return None
    try:
        with _named_failures(path):
            with path.open("rb") as file:
                if has_8_bits(file.read(N_FIRST_BYTES)):
                    return None
            with Image.open(path) as image:
                _refuse_odd(image)
                numbers = wide_numbers(image)
            if not numbers:
                return None
            content = read_regular(path, most_bytes=_MOST_BYTES)
            with Image.open(io.BytesIO(content)) as image:
                return _range_of(wide_values(image, content), numbers, image)
    except UnreadableError:
        return None


@contextlib.contextmanager
def _named_failures(path: Path) -> Iterator[None]:
    """Name the file in whatever its decoder raises."""
    try:
        yield
    except UnreadableError as error:
        raise type(error)(f"Cannot read the image {path}: {error}") from error
    except UnidentifiedImageError as error:
        # Pillow's own text names the buffer in memory, which says nothing and differs each time.
        raise _unreadable(path, "it is not in an image format that Pillow knows") from error
    except Exception as error:  # on damaged bytes Pillow raises nearly anything, SyntaxError included
        if lacks_memory(error):
            raise too_little_memory(path) from error
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise _unreadable(path, " ".join(reason.split()) or type(error).__name__) from error


@contextlib.contextmanager
def pillow_quiet() -> Iterator[None]:
    """Silence Pillow's warnings of odd metadata and large sizes, which tell nothing of the pixels."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def lacks_memory(error: Exception) -> bool:
    """Return whether a decoder has failed for want of memory, which says nothing of the file."""
    return isinstance(error, MemoryError) or _OUT_OF_MEMORY in str(error)


def too_little_memory(path: Path) -> DataError:
    """Return what to say where the memory does not suffice: no file is to be left out for it."""
    return DataError(
        f"The memory does not suffice to decode the image {path}. Close other programs, use "
        "a machine with more, or make the image smaller."
    )


def _refuse_odd(image: Image.Image) -> None:
    if image.format in PROGRAMS:
        raise ValueError(f"{image.format} is a program that draws, not an image")
    if image.format in SCRAMBLED:
        raise ValueError(
            f"Pillow mixes up the bytes of numbers in {image.format}. Save it as TIFF or PNG, or leave it out"
        )
    if image.format == "SGI" and _has_16_bits_of_sgi(image):
        raise ValueError("Pillow reads half of the bits of SGI of 16 bits. Save it as TIFF or PNG")
    if max(image.size) > _MAX_ELONGATION * min(image.size):
        raise ValueError(f"{image.width} x {image.height} pixels are too long and narrow")


def _has_16_bits_of_sgi(image: Image.Image) -> bool:
    tile = getattr(image, "tile", [])
    return any(
        each.codec_name == "SGI16" or (each.codec_name, each.args[-1]) == ("sgi_rle", 2) for each in tile
    )


def _as_rgb(
    image: Image.Image, content: bytes, ranges: Sequence[ValueRange]
) -> tuple[Image.Image, ValueRange | None]:
    """Return an opened image upright in RGB, and the range that its numbers are seen in; None of 8 bits."""
    _refuse_odd(image)
    numbers = wide_numbers(image)
    if not numbers:
        image.load()
        return _to_rgb(_upright(image)), None
    values = wide_values(image, content)
    own = _range_of(values, numbers, image)
    seen_in = range_for(own, ranges)
    if seen_in is None:
        raise UnknownRangeError(
            f"it is a {own} image, {own.low:g} to {own.high:g}, and no other image says which numbers "
            "are black and white in such. Save it with 8 bits."
        )
    if not seen_in.fits(values):
        raise UnreadableError(
            f"its numbers are {own.low:g} to {own.high:g}, most of them outside of {seen_in.low:g} to "
            f"{seen_in.high:g}, which the images hold that it is to be seen like. Scale it as those are."
        )
    return _to_rgb(_upright(image, seen_as_8_bits(values, seen_in))), seen_in


def _range_of(values: NDArray[np.float64], numbers: str, image: Image.Image) -> ValueRange:
    # Of colours with transparency the colours alone.
    colours = values if values.ndim == 2 else values[..., :3]
    low, high = float(colours.min()), float(colours.max())
    if not np.isfinite(high - low):
        raise ValueError("it has values that are not finite")
    return ValueRange(format=str(image.format), numbers=numbers, low=low, high=high)


def decode_image(image: Image.Image, geometry: Geometry | None) -> Decoded:
    """Make a square of RGB of an image of 8 bits that has been read, or leave it whole; known by its pixels.

    Raises:
        UnknownRangeError: If it has more than 8 bits.
    """
    if wide_numbers(image):
        raise UnknownRangeError(
            f"An image of mode {image.mode} has more than 8 bits, and nothing says which numbers are black "
            "and white. Give the images as files in a folder."
        )
    rgb = _to_rgb(image)
    return Decoded(pixels=_pixels(rgb, geometry), digest=digest_of(repr(rgb.size), rgb.tobytes()))


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


def _upright(image: Image.Image, pixels: Image.Image | None = None) -> Image.Image:
    """Turn an image, or what has been made of it, as its EXIF tag says.

    Pillow's own ``exif_transpose`` writes the tags anew, which fails on damaged ones that nobody needs.
    """
    orientation = None
    with contextlib.suppress(Exception):  # damaged tags may raise anything
        orientation = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    shown = image if pixels is None else pixels
    return shown if orientation is None else shown.transpose(orientation)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _unreadable(path: Path, reason: str) -> UnreadableError:
    return UnreadableError(
        f"Cannot read the image {path}: {reason}.",
        "Mend or remove it, or leave out every such file with --skip-unreadable (skip_unreadable=True).",
    )
