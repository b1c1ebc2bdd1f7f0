"""Views: the same pixels whatever the batch, and torchvision's arithmetic for each image on its own."""

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from depthsearch.data import views
from depthsearch.data.views import View, view_of
from depthsearch.options.augmentation import RANGES

SIDE = 30  # no power of two, which divides without rounding
# In grey levels of 255. Both sides compute in float32: a place is known to some 1e-7 of the side, times 30
# pixels times 255 levels between neighbours is 0.001. Measured: at most 0.0007, and 0.0001 for colours.
TOLERANCE = 0.005
# Images of the set in an odd number and no order.
SOME = torch.tensor([5, 901, 17, 300, 2, 77, 1000])


@pytest.fixture(scope="module")
def train(digits):
    """The digits with colour, which they lack: brightness falls off another way in each channel."""
    fade = torch.linspace(0.3, 1, 16)

    def gather(index: torch.Tensor, side: int = 16) -> torch.Tensor:
        images = digits.train.gather(index).float()
        images[:, 0] *= fade
        images[:, 1] *= fade.flip(0)[:, None]
        repeats = -(-side // 16)
        images = images.repeat_interleave(repeats, 2).repeat_interleave(repeats, 3)
        return images[..., :side, :side].to(torch.uint8)

    return gather


def view(number: int = 1, seed: int = 0, n_images: int = 1078) -> View:
    return View(number, seed=seed, n_images=n_images)


def noise(*shape: int) -> torch.Tensor:
    """Make float32 pixels in [0, 255], the worst case for interpolation."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 255


def ramps() -> torch.Tensor:
    """Make images that rise evenly to the right, downwards and both: interpolation is exact on them."""
    x, y = torch.meshgrid(torch.arange(SIDE) * 4.0, torch.arange(SIDE) * 4.0, indexing="xy")
    return torch.stack((x, y, x + y))[None]


def matrix(*, left=0, top=0, width=SIDE, height=SIDE, flipped=False, degrees=0.0) -> torch.Tensor:
    """Make the matrix ``(1, 2, 3)`` of one image of SIDE pixels from lengths in pixels."""
    one = np.ones(1)
    parameters = views.Parameters(
        left=one * left / SIDE,
        top=one * top / SIDE,
        width=one * width / SIDE,
        height=one * height / SIDE,
        flipped=one.astype(bool) & flipped,
        degrees=one * degrees,
        brightness=one,
        contrast=one,
        saturation=one,
        right=0 * one,
        down=0 * one,
        shear=0 * one,
        zoom_width=one,
        zoom_height=one,
    )
    return torch.from_numpy(views.matrices_of(parameters)).float()


def resized_crop(image: torch.Tensor, *, left: int, top: int, width: int, height: int) -> torch.Tensor:
    bilinear = InterpolationMode.BILINEAR
    return tv.resized_crop(image, top, left, height, width, [SIDE, SIDE], bilinear, antialias=False)


def rotate(image: torch.Tensor, degrees: float) -> torch.Tensor:
    return tv.rotate(image, degrees, InterpolationMode.BILINEAR)


def inside(image: torch.Tensor) -> torch.Tensor:
    """Leave out the outermost pixels: torchvision cannot see beyond a crop's edge, we can."""
    return image[..., 1:-1, 1:-1]


def disc(image: torch.Tensor) -> torch.Tensor:
    """Take the pixels that stay in the image when it is turned by any angle."""
    centres = torch.arange(SIDE) - (SIDE - 1) / 2
    return image[..., torch.hypot(centres, centres[:, None]) < SIDE / 2 - 2]


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return bool((ours - theirs).abs().max() < TOLERANCE)


# --- the same each time -----------------------------------------------------------------------------


@pytest.mark.parametrize(("epoch", "n_views", "number"), [(1, 1, 0), (1, 4, 1), (4, 4, 0), (7, 4, 3)])
def test_epochs_take_the_views_in_turn(epoch: int, n_views: int, number: int) -> None:
    assert view_of(epoch, n_views) == number


def test_view_0_is_the_plain_image(train) -> None:
    images = train(SOME)
    shown = view(0)(images, SOME)
    assert shown.dtype == torch.float32
    assert torch.equal(shown, images.float())


def test_a_view_is_float32_of_the_same_shape_and_leaves_the_images_alone(train) -> None:
    images = train(SOME)
    before = images.clone()
    shown = view()(images, SOME)
    assert (shown.dtype, shown.shape) == (torch.float32, images.shape)
    assert torch.equal(images, before)


@pytest.mark.parametrize("other", [view(0), view(2), view(1, seed=1)], ids=["plain", "view 2", "seed 1"])
def test_another_view_or_seed_shows_every_image_otherwise(train, other: View) -> None:
    images = train(SOME)
    difference = (view()(images, SOME) - other(images, SOME)).abs().amax((1, 2, 3))
    assert difference.min() > 20


def test_images_of_one_set_are_shown_in_different_ways(train) -> None:
    same = train(SOME[:1]).expand(len(SOME), -1, -1, -1)
    assert len(view()(same, SOME).unique(dim=0)) == len(SOME)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("side", [15, 16, 225])
def test_a_view_is_the_same_to_the_bit_in_any_batch(train, side: int, n_threads: int) -> None:
    """Odd sides leave a rest to vector instructions; a large image alone is what PyTorch sums in parallel."""
    images = train(SOME, side)
    shown = view()(images, SOME)
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        for places in ([0], [6], [3, 1], [6, 5, 4, 3, 2, 1, 0], [2, 2, 2]):
            assert torch.equal(view()(images[places], SOME[places]), shown[places])
    finally:
        torch.set_num_threads(before)


def test_every_image_of_the_set_is_the_same_in_batches_of_any_size(train) -> None:
    index = torch.randperm(1078, generator=torch.Generator().manual_seed(0))
    shown = view()(train(index), index)
    for size in (1, 7, 64):
        parts = [view()(train(part), part) for part in index[: 3 * size].split(size)]
        assert torch.equal(torch.cat(parts), shown[: 3 * size])


@pytest.mark.parametrize("n_images", [1001, 1002, 1003, 5000])
def test_a_view_of_an_image_does_not_depend_on_the_size_of_the_set(train, n_images: int) -> None:
    images = train(SOME)
    assert torch.equal(view(n_images=n_images)(images, SOME), view()(images, SOME))


def test_the_parameters_of_fewer_images_are_the_first_ones_of_more() -> None:
    table = views.table_of(views.draw(1, 0, 64))
    for n_images in range(64):
        assert torch.equal(views.table_of(views.draw(1, 0, n_images)), table[:n_images])


@pytest.mark.parametrize("number", [0, 1])
def test_the_memory_format_does_not_matter(train, number: int) -> None:
    images = train(SOME)
    shown = view(number)(images.contiguous(memory_format=torch.channels_last), SOME)
    assert torch.equal(shown, view(number)(images, SOME))


def test_autocast_does_not_matter(train) -> None:
    images = train(SOME)
    with torch.autocast("cpu", torch.bfloat16):
        shown = view()(images, SOME)
    assert torch.equal(shown, view()(images, SOME))


@pytest.mark.gpu
def test_a_gpu_shows_the_same_view(train) -> None:
    images = train(SOME)
    shown = view()(images.cuda(), SOME)
    assert shown.is_cuda
    assert close(shown.cpu(), view()(images, SOME))


# --- parameters -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["degrees", "brightness", "contrast", "saturation"])
def test_parameters_fill_their_range(name: str) -> None:
    low, high = getattr(RANGES, name)
    drawn = (getattr(views.draw(1, 0, 2000), name) - low) / (high - low)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert np.histogram(drawn, 4, (0, 1))[0] == pytest.approx([500] * 4, abs=80)  # four standard deviations


def test_crops_lie_in_the_image_with_area_and_ratio_in_their_ranges() -> None:
    drawn = views.draw(1, 0, 2000)
    for start, length in ((drawn.left, drawn.width), (drawn.top, drawn.height)):
        assert start.min() >= 0
        assert (start + length).max() <= 1 + 1e-12
    for value, bounds in (
        (drawn.width * drawn.height, RANGES.scale),
        (drawn.width / drawn.height, RANGES.ratio),
    ):
        assert bounds[0] - 1e-12 <= value.min() < bounds[0] * 1.02
        assert bounds[1] / 1.02 < value.max() <= bounds[1] + 1e-12


def test_a_quarter_of_the_crops_is_cut_to_the_image() -> None:
    drawn = views.draw(1, 0, 2000)
    cut = np.maximum(drawn.width, drawn.height) == 1
    expected = 2 * (1 - (1 - 3 / 4) / math.log(4 / 3))
    assert cut.mean() == pytest.approx(expected, abs=0.04)
    assert expected == pytest.approx(0.26, abs=0.005)


def test_half_of_the_images_are_flipped() -> None:
    assert views.draw(1, 0, 2000).flipped.sum() == pytest.approx(1000, abs=90)  # four standard deviations


def test_parameters_are_independent_of_each_other_and_of_those_of_other_views() -> None:
    drawn = np.concatenate([views.uniform(number, seed, 2000) for number, seed in ((1, 0), (2, 0), (1, 1))])
    correlations = np.corrcoef(drawn) - np.eye(27)
    assert np.abs(correlations).max() < 0.1  # 4.5 standard deviations of 351 pairs


# --- geometry ---------------------------------------------------------------------------------------


def test_a_whole_crop_is_the_image() -> None:
    image = noise(1, 3, SIDE, SIDE)
    assert close(views.warp(image, matrix()), image)


@pytest.mark.parametrize("level", [0, 1, 100, 255])
def test_a_constant_image_stays_constant_up_to_the_corners(level: int) -> None:
    matrices = torch.from_numpy(views.matrices_of(views.draw(1, 0, 200))).float()
    shown = views.warp(torch.full((200, 3, SIDE, SIDE), float(level)), matrices)
    assert (shown - level).abs().max() < 1e-4


@pytest.mark.parametrize(
    "crop",
    [
        {"left": 0, "top": 0, "width": 30, "height": 30},
        {"left": 3, "top": 7, "width": 25, "height": 20},
        {"left": 0, "top": 9, "width": 30, "height": 21},
        {"left": 8, "top": 0, "width": 20, "height": 27},
    ],
    ids=lambda crop: "{left}+{width}, {top}+{height}".format(**crop),
)
def test_crops_are_torchvisions(crop: dict[str, int]) -> None:
    image = noise(1, 3, SIDE, SIDE)
    assert close(inside(views.warp(image, matrix(**crop))), inside(resized_crop(image, **crop)))


def test_flips_are_torchvisions() -> None:
    image = noise(1, 3, SIDE, SIDE)
    assert close(views.warp(image, matrix(flipped=True)), tv.horizontal_flip(image))


@pytest.mark.parametrize("degrees", [-10.0, -3.3, 0.5, 10.0, 77.0])
def test_rotations_are_torchvisions(degrees: float) -> None:
    image = noise(1, 3, SIDE, SIDE)
    assert close(disc(views.warp(image, matrix(degrees=degrees))), disc(rotate(image, degrees)))


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("degrees", [-10.0, 6.0])
def test_the_matrix_crops_then_flips_then_rotates(degrees: float, flipped: bool) -> None:
    crop = {"left": 3, "top": 7, "width": 25, "height": 20}
    ours = views.warp(ramps(), matrix(**crop, flipped=flipped, degrees=degrees))
    theirs = resized_crop(ramps(), **crop)
    theirs = rotate(tv.horizontal_flip(theirs) if flipped else theirs, degrees)
    assert close(disc(ours), disc(theirs))


# --- colour -----------------------------------------------------------------------------------------

FACTORS = (0.0, 0.8, 1.0, 1.15, 2.0)


def adjusted(image: torch.Tensor, brightness=1.0, contrast=1.0, saturation=1.0) -> torch.Tensor:
    return views.adjust_colours(image.clone(), torch.tensor([[brightness, contrast, saturation]]))


@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colour_changes_are_torchvisions(name: str, factor: float, n_channels: int) -> None:
    image = noise(1, n_channels, SIDE, SIDE)
    theirs = getattr(tv, f"adjust_{name}")(image / 255, factor) * 255
    assert close(adjusted(image, **{name: factor}), theirs)


def test_each_image_of_a_batch_has_its_own_factors_in_a_fixed_order() -> None:
    images = noise(3, 3, SIDE, SIDE)
    factors = torch.tensor([[0.8, 1.2, 0.9], [1.2, 0.8, 1.1], [1.0, 1.2, 1.2]])
    ours = views.adjust_colours(images.clone(), factors)
    for image, (brightness, contrast, saturation), our in zip(images, factors.tolist(), ours, strict=True):
        theirs = tv.adjust_contrast(tv.adjust_brightness(image / 255, brightness), contrast)
        assert close(our, tv.adjust_saturation(theirs, saturation) * 255)


def test_contrast_of_other_channels_is_about_their_mean() -> None:
    image = noise(1, 5, SIDE, SIDE)
    theirs = (0.8 * image + 0.2 * image.mean()).clamp(0, 255)
    assert close(adjusted(image, contrast=0.8, saturation=0.0), theirs)


@pytest.mark.parametrize("side", [16, 128])
def test_the_mean_grey_is_exact_to_a_hundred_thousandth(side: int) -> None:
    grey = noise(2, 1, side, side)
    assert views.mean_grey(grey).flatten().tolist() == pytest.approx(
        grey.double().mean((1, 2, 3)).tolist(), abs=2e-5
    )
    assert views.mean_grey(torch.full((1, 1, side, side), 255.0)).item() == 255


def test_values_stay_between_0_and_255(train) -> None:
    index = torch.arange(1078)
    for number in range(4):
        shown = view(number)(train(index), index)
        assert shown.min() >= 0
        assert 250 < shown.max() <= 255
