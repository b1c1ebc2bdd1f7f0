"""Views of images: augmentations that are the same each time they are asked for.

View 0 is the plain image. Views 1, 2, ... are a random resized crop, a horizontal flip, a small rotation and
a colour jitter (or what else `augmentation` has words for), drawn once by (seed, view, place of the image in
its set). A view of an image is thus a
fixed image: it does not depend on the batch, on the number of images in the set or on the image size, and
what a frozen prefix makes of it can be kept.

torchvision's v2 transforms draw one set of parameters for a whole batch. Here each image has its own, and
a batch is still a few operations on whole tensors. ``b c s`` below: images, channels, side in pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from depthsearch.options.augmentation import RANGES, Ranges

# Sets the numbers that shift, shear and zoom are drawn from apart from all others.
DISTORTION = 1
GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # of red, green and blue, as in torchvision

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parameters:
    """Parameters of ``n`` images, each ``(n,)``; lengths are shares of the image's side.

    Shift (``right``, ``down``), shear (in radians) and zoom (factors of what is shown) come after the others.
    """

    left: Numbers
    top: Numbers
    width: Numbers
    height: Numbers
    flipped: npt.NDArray[np.bool_]
    degrees: Numbers
    brightness: Numbers
    contrast: Numbers
    saturation: Numbers
    right: Numbers
    down: Numbers
    shear: Numbers
    zoom_width: Numbers
    zoom_height: Numbers


def view_of(epoch: int, n_views: int) -> int:
    """Return the view of an epoch, counted from 1: the plain image comes last in each round."""
    return epoch % n_views


class View:
    """One view of an image set."""

    def __init__(self, number: int, *, seed: int, n_images: int, ranges: Ranges = RANGES) -> None:
        """Draw the parameters of all images.

        Args:
            number: 0 for the plain images, 1, 2, ... for the others.
            seed: In [0, 2**64), like ``number``.
            n_images: How many images the set has. Image i has the same view in a larger set.
            ranges: What they are drawn from.
        """
        self.number = number
        # Per image the six entries of its matrix, then brightness, contrast, saturation; float32 (n, 9).
        self._table = None if number == 0 else table_of(draw(number, seed, n_images, ranges))

    def __call__(self, images: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Show some images in this view.

        Args:
            images: ``(b, c, s, s)``, uint8, on any device and in any memory format.
            index: ``(b,)``, int64, on the CPU: places of the images in their set, in [0, n_images).

        Returns:
            ``(b, c, s, s)``, float32, in [0, 255], on the images' device: new, so free to be overwritten.
        """
        if self._table is None:
            return images.float()
        # From pageable memory, CUDA has copied the rows before the call returns; elsewhere there is no gain.
        rows = self._table[index].to(images.device, non_blocking=images.is_cuda)
        return adjust_colours(warp(images.float(), rows[:, :6].view(-1, 2, 3)), rows[:, 6:])


# --- parameters -------------------------------------------------------------------------------------


def draw(number: int, seed: int, n_images: int, ranges: Ranges = RANGES) -> Parameters:
    """Draw the parameters of ``n_images`` images, the first ones the same whatever their number.

    The crop is torchvision's RandomResizedCrop, with area, logarithm of the ratio and position uniform, but
    for two things. Sides are not rounded to pixels. And where torchvision draws again because a side exceeds
    the image (26% of the draws), that side is cut to the image's, so that each image takes the same number
    of draws. Area and ratio stay in their ranges: cut are only areas above 3/4, and to no less than that.
    """
    area, ratio, left, top, flip, degrees, brightness, contrast, saturation = uniform(number, seed, n_images)
    right, down, shear, *zoom = uniform(number, seed, n_images, n_each=5, stream=DISTORTION)
    area = _between(area, ranges.scale)
    ratio = np.exp(_between(ratio, (math.log(ranges.ratio[0]), math.log(ranges.ratio[1]))))
    width = np.minimum(np.sqrt(area * ratio), 1)
    height = np.minimum(np.sqrt(area / ratio), 1)
    return Parameters(
        left=left * (1 - width),
        top=top * (1 - height),
        width=width,
        height=height,
        flipped=flip < ranges.flip,
        degrees=_between(degrees, ranges.degrees),
        brightness=_between(brightness, ranges.brightness),
        contrast=_between(contrast, ranges.contrast),
        saturation=_between(saturation, ranges.saturation),
        right=_between(right, ranges.shift),
        down=_between(down, ranges.shift),
        shear=_between(shear, ranges.shear),
        zoom_width=_between(zoom[0], ranges.zoom),
        zoom_height=_between(zoom[1], ranges.zoom),
    )


def uniform(number: int, seed: int, n_images: int, *, n_each: int = 9, stream: int = 0) -> Numbers:
    """Draw ``(n_each, n_images)`` numbers in [0, 1), independent of those of other streams.

    From the bits of the generator, which numpy keeps between versions; its distributions it may change.
    """
    # The counter's last word: a stream has 2**192 numbers before the next one begins.
    counter = np.array([0, 0, 0, stream], dtype=np.uint64)
    generator = np.random.Philox(key=np.array([seed, number], dtype=np.uint64), counter=counter)
    bits = generator.random_raw(n_each * n_images)
    numbers = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.ascontiguousarray(numbers.reshape(n_images, n_each).T)


def _between(uniform: Numbers, bounds: tuple[float, float]) -> Numbers:
    return bounds[0] + uniform * (bounds[1] - bounds[0])


def table_of(parameters: Parameters) -> torch.Tensor:
    """Put the matrices' entries and the colour factors of ``n`` images side by side: float32 ``(n, 9)``."""
    matrices = matrices_of(parameters).reshape(-1, 6)
    colours = np.stack((parameters.brightness, parameters.contrast, parameters.saturation), axis=1)
    return torch.from_numpy(np.concatenate((matrices, colours), axis=1)).float()


def matrices_of(parameters: Parameters) -> Numbers:
    """Compose crop, flip, rotation, shift, shear and zoom, in this order: pixels are interpolated once.

    Returns:
        ``(n, 2, 3)``, from a place (x, y, 1) in the view to the place in the image it shows. The image
        spans [-1, 1] from left to right and from top to bottom.
    """
    angle = np.deg2rad(parameters.degrees)
    width = np.where(parameters.flipped, -parameters.width, parameters.width)
    height = parameters.height
    of_x = (width * np.cos(angle), -width * np.sin(angle), 2 * parameters.left + parameters.width - 1)
    of_y = (height * np.sin(angle), height * np.cos(angle), 2 * parameters.top + height - 1)
    return np.stack([np.stack(_distorted(row, parameters), axis=1) for row in (of_x, of_y)], axis=1)


def _distorted(row: tuple[Numbers, Numbers, Numbers], by: Parameters) -> tuple[Numbers, ...]:
    """Zoom, then shear, then shift the place (x, y, 1) that a row of the matrices is applied to."""
    of_x, of_y, shift = row
    return (
        of_x * by.zoom_width,
        (of_x * np.tan(by.shear) + of_y) * by.zoom_height,
        # The image spans two units.
        shift + 2 * (of_x * by.right + of_y * by.down),
    )


# --- pixels -----------------------------------------------------------------------------------------
#
# Every step treats a pixel alike wherever it stands in the batch. That rules out matrix products (as in
# F.affine_grid), floating-point sums over an image, whose order changes with the shape, and fused forms
# such as add(alpha=) and lerp, which may round in another way in the last few elements of a tensor.


def warp(images: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Show the images through the matrices, bilinearly; places outside an image mirror its inside.

    A crop is never larger than the view, so that nothing is shrunk and no antialiasing is missed; a zoom
    shows more than the image by a little.

    Args:
        images: ``(b, c, s, s)``, float32.
        matrices: ``(b, 2, 3)``, float32, as of ``matrices_of``.

    Returns:
        ``(b, c, s, s)``.
    """
    side = images.shape[-1]
    centres = torch.arange(1, 2 * side, 2, dtype=torch.float32, device=images.device) / side - 1
    by_x, by_y, shift = matrices[:, None, None].unbind(-1)  # each (b, 1, 1, 2)
    grid = (by_x * centres[:, None] + shift) + by_y * centres[:, None, None]
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def adjust_colours(images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Change brightness, then contrast, then saturation, as torchvision defines them.

    Args:
        images: ``(b, c, s, s)``, float32, in [0, 255]; overwritten.
        factors: ``(b, 3)``, float32: of brightness, contrast and saturation.

    Returns:
        ``images``, in [0, 255]; without a change of saturation unless ``c`` is 3.
    """
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    images.mul_(brightness).clamp_(0, 255)
    _blend(images, mean_grey(_grey(images)), contrast)
    if images.shape[1] == 3:
        _blend(images, _grey(images), saturation)
    return images


def _blend(images: torch.Tensor, others: torch.Tensor, factors: torch.Tensor) -> None:
    """Move images in place to (factor 0) or away from (factor above 1) others, within [0, 255]."""
    images.mul_(factors).add_(others * (1 - factors)).clamp_(0, 255)


def _grey(images: torch.Tensor) -> torch.Tensor:
    """Weigh the channels of ``(b, c, s, s)`` into ``(b, 1, s, s)``, all alike unless they are three."""
    n_channels = images.shape[1]
    weights = GREY_WEIGHTS if n_channels == 3 else (1 / n_channels,) * n_channels
    grey = images[:, :1] * weights[0]
    for channel in range(1, n_channels):
        grey.add_(images[:, channel : channel + 1] * weights[channel])
    return grey


def mean_grey(grey: torch.Tensor) -> torch.Tensor:
    """Average each of ``(b, 1, s, s)`` greys in [0, 255]: ``(b, 1, 1, 1)``, the same in any order of sums.

    The sum is over integers, of 2**-16 grey levels: fine enough, and small enough for float32 and int32.
    """
    steps = grey.mul(2**16).round_().to(torch.int32)
    total = steps.sum((1, 2, 3), keepdim=True, dtype=torch.int64)
    return total.to(torch.float32) / (2**16 * grey[0].numel())
