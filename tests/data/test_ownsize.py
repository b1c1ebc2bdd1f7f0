"""Small images: stored at their own size, gathered as Pillow would have enlarged them."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from generators import run_out
from PIL import Image

from depthsearch.classifier.model import Classifier
from depthsearch.data import DataSet, Geometry, Source, decode_file, load_data
from depthsearch.data.decode import cut_square
from depthsearch.data.store import pixelfile
from depthsearch.data.store.enlarge import agrees_with_pillow, enlarged, enlarges
from depthsearch.devices import choose_device
from depthsearch.errors import DataError
from depthsearch.features import Budget, ViewedImages
from depthsearch.search.space import Point
from depthsearch.training.objective import train_point
from depthsearch.training.recipe import Recipe

FILTERS = ("box", "bilinear", "hamming", "bicubic", "lanczos")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Hold ten images of each of two classes, of three sizes."""
    return write_noise(tmp_path / "tiny", [(12, 12), (10, 14), (9, 9)])


def write_noise(root: Path, sizes: list[tuple[int, int]]) -> Path:
    noise = np.random.default_rng(0)
    for name, level in (("dark", 120), ("light", 256)):
        (root / name).mkdir(parents=True)
        for place in range(10):
            width, height = sizes[place % len(sizes)]
            pixels = noise.integers(level - 120, level, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{place:02d}.png")
    return root


def noise_of(height: int, width: int, n: int = 3) -> np.ndarray:
    """Give ``(n, h, w, 3)`` pixels, many of them at an end of the range, where rounding is clipped."""
    noise = np.random.default_rng(height * width).integers(-100, 356, (n, height, width, 3))
    return noise.clip(0, 255).astype(np.uint8)


def as_tensor(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def stored_files(cache: Path) -> list[Path]:
    return sorted((cache / "images").iterdir())


def load(root: Path, cache: Path, **options: object) -> DataSet:
    return load_data(root, cache=cache, **{"image_size": 24, "crop_share": 0.9, **options})


def whole(data: DataSet) -> torch.Tensor:
    """Gather every stored image, whatever its split."""
    n = len(data.paths)
    return replace(data.train, rows=torch.arange(n)).gather(torch.arange(n))


def by_pillow(data: DataSet) -> torch.Tensor:
    """Decode every file at the size that it is shown at, as prediction does."""
    geometry = Geometry(
        image_size=data.image_size,
        crop_share=data.crop_share,
        interpolation=data.interpolation,
        channels=data.train.gather(torch.arange(1)).shape[1],
    )
    files = [Path(data.source) / path for path in data.paths]
    return torch.stack([torch.from_numpy(decode_file(file, geometry).pixels) for file in files])


# --- enlarging ----------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(
    ("size", "share", "height", "width"),
    [
        (224, 0.875, 32, 32),
        (64, 1.0, 28, 28),
        (96, 0.95, 17, 61),
        (50, 0.9, 49, 33),
        (40, 0.5, 1, 3),
        (64, 0.965, 64, 63),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_enlarging_is_that_of_pillow_to_the_bit(interpolation, size, share, height, width, channels):
    geometry = Geometry(image_size=size, crop_share=share, interpolation=interpolation, channels=channels)
    assert enlarges(geometry, height, width)
    images = noise_of(height, width)
    expected = np.stack([cut_square(Image.fromarray(image), geometry) for image in images])
    np.testing.assert_array_equal(enlarged(as_tensor(images), geometry).numpy(), expected)
    assert agrees_with_pillow(geometry, height, width)


def test_an_image_is_enlarged_alike_in_any_batch():
    geometry = Geometry(image_size=64, crop_share=0.875, interpolation="bicubic")
    images = as_tensor(noise_of(16, 16, n=21))
    together = enlarged(images, geometry)
    assert all(torch.equal(enlarged(images[i : i + 1], geometry)[0], together[i]) for i in range(21))


@pytest.mark.gpu
def test_a_gpu_enlarges_to_the_same_bits():
    geometry = Geometry(image_size=224, crop_share=0.875, interpolation="bicubic")
    images = as_tensor(noise_of(32, 32, n=40))
    assert torch.equal(enlarged(images.cuda(), geometry).cpu(), enlarged(images, geometry))


@pytest.mark.parametrize(
    ("height", "width", "small"),
    [(32, 32, True), (32, 90, True), (64, 64, False), (60, 70, False), (63, 64, True), (70, 71, False)],
)
def test_small_is_what_is_enlarged_and_takes_less_room_so(height, width, small):
    geometry = Geometry(image_size=64, crop_share=0.9, interpolation="bicubic")
    assert enlarges(geometry, height, width) is small


# --- the store ----------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", FILTERS)
def test_small_images_are_stored_as_they_are_and_gathered_as_prediction_reads_them(
    tiny, cache, interpolation
):
    data = load(tiny, cache, interpolation=interpolation)
    assert torch.equal(whole(data), by_pillow(data))
    grey = load(tiny, cache, interpolation=interpolation, channels=1)
    assert torch.equal(whole(grey), by_pillow(grey))
    (file,) = stored_files(cache)
    n_bytes = sum(decode_file(tiny / path, None).pixels.nbytes for path in data.paths)
    assert n_bytes < file.stat().st_size < n_bytes + 2000
    index = torch.tensor([5, 0, 3, 0])
    assert torch.equal(data.train.gather(index), by_pillow(data)[data.train.rows[index]])


def test_splits_labels_and_fingerprint_are_those_of_any_store(tiny, cache):
    small, large = load(tiny, cache), load(tiny, cache, image_size=8)
    assert small.fingerprint == large.fingerprint
    for split in ("train", "val", "test"):
        assert torch.equal(getattr(small, split).rows, getattr(large, split).rows)
        assert getattr(small, split).fingerprint == getattr(large, split).fingerprint


def test_one_store_serves_every_larger_size_and_the_next_start(tiny, cache):
    load(tiny, cache)
    for size in (24, 32, 100):
        data = load(tiny, cache, image_size=size, progress=lambda *_: pytest.fail("decoded again"))
        assert torch.equal(whole(data), by_pillow(data))
    assert len(stored_files(cache)) == 1
    load(tiny, cache, image_size=8)
    assert len(stored_files(cache)) == 2


@pytest.mark.parametrize("place", [0, 7, 9])
def test_with_one_larger_image_all_are_stored_as_squares(tiny, cache, place):
    Image.new("RGB", (40, 50), "red").save(tiny / "dark" / f"{place:02d}.png")
    data = load(tiny, cache)
    assert isinstance(data.train.images, torch.Tensor)
    assert torch.equal(whole(data), by_pillow(data))
    assert len(stored_files(cache)) == 1


def test_digits_and_nearest_neighbours_are_stored_as_squares(tiny, cache):
    assert isinstance(load("digits", cache).train.images, torch.Tensor)
    data = load(tiny, cache, interpolation="nearest")
    assert isinstance(data.train.images, torch.Tensor)
    assert torch.equal(whole(data), by_pillow(data))


def test_where_pillow_rounds_otherwise_all_are_stored_as_squares(tiny, cache, monkeypatch):
    def otherwise(image: Image.Image, geometry: Geometry) -> np.ndarray:
        return cut_square(image, geometry) ^ 1

    monkeypatch.setattr("depthsearch.data.store.enlarge.cut_square", otherwise)
    data = load(tiny, cache)
    assert isinstance(data.train.images, torch.Tensor)
    assert torch.equal(whole(data), by_pillow(data))


def test_a_store_of_squares_that_is_there_already_is_used(tiny, cache, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(pixelfile, "open_small", lambda *_, **__: None)
        squares = load(tiny, cache)
    again = load(tiny, cache, progress=lambda *_: pytest.fail("decoded again"))
    assert torch.equal(again.train.images, squares.train.images)


def test_progress_counts_each_image_once(tiny, cache):
    calls = []
    load(tiny, cache, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 20) for done in range(1, 21)]


def test_unreadable_images_stop_or_are_left_out_and_taken_once_they_can_be_read(tiny, cache):
    path = tiny / "light" / "03.png"
    content, stat = path.read_bytes(), path.stat()
    path.write_bytes(b"x" * len(content))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(DataError, match=r"light/03\.png"):
        load(tiny, cache)
    assert stored_files(cache) == []
    data = load(Source(tiny, skip_unreadable=True), cache)
    assert data.skipped == ("light/03.png",)
    rows = torch.cat([data.train.rows, data.val.rows, data.test.rows])
    files = [tiny / data.paths[row] for row in data.train.rows.tolist()]
    geometry = Geometry(image_size=24, crop_share=0.9, interpolation="bicubic")
    expected = np.stack([decode_file(file, geometry).pixels for file in files])
    assert len(rows) == 19
    np.testing.assert_array_equal(data.train.gather(torch.arange(len(files))).numpy(), expected)
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert load(Source(tiny, skip_unreadable=True), cache).skipped == ()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole: b"",
        lambda whole: whole[:-1],
        lambda whole: whole[:-9],
        lambda whole: whole[:100] + whole[101:],
        lambda whole: whole + b"x",
        lambda whole: b"\0" * len(whole),
        lambda whole: b"\xff" * len(whole),
        lambda whole: whole.replace(b"[12, 12]", b"[12, 13]", 1),
    ],
)
def test_a_damaged_store_is_rebuilt(tiny, cache, spoil):
    expected = whole(load(tiny, cache))
    (file,) = stored_files(cache)
    good = file.read_bytes()
    file.write_bytes(spoil(good))
    assert torch.equal(whole(load(tiny, cache)), expected)
    assert file.read_bytes() == good


# --- what is computed with them -----------------------------------------------------------------


@pytest.fixture
def both(tiny, cache, monkeypatch) -> Callable[..., tuple[DataSet, DataSet]]:
    """Load the same images at their own size and as squares."""
    small = load(tiny, cache, image_size=16)
    monkeypatch.setattr(pixelfile, "open_small", lambda *_, **__: None)
    squares = load(tiny, cache, image_size=16)
    assert not isinstance(small.train.images, torch.Tensor)
    assert isinstance(squares.train.images, torch.Tensor)
    return small, squares


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_view_of_a_small_image_is_that_of_its_square(both, number):
    index, device = torch.tensor([3, 1, 7]), choose_device("cpu", "float32")
    small, squares = (ViewedImages(data.train, number, seed=5) for data in both)
    assert small.fingerprint == squares.fingerprint
    assert torch.equal(small.pixels(index, device), squares.pixels(index, device))


def test_training_on_small_images_ends_in_the_weights_of_squares_kept_or_not(both, task, space, tmp_path):
    recipe = Recipe(epochs=2, batch_size=8, views=2)
    budget = Budget(memory_bytes=10**9, device_bytes=0, disk_bytes=0, folder=tmp_path)
    ends = []
    for data, budget_ in ((both[0], None), (both[0], budget), (both[1], None)):
        each = replace(task, data=data, recipe=recipe, budget=budget_)
        point = Point(cut=space.cuts[9], learning_rate=1e-3)
        results, suffix = run_out(train_point(each, point, seed=0, upcoming=dict.fromkeys(space.cuts, 9.0)))
        ends.append((suffix.state_dict(), [r.val_loss for r in results]))
        assert (sum(r.read_bytes for r in results) > 0) == (budget_ is not None)
    for weights, losses in ends[1:]:
        assert losses == ends[0][1]
        assert all(torch.equal(weights[name], ends[0][0][name]) for name in weights)


def test_prediction_gives_the_probabilities_of_the_gathered_images(both, backbone, cache):
    small, _ = both
    seen = replace(backbone.preprocessing, crop_share=small.crop_share, interpolation="bicubic")
    classifier = Classifier(
        model=backbone.model,
        classes=tuple(map(str, range(backbone.model.num_classes))),
        preprocessing=seen,
        device=choose_device("cpu", "float32"),
    )
    expected = classifier.logits(small.test.gather(torch.arange(len(small.test)))).softmax(1)
    files = [Path(small.source) / small.paths[row] for row in small.test.rows.tolist()]
    found = [list(p.probabilities.values()) for p in classifier.predict(files, batch_size=3)]
    assert torch.equal(torch.tensor(found), expected)
