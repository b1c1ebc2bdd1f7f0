"""Names of classes that nobody can tell apart, and images that stand in two classes."""

import pytest
from image_folders import fill

from depthsearch.data import load_data
from depthsearch.data.classnames import check_names
from depthsearch.errors import DataError

ALIKE = {
    "a space of no width": ("big cat", "big\u200b cat"),
    "a mark of no width at the end": ("dog", "dog\u200b"),
    "a byte order mark": ("dog", "\ufeffdog"),
    "a soft hyphen": ("dog", "do\u00adg"),
    "a word joiner": ("dog", "d\u2060og"),
    "a selector of variants": ("dog", "dog\ufe0f"),
    "a mark of direction": ("dog", "dog\u200e"),
    "a space that keeps words together": ("big cat", "big\u00a0cat"),
    "a thin space": ("big cat", "big\u2009cat"),
    "a blank of braille": ("big cat", "big\u2800cat"),
    "two spaces": ("big cat", "big  cat"),
    "a space before": ("dog", " dog"),
    "a tab": ("big cat", "big\tcat"),
    "a Cyrillic letter": ("cat", "c\u0430t"),
    "a Greek letter": ("Oak", "\u039fak"),
    "a hyphen that keeps words together": ("t-shirt", "t\u2011shirt"),
    "a control character": ("dog", "do\x07g"),
    "a character to delete": ("dog", "dog\x7f"),
    "a control character of Latin-1": ("dog", "\x9bdog"),
    "two Unicode forms": ("caf\u00e9", "cafe\u0301"),
    "two Unicode forms and a space of no width": ("caf\u00e9", "cafe\u0301\u200b"),
}


@pytest.mark.parametrize("kind", ALIKE)
def test_names_that_look_the_same_are_refused_and_spelled_out(kind) -> None:
    one, other = ALIKE[kind]
    with pytest.raises(DataError, match="alike") as caught:
        check_names(["xyz", one, other], "set")
    assert ascii(one) in str(caught.value)
    assert ascii(other) in str(caught.value)


def test_all_pairs_that_look_the_same_are_named() -> None:
    with pytest.raises(DataError, match=r"Classes 'a b' and 'a\\xa0b'; 'dog' and 'dog\\u200b' of set look"):
        check_names(["a b", "a\u00a0b", "dog", "dog\u200b"], "set")


TOLD = {
    "case": ("Cat", "cat"),
    "sharp s": ("stra\u00dfe", "STRASSE"),
    "an underscore": ("big cat", "big_cat"),
    "a dash": ("big-cat", "big\u2013cat"),
    "wide letters": ("cat", "\uff43\uff41\uff54"),
    "a number with a point": ("1", "1.0"),
    "a number with zeros": ("7", "007"),
    "a number of many digits": ("12345678", "12345678.0"),
    "a number of more digits than a float has": ("1" * 40, "0" + "1" * 40),
    "a number with a sign": ("1", "+1"),
    "a number with an exponent": ("1", "1e0"),
    "a number that ends in a point": ("1", "1."),
    "a number that begins with a point": ("0.5", ".5"),
    "a negative number": ("-1", "-1.0"),
    "another minus": ("-1", "\u22121"),
    "quotation marks": ('"a"', "a"),
    "case and an underscore": ("Big_Cat", "big cat"),
}


@pytest.mark.parametrize("kind", TOLD)
def test_names_that_may_be_one_are_told(kind) -> None:
    (note,) = check_names(["xyz", *TOLD[kind]], "set")
    assert note.endswith("are they one?")


@pytest.mark.parametrize("name", ["\u200b", "\u00a0", "\u2800\u3164", "\ufe0f"])
def test_a_name_that_cannot_be_seen_is_refused(name) -> None:
    with pytest.raises(DataError, match="has a name that cannot be seen"):
        check_names(["cat", name], "set")


@pytest.mark.parametrize(
    "names",
    [
        ("-1", "1"),
        ("100000.1", "100000.2"),
        ("12345678", "12345679"),
        ("-5 C", "5 C"),
        ("1e2", "1e3"),
        ("lag -1", "lag 1"),
        ("1" * 40, "1" * 39 + "2"),
        ("1e9999999999999999999", "2"),
        ("-0.5", "0.5"),
        ("cat", "cot"),
        ("class1", "class2"),
        ("\u043a\u043e\u0442", "kot"),
        ("x\u00b2", "x\u00b3"),
        ("a", "b"),
    ],
)
def test_names_that_differ_are_neither_refused_nor_told(names) -> None:
    assert check_names(names, "set") == ()


def test_splits_that_disagree_in_what_cannot_be_seen_are_spelled_out(tmp_path) -> None:
    fill(tmp_path / "set", {"train/cat": 3, "train/dog": 3, "val/cat": 3, "val/dog\u200b": 3})
    with pytest.raises(DataError, match=r"only one of them has 'dog', 'dog\\u200b'"):
        load_data(tmp_path / "set", image_size=8, cache=tmp_path / "cache")


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_images_that_stand_in_two_classes_are_told_within_a_split_too(tmp_path, prefix) -> None:
    root = fill(tmp_path / "set", {f"{prefix}cat": 20, f"{prefix}dog": 20})
    for i in (3, 8):
        copied = (root / f"{prefix}cat" / f"{i:02d}.png").read_bytes()
        (root / f"{prefix}dog" / f"copy{i}.png").write_bytes(copied)
    notes = load_data(root, image_size=8, cache=tmp_path / "cache").notes
    assert notes == (
        f"2 images stand byte for byte in several classes: {prefix}cat/03.png = {prefix}dog/copy3.png, "
        f"{prefix}cat/08.png = {prefix}dog/copy8.png. No model can learn both: remove the wrong ones.",
    )


def test_of_an_image_in_two_classes_a_path_of_each_is_told(tmp_path) -> None:
    root = fill(tmp_path / "set", {"cat": 20, "dog": 20})
    copied = (root / "cat" / "00.png").read_bytes()
    for path in ("cat/a.png", "cat/b.png", "cat/c.png", "dog/x.png"):
        (root / path).write_bytes(copied)
    (note,) = load_data(root, image_size=8, cache=tmp_path / "cache").notes
    assert "several classes: cat/00.png = dog/x.png. No model" in note


def test_images_that_stand_twice_in_one_class_are_not_told_of_two(tmp_path) -> None:
    root = fill(tmp_path / "set", {"cat": 6, "dog": 6})
    (root / "cat" / "copy.png").write_bytes((root / "cat" / "00.png").read_bytes())
    assert load_data(root, image_size=8, cache=tmp_path / "cache").notes == ()


def test_a_table_that_gives_two_files_of_one_content_two_labels_is_told(tmp_path) -> None:
    root = fill(tmp_path, {"images": 20})
    (root / "images" / "x.png").write_bytes((root / "images" / "00.png").read_bytes())
    rows = [f"images/{i:02d}.png,{'ab'[i % 2]}" for i in range(20)]
    (root / "samples.csv").write_text("\n".join(["image,label", *rows, "images/x.png,b"]))
    (note,) = load_data(root / "samples.csv", image_size=8, cache=tmp_path / "cache").notes
    assert note.startswith("1 image stands byte for byte in several classes: images/00.png = images/x.png.")
