"""What views may do: the words, what they stand for, and that nothing changes where none are given."""

import json
import math
from dataclasses import replace

import numpy as np
import optuna
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from depthsearch.cli import main
from depthsearch.data import views
from depthsearch.data.views import View
from depthsearch.errors import SettingsError, StudyError
from depthsearch.features import ViewedImages
from depthsearch.options import augmentation
from depthsearch.options.augmentation import RANGES, USUAL, read_augmentation, written
from depthsearch.study import open_study
from depthsearch.training.recipe import Recipe

KERAS = "rotation=40,shift=0.2,shear=0.2,zoom=0.2,flip"
SIDE = 30


# --- words --------------------------------------------------------------------------------------


def test_what_is_usual_is_what_views_do_unasked() -> None:
    assert read_augmentation(USUAL) == RANGES
    assert written(USUAL) == USUAL
    assert Recipe(epochs=1).augment == USUAL


def test_what_is_not_named_is_not_done() -> None:
    found = read_augmentation("shear=0.3")
    assert found == replace(augmentation.NOTHING, shear=(-0.3, 0.3))
    images = torch.randint(0, 256, (5, 3, 12, 12), dtype=torch.uint8)
    index = torch.arange(5)
    plain = View(1, seed=0, n_images=5, ranges=replace(found, shear=(0.0, 0.0)))
    assert (plain(images, index) - images.float()).abs().max() < 0.001


def test_keras_usual_augmentation_can_be_written() -> None:
    found = read_augmentation(KERAS)
    assert (found.degrees, found.shift, found.shear) == ((-40, 40), (-0.2, 0.2), (-0.2, 0.2))
    assert (found.zoom, found.flip, found.scale) == ((0.8, 1.2), 0.5, (1.0, 1.0))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" colour=.20 , crop=0.50,rotation=10.0,flip=0.5", USUAL),
        ("flip=0.25,zoom=1e-1", "flip=0.25,zoom=0.1"),
        ("zoom=0.1,flip=0.25", "flip=0.25,zoom=0.1"),
        ("flip=1", "flip=1"),
    ],
)
def test_lists_that_mean_the_same_are_written_alike(text: str, expected: str) -> None:
    assert written(text) == expected
    assert read_augmentation(text) == read_augmentation(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            r"'' is none of crop, flip, rotation, colour, shift, shear, zoom: give some of these, as in crop",
        ),
        ("turn=3", r"'turn' is none of crop, flip"),
        ("rotation", r"rotation=: give a number above 0 and up to 180, or leave rotation out"),
        ("rotation=-3", r"rotation=-3: give a number above 0 and up to 180"),
        ("crop=1", r"crop=1: give a number above 0 and below 1, or leave crop out"),
        ("shift=1.1", r"shift=1\.1: give a number above 0 and up to 1"),
        ("colour=nan", r"colour=nan: give a number above 0 and up to 1"),
        ("shear=12", r"shear=12: give a number above 0 and up to 1\.5"),
        ("flip=often", r"flip=often: give a number"),
        ("zoom=0.1,zoom=0.2", r"zoom is given twice in 'zoom=0\.1,zoom=0\.2': keep one"),
    ],
)
def test_what_cannot_be_read_is_one_line(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_augmentation(text)
    with pytest.raises(SettingsError, match=message):
        Recipe(epochs=1, augment=text)


# --- numbers ------------------------------------------------------------------------------------


def test_without_new_words_the_numbers_are_those_of_before() -> None:
    """Bits that features were kept under, from before there was a choice."""
    drawn = views.draw(3, 7, 5)
    bits = np.random.Philox(key=np.array([7, 3], dtype=np.uint64)).random_raw(45).reshape(5, 9)
    expected = (bits >> np.uint64(11)) * 2.0**-53
    assert np.array_equal(drawn.brightness, 0.8 + expected[:, 6] * (1.2 - 0.8))


def test_more_words_leave_what_the_others_draw_alone() -> None:
    plain, more = (views.draw(1, 0, 50, read_augmentation(t)) for t in (USUAL, f"{USUAL},shift=0.2,zoom=0.1"))
    for name in ("left", "top", "width", "height", "flipped", "degrees", "brightness"):
        assert np.array_equal(getattr(plain, name), getattr(more, name))


def test_distortions_fill_their_ranges_and_are_independent() -> None:
    drawn = views.draw(1, 0, 2000, read_augmentation("shift=0.2,shear=0.3,zoom=0.1"))
    ranges = {"right": (-0.2, 0.2), "down": (-0.2, 0.2), "shear": (-0.3, 0.3)}
    ranges |= {"zoom_width": (0.9, 1.1), "zoom_height": (0.9, 1.1)}
    shares = []
    for name, (low, high) in ranges.items():
        share = (getattr(drawn, name) - low) / (high - low)
        assert np.histogram(share, 4, (0, 1))[0] == pytest.approx([500] * 4, abs=80)
        shares.append(share)
    others = views.uniform(1, 0, 2000)
    assert np.abs(np.corrcoef([*shares, *others]) - np.eye(14)).max() < 0.1


def test_the_parameters_of_fewer_images_are_the_first_ones_of_more() -> None:
    ranges = read_augmentation(KERAS)
    table = views.table_of(views.draw(1, 0, 20, ranges))
    for n_images in range(20):
        assert torch.equal(views.table_of(views.draw(1, 0, n_images, ranges)), table[:n_images])


def test_a_view_is_the_same_to_the_bit_in_any_batch(digits) -> None:
    some = torch.tensor([5, 901, 17, 300])
    view = View(2, seed=1, n_images=1078, ranges=read_augmentation(f"{KERAS},colour=0.1"))
    images = digits.train.gather(some)
    shown = view(images, some)
    assert (shown - images).abs().amax((1, 2, 3)).min() > 20
    assert 0 <= shown.min() <= shown.max() <= 255
    for places in ([0], [3, 1], [2, 2, 2]):
        assert torch.equal(view(images[places], some[places]), shown[places])


# --- geometry -----------------------------------------------------------------------------------


def warped(image: torch.Tensor, *, right=0.0, down=0.0, shear=0.0, width=1.0, height=1.0, degrees=0.0):
    """Show one image of SIDE pixels; shifts in pixels."""
    one = np.ones(1)
    parameters = views.Parameters(
        left=0 * one,
        top=0 * one,
        width=one,
        height=one,
        flipped=one < 0,
        degrees=one * degrees,
        brightness=one,
        contrast=one,
        saturation=one,
        right=one * right / SIDE,
        down=one * down / SIDE,
        shear=one * shear,
        zoom_width=one * width,
        zoom_height=one * height,
    )
    return views.warp(image, torch.from_numpy(views.matrices_of(parameters)).float())


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 255


def disc(image: torch.Tensor) -> torch.Tensor:
    """Take the pixels around the middle, which show the inside of the image."""
    return image[..., 9:-9, 9:-9]


def affine(image: torch.Tensor, **changes) -> torch.Tensor:
    """Let torchvision do it."""
    options = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0], **changes}
    return tv.affine(image, interpolation=InterpolationMode.BILINEAR, **options)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return bool((disc(ours) - disc(theirs)).abs().max() < 0.01)


def test_shifts_move_whole_pixels(image) -> None:
    """A positive one shows what lies to the right and below: the image moves to the left and up."""
    assert close(warped(image, right=4, down=-3), affine(image, translate=[-4, 3]))


def test_zooms_are_torchvisions(image) -> None:
    assert close(warped(image, width=1.25, height=1.25), affine(image, scale=0.8))
    assert close(warped(image, width=0.8, height=0.8), affine(image, scale=1.25))


def test_shears_are_torchvisions(image) -> None:
    assert close(warped(image, shear=0.2), affine(image, shear=[math.degrees(0.2), 0.0]))


def test_width_and_height_are_zoomed_each_for_itself() -> None:
    x, y = torch.meshgrid(torch.arange(SIDE) * 4.0, torch.arange(SIDE) * 4.0, indexing="xy")
    shown = warped(torch.stack((x, y))[None], width=0.5)
    middle = (SIDE - 1) / 2 * 4
    assert torch.allclose(disc(shown)[0, 0], disc((x - middle) * 0.5 + middle), atol=0.01)
    assert torch.allclose(disc(shown)[0, 1], disc(y), atol=0.01)


def test_a_shift_goes_along_with_the_rotation(image) -> None:
    turned = warped(image, degrees=90.0)
    assert close(warped(image, right=4, degrees=90.0), affine(turned, translate=[-4, 0]))


# --- features and studies -----------------------------------------------------------------------


def test_views_that_do_something_else_have_another_fingerprint(digits) -> None:
    def fingerprint(number: int, **options) -> str:
        return ViewedImages(digits.train, number, **options).fingerprint

    assert (
        fingerprint(1)
        == fingerprint(1, augment=USUAL)
        == fingerprint(1, augment="colour=0.2,flip,crop=0.5,rotation=10")
    )
    assert len({fingerprint(1, augment=text) for text in (USUAL, "flip", "flip=0.4", KERAS)}) == 4
    assert fingerprint(0) == fingerprint(0, augment=KERAS)


def test_another_augmentation_is_another_study(task, space, tmp_path, open_quick_storage) -> None:
    storage = open_quick_storage(f"sqlite:///{tmp_path}/s.db")
    study = open_study(storage, "s", task, space, {})
    assert study.user_attrs["settings"]["augment"] == USUAL
    other = task.with_recipe(replace(task.recipe, augment="flip"))
    with pytest.raises(StudyError, match=rf"--augment {USUAL} \(here flip\)"):
        open_study(storage, "s", other, space, {})


def test_the_views_of_a_task_do_what_its_recipe_says(task) -> None:
    recipe = replace(task.recipe, views=3, augment=KERAS)
    shown = task.with_recipe(recipe).train_views
    direct = [ViewedImages(task.data.train, v, seed=recipe.seed, augment=KERAS) for v in range(3)]
    assert [each.fingerprint for each in shown] == [each.fingerprint for each in direct]
    index = torch.arange(8)
    assert torch.equal(shown[1].pixels(index, task.device), direct[1].pixels(index, task.device))


def test_a_study_keeps_its_augmentation_and_the_model_names_it(pictures, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = "--backbone test_resnet --weights random --image-size 16 --batch-size 8 --trials 2 --epochs 2"
    words = [*options.split(), "--device", "cpu", "--confirm", "0", "--views", "2", "--name", "s"]
    assert main(["study", *words, "--data", str(pictures), "--augment", KERAS]) == 0
    stored = optuna.load_study(study_name="s", storage="sqlite:///depthsearch.db").user_attrs
    assert stored["provenance"]["options"]["augment"] == stored["settings"]["augment"] == written(KERAS)
    assert main(["fit", "--out", "model"]) == 0
    config = json.loads((tmp_path / "model/config.json").read_text())["depthsearch"]
    assert config["provenance"]["recipe"]["augment"] == written(KERAS)
    assert main(["report", "--out", "out"]) == 0
    assert f"--augment {written(KERAS)}" in (tmp_path / "out/report.md").read_text().replace(" \\\n   ", "")
