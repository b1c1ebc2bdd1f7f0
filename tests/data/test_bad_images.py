"""Image files that are damaged, odd or no images: read right, or refused in one line that names them."""

import io
import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bad_input import STEADY, STUDY, contents, refusal
from hypothesis import given, strategies as st
from PIL import Image
from privileges import make_pipe, modes_obeyed

from depthsearch.data.decode import Geometry, UnreadableError, decode_file

SQUARE = Geometry(image_size=16, crop_share=0.9, interpolation="bicubic")


def photo(width: int = 52, height: int = 40) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def encoded(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    held = io.BytesIO()
    (image or photo()).save(held, kind, **options)
    return held.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_claiming(width: int, height: int) -> bytes:
    """Write a PNG of some bytes whose header claims any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rest = chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rest


def png_with(extra: bytes) -> bytes:
    whole = encoded("PNG", photo(4, 4))
    return whole[:33] + extra + whole[33:]


def refused(path: Path) -> str:
    with pytest.raises(UnreadableError, match="Mend or remove it, or leave out") as caught:
        decode_file(path, SQUARE)
    told = str(caught.value)
    assert str(path) in told
    assert "\n" not in told
    assert len(told) < 600
    return told


def read_or_refused(path: Path) -> None:
    try:
        pixels = decode_file(path, SQUARE).pixels
    except UnreadableError:
        refused(path)
    else:
        assert pixels.shape == (3, 16, 16)


# --- cut short, empty, something else -----------------------------------------------------------

FORMATS = {
    "jpg": ("JPEG", {}),
    "progressive.jpg": ("JPEG", {"progressive": True}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {}),
    "lossless.webp": ("WEBP", {"lossless": True}),
    "gif": ("GIF", {}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
    "lzw.tiff": ("TIFF", {"compression": "tiff_lzw"}),
    "ppm": ("PPM", {}),
}
SHARES = (0.0, 0.002, 0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 0.98)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", FORMATS)
def test_an_image_that_was_cut_short_is_refused_wherever_it_was_cut(
    tmp_path, name: str, share: float
) -> None:
    kind, options = FORMATS[name]
    whole = encoded(kind, **options)
    path = tmp_path / f"x.{name}"
    path.write_bytes(whole[: int(share * len(whole))])
    refused(path)


@pytest.mark.parametrize("name", FORMATS)
def test_an_image_of_damaged_bytes_is_read_or_refused_and_nothing_else(tmp_path, name: str) -> None:
    kind, options = FORMATS[name]
    whole = encoded(kind, **options)
    path = tmp_path / f"x.{name}"

    @STEADY
    @given(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=6))
    def check(changes: list[tuple[int, int]]) -> None:
        spoilt = bytearray(whole)
        for place, value in changes:
            spoilt[place] = value
        path.write_bytes(spoilt)
        read_or_refused(path)

    check()


@STEADY
@given(st.binary(max_size=300))
def test_random_bytes_are_read_or_refused_and_nothing_else(tmp_path_factory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "random.jpg"
    path.write_bytes(content)
    read_or_refused(path)


NO_IMAGES = {
    "text": b"not an image\n" * 30,
    "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>',
    "nul": bytes(1000),
    "pdf": b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n",
    "git lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12345\n",
    "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "claims nothing": png_claiming(0, 5),
    "claims 50,000 x 50,000": png_claiming(50_000, 50_000),
    "claims 2 ** 31 - 1": png_claiming(2**31 - 1, 1),
    "claims what it has not": png_claiming(3000, 3000),
    "text that inflates": png_with(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(30_000_000)))),
    "profile that inflates": png_with(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(30_000_000)))),
}


@pytest.mark.parametrize("name", NO_IMAGES)
@pytest.mark.parametrize("suffix", [".jpg", ".PNG"])
def test_what_is_no_image_is_refused(tmp_path, name: str, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(NO_IMAGES[name])
    refused(path)


def test_a_bomb_of_a_tiff_or_gif_is_refused_before_memory_is_taken(tmp_path) -> None:
    path = tmp_path / "x.gif"
    spoilt = bytearray(encoded("GIF"))
    spoilt[6:10] = b"\xff\xff\xff\xff"
    path.write_bytes(spoilt)
    assert "decompression bomb" in refused(path)


def test_postscript_is_never_handed_to_ghostscript(tmp_path, monkeypatch) -> None:
    traces = []

    def ghostscript(*arguments, **options):
        traces.append(arguments)
        return Image.new("RGB", (50, 50)).im

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", ghostscript)
    path = tmp_path / "x.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\nshowpage\n")
    assert "EPS is a program that draws, not an image" in refused(path)
    assert traces == []
    with Image.open(path) as image:
        image.load()
    assert traces, "Pillow itself would have run it"


# --- what is no file ----------------------------------------------------------------------------


def fifo(path: Path) -> None:
    make_pipe(path)


def sock(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket may have 100 characters only
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(path.name)
    finally:
        os.chdir(here)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**35)


NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (fifo, "it is a pipe or device, not a file"),
    "socket": (sock, "No such device or address"),
    "folder": (lambda path: path.mkdir(), "Is a directory"),
    "endless device": (lambda path: path.symlink_to("/dev/zero"), "it is a pipe or device, not a file"),
    "empty device": (lambda path: path.symlink_to("/dev/null"), "it is a pipe or device, not a file"),
    "link to itself": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
    "link to nowhere": (lambda path: path.symlink_to("nowhere"), "No such file or directory"),
    "nothing": (lambda path: None, "No such file or directory"),
    "32 GiB": (sparse, "32.0 GiB is more than can be read"),
}


@pytest.mark.parametrize("name", NO_FILES)
def test_what_is_no_file_is_refused_and_nobody_waits_for_it(tmp_path, name: str) -> None:
    make, expected = NO_FILES[name]
    path = tmp_path / "x.jpg"
    make(path)
    assert expected in refused(path)


def test_a_file_without_permission_is_named(tmp_path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(encoded("JPEG"))
    path.chmod(0)
    with modes_obeyed():
        assert "Permission denied" in refused(path)


# --- read as they are meant ---------------------------------------------------------------------


def seen(path: Path, size: int = 8) -> np.ndarray:
    """Give the pixels of a square, (s, s, 3)."""
    geometry = Geometry(image_size=size, crop_share=1.0, interpolation="nearest")
    return decode_file(path, geometry).pixels.transpose(1, 2, 0)


@pytest.mark.parametrize("suffix", ["jpg", "JPG", "png", "gif", "bmp", "Tiff"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "MPO"])
def test_the_content_counts_not_the_name(tmp_path, kind: str, suffix: str) -> None:
    red = Image.new("RGB", (20, 20), (250, 0, 0))
    more = {"save_all": True, "append_images": [Image.new("RGB", (20, 20))]} if kind == "MPO" else {}
    (tmp_path / f"x.{suffix}").write_bytes(encoded(kind, red, **more))
    pixels = seen(tmp_path / f"x.{suffix}")
    assert (abs(pixels.astype(int) - (250, 0, 0)) < 6).all()


# By the tag's value, where a mark in the stored top left corner is to be seen.
CORNERS = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", CORNERS)
def test_a_photo_is_turned_upright(tmp_path, orientation: int, suffix: str) -> None:
    image = Image.new("RGB", (64, 64))
    image.paste((255, 255, 255), (0, 0, 24, 24))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / f"x.{suffix}", exif=exif)
    pixels = seen(tmp_path / f"x.{suffix}")
    lit = {corner for corner in CORNERS.values() if pixels[corner].mean() > 200}
    assert lit == {CORNERS[orientation]}


@pytest.mark.parametrize("orientation", [0, 9, 255, 65535])
def test_an_orientation_that_there_is_not_turns_nothing(tmp_path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo(40, 40).save(tmp_path / "x.png", exif=exif)
    photo(40, 40).save(tmp_path / "plain.png")
    assert (seen(tmp_path / "x.png") == seen(tmp_path / "plain.png")).all()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_exif_costs_no_photo(tmp_path) -> None:
    exif = Image.Exif()
    exif.update({0x0112: 1, 0x010F: "maker", 0x0110: "model", 0x0132: "2020:01:01 00:00:00"})
    whole = encoded("JPEG", exif=exif)
    start, length = whole.index(b"Exif") + 6, len(exif.tobytes()) - 6
    path = tmp_path / "x.jpg"

    @STEADY
    @given(st.binary(min_size=length, max_size=length) | st.integers(0, length - 1).map(bytes))
    def check(spoilt: bytes) -> None:
        path.write_bytes(whole[:start] + spoilt + whole[start + len(spoilt) :])
        assert decode_file(path, SQUARE).pixels.shape == (3, 16, 16)

    check()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("changed", [b"\xff\xff", b"\0\0", b"\x07\x00"])
def test_a_tag_of_another_type_costs_no_photo(tmp_path, changed: bytes) -> None:
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010F: "maker", 0x8825: {1: "N", 2: (1.0, 2.0, 3.0)}})
    whole = encoded("JPEG", exif=exif)
    start = whole.index(b"Exif")
    path = tmp_path / "x.jpg"
    for place in range(start + 14, start + len(exif.tobytes()) - 2):
        path.write_bytes(whole[:place] + changed + whole[place + 2 :])
        decode_file(path, SQUARE)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (20_000, 40)])
def test_odd_sizes_are_read(tmp_path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (10, 200, 30)).save(tmp_path / "x.png")
    assert (seen(tmp_path / "x.png") == (10, 200, 30)).all()


@pytest.mark.parametrize("size", [(1, 501), (501, 1), (20_040, 40)])
def test_sizes_that_are_hardly_images_are_refused(tmp_path, size: tuple[int, int]) -> None:
    Image.new("1", size).save(tmp_path / "x.png")
    assert f"{size[0]} x {size[1]} pixels are too long and narrow" in refused(tmp_path / "x.png")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")
def test_a_large_image_that_is_none_too_large_is_read(tmp_path) -> None:
    """Guards against a limit that refuses scans and panoramas; it takes a gigabyte."""
    Image.new("L", (12_000, 12_000), 77).save(tmp_path / "x.png")
    assert (seen(tmp_path / "x.png") == 77).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_taken(tmp_path, kind: str) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    path = tmp_path / f"x.{kind.lower()}"
    frames[0].save(path, kind, save_all=True, append_images=frames[1:])
    assert (abs(seen(path).astype(int) - (250, 0, 0)) < 6).all()


# --- through the command line -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["text", "nul", "claims 50,000 x 50,000"])
def test_a_study_refuses_an_image_and_leaves_nothing_behind(tmp_path, monkeypatch, capsys, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for place in range(10):
        path = tmp_path / "set" / "ab"[place % 2] / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded("PNG"))
    (tmp_path / "set" / "b" / "x.png").write_bytes(NO_IMAGES[name])
    before = contents(tmp_path)
    assert "set/b/x.png" in refusal([*STUDY, "--data", "set"], capsys)
    assert contents(tmp_path) == before
