"""Every file of a folder is read, or counted and told with its reason."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from depthsearch.cli import main
from depthsearch.data import files_left_out, image_files, load_data
from depthsearch.errors import DataError

IMAGES = iter(np.random.default_rng(0).integers(0, 255, (2000, 12, 12, 3), dtype=np.uint8))


def picture(kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.fromarray(next(IMAGES)).save(content, kind)
    return content.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("cat/{}.png", "dog/{}.png"):
        for i in range(4):
            path = tmp_path / "set" / name.format(i)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture())
    return tmp_path / "set"


def load(root: Path, **options):
    return load_data(root, image_size=8, cache=root.parent / "cache", **options)


ENDINGS = {
    ".jfif": "JPEG", ".jpe": "JPEG", ".JFIF": "JPEG", ".avif": "AVIF", ".jp2": "JPEG2000", ".j2k": "JPEG2000",
    ".tga": "TGA", ".qoi": "QOI", ".dib": "BMP", ".apng": "PNG", ".pnm": "PPM", ".ico": "ICO", ".sgi": "SGI",
}  # fmt: skip


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_ending_that_pillow_reads_is_read(root, ending) -> None:
    (root / "cat" / f"x{ending}").write_bytes(picture(ENDINGS[ending]))
    data = load(root)
    assert f"cat/x{ending}" in data.paths
    assert data.notes == ()


@pytest.mark.parametrize("name", ["x", "x.jpg_large", "x.jpg?w=200", "x.image", "IMG.0001"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_an_image_whose_ending_says_nothing_is_read_by_its_content(root, name, kind) -> None:
    (root / "cat" / name).write_bytes(picture(kind))
    data = load(root)
    assert f"cat/{name}" in data.paths
    assert data.notes == ()


def test_what_is_no_image_is_counted_and_told(root) -> None:
    for name in ("a.txt", "cat/b.txt", "Thumbs.db", "desktop.ini", "LICENSE", "cat/empty"):
        (root / name).write_bytes(b"P5 is how a text may begin" if name == "LICENSE" else b"")
    data = load(root)
    assert data.notes == (
        "6 files of 14 not read, no images that Pillow knows: 2 .txt, 1 LICENSE, 1 .db, 1 empty, 1 .ini.",
    )
    assert len(data.paths) == 8


@pytest.mark.parametrize("ending", [".fits", ".fit", ".heic", ".svg", ".npy", ".dng", ".pdf"])
def test_pictures_that_pillow_lacks_are_told_with_what_to_do(root, ending) -> None:
    for i in range(3):
        (root / "cat" / f"{i}{ending}").write_bytes(b"<svg>")
    (note,) = load(root).notes
    assert note == (
        f"3 files of 11 not read, no images that Pillow knows: 3 {ending}. To have {ending} read, convert "
        "them to PNG or JPEG."
    )


def test_a_class_of_nothing_else_says_what_it_holds(root) -> None:
    (root / "owl").mkdir()
    (root / "owl" / "1.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"owl holds no image that Pillow reads, only 1 \.heic"):
        load(root)
    for path in root.rglob("*.png"):
        path.rename(path.with_suffix(".txt")).write_bytes(b"x")
    with pytest.raises(DataError, match=r"No images in .*/set, only 8 \.txt, 1 \.heic"):
        load(root)


HIDDEN = [".net", "cat/.ipynb_checkpoints", "__MACOSX/cat", "cat/@eaDir", ".git/a/b"]


@pytest.mark.parametrize("folder", HIDDEN)
def test_images_in_hidden_folders_are_told(root, folder) -> None:
    (root / folder).mkdir(parents=True)
    for i in range(3):
        (root / folder / f"{i}.png").write_bytes(picture())
    data = load(root)
    hidden = folder.removesuffix("/cat").removesuffix("/a/b")
    assert data.notes == (f"3 hidden images not read: {hidden}/. Rename what is to be read.",)
    assert data.classes == ("cat", "dog")


def test_what_a_mac_leaves_beside_images_is_no_image(root) -> None:
    for name in (".DS_Store", "cat/._0.png", "cat/._1.png", "__MACOSX/cat/._0.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"\x00\x05\x16\x07Mac OS X")
    assert load(root).notes == ()


def test_a_hidden_image_is_told_by_its_name(root) -> None:
    (root / "cat" / ".x.png").write_bytes(picture())
    assert load(root).notes == ("1 hidden image not read: cat/.x.png. Rename what is to be read.",)


@pytest.fixture
def _low_limit(monkeypatch) -> None:
    """Have Pillow take an image of 200 by 200 pixels for a bomb."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15_000)


@pytest.mark.usefixtures("_low_limit")
def test_an_image_too_large_for_pillow_is_one_line_whatever_its_name(root) -> None:
    large = io.BytesIO()
    Image.new("RGB", (200, 200)).save(large, "PNG")
    (root / "cat" / "large").write_bytes(large.getvalue())
    with pytest.raises(DataError, match=r"Cannot read the image .*cat/large: Image size .* exceeds limit"):
        load(root)


@pytest.mark.usefixtures("_low_limit")
@pytest.mark.parametrize("name", [".large.png", ".git/large.png"])
def test_a_hidden_image_too_large_for_pillow_is_told_as_hidden(root, name) -> None:
    (root / ".git").mkdir()
    large = io.BytesIO()
    Image.new("RGB", (200, 200)).save(large, "PNG")
    (root / name).write_bytes(large.getvalue())
    assert load(root).notes == (
        f"1 hidden image not read: {name.removesuffix('large.png') if '/' in name else name}. "
        "Rename what is to be read.",
    )


@pytest.mark.parametrize("error", [MemoryError(), OSError("out of memory error when reading image file")])
def test_a_lack_of_memory_while_looking_for_images_is_one_line(root, monkeypatch, error) -> None:
    (root / "cat" / "x").write_bytes(picture())

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(DataError, match=r"The memory does not suffice to decode the image .*cat/x\."):
        image_files(root)


def test_images_that_metadata_do_not_name_and_other_files_are_told(root) -> None:
    rows = [f"{c}/{i}.png,{c}" for c in ("cat", "dog") for i in range(4)]
    (root / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    (root / "dog" / "x.png").write_bytes(picture())
    (root / "dog" / "x.xml").write_text("<a/>")
    assert load(root).notes == (
        "Images that set/metadata.csv does not name, left out: dog/x.png.",
        "1 file of 10 not read, no images that Pillow knows: 1 .xml.",
    )


def test_what_is_listed_for_a_model_is_the_same_and_the_rest_is_told(root, capsys) -> None:
    (root / "cat" / "x.jfif").write_bytes(picture("JPEG"))
    (root / "cat" / "x.heic").write_bytes(b"x")
    assert root / "cat" / "x.jfif" in image_files(root)
    assert files_left_out(root)[0].startswith("1 file of 10 not read, no images that Pillow knows: 1 .heic.")


def test_the_data_line_of_a_study_names_the_classes(root, monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("eel", "fox", "gnu", "hen"):
        (root / name).mkdir()
        for i in range(4):
            (root / name / f"{i}.png").write_bytes(picture())
    options = {
        "trials": 1,
        "epochs": 1,
        "confirm": 0,
        "image-size": 16,
        "val-share": 0.25,
        "test-share": 0.25,
    }
    given = [f"--{name}={value}" for name, value in options.items()]
    assert main(["study", "--data=set", "--backbone=cnn", "--device=cpu", "--head-width=0", *given]) == 0
    assert "Data set: 6 classes (cat, dog, eel, fox, gnu and 1 more); " in " ".join(
        capsys.readouterr().err.split()
    )
