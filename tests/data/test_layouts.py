"""Folders of folders: which are splits, which are classes, and what is refused because it may be either."""

from pathlib import Path

import pytest
from image_folders import fill

from depthsearch.data import DataSet, load_data
from depthsearch.errors import DataError


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
    "two sets side by side": (
        each(("a_train", "a_test", "b_train", "b_test"), ("cat", "dog")),
        "put their images together in one; if they belong to several sets, move the folders of each set into",
    ),
    "kinds of pictures with splits that hold the classes": (
        each(tuple(f"{o}/{s}" for o in ("art", "photo") for s in ("train", "test")), ("dog", "cat")),
        "what are the classes, art, photo or the folders in their split folders, cat, dog",
    ),
    "folds with splits that hold the classes": (
        each(tuple(f"{o}/{s}" for o in "012" for s in ("train", "val")), ("a", "b")),
        "what are the classes, 0, 1, 2 or the folders in their split folders, a, b",
    ),
    "the same in a folder of each split": (
        each(tuple(f"{o}/{s}/images" for o in ("RGB", "depth") for s in ("train", "val")), ("a", "b")),
        "what are the classes, RGB, depth or the folders in their split folders, a, b",
    ),
    "the same with one stray image": (
        each(tuple(f"{o}/{s}" for o in ("art", "photo") for s in ("train", "test")), ("dog", "cat"))
        | {"art/train": 1},
        "what are the classes, art, photo or the folders in their split folders, cat, dog",
    ),
    "the same with a test of no classes": (
        each(("art/train", "photo/train"), ("dog", "cat")) | {"art/test": 5, "photo/test": 5},
        "what are the classes, art, photo or the folders in their split folders, cat, dog",
    ),
    "classes beside a test of classes": (
        {"cat": 5, "dog": 5, "test/cat": 5, "test/dog": 5},
        r"is test a split or a class\? It holds folders \(cat, dog\) and stands beside others \(cat, dog\)",
    ),
    "splits deeper than a class folder": (
        each(("mammal/cat", "mammal/dog", "bird/owl"), ("train", "test")),
        r"bird/owl holds the splits test, train, and lies in the class folder bird: they would be mixed\.",
    ),
    "splits in a class of a split": (
        {"train/cat": 5, "train/dog/train": 5, "train/dog/val": 5, "test/cat": 5, "test/dog": 5},
        r"dog holds the splits train, val, and lies in the class folder train/dog: they would be mixed\.",
    ),
    "years with one stray image": (
        each(("2019", "2020"), ("oak", "elm")) | {"2020": 1},
        "what are the classes, 2019, 2020 or the folders in them, elm, oak",
    ),
    "years with a flat folder": (
        each(("2019", "2020"), ("oak", "elm")) | {"extra": 5},
        "what are the classes, 2019, 2020, extra or the folders in them, elm, oak",
    ),
    "years with another folder": (
        each(("2019", "2020"), ("oak", "elm")) | {"x/p": 5, "x/q": 5},
        "what are the classes, 2019, 2020, x or the folders in them, elm, oak",
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


TOLD = {
    "one": ({"cat": 6, "dog": 6, "test": 6}, "Classes are called like splits: test. If they"),
    "two": ({"cat": 6, "dog": 6, "val": 6, "test": 6}, "Classes are called like splits: test, val. If they"),
}


@pytest.mark.parametrize("kind", TOLD)
def test_classes_that_are_called_like_splits_are_told(tmp_path, kind) -> None:
    counts, begin = TOLD[kind]
    (note,) = load(fill(tmp_path / "set", counts), tmp_path).notes
    assert note.startswith(begin)


def test_splits_of_classes_may_hold_a_folder_of_the_class(tmp_path) -> None:
    counts = {f"{c}/{s}/{c}": 4 for c in ("cat", "dog") for s in ("train", "test")}
    data = load(fill(tmp_path / "set", counts), tmp_path)
    assert data.classes == ("cat", "dog")
    assert sizes(data)[2] == 8


def test_a_class_of_railway_trains_may_hold_its_splits(tmp_path) -> None:
    data = load(fill(tmp_path / "set", each(("train", "bus"), ("train", "test"))), tmp_path)
    assert data.classes == ("bus", "train")
    assert splits_of_paths(data)["test"] == {"bus/test", "train/test"}
    assert data.notes == ()


def test_parts_within_the_splits_of_classes_that_no_two_splits_share_are_no_classes(tmp_path) -> None:
    days = {"train": ("1", "2"), "test": ("3", "4")}
    counts = {f"{c}/{s}/{day}": 4 for c in ("cat", "dog") for s, names in days.items() for day in names}
    data = load(fill(tmp_path / "set", counts), tmp_path)
    assert data.classes == ("cat", "dog")
    assert len(data.notes) == 1


@pytest.mark.parametrize(
    "counts", [each(("train", "test"), ("cat", "dog")), each(("cat", "dog"), ("train", "test"))]
)
def test_a_folder_without_images_beside_splits_is_left_out_and_told(tmp_path, counts) -> None:
    root = fill(tmp_path / "set", counts | {"docs": 0})
    (root / "docs" / "index.md").write_text("# Cats and dogs")
    data = load(root, tmp_path)
    assert data.classes == ("cat", "dog")
    assert len(splits_of_paths(data)["test"]) == 2
    assert data.notes[0] == "Folders without images, left out: docs."


@pytest.mark.parametrize("name", ["owl.heic", ""])
def test_a_class_whose_images_are_lacking_is_not_left_out(tmp_path, name) -> None:
    root = fill(tmp_path / "set", each(("cat", "dog"), ("train", "test")) | {"owl": 0})
    if name:
        (root / "owl" / name).write_bytes(b"x")
    with pytest.raises(DataError, match="cat holds the splits train, test, owl has none"):
        load(root, tmp_path)


def test_a_test_without_labels_beside_classes_can_be_moved_away(tmp_path) -> None:
    root = fill(tmp_path / "set", {"train/cat": 5, "train/dog": 5, "test": 5})
    message = (
        r"directly in .*/set/test, .* If they have no labels, move test out of .*/set; if they have, move"
    )
    with pytest.raises(DataError, match=message):
        load(root, tmp_path)


def test_a_class_in_a_folder_of_its_own_name_is_that_class(tmp_path) -> None:
    data = load(fill(tmp_path / "set", {"cat/cat": 6, "dog/dog": 6}), tmp_path)
    assert data.classes == ("cat", "dog")


def test_folders_within_class_folders_are_read_and_told(tmp_path) -> None:
    root = fill(tmp_path / "set", {"cat": 4, "cat/masks": 4, "dog": 4})
    data = load(root, tmp_path)
    assert len(data.paths) == 12
    assert data.notes == ("Images in folders within class folders belong to these classes: cat/masks.",)
