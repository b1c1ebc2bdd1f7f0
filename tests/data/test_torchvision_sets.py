"""Data sets by torchvision's names: files in their own formats, and small sets of the tests' own."""

import gzip
import inspect
import struct
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets
from torchvision.datasets.utils import verify_str_arg

from depthsearch.data import Division, Source, load_data
from depthsearch.data.sources import torchvision_sets
from depthsearch.data.sources.torchvision_sets import KnownSet
from depthsearch.errors import DataError


def write_idx(path: Path, values: np.ndarray) -> None:
    """Write bytes as MNIST's files hold them, packed as they are downloaded."""
    header = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix("").write_bytes(header + values.astype(np.uint8).tobytes())
    path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))


@pytest.fixture
def digits_as_mnist(cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Put 200 digits into the files of FashionMNIST; give them with their labels."""
    digits = load_digits()
    images, labels = np.round(digits.images[:200] * 15.9).astype(np.uint8), digits.target[:200]
    raw = cache / "torchvision" / "FashionMNIST" / "FashionMNIST" / "raw"
    for name, rows in (("train", slice(0, 140)), ("t10k", slice(140, 200))):
        write_idx(raw / f"{name}-images-idx3-ubyte.gz", images[rows])
        write_idx(raw / f"{name}-labels-idx1-ubyte.gz", labels[rows])
    return images, labels


def load(name: str, cache: Path, *, skip_unreadable: bool = False, **options: object):
    source = Source(f"torchvision:{name}", skip_unreadable=skip_unreadable)
    return load_data(source, image_size=8, cache=cache, **options)


def test_files_in_their_own_format_are_read_with_names_and_splits(cache, digits_as_mnist):
    images, labels = digits_as_mnist
    data = load("FashionMNIST", cache)
    assert (data.name, data.source) == ("FashionMNIST", "torchvision:FashionMNIST")
    assert data.layout == "torchvision: train, test"
    assert data.classes == tuple(sorted(datasets.FashionMNIST.classes))
    assert [len(data.train), len(data.val), len(data.test)] == [112, 28, 60]
    shown = data.test.gather(torch.arange(60))[:, 0].numpy()
    np.testing.assert_array_equal(shown, images[140:])
    named = [datasets.FashionMNIST.classes[label] for label in labels[140:]]
    assert [data.classes[label] for label in data.test.labels.tolist()] == named


def test_second_start_reads_no_image_and_changed_files_are_read_again(cache, digits_as_mnist):
    images, _ = digits_as_mnist
    first = load("FashionMNIST", cache)
    again = load("FashionMNIST", cache, progress=lambda *_: pytest.fail("decoded again"))
    assert again.fingerprint == first.fingerprint
    raw = cache / "torchvision" / "FashionMNIST" / "FashionMNIST" / "raw"
    write_idx(raw / "t10k-images-idx3-ubyte.gz", 255 - images[140:])
    assert load("FashionMNIST", cache).fingerprint != first.fingerprint


class Tiny(datasets.VisionDataset):
    """Nine squares of each of three classes in each split: what the tests of this module vary."""

    words = ("train", "val", "test")
    classes = ("red", "lime", ("blue", "navy"))
    _labels = [0, 1, 2] * 3

    def __init__(self, root, split="train", transform=None, target_transform=None, download=False):
        super().__init__(root, transform=transform, target_transform=target_transform)
        verify_str_arg(split, "split", self.words)
        if not (Path(root) / "there").exists():
            if not download:
                raise RuntimeError("Dataset not found.")
            print("Downloading it")
            self.download()
        self.start = 9 * self.words.index(split)

    def download(self):
        (Path(self.root) / "there").touch()

    def __len__(self):
        return 9

    def __getitem__(self, index):
        colour = [0, 0, 0]
        colour[index % 3] = 100 + self.start + index
        return Image.new("RGB", (10, 8), tuple(colour)), index % 3


def known_as(
    monkeypatch, name: str, *, splits=("train", "val", "test"), kept_in="_labels", **changes: object
) -> None:
    """Let torchvision and the table know a small set."""
    monkeypatch.setattr(datasets, name, type(name, (Tiny,), changes), raising=False)
    known = KnownSet({split: {"split": split} for split in splits}, kept_in)
    monkeypatch.setitem(torchvision_sets.SETS, name, known)


@pytest.mark.parametrize("name", sorted(torchvision_sets.SETS))
def test_every_set_of_the_table_is_one_of_torchvisions_and_takes_its_arguments(name):
    known = torchvision_sets.SETS[name]
    kind = getattr(datasets, name)
    parameters = inspect.signature(kind).parameters
    assert issubclass(kind, datasets.VisionDataset)
    assert "train" in known.splits
    assert all(argument in parameters for options in known.splits.values() for argument in options)


def test_every_set_of_torchvisions_is_in_the_table_or_known_to_be_something_else():
    others = {
        "CREStereo", "CarlaStereo", "CelebA", "Cityscapes", "CocoCaptions", "CocoDetection", "DatasetFolder",
        "EMNIST", "ETH3DStereo", "FakeData", "FallingThingsStereo", "Flickr30k", "Flickr8k", "FlyingChairs",
        "FlyingThings3D", "HD1K", "HMDB51", "ImageFolder", "InStereo2k", "Kinetics", "Kitti",
        "Kitti2012Stereo", "Kitti2015Stereo", "KittiFlow", "LFWPairs", "LSUNClass", "Middlebury2014Stereo",
        "MovingMNIST", "PhotoTour", "SBDataset", "SBU", "SceneFlowStereo", "Sintel", "SintelStereo", "UCF101",
        "VOCDetection", "VOCSegmentation", "VisionDataset", "WIDERFace",
        "wrap_dataset_for_transforms_v2",
    }  # fmt: skip
    assert set(datasets.__all__) - others == set(torchvision_sets.SETS)


def test_a_set_has_its_own_splits_and_is_downloaded_once(cache, monkeypatch, capsys):
    known_as(monkeypatch, "Colours")
    data = load("Colours", cache)
    assert data.classes == ("blue, navy", "lime", "red")
    assert [len(data.train), len(data.val), len(data.test)] == [9, 9, 9]
    assert data.val.gather(torch.tensor([1]))[0, :, 0, 0].tolist() == [0, 110, 0]
    assert data.val.labels.tolist()[:3] == [2, 1, 0]
    told = capsys.readouterr()
    assert (told.out, told.err.count("Downloading")) == ("", 1)


@pytest.mark.parametrize(
    ("attribute", "stored"),
    [
        ("targets", torch.arange(9) % 3),
        ("labels", np.arange(9) % 3),
        ("_samples", [("x", place % 3) for place in range(9)]),
        ("", None),
    ],
)
def test_labels_are_read_from_where_the_table_says(cache, monkeypatch, attribute, stored):
    def getitem(self, index):
        return Tiny.__getitem__(self, index)[0], np.int64(index % 3)

    kept = {attribute: stored} if attribute else {}
    known_as(monkeypatch, "Colours", kept_in=attribute, __getitem__=getitem, _labels="hidden", **kept)
    assert load("Colours", cache).train.labels.tolist() == [2, 1, 0] * 3


def test_test_images_without_classes_are_left_out(cache, monkeypatch):
    def getitem(self, index):
        image, label = Tiny.__getitem__(self, index)
        return image, None if self.start == 18 else label

    known_as(monkeypatch, "Colours", kept_in="", __getitem__=getitem)
    data = load("Colours", cache, division=Division(test_share=0.34))
    assert data.layout == "torchvision: train, val"
    assert [len(data.train), len(data.val), len(data.test)] == [5, 9, 4]


def refuse(self):
    raise urllib.error.URLError("Name or service not known")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "CIFAR-100",
            {},
            "has no data set for classification called 'CIFAR-100'. Near: CIFAR100, CIFAR10",
        ),
        (
            "",
            {},
            "no data set for classification called ''. It has CIFAR10, CIFAR100, CLEVRC.*MNIST",
        ),
        ("ImageFolder", {}, "torchvision has no data set for classification called 'ImageFolder'. "),
        ("VOCDetection", {}, "torchvision has no data set for classification called 'VOCDetection'. "),
        (
            "Colours",
            {"download": refuse, "url": "https://example.org/colours.zip"},
            "torchvision:Colours is not in .*torchvision/Colours and cannot be had from "
            "https://example.org/colours.zip: <urlopen error Name or service not known>. Put its files there",
        ),
    ],
)
def test_a_set_that_cannot_be_used_says_why_in_one_line(cache, monkeypatch, name, changes, message):
    if changes:
        known_as(monkeypatch, name, **changes)
    with pytest.raises(DataError, match=message) as caught:
        load(name, cache)
    assert "\n" not in str(caught.value)


def test_a_set_that_cannot_download_says_what_it_wants(cache):
    pytest.importorskip("scipy")
    with pytest.raises(DataError, match=r"torchvision:ImageNet is not in .*: The archive ILSVRC2012_devkit"):
        load("ImageNet", cache)


def test_a_damaged_image_is_named(cache, monkeypatch):
    def getitem(self, index):
        if index == 5:
            raise OSError("image file is truncated")
        return Tiny.__getitem__(self, index)

    known_as(monkeypatch, "Colours", __getitem__=getitem)
    with pytest.raises(DataError, match=r"Cannot read image 5 of torchvision:Colours: image file is trunc"):
        load("Colours", cache)


def test_a_lack_of_memory_leaves_no_image_of_a_set_out(cache, monkeypatch):
    def full(self, index):
        if index == 4:
            raise MemoryError
        return Tiny.__getitem__(self, index)

    known_as(monkeypatch, "Colours", __getitem__=full)
    with pytest.raises(
        DataError, match=r"The memory does not suffice to decode image 4 of torchvision:Colours"
    ):
        load("Colours", cache, skip_unreadable=True)


def test_images_of_more_than_8_bits_in_a_set_are_refused(cache, monkeypatch):
    def wide(self, index):
        return Image.new("F", (10, 8), index), Tiny.__getitem__(self, index)[1]

    known_as(monkeypatch, "Colours", __getitem__=wide)
    with pytest.raises(DataError, match=r"An image of mode F has more than 8 bits"):
        load("Colours", cache, skip_unreadable=True)
