"""Images named by a table: CSV, Parquet, and Hugging Face's image folders."""

import importlib.util
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from depthsearch.data import Division, Source, load_data
from depthsearch.errors import DataError

REAL = Path(__file__).parents[3] / "shared" / "data"
needs_pyarrow = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs pyarrow")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Hold ten cats and fifteen dogs, each of a colour of its own."""
    root = tmp_path / "animals"
    paint(root, "cat", 10)
    paint(root, "dog", 15)
    return root


def paint(root: Path, name: str, count: int, start: int = 0) -> list[str]:
    """Write small images in a folder; give their paths in the root."""
    (root / name).mkdir(parents=True, exist_ok=True)
    paths = [f"{name}/{place:02d}.png" for place in range(start, start + count)]
    for place, path in enumerate(paths, start=start):
        Image.new("RGB", (12, 9), (sum(map(ord, name)) % 256, 2 * place, 255 - place)).save(root / path)
    return paths


def rows_of(root: Path) -> list[tuple[str, str]]:
    """Pair the images under a folder with the folders around them."""
    paths = sorted(path.relative_to(root) for path in root.rglob("*.png"))
    return [(path.as_posix(), path.parent.name) for path in paths]


def write(path: Path, header: str, rows: list[tuple[str, ...]], encoding: str = "utf-8") -> Path:
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n", encoding=encoding)
    return path


def load(source: Path, cache: Path, **options: object):
    return load_data(source, image_size=8, cache=cache, **options)


# --- a manifest ---------------------------------------------------------------------------------


def test_a_table_gives_the_same_images_labels_and_splits_as_the_folder(folder, cache):
    table = write(folder / "samples.csv", "image,label", rows_of(folder))
    ours, theirs = load(table, cache), load(folder, cache)
    assert (ours.name, ours.source, ours.classes) == ("samples", str(table), ("cat", "dog"))
    assert (ours.layout, ours.notes) == ("samples.csv", ())
    for split in ("train", "val", "test"):
        mine, other = getattr(ours, split), getattr(theirs, split)
        assert torch.equal(mine.labels, other.labels)
        everything = torch.arange(len(mine))
        assert torch.equal(mine.gather(everything), other.gather(everything))


def test_labels_need_no_folders_and_a_column_gives_the_splits(folder, cache):
    words = {0: "Training", 1: "dev", 2: "eval"}
    rows = [
        (path, "even" if place % 2 == 0 else "odd", words[place // 2 % 3])
        for place, (path, _) in enumerate(rows_of(folder))
    ]
    data = load(write(folder / "samples.csv", "image,label,split", rows), cache)
    assert data.classes == ("even", "odd")
    assert [len(data.train), len(data.val), len(data.test)] == [9, 8, 8]
    assert Counter(data.val.labels.tolist()) == {0: 4, 1: 4}


def test_a_split_that_the_column_lacks_is_taken_from_train(folder, cache):
    rows = [(path, label, "test" if path.endswith("3.png") else "train") for path, label in rows_of(folder)]
    data = load(write(folder / "samples.csv", "image,label,split", rows), cache)
    assert [len(data.train), len(data.val), len(data.test)] == [18, 4, 3]


def test_the_file_may_begin_with_a_mark_have_spaces_and_quotes_and_other_cases(folder, cache):
    paint(folder, "odd, one", 5)
    rows = [(f' "{path}"' if "," in path else f" {path}", f"{label} ") for path, label in rows_of(folder)]
    rows = [(path.strip(), label if "," not in label else '"odd, one"') for path, label in rows]
    table = write(folder / "samples.CSV", "Image, LABEL", [*rows, ("",)], encoding="utf-8-sig")
    assert load(table, cache).classes == ("cat", "dog", "odd, one")


def test_columns_that_are_not_read_are_named(folder, cache):
    rows = [(path, label, "sun", "1") for path, label in rows_of(folder)]
    table = write(folder / "samples.csv", "image,label,weather,Camera", rows)
    assert load(table, cache).notes == ("Columns of samples.csv that are not read: Camera, weather.",)


def test_paths_may_be_absolute_or_lead_out_of_the_folder(folder, tmp_path, cache):
    (tmp_path / "lists").mkdir()
    rows = [
        (str(folder / path) if label == "cat" else f"../animals/{path}", label)
        for path, label in rows_of(folder)
    ]
    data = load(write(tmp_path / "lists" / "samples.csv", "image,label", rows), cache)
    assert len(data.train) + len(data.val) + len(data.test) == 25
    assert all(Path(path).is_absolute() for path in data.paths)


def test_the_fingerprint_is_of_content_labels_and_splits_not_of_paths_or_order(folder, tmp_path, cache):
    rows = rows_of(folder)
    first = load(write(folder / "samples.csv", "image,label", rows), cache)
    copy = shutil.copytree(folder, tmp_path / "copy")
    absolute = [(str(copy / path), label) for path, label in reversed(rows)]
    same = load(write(tmp_path / "elsewhere.csv", "label,image", [row[::-1] for row in absolute]), cache)
    assert same.fingerprint == first.fingerprint
    relabelled = [(path, "dog" if path == "cat/00.png" else label) for path, label in rows]
    assert load(write(folder / "b.csv", "image,label", relabelled), cache).fingerprint != first.fingerprint
    Image.new("RGB", (12, 9), "white").save(copy / "cat" / "00.png")
    assert load(tmp_path / "elsewhere.csv", cache).fingerprint != first.fingerprint


def test_new_labels_of_the_same_images_decode_nothing(folder, cache):
    load(write(folder / "a.csv", "image,label", rows_of(folder)), cache)
    rows = [(path, "x" if "0." in path else "y") for path, _ in rows_of(folder)]
    table = write(folder / "b.csv", "image,label", rows)
    load(table, cache, division=Division(test_share=0.4), progress=lambda *_: pytest.fail("decoded again"))


def test_an_image_in_two_splits_is_reported(folder, cache):
    rows = [(path, label, "train") for path, label in rows_of(folder)]
    rows += [("cat/03.png", "cat", "val"), ("dog/04.png", "dog", "val")]
    data = load(write(folder / "samples.csv", "image,label,split", rows), cache)
    assert data.duplicates == (("cat/03.png", "cat/03.png"), ("dog/04.png", "dog/04.png"))


def test_missing_files_are_left_out_where_unreadable_ones_are(folder, cache):
    rows = [*rows_of(folder), ("cat/99.png", "cat")]
    table = write(folder / "samples.csv", "image,label", rows)
    with pytest.raises(DataError, match=r"samples.csv, line 27: no file .*99.png\. Paths count .*--skip"):
        load(table, cache)
    assert load(Source(table, skip_unreadable=True), cache).skipped == ("cat/99.png",)


IMAGE = "image,label\n"
SPLIT = "image,label,split\n"
GOOD = "cat/00.png,cat\ncat/01.png,cat\ndog/00.png,dog\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "samples.csv is empty. Give a header"),
        ("image,label\n", "samples.csv: no rows. Give one for each image"),
        ("file,class\nx,y\n", r"no columns 'image' .* and 'label' .*, only: file, class\. Rename columns"),
        ("image,class\nx,y\n", r"no column 'label' \(its class\), only: image, class"),
        ("image;label\nx;y\n", r"only: image;label\. Part columns by commas"),
        ("image,label,Label\nx,y,z\n", "columns of one name: Label, label"),
        (f"{IMAGE}{GOOD}dog/99.png,dog\ndog/98.png,dog\n", r"line 6: no file .*98.png \(and 1 more"),
        (f"{IMAGE}{GOOD}dog/01.png,\n", "line 5: label is empty"),
        (f"{IMAGE}{GOOD},dog\n", "line 5: image is empty"),
        (f"{IMAGE}{GOOD}dog/01.png\n", "line 5: 1 value for 2 columns"),
        (f"{SPLIT}cat/00.png,cat,train\ndog/00.png,dog,a\n", "line 3: split is 'a'. Give train"),
        (f"{SPLIT}cat/00.png,cat,train\ndog/00.png,dog,\n", "line 3: split is ''. Give train"),
        (f"{IMAGE}{GOOD}./cat/../cat/00.png,dog\n", "is 'cat' in samples.csv, line 2 and 'dog' in"),
        (f"{IMAGE}{GOOD}cat/00.png,cat\n", "cat/00.png stands in .*line 2 and .*line 5"),
        ("image,label\ncat/00.png,cat\n", "one class only, 'cat'"),
        (
            f"{SPLIT}cat/00.png,cat,train\ndog/00.png,dog,val\ncat/01.png,cat,val\n",
            r"class 'dog' has no image in train \(1 in val\)",
        ),
        (f"{SPLIT}cat/00.png,cat,val\ndog/00.png,dog,val\n", "no row has the split train, only val"),
        (f"{IMAGE}{GOOD}", r"Class 'dog' of .*samples.csv has 1 image, too few"),
        ('image,label\n"cat/00.png,cat\n', r"samples.csv is no CSV: .*\(line"),
        ("image,label\nk\xe4tzchen.png,cat\n", r"samples.csv is not in UTF-8 \(.* at byte 13\)"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_used_says_why_in_one_line(folder, cache, content, message):
    (folder / "samples.csv").write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match=message) as caught:
        load(folder / "samples.csv", cache)
    assert "\n" not in str(caught.value)


def test_a_table_that_is_not_there_says_what_to_give(tmp_path, cache):
    with pytest.raises(DataError, match=r"No file .*samples.csv. Give a table with the columns image, label"):
        load(tmp_path / "samples.csv", cache)


def test_a_folder_may_be_called_like_a_table(folder, tmp_path, cache):
    assert load(folder.rename(tmp_path / "animals.csv"), cache).classes == ("cat", "dog")


# --- Parquet ------------------------------------------------------------------------------------


def write_parquet(path: Path, **columns: list[object]) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path)
    return path


@needs_pyarrow
def test_parquet_is_read_as_the_same_table_in_csv(folder, cache):
    paths, labels = map(list, zip(*rows_of(folder), strict=True))
    table = write_parquet(folder / "samples.parquet", image=paths, label=labels, weather=["sun"] * 25)
    same = write(folder / "samples.csv", "image,label", rows_of(folder))
    data = load(table, cache)
    assert data.fingerprint == load(same, cache).fingerprint
    assert data.notes == ("Columns of samples.parquet that are not read: weather.",)


@needs_pyarrow
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.5, 1.5], r"samples.parquet, row 1: label is 0.5, neither text nor a whole number"),
        (["cat", None], r"samples.parquet, row 2: label is empty"),
    ],
)
def test_a_parquet_row_that_cannot_be_used_is_named(folder, cache, labels, message):
    table = write_parquet(folder / "samples.parquet", image=["cat/00.png", "dog/00.png"], label=labels)
    with pytest.raises(DataError, match=message):
        load(table, cache)


@needs_pyarrow
def test_a_file_that_is_no_parquet_says_so(folder, cache):
    (folder / "samples.parquet").write_bytes(b"x" * 100)
    with pytest.raises(DataError, match=r"samples.parquet is no Parquet file: ") as caught:
        load(folder / "samples.parquet", cache)
    assert "\n" not in str(caught.value)


def test_parquet_without_pyarrow_says_what_to_install(folder, cache, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (folder / "samples.parquet").write_bytes(b"x")
    with pytest.raises(DataError, match=r'needs pyarrow: pip install "depthsearch\[parquet\]", or .* CSV'):
        load(folder / "samples.parquet", cache)


# --- real photos --------------------------------------------------------------------------------


@pytest.mark.skipif(not (REAL / "vehicles").is_dir(), reason="needs shared/data/vehicles")
def test_a_table_of_real_photos_gives_the_pixels_of_their_folder(tmp_path, cache):
    root = REAL / "vehicles"
    photos = [path for name in ("bus", "car") for path in sorted((root / "train" / name).iterdir())[:10]]
    table = write(tmp_path / "photos.csv", "image,label", [(str(path), path.parent.name) for path in photos])
    data = load(table, cache)
    assert data.classes == ("bus", "car")
    for photo in photos:
        shutil.copytree(photo.parent, tmp_path / "copy" / photo.parent.name, ignore=lambda at, names: [
            name for name in names if Path(at) / name not in photos
        ], dirs_exist_ok=True)  # fmt: skip
    copied = load(tmp_path / "copy", cache)
    index = torch.arange(len(data.test))
    assert torch.equal(data.test.gather(index), copied.test.gather(index))


# --- Hugging Face's image folders ---------------------------------------------------------------


def write_json_lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def metadata_of(root: Path, kind: str, rows: list[tuple[str, object]]) -> None:
    """Write a folder's metadata in one of its formats."""
    if kind == "csv":
        write(root / "metadata.csv", "file_name,label", [(path, str(label)) for path, label in rows])
    elif kind == "jsonl":
        write_json_lines(root / "metadata.jsonl", [{"file_name": p, "label": label} for p, label in rows])
    else:
        paths, labels = map(list, zip(*rows, strict=True))
        write_parquet(root / "metadata.parquet", file_name=paths, label=labels)


KINDS = ["csv", "jsonl", pytest.param("parquet", marks=needs_pyarrow)]


@pytest.mark.parametrize("kind", KINDS)
def test_metadata_of_a_folder_name_its_images_and_classes(tmp_path, cache, kind):
    root = tmp_path / "photos"
    paths = paint(root, "images", 20)
    metadata_of(root, kind, [(path, place % 2) for place, path in enumerate(paths)])
    data = load(root, cache)
    assert (data.name, data.classes, data.layout) == ("photos", ("0", "1"), f"metadata.{kind}")
    assert [len(data.train), len(data.val), len(data.test)] == [12, 4, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_metadata_in_split_folders_give_the_splits(tmp_path, cache, kind):
    root = tmp_path / "photos"
    for start, name in enumerate(("training", "dev", "eval")):
        paths = paint(root, f"{name}/.", 6, start=6 * start)
        rows = [(Path(path).name, "cat" if place % 3 else "dog") for place, path in enumerate(paths)]
        metadata_of(root / name, kind, rows)
    data = load(root, cache)
    assert data.classes == ("cat", "dog")
    assert [len(data.train), len(data.val), len(data.test)] == [6, 6, 6]
    assert data.layout == ", ".join(f"{name}/metadata.{kind}" for name in ("training", "dev", "eval"))
    assert data.train.labels.tolist() == [1, 0, 0, 1, 0, 0]


def test_metadata_of_the_whole_folder_give_splits_by_their_paths(tmp_path, cache):
    root = tmp_path / "photos"
    paths = [
        path for start, name in ((0, "train"), (9, "test")) for path in paint(root, name, 9, start=start)
    ]
    metadata_of(root, "csv", [(path, "cat" if place % 3 else "dog") for place, path in enumerate(paths)])
    data = load(root, cache)
    assert len(data.test) == 9
    assert all(data.paths[row].startswith("test/") for row in data.test.rows.tolist())


@pytest.mark.parametrize(
    ("names", "layout"),
    [
        (("training", "dev", "eval"), "folders training, dev, eval"),
        (("train", "validation", "testing"), "folders train, validation, testing"),
        (("train", "valid", "evaluation"), "folders train, valid, evaluation"),
    ],
)
def test_class_folders_in_split_folders_of_any_name_give_the_splits(tmp_path, cache, names, layout):
    root = tmp_path / "photos"
    for start, split in enumerate(names):
        paint(root, f"{split}/a", 2 + start)
        paint(root, f"{split}/b", 2 + start)
    data = load(root, cache)
    assert (data.classes, data.layout) == (("a", "b"), layout)
    assert [len(data.train), len(data.val), len(data.test)] == [4, 6, 8]


def test_images_without_a_row_and_columns_that_are_not_read_are_named(tmp_path, cache):
    root = tmp_path / "photos"
    paths = paint(root, "images", 20)
    rows = [
        {"file_name": path, "label": place % 2, **({"text": "x"} if place == 3 else {})}
        for place, path in enumerate(paths[:-2])
    ]
    write_json_lines(root / "metadata.jsonl", rows)
    assert load(root, cache, division=Division(test_share=0.3)).notes == (
        "Columns of metadata.jsonl that are not read: text.",
        "Images that photos/metadata.jsonl does not name, left out: images/18.png, images/19.png.",
    )


def test_class_folders_count_where_metadata_tell_no_classes(folder, cache):
    metadata_of(folder, "csv", [("cat/00.png", "x")])
    (folder / "metadata.csv").write_text("file_name,text\ncat/00.png,a cat\n")
    data = load(folder, cache)
    assert data.classes == ("cat", "dog")
    assert data.notes == (
        "metadata.csv has no columns file_name and label and is not read: the folders are the classes.",
    )


def test_class_folders_called_like_splits_stay_classes(tmp_path, cache):
    for name in ("dev", "valid", "prod"):
        paint(tmp_path / "servers", name, 5)
    assert load(tmp_path / "servers", cache).classes == ("dev", "prod", "valid")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"metadata.csv": "file_name,text\nimages/00.png,x\n"},
            r"metadata.csv has no column 'label' \(its class\), only: file_name, text",
        ),
        (
            {"metadata.jsonl": '{"label": "x"}\n'},
            r"metadata.jsonl has no column 'file_name' \(the file's path\), only: label",
        ),
        ({"metadata.jsonl": "{}\nx\n"}, 'line 2 is no JSON object. Give a line such as {"file_name"'),
        (
            {"metadata.jsonl": '{"file_name": "a", "label": "x"}\n\n{"file_name": "b"}\n'},
            "metadata.jsonl, line 3: label is empty",
        ),
        ({"metadata.csv": "", "metadata.jsonl": ""}, "has both metadata.csv and metadata.jsonl. Keep one"),
        ({"metadata.csv": "file_name,label\n9.png,x\n"}, "metadata.csv, line 2: no file .*9.png"),
        ({"train/metadata.csv": "", "test/x": ""}, "train has metadata.csv, test none. Give it to both"),
        ({"val/metadata.csv": "file_name,label\n../images/00.png,x\n../images/01.png,y\n"}, "only val"),
    ],
)  # fmt: skip
def test_metadata_that_cannot_be_used_say_why_in_one_line(tmp_path, cache, files, message):
    root = tmp_path / "photos"
    paint(root, "images", 3)
    for name, content in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        load(root, cache)
    assert "\n" not in str(caught.value)
