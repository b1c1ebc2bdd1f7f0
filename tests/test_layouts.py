"""Folders of folders: which are splits, which are classes, and what is refused because it may be either."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from depthsearch.data import DataSet, load_data
from depthsearch.errors import DataError

IMAGES = iter(np.random.default_rng(0).integers(0, 255, (8000, 8, 8, 3), dtype=np.uint8))


def fill(root: Path, counts: dict[str, int]) -> Path:
    """Make folders with so many images each, all of them different."""
    for name, n in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for place in range(n):
            Image.fromarray(next(IMAGES)).save(root / name / f"{place:02d}.png")
    return root


def load(root: Path, tmp_path: Path) -> DataSet:
    return load_data(root, image_size=8, cache=tmp_path / "cache")


def sizes(data: DataSet) -> tuple[int, int, int]:
    return len(data.train), len(data.val), len(data.test)


def splits_of_paths(data: DataSet) -> dict[str, set[str]]:
    """Return which folders the images of each split lie in."""
    return {
        split: {data.paths[row].rpartition("/")[0] for row in getattr(data, split).rows.tolist()}
        for split in ("train", "val", "test")
    }


NAMES = [
    ("Train", "Valid", "Testing"),
    ("training_set", "validation_set", "test_set"),
    ("train_images", "val_images", "test_images"),
    ("seg_train", "seg_val", "seg_test"),
    ("my-train-set", "my-valid-set", "my-test-set"),
    ("TrainImages", "ValImages", "TestImages"),
    ("XTrain", "XVal", "XTest"),
    ("trainset", "valset", "testset"),
    ("train2017", "val2017", "test2018"),
    ("01_train", "02_val", "03_test"),
    ("TRAIN", "DEV", "EVAL"),
    ("trn", "val", "tst"),
    ("flowers.train", "flowers.val", "flowers.test"),
    ("train", "validate", "holdout"),
    ("train (80 %)", "val (10 %)", "test (10 %)"),
    ("our-train", "their-val", "new-test"),
]


@pytest.mark.parametrize("names", NAMES, ids=" ".join)
def test_splits_are_known_whatever_is_around_their_names(tmp_path, names) -> None:
    counts = {f"{name}/{c}": 3 + i for i, name in enumerate(names) for c in ("cat", "dog")}
    data = load(fill(tmp_path / "set", counts), tmp_path)
    assert data.classes == ("cat", "dog")
    assert sizes(data) == (6, 8, 10)
    assert data.layout == "folders " + ", ".join(names)


@pytest.mark.parametrize("names", [("seg_train", "seg_test"), ("training_set", "test_set")])
def test_images_directly_in_splits_are_no_classes(tmp_path, names) -> None:
    with pytest.raises(DataError, match=rf"6 image\(s\) directly in .*/{names[0]}, in no class folder"):
        load(fill(tmp_path / "set", dict.fromkeys(names, 6)), tmp_path)


def test_a_split_in_a_folder_of_its_own_name_is_found(tmp_path) -> None:
    counts = {f"{s}/{s}/{c}": 5 for s in ("seg_train", "seg_test") for c in ("cat", "dog")}
    data = load(fill(tmp_path / "set", counts), tmp_path)
    assert data.classes == ("cat", "dog")
    assert splits_of_paths(data)["test"] == {"seg_test/seg_test/cat", "seg_test/seg_test/dog"}


@pytest.mark.parametrize("inner", [("train", "val", "test"), ("c_train", "c_val", "c_test")])
def test_splits_within_classes_are_kept(tmp_path, inner) -> None:
    counts = {f"{c}/{s}": 4 for c in ("cat", "dog") for s in inner}
    data = load(fill(tmp_path / "set", counts), tmp_path)
    assert data.classes == ("cat", "dog")
    assert data.layout == f"{', '.join(inner)} in each class folder"
    for split, folder in zip(("train", "val", "test"), inner, strict=True):
        assert splits_of_paths(data)[split] == {f"cat/{folder}", f"dog/{folder}"}


CLASSES = {
    "a class of railway trains": ("train", "car", "plane"),
    "a class of training": ("training", "cooking"),
    "kinds of trains": ("bullet_train", "freight_train", "steam train"),
    "words that hold one": ("contest", "latest", "protest", "restraining"),
    "no train among them": ("test", "control", "dev"),
    "others beside them": ("bullet_train", "test_track", "station"),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_classes_that_are_called_a_little_like_splits_stay_classes(tmp_path, kind) -> None:
    data = load(fill(tmp_path / "set", dict.fromkeys(CLASSES[kind], 6)), tmp_path)
    assert data.classes == tuple(sorted(CLASSES[kind]))


def each(outer: tuple[str, ...], inner: tuple[str, ...]) -> dict[str, int]:
    return {f"{o}/{i}": 5 for o in outer for i in inner}


REFUSED = {
    "images and masks": (
        each(("images", "masks"), ("cat", "dog")),
        "what are the classes, images, masks or the folders in them, cat, dog",
    ),
    "images and masks with splits": (
        each(("images", "masks"), ("train", "val")),
        "what are the classes, images, masks or the folders in them, train, val",
    ),
    "folds": (
        each(("fold1", "fold2", "fold3"), ("cat", "dog")),
        "what are the classes, fold1, fold2, fold3 or the folders in them, cat, dog",
    ),
    "folds that differ a little": (
        each(("fold1", "fold2"), ("cat", "dog")) | {"fold3/cat": 5},
        "fold1, fold2, fold3 or the folders in them, cat, dog",
    ),
    "splits in a language that nobody knows": (
        each(("apprentissage", "essai"), ("chat", "chien")),
        "apprentissage, essai or the folders in them, chat, chien",
    ),
    "one folder each": ({"a/x": 5, "b/y": 5}, "what are the classes, a, b or the folders in them, x, y"),
    "within a split": (
        each(("train/images", "train/masks"), ("cat", "dog")),
        "give the folder that holds the images, such as --data .*/set/train/images",
    ),
    "splits in some classes": (
        {"cat/train": 5, "cat/test": 5, "dog": 5},
        "cat holds the splits train, test, dog has none",
    ),
    "other splits in some classes": (
        {"cat/train": 5, "cat/test": 5, "dog/train": 5},
        "cat holds the splits train, test, dog has train. Give each class folder the same",
    ),
    "images beside splits in classes": (
        each(("cat", "dog"), ("train", "test")) | {"cat": 2},
        r"2 image\(s\) directly in .*/cat, in no class folder",
    ),
    "two trains": (
        each(("trainA", "testA", "trainB", "testB"), ("cat", "dog")),
        "has both testA and testB, two names for one split",
    ),
    "splits and others": (
        each(("seg_train", "seg_test"), ("cat", "dog")) | {"seg_pred": 3},
        r"mixes split folders \(seg_test, seg_train\) with others \(seg_pred\)",
    ),
    "in a folder": (
        each(("archive/train", "archive/test"), ("cat", "dog")),
        "one class only, 'archive'. If test, train are the classes or splits, give --data .*/set/archive",
    ),
    "in two folders": (
        each(("a/b",), ("cat", "dog")),
        "If cat, dog are the classes or splits, give --data .*/set/a/b",
    ),
    "in a folder of each split": (
        each(("train/images", "test/images"), ("cat", "dog")),
        "If cat, dog are the classes or splits, put them straight into .*/set/train, and so with the other",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_may_be_meant_in_two_ways_is_refused_with_both(tmp_path, kind) -> None:
    counts, message = REFUSED[kind]
    with pytest.raises(DataError, match=message) as caught:
        load(fill(tmp_path / "set", counts), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_of_other_files_beside_that_of_the_images_is_pointed_out(tmp_path) -> None:
    root = fill(tmp_path / "set", {"images/cat": 5, "images/dog": 5, "meta": 0})
    (root / "meta" / "classes.txt").write_text("cat\ndog\n")
    message = (
        r"meta holds no image that Pillow reads, only 1 \.txt\. .* If cat, dog .*, give --data .*/images\."
    )
    with pytest.raises(DataError, match=message):
        load(root, tmp_path)


@pytest.mark.parametrize("counts", [{"images": 6}, {"train": 6, "test": 6}, {".": 6}], ids=str)
def test_a_table_beside_images_that_are_in_no_class_is_pointed_out(tmp_path, counts) -> None:
    root = fill(tmp_path / "set", counts)
    (root / "labels.csv").write_text("image,label\n")
    with pytest.raises(
        DataError, match=r"If labels\.csv has the labels, give that: --data .*/set/labels\.csv\."
    ):
        load(root, tmp_path)


def test_a_class_in_a_folder_of_its_own_name_is_that_class(tmp_path) -> None:
    data = load(fill(tmp_path / "set", {"cat/cat": 6, "dog/dog": 6}), tmp_path)
    assert data.classes == ("cat", "dog")


def test_folders_within_class_folders_are_read_and_told(tmp_path) -> None:
    root = fill(tmp_path / "set", {"cat": 4, "cat/masks": 4, "dog": 4})
    data = load(root, tmp_path)
    assert len(data.paths) == 12
    assert data.notes == ("Images in folders within class folders belong to these classes: cat/masks.",)
