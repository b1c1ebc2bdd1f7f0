"""Folders of images and digits, from the files to the rows that training gathers."""

import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from timm.data import create_transform

from depthsearch.data import DataSet, Division, Source, check_source, image_files, load_data
from depthsearch.errors import DataError

REAL = Path(__file__).parents[3] / "shared" / "data"


def paint(path: Path, colour: object, mode: str = "RGB", **options: object) -> None:
    """Write an image of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (12, 9), colour).save(path, **options)


def paint_classes(root: Path, counts: dict[str, int]) -> Path:
    """Write differently coloured images, as many in each class folder as is said."""
    for row, (folder, count) in enumerate(counts.items()):
        for place in range(count):
            paint(root / folder / f"{place:02d}.png", (20 * row, 2 * place, 255 - place))
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return paint_classes(tmp_path / "animals", {"cat": 10, "dog": 15})


def stores(cache: Path) -> list[Path]:
    return sorted((cache / "images").iterdir())


def row_of(data: DataSet, *parts: str) -> int:
    """Find where an image stands in the store: the files in the order of their paths."""
    root = Path(data.source)
    paths = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.*") if p.is_file())
    return paths.index("/".join(parts))


def only_image(path: Path, cache: Path, image_size: int = 8, **options: object) -> np.ndarray:
    """Load a folder in which a file stands beside plain ones, and give its pixels (s, s, 3)."""
    root = path.parent.parent
    paint_classes(root, {"plain": 5, path.parent.name: 4})
    data = load_data(root, image_size=image_size, cache=cache, **options)
    everything = replace(data.train, rows=torch.arange(len(data.paths)))
    row = torch.tensor([row_of(data, path.parent.name, path.name)])
    return everything.gather(row)[0].permute(1, 2, 0).numpy()


# --- pixels -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image_size", "crop_share", "interpolation", "size", "suffix"),
    [
        (32, 1.0, "bicubic", (75, 50), "png"),
        (32, 0.875, "bilinear", (50, 75), "png"),
        (30, 0.95, "bicubic", (61, 47), "webp"),
        (64, 0.9, "lanczos", (40, 31), "png"),
        (32, 0.875, "bicubic", (1200, 900), "jpg"),
    ],
)
def test_pixels_are_those_of_the_evaluation_transform_of_timm(
    tmp_path, cache, image_size, crop_share, interpolation, size, suffix
):
    path = tmp_path / "set" / "photo" / f"a.{suffix}"
    path.parent.mkdir(parents=True)
    photo = Image.radial_gradient("L").rotate(30).resize(size)
    photo = Image.merge("RGB", [photo, photo.rotate(90), photo.rotate(200)])
    photo.save(path)
    pixels = only_image(
        path, cache, image_size=image_size, crop_share=crop_share, interpolation=interpolation
    )
    transform = create_transform(
        (3, image_size, image_size),
        interpolation=interpolation,
        crop_pct=crop_share,
        mean=(0, 0, 0),
        std=(1, 1, 1),
    )
    with Image.open(path) as file:
        expected = transform(file.convert("RGB"))
    expected = (expected * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize(
    ("name", "mode", "colour", "expected"),
    [
        ("a.png", "L", 90, (90, 90, 90)),
        ("a.png", "1", 1, (255, 255, 255)),
        ("a.png", "LA", (0, 51), (204, 204, 204)),
        ("a.png", "RGBA", (0, 0, 255, 51), (204, 204, 255)),
        ("a.webp", "RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("a.jpg", "CMYK", (255, 0, 0, 0), (0, 255, 255)),
        ("a.tiff", "LAB", (255, 128, 128), (255, 255, 255)),
        ("a.PPM", "RGB", (1, 2, 3), (1, 2, 3)),
    ],
)
def test_every_kind_of_pixel_becomes_rgb(tmp_path, cache, name, mode, colour, expected):
    path = tmp_path / "set" / "odd" / name
    paint(path, colour, mode)
    pixels = only_image(path, cache).astype(int)
    assert np.abs(pixels - expected).max() <= (1 if mode in ("CMYK", "LAB") else 0)


def test_transparent_entry_of_a_palette_lies_on_white(tmp_path, cache):
    path = tmp_path / "set" / "odd" / "a.png"
    path.parent.mkdir(parents=True)
    image = Image.new("P", (12, 9), 1)
    image.putpalette([9, 9, 9, 200, 0, 0])
    image.save(path, transparency=1)
    assert (only_image(path, cache) == 255).all()


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_animation_gives_its_first_frame(tmp_path, cache, name):
    path = tmp_path / "set" / "odd" / name
    frames = [Image.new("RGB", (12, 9), colour) for colour in ("lime", "red")]
    path.parent.mkdir(parents=True)
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    assert (only_image(path, cache) == (0, 255, 0)).all()


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_image_is_turned_as_its_exif_tag_says(tmp_path, cache, name):
    path = tmp_path / "set" / "odd" / name
    path.parent.mkdir(parents=True)
    image = Image.new("L", (8, 8), 0)
    image.paste(255, (0, 0, 4, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter: what is left comes to the top
    image.save(path, exif=exif)
    pixels = only_image(path, cache, interpolation="nearest")
    assert (pixels[:4] > 250).all()
    assert (pixels[4:] < 5).all()


# --- files that cannot be read ------------------------------------------------------------------


def damage(path: Path) -> None:
    """Keep the size and time of a file, but not what it says."""
    stat = path.stat()
    path.write_bytes(b"x" * stat.st_size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def truncated(path: Path) -> None:
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:-900])


def not_finite(path: Path) -> None:
    Image.new("F", (4, 4), float("nan")).save(path, format="tiff")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (damage, "it is not in an image format that Pillow knows"),
        (lambda path: path.write_bytes(b""), "it is not in an image format that Pillow knows"),
        (truncated, "truncated"),
        (not_finite, "values that are not finite"),
        (lambda path: Image.new("1", (1, 501)).save(path), "1 x 501 pixels are too long"),
        (lambda path: (path.unlink(), path.symlink_to("nowhere")), "No such file"),
    ],
)
def test_unreadable_image_stops_with_its_path_and_the_way_on(folder, cache, spoil, reason):
    path = folder / "dog" / "03.png"
    spoil(path)
    message = f"{re.escape(str(path))}.*{reason}.*--skip-unreadable"
    with pytest.raises(DataError, match=message):
        load_data(folder, image_size=8, cache=cache)
    assert not list(cache.rglob("*.images"))
    data = load_data(Source(folder, skip_unreadable=True), image_size=8, cache=cache)
    assert data.skipped == ("dog/03.png",)


def test_first_unreadable_image_by_path_is_the_one_named(folder, cache):
    for name in ("dog/14.png", "cat/04.png", "dog/00.png"):
        damage(folder / name)
    with pytest.raises(DataError, match=r"cat/04\.png"):
        load_data(folder, image_size=8, cache=cache)


def test_decompression_bomb_is_unreadable(folder, cache, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12 * 9 // 2 - 1)
    with pytest.raises(DataError, match=r"cat/00.png: Image size .* decompression bomb"):
        load_data(folder, image_size=8, cache=cache)


def test_large_image_below_the_bomb_limit_is_read_without_a_warning(folder, cache, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12 * 9 - 1)
    assert load_data(folder, image_size=8, cache=cache).skipped == ()


def test_skipped_image_is_in_no_split_and_moves_no_other(folder, cache):
    whole = load_data(folder, image_size=8, cache=cache)
    damaged = row_of(whole, "dog", "03.png")
    (folder / "dog" / "03.png").write_bytes(b"x")
    rest = load_data(Source(folder, skip_unreadable=True), image_size=8, cache=cache)
    for split in ("train", "val", "test"):
        before = getattr(whole, split).rows.tolist()
        assert getattr(rest, split).rows.tolist() == [row for row in before if row != damaged]
    assert rest.fingerprint != whole.fingerprint


def test_store_with_skipped_images_still_stops_who_does_not_skip(folder, cache):
    damage(folder / "cat" / "02.png")
    load_data(Source(folder, skip_unreadable=True), image_size=8, cache=cache)
    with pytest.raises(DataError, match=r"cat/02\.png"):
        load_data(folder, image_size=8, cache=cache)


def test_skipped_image_is_taken_once_it_can_be_read(folder, cache):
    path = folder / "cat" / "02.png"
    content, stat = path.read_bytes(), path.stat()
    damage(path)
    assert load_data(Source(folder, skip_unreadable=True), image_size=8, cache=cache).skipped
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert load_data(Source(folder, skip_unreadable=True), image_size=8, cache=cache).skipped == ()


def test_class_that_skipping_empties_is_an_error(tmp_path, cache):
    root = paint_classes(tmp_path / "set", {"cat": 5, "dog": 5})
    for path in (root / "dog").iterdir():
        damage(path)
    with pytest.raises(DataError, match=r"Class 'dog' .* has no readable image in train"):
        load_data(Source(root, skip_unreadable=True), image_size=8, cache=cache)


# --- folders ------------------------------------------------------------------------------------


def test_flat_folder_is_split_by_class(folder, cache):
    data = load_data(folder, image_size=8, cache=cache)
    assert (data.name, data.source) == ("animals", str(folder))
    assert data.classes == ("cat", "dog")
    assert data.num_classes == 2
    for split, counts in ((data.train, (6, 9)), (data.val, (2, 3)), (data.test, (2, 3))):
        assert Counter(split.labels.tolist()) == dict(enumerate(counts))
    rows = torch.cat([data.train.rows, data.val.rows, data.test.rows])
    assert sorted(rows.tolist()) == list(range(25))


def test_split_folders_are_taken_as_they_are(tmp_path, cache):
    counts = {"train/a": 3, "train/b": 4, "valid/a": 1, "valid/b": 2, "test/a": 1, "test/b": 1}
    root = paint_classes(tmp_path / "set", counts)
    data = load_data(root, image_size=8, cache=cache)
    assert data.classes == ("a", "b")
    assert data.test.rows.tolist() == [0, 1]
    assert data.train.rows.tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert data.val.rows.tolist() == [9, 10, 11]
    assert data.val.labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
def test_missing_test_folder_is_taken_from_train_alone(tmp_path, cache, name):
    counts = {"train/a": 10, "train/b": 10, f"{name}/a": 2, f"{name}/b": 2}
    root = paint_classes(tmp_path / "set", counts)
    data = load_data(root, Division(test_share=0.3), image_size=8, cache=cache)
    assert (len(data.train), len(data.val), len(data.test)) == (14, 4, 6)


def test_a_subset_is_a_share_of_each_class_in_each_split(tmp_path, cache):
    counts = {"train/a": 20, "train/b": 10, "test/a": 7, "test/b": 1}
    root = paint_classes(tmp_path / "set", counts)
    whole, half, fifth = (
        load_data(root, Division(subset=share), image_size=8, cache=cache) for share in (1.0, 0.5, 0.2)
    )
    found = [[Counter(each.labels.tolist()) for each in (d.train, d.val, d.test)] for d in (half, fifth)]
    # Of 20 and 10 training images, 4 and 2 validate.
    assert found == [[{0: 8, 1: 4}, {0: 2, 1: 1}, {0: 4, 1: 1}], [{0: 3, 1: 2}, {0: 1, 1: 1}, {0: 1, 1: 1}]]
    for split in ("train", "val", "test"):
        paths = [
            {data.paths[row] for row in getattr(data, split).rows.tolist()} for data in (fifth, half, whole)
        ]
        assert paths[0] < paths[1] < paths[2] or split != "train"
        assert paths[0] <= paths[1] <= paths[2]
    assert len(fifth.train.images) == 9, "the others are not decoded"
    assert len({data.fingerprint for data in (whole, half, fifth)}) == 3


def test_a_subset_shows_the_pixels_of_the_whole(tmp_path, cache):
    root = paint_classes(tmp_path / "set", {"a": 20, "b": 20})
    whole, half = (load_data(root, Division(subset=share), image_size=8, cache=cache) for share in (1.0, 0.5))
    where = {path: row for row, path in enumerate(whole.paths)}
    for row in half.train.rows.tolist():
        assert torch.equal(half.train.images[row], whole.train.images[where[half.paths[row]]])
    again = load_data(root, Division(subset=0.5), image_size=8, cache=cache)
    other = load_data(root, Division(subset=0.5, seed=1), image_size=8, cache=cache)
    assert (again.paths, again.fingerprint) == (half.paths, half.fingerprint)
    assert other.paths != half.paths


@pytest.mark.parametrize("share", [0, -0.1, 1.01, math.nan])
def test_a_subset_that_is_no_share_is_refused(share):
    with pytest.raises(DataError, match=r"^subset .* is not a share of the images\. Give one in \(0, 1\]\.$"):
        Division(subset=share)


def test_nested_folders_count_and_hidden_and_foreign_files_do_not(folder, cache):
    paint(folder / "cat" / "indoors" / "x.JPG", (9, 9, 9))
    paint(folder / "cat" / ".x.png", (9, 9, 9))
    paint(folder / ".git" / "x.png", (9, 9, 9))
    (folder / "cat" / "notes.txt").write_text("x")
    (folder / "labels.csv").write_text("x")
    data = load_data(folder, image_size=8, cache=cache)
    assert data.classes == ("cat", "dog")
    assert len(data.train.images) == 26


def test_images_are_listed_whatever_their_folders(tmp_path):
    for name in ("b.png", "a/z.jpg", "a/deeper/y.png", ".hidden.png"):
        paint(tmp_path / name, "red")
    (tmp_path / "a" / "notes.txt").touch()
    assert image_files(tmp_path) == [tmp_path / name for name in ("a/deeper/y.png", "a/z.jpg", "b.png")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"No images in .*empty\. Give image files, or folders with \.jpg"):
        image_files(tmp_path / "empty")


def test_class_of_railway_trains_is_no_split(tmp_path, cache):
    root = paint_classes(tmp_path / "set", {"bus": 5, "train": 5})
    assert load_data(root, image_size=8, cache=cache).classes == ("bus", "train")


def test_split_depends_on_the_seed_alone(folder, tmp_path, cache):
    copy = shutil.copytree(folder, tmp_path / "copy")
    first, same, other = (
        load_data(root, Division(seed=seed), image_size=8, cache=cache).val.rows.tolist()
        for root, seed in ((folder, 0), (copy, 0), (folder, 1))
    )
    assert first == same
    assert first != other


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, r"No images in .*DIR/<class>/<image>"),
        ({"cat": 5}, "one class only, 'cat'"),
        ({".": 2, "cat": 5, "dog": 5}, r"2 image\(s\) directly in .*00.png, 01.png.*class folders"),
        ({".": 2}, r"2 image\(s\) directly in"),
        ({"cat": 5, "dog": 2}, r"Class 'dog' of .* has 2 images, too few .* test and val"),
        ({"cat": 5, "dog": 1}, r"Class 'dog' of .* has 1 image, too few"),
        ({"cat": 200, "dog": 2}, r"Class 'dog' of .* has 2 images, too few"),
        ({"cat": 5, "dog/notes": 0}, r"dog holds no image"),
        (
            {"train/a": 5, "train/b": 5, "val/a": 2, "val/c": 2},
            "train and val disagree on the classes, only one of them has b, c",
        ),
        (
            {"train/a": 5, "train/b": 5, "test/a": 2, "test/b": 2, "extra/a": 1},
            r"mixes split folders \(test, train\) with others \(extra\)",
        ),
        ({"train/a": 5, "train/b": 5, "extra": 1}, r"mixes split folders \(train\)"),
        ({"val/a": 5, "val/b": 5, "test/a": 5, "test/b": 5}, "has test, val but no train folder"),
        (
            {f"{split}/{name}": 5 for split in ("train", "val", "valid") for name in "ab"},
            "has both val and valid, two names for one split",
        ),
        ({"train/a": 5, "train/b": 5, "train": 1}, r"1 image\(s\) directly in .*train"),
        ({"train/a": 5, "train/b": 5, ".": 1}, r"1 image\(s\) directly in .*set"),
    ],
)
def test_folder_that_cannot_be_used_says_why(tmp_path, cache, counts, message):
    (tmp_path / "set").mkdir()
    for name in counts:
        (tmp_path / "set" / name).mkdir(parents=True, exist_ok=True)
    paint_classes(tmp_path / "set", counts)
    with pytest.raises(DataError, match=message) as caught:
        load_data(tmp_path / "set", image_size=8, cache=cache)
    assert "\n" not in str(caught.value)


def test_missing_folder_and_file_in_its_place_say_what_to_give(tmp_path):
    with pytest.raises(DataError, match=r"No folder .*nowhere.*DIR/<class>/<image>, .* or 'digits'"):
        load_data(tmp_path / "nowhere", image_size=8)
    (tmp_path / "a.zip").write_bytes(b"x")
    with pytest.raises(DataError, match=r"a.zip is a file. Give the folder"):
        load_data(tmp_path / "a.zip", image_size=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_share": 1.1}, r"Crop share 1.1 is not a share.*\(0, 1\]"),
        ({"image_size": 0}, "Image size 0 is not a size"),
        ({"interpolation": "cubic"}, "No interpolation 'cubic'.*bicubic"),
    ],
)
def test_argument_out_of_range_says_the_range(folder, cache, options, message):
    with pytest.raises(DataError, match=message):
        load_data(folder, cache=cache, **{"image_size": 8, **options})


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"val_share": 0.0}, r"val share 0.0 is not a share.*\(0, 1\)"),
        ({"test_share": 1.2}, r"test share 1.2 is not a share.*\(0, 1\)"),
        ({"val_share": 0.5, "test_share": 0.5}, "leave no image to train on"),
    ],
)
def test_shares_that_leave_a_split_empty_are_refused(shares, message):
    with pytest.raises(DataError, match=message):
        Division(**shares)


# --- the store ----------------------------------------------------------------------------------


def test_second_start_reads_no_image(folder, cache):
    calls = []
    first = load_data(
        folder, image_size=8, cache=cache, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(done, 25) for done in range(1, 26)]
    for path in folder.rglob("*.png"):
        damage(path)
    again = load_data(folder, image_size=8, cache=cache, progress=lambda *_: pytest.fail("decoded again"))
    assert torch.equal(again.train.images, first.train.images)
    assert again.fingerprint == first.fingerprint


@pytest.mark.parametrize("options", [{"image_size": 9}, {"crop_share": 0.5}, {"interpolation": "nearest"}])
def test_other_geometry_has_a_store_of_its_own(folder, cache, options):
    load_data(folder, image_size=8, cache=cache)
    load_data(folder, cache=cache, **{"image_size": 8, **options})
    assert len(stores(cache)) == 2


def test_changed_image_is_decoded_again(folder, cache):
    load_data(folder, image_size=8, cache=cache)
    paint(folder / "cat" / "00.png", (1, 2, 3))
    data = load_data(folder, image_size=8, cache=cache)
    assert data.train.images[0, :, 0, 0].tolist() == [1, 2, 3]


def test_what_was_checked_is_loaded_without_listing_it_again(folder, cache, monkeypatch):
    found = check_source(folder)
    data = load_data(folder, image_size=8, cache=cache)
    monkeypatch.setattr("depthsearch.data.sources.imagefolder.scan_folder", lambda _: pytest.fail("listed"))
    again = load_data(found, image_size=8, cache=cache)
    assert again.fingerprint == data.fingerprint
    assert torch.equal(again.test.rows, data.test.rows)


def test_an_image_that_changes_after_it_was_checked_is_refused_and_not_kept(folder, cache):
    found = check_source(folder)
    paint(folder / "cat" / "00.png", (1, 2, 3))
    with pytest.raises(DataError, match=r"00\.png has changed while the images were read\. Run the same"):
        load_data(found, image_size=8, cache=cache)
    assert not list(cache.rglob("*.images"))


def test_an_image_that_is_damaged_after_it_was_checked_has_changed_and_is_not_left_out(folder, cache):
    found = check_source(Source(str(folder), skip_unreadable=True))
    (folder / "cat" / "00.png").write_bytes(b"half of it")
    with pytest.raises(DataError, match=r"00\.png has changed while the images were read"):
        load_data(found, image_size=8, cache=cache)


def test_a_row_whose_image_changes_after_it_was_checked_is_refused(folder, cache):
    (folder / "table.csv").write_text(
        "image,label\n"
        + "".join(f"{path.relative_to(folder)},{path.parent.name}\n" for path in folder.rglob("*.png"))
    )
    found = check_source(folder / "table.csv")
    paint(folder / "cat" / "00.png", (1, 2, 3))
    with pytest.raises(DataError, match=r"00\.png has changed while the images were read"):
        load_data(found, image_size=8, cache=cache)


def test_images_that_come_or_go_after_they_were_checked(folder, cache):
    """What has come is of the next load; what has gone cannot be read."""
    found = check_source(folder)
    paint(folder / "cat" / "99.png", (1, 2, 3))
    assert len(load_data(found, image_size=8, cache=cache).paths) == 25
    assert len(load_data(folder, image_size=8, cache=cache).paths) == 26
    (folder / "cat" / "00.png").unlink()
    with pytest.raises(DataError, match=r"Cannot read .*00\.png"):
        load_data(found, image_size=12, cache=cache)


def test_folders_alike_in_names_sizes_and_times_are_not_confused(tmp_path, cache):
    colours = []
    for root, value in ((tmp_path / "a" / "set", 10), (tmp_path / "b" / "set", 20)):
        for name in ("x", "y"):
            for place in range(5):
                path = root / name / f"{place}.bmp"
                paint(path, (value, value, value))
                os.utime(path, (0, 0))
        data = load_data(root, image_size=8, cache=cache)
        colours.append(data.train.images.unique().tolist())
    assert colours == [[10], [20]]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole: b"",
        lambda whole: whole[: 25 * 3 * 8 * 8 // 2],
        lambda whole: whole[:-1],
        lambda whole: whole[:700] + whole[701:],
        lambda whole: whole + b"x",
        lambda whole: b"\0" * len(whole),
        lambda whole: whole[: 25 * 3 * 8 * 8] + b'{"key": "0", "digests": []}',
    ],
)
def test_damaged_store_is_rebuilt(folder, cache, spoil):
    whole = load_data(folder, image_size=8, cache=cache).train.images.clone()
    (store,) = stores(cache)
    good = store.read_bytes()
    store.unlink()
    store.write_bytes(spoil(good))
    assert torch.equal(load_data(folder, image_size=8, cache=cache).train.images, whole)
    assert store.read_bytes() == good


@pytest.mark.slow
def test_process_killed_while_decoding_leaves_no_store(folder, cache):
    """Guards kept images against a kill. A process starts."""
    script = (
        "import os, signal, sys; from pathlib import Path; from depthsearch.data import load_data\n"
        "def kill(done, total):\n"
        "    if done == 20: os.kill(os.getpid(), signal.SIGKILL)\n"
        "load_data(sys.argv[1], image_size=8, cache=Path(sys.argv[2]), progress=kill)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, folder, cache], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path.suffix for path in stores(cache)] == [".partial"]
    data = load_data(folder, image_size=8, cache=cache)
    assert data.train.images[20, :, 0, 0].tolist() == [20, 2 * 10, 255 - 10]


def test_error_while_decoding_leaves_nothing(folder, cache):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        load_data(folder, image_size=8, cache=cache, progress=stop)
    assert not list(cache.rglob("*.images"))


def test_two_writers_of_one_store_do_not_disturb_each_other(folder, cache):
    inner = []

    def load_again(done: int, total: int) -> None:
        if done == 10:
            inner.append(load_data(folder, image_size=8, cache=cache))

    outer = load_data(folder, image_size=8, cache=cache, progress=load_again)
    assert torch.equal(outer.train.images, inner[0].train.images)
    assert len(stores(cache)) == 1


def test_abandoned_files_go_and_those_being_written_stay(folder, cache):
    (cache / "images").mkdir(parents=True)
    old, new = cache / "images" / "old.partial", cache / "images" / "new.partial"
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    load_data(folder, image_size=8, cache=cache)
    assert not old.exists()
    assert new.exists()


def test_cache_that_cannot_be_written_is_named(folder, tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(DataError, match=r"Cannot write .* MiB .*taken.* give another cache folder"):
        load_data(folder, image_size=8, cache=tmp_path / "taken")


@pytest.mark.skipif(sys.platform != "linux", reason="the variable is one of Linux")
def test_cache_is_the_users_cache_folder_by_default(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    load_data(folder, image_size=8)
    assert len(stores(tmp_path / "home" / "depthsearch")) == 1


def test_splits_share_one_mapping_that_does_not_write_back(folder, cache):
    data = load_data(folder, image_size=8, cache=cache)
    assert data.train.images.data_ptr() == data.val.images.data_ptr() == data.test.images.data_ptr()
    (store,) = stores(cache)
    before = store.read_bytes()
    data.train.images[0].fill_(77)
    assert store.read_bytes() == before


def test_gather_gives_the_images_of_the_split(folder, cache):
    data = load_data(folder, image_size=8, cache=cache)
    index = torch.tensor([3, 0, 3])
    images = data.val.gather(index)
    assert images.shape == (3, 3, 8, 8)
    assert images.dtype == torch.uint8
    for image, place in zip(images, index, strict=True):
        label, row = int(data.val.labels[place]), int(data.val.rows[place])
        in_class = row - 10 * label
        assert image[:, 0, 0].tolist() == [20 * label, 2 * in_class, 255 - in_class]


def test_two_sets_are_joined_in_their_order(folder, cache):
    data = load_data(folder, image_size=8, cache=cache)
    both = data.val.joined(data.train)
    assert len(both) == len(data.val) + len(data.train)
    place = len(data.val)
    assert torch.equal(both.gather(torch.tensor([place])), data.train.gather(torch.tensor([0])))
    assert both.labels.tolist() == data.val.labels.tolist() + data.train.labels.tolist()
    assert both.fingerprint not in (data.val.fingerprint, data.train.fingerprint)


def test_a_set_says_how_its_images_became_squares(folder, cache):
    options = {"image_size": 8, "crop_share": 0.9, "interpolation": "bilinear", "cache": cache}
    data, digits = load_data(folder, **options), load_data("digits", **options)
    assert (data.image_size, data.crop_share, data.interpolation) == (8, 0.9, "bilinear")
    assert digits.crop_share == 1.0


# --- fingerprint and duplicates -----------------------------------------------------------------


def fingerprint(root: Path, cache: Path, **options: object) -> str:
    return load_data(root, cache=cache, **{"image_size": 8, **options}).fingerprint


def test_fingerprint_is_that_of_a_copy_at_any_size_and_time(folder, tmp_path, cache):
    original = fingerprint(folder, cache)
    copy = shutil.copytree(folder, tmp_path / "copy")
    os.utime(copy / "cat" / "00.png", (0, 0))
    assert fingerprint(copy, cache) == original
    assert fingerprint(folder, cache, image_size=16) == original


@pytest.mark.parametrize(
    "change",
    [
        lambda root: paint(root / "cat" / "00.png", (1, 2, 3)),
        lambda root: (root / "cat" / "00.png").unlink(),
        lambda root: (root / "cat" / "00.png").rename(root / "cat" / "000.png"),
        lambda root: (root / "cat").rename(root / "bat"),
    ],
)
def test_fingerprint_differs_once_the_images_do(folder, cache, change):
    original = fingerprint(folder, cache)
    change(folder)
    assert fingerprint(folder, cache) != original


def test_fingerprint_differs_with_the_split(folder, cache):
    assert fingerprint(folder, cache, division=Division(seed=1)) != fingerprint(
        folder, cache, division=Division(seed=0)
    )


def test_only_duplicates_across_splits_are_reported(tmp_path, cache):
    counts = {"train/a": 5, "train/b": 5, "val/a": 2, "val/b": 2, "test/a": 2, "test/b": 2}
    root = paint_classes(tmp_path / "set", counts)
    for name in (
        "train/a/x.png",
        "train/b/x.png",
        "test/b/x.png",
        "train/a/y.png",
        "train/b/y.png",
    ):
        paint(root / name, (255, 0, 0) if "x" in name else (0, 255, 0))
    data = load_data(root, image_size=8, cache=cache)
    assert data.duplicates == (("test/b/x.png", "train/a/x.png", "train/b/x.png"),)


# --- digits -------------------------------------------------------------------------------------


def test_digits_are_whole_and_split_60_20_20(cache):
    data = load_data("digits", image_size=8, crop_share=0.5, cache=cache)
    assert (data.name, data.source) == ("digits", "digits")
    assert data.classes == tuple("0123456789")
    assert (len(data.train), len(data.val), len(data.test)) == (1078, 359, 360)
    stored = {image.numpy()[0].tobytes() for image in data.train.images}
    ink = load_digits().images
    assert stored == {np.round(image * 255 / 16).astype(np.uint8).tobytes() for image in ink}
    assert torch.equal(data.train.images[:, 0], data.train.images[:, 2])


def test_labels_of_the_digits_are_those_of_their_images(cache):
    data = load_data("digits", image_size=8, cache=cache)
    digits = load_digits()
    truth = {
        np.round(image * 255 / 16).astype(np.uint8).tobytes(): label
        for image, label in zip(digits.images, digits.target, strict=True)
    }
    images = data.test.gather(torch.arange(len(data.test)))
    assert [truth[image.numpy()[0].tobytes()] for image in images] == data.test.labels.tolist()


def test_digits_are_enlarged_as_images_are(cache):
    small = load_data("digits", image_size=8, cache=cache).val
    large = load_data("digits", image_size=20, cache=cache).val
    digit = Image.fromarray(small.gather(torch.tensor([7]))[0, 0].numpy())
    expected = np.asarray(digit.resize((20, 20), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(large.gather(torch.tensor([7]))[0, 1].numpy(), expected)


@pytest.mark.parametrize("source", ["./digits", Path("digits")])
def test_folder_called_digits_is_reached_by_its_path(tmp_path, cache, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    paint_classes(tmp_path / "digits", {"one": 5, "two": 5})
    assert load_data(source, image_size=8, cache=cache).classes == ("one", "two")
    assert load_data("digits", image_size=8, cache=cache).num_classes == 10


# --- real photos --------------------------------------------------------------------------------


@pytest.mark.skipif(not (REAL / "vehicles").is_dir(), reason="needs shared/data/vehicles")
def test_vehicles_are_read_whole_and_a_fifth_of_train_chooses(cache):
    data = load_data(REAL / "vehicles", image_size=48, crop_share=0.875, cache=cache)
    assert data.classes == ("bicycle", "bus", "car", "scooter")
    assert (len(data.train), len(data.val), len(data.test)) == (430, 107, 137)
    assert data.skipped == ()
    spread = data.test.gather(torch.arange(137)).double().std(dim=(2, 3))
    assert (spread.mean(dim=1) > 5).all(), "a photo came out blank"


@pytest.mark.skipif(not (REAL / "catsdogs").is_dir(), reason="needs shared/data/catsdogs")
def test_photo_taken_for_both_choosing_and_training_is_reported(tmp_path, cache):
    root = tmp_path / "pets"
    for name in ("cats", "dogs"):
        photos = sorted((REAL / "catsdogs" / "test" / name).iterdir())[:20]
        for split, chosen in (
            ("train", photos[:15]),
            ("val", photos[14:17]),
            ("test", photos[17:]),
        ):
            (root / split / name).mkdir(parents=True)
            for photo in chosen:
                shutil.copy(photo, root / split / name)
    data = load_data(root, image_size=32, cache=cache)
    assert [{path.split("/")[0] for path in group} for group in data.duplicates] == [{"train", "val"}] * 2
