"""What a worker process is given: little where it shares the files, all where it does not, and the same."""

import copy
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from depthsearch.data import DataSet, load_data
from depthsearch.data.store.mapping import Pixels, carried_pixels
from depthsearch.data.store.ownsize import SmallImages
from depthsearch.devices import choose_device
from depthsearch.errors import DataError
from depthsearch.features.digests import value_digests
from depthsearch.models.backbones import load_backbone
from depthsearch.models.tracing.trace import trace
from depthsearch.search.space import Point, SearchSpace
from depthsearch.training.objective import train_point
from depthsearch.training.recipe import Recipe
from depthsearch.training.task import Task

CPU = choose_device("cpu", "float32")
SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def cache(pictures, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits stored as squares, pictures at their own size."""
    folder = tmp_path_factory.mktemp("cache")
    load_data("digits", image_size=16, cache=folder)
    load_data(pictures, image_size=24, cache=folder)
    return folder


@pytest.fixture(params=["squares", "own size"])
def data(request: pytest.FixtureRequest, pictures, cache: Path, tmp_path: Path) -> DataSet:
    """Images of both kinds, in a store that a test may spoil."""
    shutil.copytree(cache, tmp_path, dirs_exist_ok=True)
    source, image_size = ("digits", 16) if request.param == "squares" else (pictures, 24)
    found = load_data(source, image_size=image_size, cache=tmp_path)
    assert isinstance(found.train.images, Pixels if request.param == "squares" else SmallImages)
    return found


def pixels_of(data: DataSet) -> Pixels:
    images = data.train.images
    return images.pixels if isinstance(images, SmallImages) else images


def again(thing: object) -> object:
    return pickle.loads(pickle.dumps(thing))


def assert_same_images(found: DataSet, wanted: DataSet) -> None:
    for split in SPLITS:
        ours, theirs = getattr(found, split), getattr(wanted, split)
        everywhere = torch.arange(len(theirs))
        assert torch.equal(ours.gather(everywhere), theirs.gather(everywhere))
        assert torch.equal(ours.labels, theirs.labels)
        assert ours.fingerprint == theirs.fingerprint


# --- data ---------------------------------------------------------------------------------------


def test_a_data_set_goes_to_another_process_without_its_pixels(data) -> None:
    pickled = pickle.dumps(data)
    assert pixels_of(data)[:64].numpy().tobytes() not in pickled
    # What is in it grows with the images, but not with their size.
    assert len(pickled) < 200 * len(data.paths) + 10_000
    found = pickle.loads(pickled)
    assert_same_images(found, data)
    assert found.fingerprint == data.fingerprint


def test_one_that_is_unpickled_can_be_pickled_again(data) -> None:
    assert_same_images(again(again(data)), data)


def test_what_is_unpickled_is_mapped_once_and_private(data) -> None:
    found, other = again(data), again(data)
    assert found.train.images is found.val.images is found.test.images
    pixels_of(found).fill_(7)
    assert pixels_of(other).unique().numel() > 2


def test_what_is_computed_of_stored_pixels_is_a_plain_tensor(data) -> None:
    pixels = pixels_of(data)
    for made in (pixels[:3], pixels + 1, pixels.clone(), copy.deepcopy(pixels)):
        assert type(made) is torch.Tensor
        assert torch.equal(again(made), made)


def test_a_store_that_is_gone_says_what_to_do(data) -> None:
    pickled = pickle.dumps(data)
    path = pixels_of(data).file.path
    path.rename(path.with_suffix(".moved"))
    with pytest.raises(
        DataError,
        match=rf"^Cannot read the decoded images in {path}: No such file or directory\. Leave the .*\.$",
    ) as caught:
        pickle.loads(pickled)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content + b"\n",
        lambda content: content[:-300] + content[-299:],
        lambda content: content.replace(b'"digests": ["', b'"digests": ["0', 1)[:-1],
    ],
    ids=["longer", "shorter", "other images"],
)
def test_a_store_that_is_another_one_is_not_taken(data, change: Callable[[bytes], bytes]) -> None:
    pickled = pickle.dumps(data)
    path = pixels_of(data).file.path
    changed = change(path.read_bytes())
    path.unlink()
    path.write_bytes(changed)
    with pytest.raises(DataError, match=rf"^The decoded images in {path} are no longer the same\. Leave the"):
        pickle.loads(pickled)


def test_a_store_cut_short_is_not_mapped(data) -> None:
    pickled = pickle.dumps(data)
    path = pixels_of(data).file.path
    os.truncate(path, 10)
    with pytest.raises(DataError, match=r"are no longer the same|it is too short"):
        pickle.loads(pickled)


def test_a_store_in_a_relative_folder_is_found_from_anywhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = load_data("digits", image_size=8, cache=Path("cache"))
    pickled = pickle.dumps(data)
    monkeypatch.chdir("/")
    assert_same_images(pickle.loads(pickled), data)


def test_a_data_set_can_carry_its_images(data) -> None:
    """Without the file, and handed on from there."""
    pickled = pickle.dumps(data.carried())
    wanted = again(data)
    pixels_of(data).file.path.unlink()
    assert_same_images(again(pickle.loads(pickled)), wanted)


def test_images_that_are_carried_are_so_once_and_out_of_band(data) -> None:
    """Handed over without a copy they may be for reading alone."""
    buffers = []
    pickled = pickle.dumps(data.carried(), protocol=5, buffer_callback=buffers.append)
    pixels = pixels_of(data)
    assert [buffer.raw().nbytes for buffer in buffers] == [pixels.nbytes]
    found = pickle.loads(pickled, buffers=[buffer.raw().toreadonly() for buffer in buffers])
    assert_same_images(found, data)
    assert pixels_of(found).data_ptr() == pixels.data_ptr()
    assert found.train.images is found.val.images is found.test.images


def test_pixels_of_ones_own_are_carried_as_they_are(few_digits) -> None:
    data = few_digits()
    turned = data.train.images.roll(1, 0)
    data = replace(data, **{split: replace(getattr(data, split), images=turned) for split in SPLITS})
    for found in (again(data), again(data.carried())):
        assert torch.equal(found.train.images, turned)
    assert type(carried_pixels(turned)) is Pixels


# --- models -------------------------------------------------------------------------------------

QUICK = [
    ("test_resnet", 16, "pool"),
    ("test_resnet", 32, "flatten"),
    ("cnn", 32, "pool"),
    ("cnn", 32, "flatten"),
]
OTHERS = [
    (name, 64, head)
    for name in (
        "densenet121",
        "resnet50",
        "efficientnet_b0",
        "mobilenetv3_large_100",
        "convnext_atto",
        "vgg16",
    )
    for head in ("pool", "flatten")
    if (name, head) != ("vgg16", "pool")
]


@pytest.mark.parametrize(
    ("name", "image_size", "head"),
    [*QUICK, *(pytest.param(*other, marks=pytest.mark.slow) for other in OTHERS)],
)
def test_a_backbone_is_the_same_in_another_process(name: str, image_size: int, head: str) -> None:
    """Down to what its features are kept by; little but its weights is in the pickle, and no graph."""
    backbone = load_backbone(name, "random", image_size=image_size, head=head)
    graph = trace(backbone.model, image_size=image_size)
    pickled = pickle.dumps(backbone)
    found = pickle.loads(pickled)
    weights = sum(tensor.nbytes for tensor in backbone.model.state_dict().values())
    assert len(pickled) < weights + 500_000
    assert b"torch.fx" not in pickled
    assert (found.digest, found.head, found.preprocessing) == (backbone.digest, head, backbone.preprocessing)
    traced = trace(found.model, image_size=image_size)
    assert list(value_digests(traced).values()) == list(value_digests(graph).values())
    strides = [[t.stride() for t in model.state_dict().values()] for model in (found.model, backbone.model)]
    assert strides[0] == strides[1]
    image = torch.rand(2, 3, image_size, image_size)
    with torch.no_grad():
        assert torch.equal(found.model(image), backbone.model(image))


# --- tasks --------------------------------------------------------------------------------------


def a_task(head: str, cache: Path) -> Task:
    backbone = load_backbone("test_resnet", "random", image_size=16, head=head)
    data = load_data("digits", image_size=16, cache=cache)
    index = torch.arange(0, len(data.train), 20)
    return Task(
        backbone=backbone,
        data=replace(data, train=data.train.chosen(index), val=data.val.chosen(torch.arange(40))),
        recipe=Recipe(epochs=2, batch_size=32, views=2),
        device=CPU,
    )


def end_of(task: Task) -> dict[str, object]:
    """What a training gives: results, weights, and what its features would be kept by."""
    space = SearchSpace.for_model(task.backbone.model, image_size=16)
    cut = next(cut for cut in space.cuts if cut.name == "layer3.0.conv1")
    training, epochs = train_point(task, Point(cut=cut, learning_rate=1e-2, head_width=16), seed=3), []
    while True:
        try:
            result = next(training)
            epochs.append((result.train_loss, result.score))
        except StopIteration as stopped:
            return {
                "epochs": epochs,
                "weights": {name: tensor.numpy() for name, tensor in stopped.value.state_dict().items()},
                "digests": list(task.features.frozen.digests.values()),
                "images": [viewed.fingerprint for viewed in task.train_views],
                "data": task.data.fingerprint,
            }


def test_a_task_goes_without_what_is_computed_once(cache: Path) -> None:
    task = a_task("pool", cache)
    plain = pickle.dumps(task)
    end_of(task)
    assert {"graph", "features", "train_views", "val_views"} <= vars(task).keys()
    assert len(pickle.dumps(task)) == len(plain)
    assert b"torch.fx" not in plain
    assert vars(pickle.loads(plain)).keys() == {
        "backbone", "data", "recipe", "device", "budget", "split_seed", "origin"
    }  # fmt: skip


def test_a_task_drawn_anew_is_so_in_another_process(cache: Path) -> None:
    task = a_task("pool", cache).resampled(5)
    assert torch.equal(again(task).train_rows, task.train_rows)


CHILD = """
import pickle, sys
import test_pickling

tasks = pickle.load(sys.stdin.buffer)
pickle.dump([test_pickling.end_of(task) for task in tasks], open(sys.argv[1], "wb"))
"""


@pytest.mark.slow
def test_another_process_trains_to_the_same_bits(cache: Path, tmp_path: Path) -> None:
    """With a pooled head and images from their file; with a flattened one and images carried."""
    tasks = [a_task("pool", cache), a_task("flatten", cache)]
    tasks[1] = replace(tasks[1], data=tasks[1].data.carried())
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [*sys.path, str(Path(__file__).parent)]))
    }
    subprocess.run(
        [sys.executable, "-c", CHILD, tmp_path / "found"],
        input=pickle.dumps(tasks),
        env=environment,
        check=True,
        timeout=120,
    )
    found = pickle.loads((tmp_path / "found").read_bytes())
    for theirs, ours in zip(found, map(end_of, tasks), strict=True):
        assert theirs.keys() == ours.keys()
        weights = [each.pop("weights") for each in (theirs, ours)]
        assert theirs == ours
        assert weights[0].keys() == weights[1].keys()
        assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[1])
