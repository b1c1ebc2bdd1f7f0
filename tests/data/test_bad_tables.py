"""Tables that name images: damaged, of another kind, or with values that are none."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bad_input import STEADY, STUDY, contents, refusal
from hypothesis import given, strategies as st
from PIL import Image
from privileges import make_pipe

from depthsearch.data import load_data
from depthsearch.data.sources.tables import read_table
from depthsearch.errors import DataError

SUFFIXES = ("csv", "parquet", "jsonl")
ROWS = [(f"{name}{place}.png", name) for name in "ab" for place in range(5)]
HEADER = "image,label\n"
GOOD = HEADER + "".join(f"{image},{label}\n" for image, label in ROWS)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Ten images, five of each class, in the folder that the command runs in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    noise = np.random.default_rng(0).integers(0, 255, (10, 12, 12, 3), dtype=np.uint8)
    for (image, _), pixels in zip(ROWS, noise, strict=True):
        Image.fromarray(pixels).save(tmp_path / image)
    return tmp_path


def refused(folder: Path, content: bytes, capsys, name: str = "t.csv", *options: str) -> str:
    (folder / name).write_bytes(content)
    before = contents(folder)
    told = refusal([*STUDY, f"--data={name}", *options], capsys)
    assert contents(folder) == before
    return told


CSV: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "t.csv is empty. Give a header"),
    "a mark alone": (b"\xef\xbb\xbf", "t.csv is empty"),
    "blank lines": ("\n\n\n", "t.csv"),
    "a header alone": (HEADER, "t.csv: no rows"),
    "no header": ("a0.png,a\nb0.png,b\n", "has no columns 'image'"),
    "no image": (
        "file,label\na0.png,a\n",
        "has no column 'image' (the file's path), only: file, label. Rename columns, or add them, or name "
        "those of the images with --image-columns.",
    ),
    "neither": ("file,kind\na0.png,a\n", "has no columns 'image' (the file's path) and 'label' (its class)"),
    "no label": (
        "image,class\na0.png,a\n",
        "has no column 'label' (its class), only: image, class. Rename columns, or add them.",
    ),
    "another case": (
        GOOD.replace("a0.png,a", "a0.png,A"),
        "--val-share. Near: 'a' (4 images): write both alike if they are one. Add images to it",
    ),
    "semicolons": (GOOD.replace(",", ";"), "only: image;label. Part columns by commas"),
    "tabs": (GOOD.replace(",", "\t"), r"only: image\tlabel. Part columns by commas"),
    "bars": (GOOD.replace(",", "|"), "only: image|label. Part columns by commas"),
    "semicolons below a comma header": (
        HEADER + GOOD.removeprefix(HEADER).replace(",", ";"),
        "line 2: its values are parted by semicolons, those of the header by commas. Part all",
    ),
    "tabs below a comma header": (HEADER + "a0.png\ta\n", "line 2: its values are parted by tabs"),
    "semicolons with a comma in them": ("image,label,age\na0.png;a;1,5\n", "parted by semicolons"),
    "one line of semicolons": (GOOD + "a0.png;a\n", "line 12: its values are parted by semicolons"),
    "an index without a name in the header": (
        HEADER + "0,a0.png,a\n",
        "marks, or name the first column if it numbers the rows",
    ),
    "a header of semicolons": ("image;label\na0.png,a\n", "by commas, the header by semicolons. Part it"),
    "a row in quotation marks": (HEADER + '"a0.png,a"\n', "Leave out the quotation marks around the whole"),
    "a comma at the end": (HEADER + "a0.png,a,\n", "Leave out the comma at its end"),
    "backslashes that lead nowhere": (
        GOOD + "pictures\\x.png,a\n",
        "Its path holds backslashes, as on Windows: write it with /",
    ),
    "a drive of Windows": (GOOD + "C:\\x\\a0.png,a\n", "Its path holds backslashes, as on Windows"),
    "an image in other cases": (GOOD + "A0.PNG,a\n", "a0.png: write it so, letter by letter"),
    "an image without its ending": (HEADER + "a0,a\n", "a0.png: write it so, letter by letter"),
    "an image with another ending": (GOOD + "a0.jpg,a\n", "a0.png: write it so, letter by letter"),
    "a space of no width": (GOOD.replace(",b\n", ",a\u200b\n"), r"'a' and 'a\u200b' of"),
    "columns twice": ("image,label,label\na0.png,a,b\n", "has columns of one name: label, label"),
    "columns twice in other cases": ("image,Image,label\na,b,c\n", "has columns of one name: Image, image"),
    "UTF-16": (GOOD.encode("utf-16"), "t.csv is not in UTF-8"),
    "UTF-16 without a mark": (GOOD.encode("utf-16-le"), "t.csv, line 1: it holds NUL characters"),
    "UTF-32": (GOOD.encode("utf-32"), "t.csv is not in UTF-8"),
    "Latin-1": (GOOD.replace("a\n", "\xe4\n").encode("latin-1"), "t.csv is not in UTF-8"),
    "NUL bytes": (bytes(200), "t.csv"),
    "a NUL in a path": (GOOD + "a\0.png,a\n", "it holds NUL characters. Save the table as UTF-8"),
    "a NUL in a label": (GOOD.replace("b\n", "\0\n"), "it holds NUL characters. Save the table as UTF-8"),
    "an archive": (b"PK\x03\x04" + bytes(range(256)), "t.csv is not in UTF-8"),
    "a web page": ("<!DOCTYPE html>\n<html>\n", "has no columns 'image'"),
    "an open quote": (HEADER + '"a0.png,a\n', "t.csv is no CSV: unexpected end of data"),
    "a stray quote": (HEADER + 'a0.png,"a" x\n', "t.csv is no CSV"),
    "a field of a million": (HEADER + "x" * 10**6 + ",a\n", "t.csv is no CSV: field larger than field limit"),
    "a path of 100,000": (GOOD + "x" * 100_000 + ",a\n", "line 12: no file"),
    "a label of 100,000": (GOOD + "a0.png," + "x" * 100_000 + "\n", "line 12"),
    "a header of 100,000": ("x" * 100_000 + ",label\na,b\n", "has no column 'image'"),
    "10,000 columns": (",".join(f"c{i}" for i in range(10_000)) + "\n", "has no columns 'image'"),
    "too few values": (GOOD + "a0.png\n", "line 12: 1 value for 2 columns"),
    "too many values": (GOOD + "a0.png,a,b\n", "line 12: 3 values for 2 columns (image, label). Put values"),
    "no path": (GOOD + ",a\n", "line 12: image is empty"),
    "a path of spaces": (GOOD + "  ,a\n", "line 12: image is empty"),
    "no label there": (GOOD + "x.png,\n", "line 12: label is empty"),
    "a missing image": (GOOD + "x.png,a\n", "line 12: no file"),
    "many missing images": (GOOD + "x.png,a\ny.png,a\nz.png,a\n", "(and 2 more missing files)"),
    "a folder for an image": (GOOD + "..,a\n", "Is a directory"),
    "an escape for an image": (GOOD + "\x1b[2J.png,a\n", r"\x1b[2J.png"),
    "a home of nobody": (GOOD + "~nonesuch/x.png,a\n", "line 12: no file"),
    "an address": (GOOD + "https://example.org/x.png,a\n", "https://example.org/x.png is an address (URL)"),
    "a place in a store": (GOOD + "s3://bucket/x.png,a\n", "s3://bucket/x.png is an address (URL), no file"),
    "one image twice": (GOOD + "a0.png,a\n", "a0.png stands in t.csv, line 2 and t.csv, line 12"),
    "one image of two classes": (GOOD + "./a0.png,b\n", "a0.png is 'a' in t.csv, line 2 and 'b' in"),
    "one class": (HEADER + "a0.png,a\na1.png,a\n", "one class only, 'a'"),
    "a class for each": (HEADER + "a0.png,a\nb0.png,b\n", "has 1 image, too few"),
    "a formula for a label": (GOOD + "x.png,=1+1\n", "line 12: no file"),
    "an unknown split": ("image,label,split\na0.png,a,holdout\n", "line 2: split is 'holdout'. Give train"),
    "an empty split": ("image,label,split\na0.png,a,\n", "line 2: split is ''. Give train, val or test"),
    "an escape for a split": ("image,label,split\na0.png,a,\x1b[2J\n", r"split is '\x1b[2J'"),
    "splits without train": ("image,label,split\na0.png,a,val\nb0.png,b,val\n", "no row has the split train"),
    "a class that train lacks": (
        "image,label,split\na0.png,a,train\nb0.png,b,val\na1.png,a,val\n",
        "class 'b' has no image in train (1 in val)",
    ),
    "labels that look alike": (
        GOOD.replace(",a\n", ",caf\u00e9\n").replace(",b\n", ",cafe\u0301\n"),
        "only their Unicode form differs",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CSV)
def test_a_csv_that_cannot_be_used_is_one_line(folder, capsys, name: str) -> None:
    content, expected = CSV[name]
    content = content.encode() if isinstance(content, str) else content
    assert expected in refused(folder, content, capsys)


NUMBERS = (
    "",
    " ",
    "x",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1e39",
    "1,5",
    "1_0",
    "0x10",
    "1.2.3",
    "\x1b[2J",
    "1 000",
    "--",
)


@pytest.mark.parametrize("value", NUMBERS)
def test_what_is_no_number_is_refused_with_its_line(folder, capsys, value: str) -> None:
    rows = [
        f'{image},{label},"{value if place == 3 else place}"' for place, (image, label) in enumerate(ROWS)
    ]
    content = "image,label,age\n" + "\n".join(rows)
    told = refused(folder, content.encode(), capsys, "t.csv", "--number-columns=age")
    assert "t.csv, line 5: age is " in told


COLUMNS = {
    "--image-columns=front": "t.csv has no column 'front' (the file's path)",
    "--image-columns=": "--image-columns: it is empty: give a value, or leave it out",
    "--image-columns=image,image": "--image-columns names 'image' twice",
    "--image-columns=label": "--image-columns names 'label', which holds the class",
    "--image-columns=\x1b[2J": r"has no column '\x1b[2J'",
    "--number-columns=age": "t.csv has no column 'age' (a number of the sample)",
    "--number-columns=image": "--image-columns and --number-columns both name 'image'",
    "--number-columns=split": "--number-columns names 'split', which holds the split",
}


@pytest.mark.parametrize("option", COLUMNS)
def test_columns_that_a_table_lacks_are_one_line(folder, capsys, option: str) -> None:
    assert COLUMNS[option] in refused(folder, GOOD.encode(), capsys, "t.csv", option)


# --- JSON lines, which stand in a folder as metadata ---------------------------------------------

LINES: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "has no columns 'file_name'"),
    "a list": ("[1, 2]\n", "line 1 is no JSON object"),
    "a number": ("1\n", "line 1 is no JSON object"),
    "cut short": ('{"file_name": "a0.png", "la\n', "line 1 is no JSON object"),
    "one JSON array": ('[\n{"file_name": "a"}\n]\n', "line 1 is no JSON object"),
    "nested too deeply": ("[" * 100_000 + "\n", "line 1 is no JSON object"),
    "objects nested too deeply": ('{"a":' * 100_000 + "\n", "line 1 is no JSON object"),
    "a number of 5,000 digits": ('{"file_name": "a", "label": ' + "9" * 5000 + "}\n", "line 1 is no JSON"),
    "UTF-16": ('{"a": 1}\n'.encode("utf-16"), "is not in UTF-8"),
    "NUL bytes": (bytes(50), "line 1 is no JSON object"),
    "a label that is null": ('{"file_name": "a0.png", "label": null}\n', "line 1: label is empty"),
    "a label that is NaN": ('{"file_name": "a0.png", "label": NaN}\n', "line 1: label is nan, neither text"),
    "a label that is infinite": ('{"file_name": "a0.png", "label": 1e400}\n', "line 1: label is inf"),
    "a label that is a list": ('{"file_name": "a0.png", "label": ["a"]}\n', "label is ['a'], neither text"),
    "a label that is an object": ('{"file_name": "a0.png", "label": {"a": 1}}\n', "neither text nor"),
    "a label of half a pair": (
        "".join(json.dumps({"file_name": f, "label": "\ud800" if n == "a" else n}) + "\n" for f, n in ROWS),
        r"Class '\ud800' of",
    ),
    "a path that is a number": ('{"file_name": 5, "label": "a"}\n', "line 1: no file"),
    "a path that is null": ('{"file_name": null, "label": "a"}\n', "line 1: file_name is empty"),
    "a path with NUL": ('{"file_name": "a\\u0000", "label": "a"}\n', "line 1: no file"),
    "a path of half a pair": ('{"file_name": "\\ud800.png", "label": "a"}\n', "line 1: no file"),
    "columns twice": ('{"file_name": "a0.png", "label": "a", "Label": "b"}\n', "columns of one name"),
}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_json_lines_that_cannot_be_used_are_one_line(folder, capsys, name: str) -> None:
    content, expected = LINES[name]
    (folder / "metadata.jsonl").write_bytes(content.encode() if isinstance(content, str) else content)
    before = contents(folder)
    assert expected in refusal([*STUDY, "--data=."], capsys)
    assert contents(folder) == before


# --- Parquet ------------------------------------------------------------------------------------


def parquet(path: Path, **columns: object) -> bytes:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path.read_bytes()


IMAGES, LABELS = ([image for image, _ in ROWS], [label for _, label in ROWS])
PARQUET: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "empty": (lambda path: b"", "t.parquet is no Parquet file"),
    "its mark alone": (lambda path: b"PAR1", "t.parquet is no Parquet file"),
    "its two marks": (lambda path: b"PAR1PAR1", "t.parquet is no Parquet file"),
    "text": (lambda path: GOOD.encode(), "t.parquet is no Parquet file"),
    "an absurd length": (lambda path: b"PAR1" + b"\xff\xff\xff\x7fPAR1", "t.parquet is no Parquet file"),
    "cut short": (
        lambda path: parquet(path, image=IMAGES, label=LABELS)[:-9],
        "t.parquet is no Parquet file",
    ),
    "no rows": (lambda path: parquet(path, image=[], label=[]), "no rows"),
    "no columns": (lambda path: parquet(path), "only: no columns at all"),
    "no label": (lambda path: parquet(path, image=IMAGES), "has no column 'label'"),
    "labels that are null": (lambda path: parquet(path, image=IMAGES, label=[None] * 10), "label is empty"),
    "labels that are NaN": (
        lambda path: parquet(path, image=IMAGES, label=[float("nan")] * 10),
        "row 1: label is nan, neither text nor a whole number",
    ),
    "labels that are lists": (
        lambda path: parquet(path, image=IMAGES, label=[["a"]] * 10),
        "neither text nor",
    ),
    "labels that are bytes": (
        lambda path: parquet(path, image=IMAGES, label=[b"a"] * 10),
        "neither text nor",
    ),
    "images that are bytes": (
        lambda path: parquet(path, image=[b"\x89PNG"] * 10, label=LABELS),
        "neither text",
    ),
    "images that are missing": (lambda path: parquet(path, image=[*"0123456789"], label=LABELS), "no file"),
}


@pytest.mark.parametrize("name", PARQUET)
def test_a_parquet_file_that_cannot_be_used_is_one_line(folder, capsys, name: str) -> None:
    pytest.importorskip("pyarrow")
    make, expected = PARQUET[name]
    assert expected in refused(folder, make(folder / "t.parquet"), capsys, "t.parquet")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_bytes_of_a_table_are_a_traceback(tmp_path, suffix: str) -> None:
    path = tmp_path / f"t.{suffix}"
    whole = {"csv": GOOD.encode(), "jsonl": b'{"image": "a0.png", "label": "a"}\n' * 3}.get(suffix)
    if whole is None:
        pytest.importorskip("pyarrow")
        whole = parquet(path, image=IMAGES, label=LABELS)

    @STEADY
    @given(
        st.binary(max_size=200)
        | st.tuples(st.integers(0, len(whole)), st.binary(max_size=8)).map(
            lambda change: whole[: change[0]] + change[1] + whole[change[0] + len(change[1]) :]
        )
    )
    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            read_table(path, needed=("image", "label"))
        except DataError as error:
            refused_for = str(error)
        else:
            return
        assert path.name in refused_for

    check()


# --- what may be --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tsv", "xlsx", "json", "jsonl"])
def test_a_table_in_another_format_is_to_be_saved_as_csv(folder, capsys, kind: str) -> None:
    assert f"t.{kind} is a table in another format. Save it as .csv" in refused(
        folder, b"x", capsys, f"t.{kind}"
    )


SAME = {
    "an empty line before": "\n" + GOOD,
    "lines of spaces and commas before": " \n,\n" + GOOD,
    "a space before quotation marks": GOOD.replace(",a\n", ', "a"\n').replace(
        "image,label", 'image, "label"'
    ),
}


@pytest.mark.parametrize("kind", SAME)
def test_lines_and_spaces_that_say_nothing_change_nothing(folder, kind: str) -> None:
    (folder / "t.csv").write_text(SAME[kind])
    data = load_data("t.csv", image_size=8, cache=folder / "cache")
    assert (data.classes, len(data.paths), data.notes) == (("a", "b"), 10, ())


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "NULL"])
def test_a_label_that_programs_write_for_none_is_told(folder, word: str) -> None:
    (folder / "t.csv").write_text(GOOD.replace(",b\n", f",{word}\n"))
    (note,) = load_data("t.csv", image_size=8, cache=folder / "cache").notes
    assert note.startswith(
        f"'{word}' is the class of 5 images, and what programs write where a value is missing"
    )


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_whole_numbers_with_a_point_are_the_same_labels_in_every_table(folder, suffix: str) -> None:
    labels = [float(label == "b") for label in LABELS]
    rows = list(zip(IMAGES, labels, strict=True))
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
        parquet(folder / "t.parquet", image=IMAGES, label=labels)
    elif suffix == "csv":
        (folder / "t.csv").write_text(HEADER + "".join(f"{image},{label}\n" for image, label in rows))
    else:
        lines = [json.dumps({"file_name": image, "label": label}) for image, label in rows]
        (folder / "metadata.jsonl").write_text("\n".join(lines))
    source = "." if suffix == "jsonl" else f"t.{suffix}"
    assert load_data(source, image_size=8, cache=folder / "cache").classes == ("0.0", "1.0")


PATHS = {
    "train and test": ("train", "test", "test, train"),
    "more around the words": ("seg_train", "seg_test", "seg_test, seg_train"),
    "deeper": ("images/train", "images/test", "test, train"),
}


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("name", ["t.csv", "metadata.csv"])
def test_splits_in_the_paths_of_a_table_that_no_column_has_are_told(folder, kind, name) -> None:
    if name == "metadata.csv" and kind == "train and test":
        pytest.skip("read as splits")
    *folders, told = PATHS[kind]
    lines = []
    for place, (image, label) in enumerate(ROWS):
        path = folder / "set" / folders[place % 2] / image
        path.parent.mkdir(parents=True, exist_ok=True)
        (folder / image).rename(path)
        lines.append(f"{path.relative_to(folder / 'set')},{label}\n")
    column = "image" if name == "t.csv" else "file_name"
    (folder / "set" / name).write_text(f"{column},label\n" + "".join(lines))
    source = "set/t.csv" if name == "t.csv" else "set"
    (note,) = load_data(source, image_size=8, cache=folder / "cache").notes
    assert note.startswith(f"The paths name splits ({told}), and no column does: all rows are one set")


def test_folders_of_paths_that_are_called_a_little_like_splits_are_no_splits(folder) -> None:
    lines = []
    for image, label in ROWS:
        path = folder / {"a": "bullet_train", "b": "test_track"}[label] / image
        path.parent.mkdir(exist_ok=True)
        (folder / image).rename(path)
        lines.append(f"{path.relative_to(folder)},{label}\n")
    (folder / "t.csv").write_text(HEADER + "".join(lines))
    assert load_data("t.csv", image_size=8, cache=folder / "cache").notes == ()


@pytest.mark.parametrize(
    "content", [GOOD, "\ufeff" + GOOD, GOOD.replace("\n", "\r\n"), GOOD.replace("\n", "\n\n")]
)
def test_marks_and_line_ends_of_other_systems_change_nothing(folder, content: str) -> None:
    (folder / "t.csv").write_bytes(content.encode())
    assert len(load_data("t.csv", image_size=8, cache=folder / "cache").paths) == 10


# --- new names of classes -----------------------------------------------------------------------

MAPS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "m.json is no JSON"),
    "a list": (b'["a"]', "m.json holds no JSON object of names"),
    "no names": (b"{}", "m.json holds no JSON object of names"),
    "a number": (b'{"a": 1, "b": "x"}', "m.json maps 'a' to 1, which is no name"),
    "null": (b'{"a": null, "b": "x"}', "m.json maps 'a' to null"),
    "an empty name": (b'{"a": " ", "b": "x"}', "which is no name"),
    "nested": (b'{"a": {"b": "c"}}', "which is no name"),
    "nested too deeply": (b'{"a":' * 100_000, "it is nested too deeply"),
    "not UTF-8": (b'{"a": "\xff"}', "Cannot read"),
    "UTF-16": ('{"a": "x"}'.encode("utf-16"), "Cannot read"),
    "a key twice": (b'{"a": "x", "a": "y"}', "names a more than once"),
    "unknown classes": (b'{"a": "x", "b": "y", "cc": "z"}', "names 1 that are no class of t: cc"),
    "a class too few": (b'{"a": "x"}', "leaves out 1 of the 2 classes of t: b"),
    "one class for all": (b'{"a": "x", "b": "x"}', "maps every class to 'x'"),
    "half a pair": (b'{"a": "\\ud800", "b": "y"}', r"Class '\ud800' of"),
    "escapes": (b'{"a": "x", "b": "y", "\\u001b[2J": "z"}', r"\x1b[2J"),
}


@pytest.mark.parametrize("name", MAPS)
def test_new_names_that_cannot_be_used_are_one_line(folder, capsys, name: str) -> None:
    content, expected = MAPS[name]
    (folder / "m.json").write_bytes(content)
    assert expected in refused(folder, GOOD.encode(), capsys, "t.csv", "--classes-map=m.json")


def test_a_map_that_is_a_pipe_is_refused_and_nobody_waits_for_it(folder, capsys) -> None:
    make_pipe(folder / "m.json")
    told = refused(folder, GOOD.encode(), capsys, "t.csv", "--classes-map=m.json")
    assert "m.json for --classes-map: it is a pipe or device, not a file" in told
