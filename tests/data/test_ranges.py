"""Images of more than 8 bits: seen in the range that their set has, in the store and by the model."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from depthsearch.data import (
    DataSet,
    Geometry,
    Source,
    UnreadableError,
    ValueRange,
    decode as decode_module,
    decode_file,
    load_data,
)
from depthsearch.errors import DataError

RAMP = np.tile(np.linspace(0, 1, 32), (32, 1))
SIZE = 32
SEEN = Geometry(image_size=SIZE, crop_share=1.0, interpolation="nearest")


def ramps(root: Path, values: dict[str, np.ndarray]) -> Path:
    """Write arrays as images in two classes, those of the second turned by a quarter."""
    for label in "ab":
        (root / label).mkdir(parents=True, exist_ok=True)
        for name, array in values.items():
            for i in range(4):
                image = np.ascontiguousarray(array if label == "a" else np.swapaxes(array, 0, 1))
                Image.fromarray(image).save(root / label / f"{i}-{name}")
    return root


def pixels_of(data: DataSet) -> dict[str, np.ndarray]:
    """Return the stored pixels by path, (3, s, s)."""
    return {path: data.train.images[row].numpy() for row, path in enumerate(data.paths)}


def load(root: Path, cache: Path, **options: object) -> DataSet:
    # Nearest: squares are stored, with the pixels of the files.
    return load_data(root, image_size=SIZE, interpolation="nearest", cache=cache, **options)


def png_of_colours(values: np.ndarray) -> bytes:
    """Write colours of 16 bits, which Pillow cannot."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    height, width, channels = values.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


WIDE = {
    "12 bits in 16": ("x.tiff", (RAMP * 4095).astype(np.uint16)),
    "10 bits in 16": ("x.png", (RAMP * 1023).astype(np.uint16)),
    "16 bits": ("x.png", (RAMP * 65535).astype(np.uint16)),
    "floats to 1": ("x.tiff", RAMP.astype(np.float32)),
    "floats to 1.01": ("x.tiff", (RAMP * 1.01).astype(np.float32)),
    "floats to 255": ("x.tiff", (RAMP * 255).astype(np.float32)),
    "floats on both sides of 0": ("x.tiff", (RAMP * 2 - 1).astype(np.float32)),
    "integers on both sides of 0": ("x.tiff", (RAMP * 4095 - 1024).astype(np.int32)),
    "32 bits": ("x.tiff", (RAMP * 200_000).astype(np.int32)),
    "far from 0": ("x.png", (RAMP * 3000 + 29_000).astype(np.uint16)),
}


@pytest.mark.parametrize("kind", WIDE)
def test_a_ramp_is_seen_from_black_to_white_whatever_holds_it(tmp_path, kind) -> None:
    data = load(ramps(tmp_path / "set", dict([WIDE[kind]])), tmp_path / "cache")
    for path, pixels in pixels_of(data).items():
        expected = RAMP if path.startswith("a") else RAMP.T
        assert np.abs(pixels - expected * 255).max() < 1, path


def test_each_kind_of_a_mixed_set_is_seen_whole_and_8_bits_stay_as_they_are(tmp_path) -> None:
    grey = (RAMP * 99).astype(np.uint8)
    arrays = dict([WIDE["12 bits in 16"], WIDE["10 bits in 16"]]) | {"y.tif": RAMP.astype(np.float32)}
    data = load(ramps(tmp_path / "set", {**arrays, "z.png": grey}), tmp_path / "cache")
    pixels = pixels_of(data)
    assert np.abs(pixels["a/0-x.tiff"] - RAMP * 255).max() < 1
    assert np.abs(pixels["a/0-x.png"] - RAMP * 255).max() < 1
    assert np.abs(pixels["a/0-y.tif"] - RAMP * 255).max() < 1
    assert (pixels["a/0-z.png"] == grey).all()


def test_images_of_one_kind_keep_how_bright_they_are_to_each_other(tmp_path) -> None:
    values = {f"{n}.png": (RAMP * n).astype(np.uint16) for n in (1000, 2000, 4000)}
    pixels = pixels_of(load(ramps(tmp_path / "set", values), tmp_path / "cache"))
    assert [int(pixels[f"a/0-{n}.png"].max()) for n in (1000, 2000, 4000)] == [64, 128, 255]


@pytest.mark.parametrize("opacity", [0, 65535])
def test_grey_of_16_bits_with_opacity_is_read_whole(tmp_path, opacity) -> None:
    values = np.dstack([RAMP * 4095, np.full_like(RAMP, opacity)]).astype(np.uint16)
    for label in "ab":
        (tmp_path / "set" / label).mkdir(parents=True)
        for i in range(4):
            (tmp_path / "set" / label / f"{i}.png").write_bytes(png_of_colours(values))
    seen = pixels_of(load(tmp_path / "set", tmp_path / "cache"))["a/0.png"]
    assert np.abs(seen - (RAMP * 255 if opacity else 255)).max() < 1


def tiff(values: np.ndarray, sample_format: int, photometric: int = 1, compression: int = 1) -> bytes:
    """Write a TIFF of numbers of any kind, which Pillow cannot."""
    height, width, *rest = values.shape
    channels, bits = rest[0] if rest else 1, values.itemsize * 8
    order = ">" if values.dtype.byteorder == ">" else "<"
    data = zlib.compress(values.tobytes()) if compression == 8 else values.tobytes()
    each = struct.pack(f"{order}{channels}H", *[bits] * channels)
    begin = 8 + 2 + 9 * 12 + 4 + (len(each) if channels > 2 else 0)
    shorts = {256: width, 257: height, 258: bits, 259: compression, 262: photometric, 277: channels}
    fields = {tag: struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in shorts.items()}
    if channels > 2:
        fields[258] = struct.pack(f"{order}HHII", 258, 3, channels, begin - len(each))
    fields[273] = struct.pack(f"{order}HHII", 273, 4, 1, begin)
    fields[279] = struct.pack(f"{order}HHII", 279, 4, 1, len(data))
    if channels == 1:
        fields[339] = struct.pack(f"{order}HHIHH", 339, 3, 1, sample_format, 0)
    else:
        fields[278] = struct.pack(f"{order}HHIHH", 278, 3, 1, height, 0)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(fields))
    body = b"".join(fields[tag] for tag in sorted(fields)) + struct.pack(f"{order}I", 0)
    return head + body + (each if channels > 2 else b"") + data


COLOURS = np.dstack([RAMP, RAMP.T, RAMP[::-1, ::-1]])
TIFFS = {
    "signed 16 bits": (tiff((RAMP * 4095 - 1024).astype("<i2"), 2), RAMP),
    "signed 16 bits, big-endian": (tiff((RAMP * 4095 - 1024).astype(">i2"), 2), RAMP),
    "16 bits, big-endian": (tiff((RAMP * 4095).astype(">u2"), 1), RAMP),
    "unsigned 32 bits": (tiff((RAMP * 4e9).astype("<u4"), 1), RAMP),
    "signed 32 bits": (tiff((RAMP * 4e9 - 2e9).astype("<i4"), 2), RAMP),
    "signed 8 bits": (tiff((RAMP * 255 - 128).astype("i1"), 2), RAMP),
    "0 is white": (tiff((RAMP * 4095).astype("<u2"), 1, photometric=0), 1 - RAMP),
    "0 is white, of floats": (tiff(RAMP.astype("<f4"), 3, photometric=0), 1 - RAMP),
    "colours": (tiff((COLOURS * 4095).astype("<u2"), 1, photometric=2), COLOURS),
    "colours, big-endian": (tiff((COLOURS * 4095).astype(">u2"), 1, photometric=2), COLOURS),
    "colours, compressed": (tiff((COLOURS * 4095).astype("<u2"), 1, 2, compression=8), COLOURS),
    "colours, compressed, big-endian": (tiff((COLOURS * 4095).astype(">u2"), 1, 2, compression=8), COLOURS),
}


@pytest.mark.parametrize("kind", TIFFS)
def test_the_numbers_of_a_tiff_are_read_as_they_are_meant(tmp_path, kind) -> None:
    content, expected = TIFFS[kind]
    for label in "ab":
        (tmp_path / "set" / label).mkdir(parents=True)
        for i in range(4):
            (tmp_path / "set" / label / f"{i}.tif").write_bytes(content)
    pixels = pixels_of(load(tmp_path / "set", tmp_path / "cache"))["a/0.tif"]
    assert np.abs(pixels - (expected.transpose(2, 0, 1) if expected.ndim == 3 else expected) * 255).max() <= 1


@pytest.mark.parametrize("opacity", [None, 65535, 0])
def test_colours_of_16_bits_are_read_whole(tmp_path, opacity) -> None:
    values = np.dstack([RAMP, RAMP.T, RAMP[::-1, ::-1]]) * 4095
    if opacity is not None:
        values = np.dstack([values, np.full_like(RAMP, opacity)])
    for label in "ab":
        (tmp_path / "set" / label).mkdir(parents=True)
        for i in range(4):
            (tmp_path / "set" / label / f"{i}.png").write_bytes(png_of_colours(values.astype(np.uint16)))
    seen = pixels_of(load(tmp_path / "set", tmp_path / "cache"))["a/0.png"]
    expected = (
        np.full((3, SIZE, SIZE), 255) if opacity == 0 else values[..., :3].transpose(2, 0, 1) / 4095 * 255
    )
    assert np.abs(seen - expected).max() < 1


def test_a_share_of_the_range_is_told(tmp_path) -> None:
    data = load(ramps(tmp_path / "set", dict([WIDE["12 bits in 16"]])), tmp_path / "cache")
    assert data.notes == ("8 16-bit TIFF images use 6 % of their range: 0 is seen as black, 4095 as white.",)
    assert load(tmp_path / "set", tmp_path / "cache").notes == data.notes


def test_a_stray_pixel_that_leaves_all_others_dark_is_told(tmp_path) -> None:
    root = ramps(tmp_path / "set", dict([WIDE["12 bits in 16"]]))
    stray = (RAMP * 4095).astype(np.uint16)
    stray[3, 3] = 65535
    Image.fromarray(stray).save(root / "a" / "0-x.tiff")
    notes = load(root, tmp_path / "cache").notes
    assert any("7 of these 8 16-bit TIFF images use less than 25 % of that each" in n for n in notes)


def test_images_of_8_bits_that_are_all_dark_are_told(tmp_path) -> None:
    data = load(ramps(tmp_path / "set", {"x.png": (RAMP * 16).astype(np.uint8)}), tmp_path / "cache")
    (note,) = data.notes
    assert note.startswith(
        "Images use 6 % of their range, 0 to 16 of 255: they are nearly of one brightness."
    )


def test_a_class_that_is_all_dark_among_others_is_told(tmp_path) -> None:
    root = ramps(tmp_path / "set", {"x.png": (RAMP * 255).astype(np.uint8)})
    for path in (root / "b").iterdir():
        Image.fromarray((RAMP * 16).astype(np.uint8)).save(path)
    (note,) = load(root, tmp_path / "cache").notes
    assert note.startswith("Images of 'b' use 6 % of their range, 0 to 16 of 255")


def test_a_set_of_one_single_number_is_read_and_told(tmp_path) -> None:
    data = load(ramps(tmp_path / "set", {"x.tiff": np.full((32, 32), 0.2, np.float32)}), tmp_path / "cache")
    assert any("Images use 0 % of their range" in note for note in data.notes)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_with_numbers_that_are_none_does_not_spoil_the_others(tmp_path, value) -> None:
    root = ramps(tmp_path / "set", dict([WIDE["floats to 1"]]))
    ramps(root, {f"{n}.tiff": RAMP.astype(np.float32) for n in range(3)})
    spoilt = RAMP.astype(np.float32)
    spoilt[0, 0] = value
    Image.fromarray(spoilt).save(root / "a" / "0-x.tiff")
    with pytest.raises(DataError, match=r"a/0-x\.tiff: it has values that are not finite"):
        load(root, tmp_path / "cache")
    data = load(Source(root, skip_unreadable=True), tmp_path / "cache")
    assert data.skipped == ("a/0-x.tiff",)
    assert np.abs(pixels_of(data)["a/1-x.tiff"] - RAMP * 255).max() < 1


def test_the_range_is_of_all_splits_and_the_same_for_every_seed(tmp_path) -> None:
    for split, most in (("train", 1000), ("val", 2000), ("test", 4000)):
        ramps(tmp_path / "set" / split, {"x.png": (RAMP * most).astype(np.uint16)})
    data = load(tmp_path / "set", tmp_path / "cache")
    assert data.ranges == (ValueRange(format="PNG", numbers="16-bit", low=0, high=4000),)


def test_the_fingerprint_changes_with_the_pixels(tmp_path) -> None:
    root = ramps(tmp_path / "set", {"x.png": (RAMP * 1000).astype(np.uint16)})
    ramps(root, {"y.png": (RAMP * 500).astype(np.uint8) // 4})
    first = load(root, tmp_path / "cache")
    image = (RAMP * 1000).astype(np.uint16)
    image[0, 0] = 2000
    Image.fromarray(image).save(root / "a" / "0-x.png")
    second = load(root, tmp_path / "cache")
    row = first.paths.index("b/1-x.png")
    assert first.train.digests[row] != second.train.digests[row]
    row = first.paths.index("b/1-y.png")
    assert first.train.digests[row] == second.train.digests[row]
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize("interpolation", ["nearest", "bicubic"])
def test_a_wide_image_that_is_called_a_jpeg_is_found(tmp_path, interpolation) -> None:
    root = ramps(tmp_path / "set", {"y.jpg": (RAMP * 255).astype(np.uint8)})
    for label in "ab":
        Image.fromarray((RAMP * 4095).astype(np.uint16)).save(root / label / "x.jpg", format="PNG")
    data = load_data(root, image_size=SIZE, interpolation=interpolation, cache=tmp_path / "cache")
    assert [(one.format, one.high) for one in data.ranges] == [("PNG", 4095)]


def test_a_wide_image_that_is_called_a_jpeg_counts_in_the_range_of_others(tmp_path) -> None:
    root = ramps(tmp_path / "set", {"x.png": (RAMP * 1000).astype(np.uint16)})
    Image.fromarray((RAMP * 4000).astype(np.uint16)).save(root / "a" / "y.jpg", format="PNG")
    data = load(root, tmp_path / "cache")
    assert [(one.high, one.n_images) for one in data.ranges] == [(4000, 9)]
    assert data.skipped == ()


def with_clear(content: bytes, *clear: int) -> bytes:
    """Give a PNG a grey or colour that is transparent."""
    body = struct.pack(f">{len(clear)}H", *clear)
    chunk = struct.pack(">I", len(body)) + b"tRNS" + body + struct.pack(">I", zlib.crc32(b"tRNS" + body))
    return content[:33] + chunk + content[33:]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_grey_or_colour_that_is_transparent_in_16_bits_is_white(tmp_path, channels) -> None:
    grey = (RAMP * 4095).astype(np.uint16)
    values = grey if channels == 1 else np.dstack([grey] * 3)
    if channels == 1:
        Image.fromarray(values).save(tmp_path / "x.png")
        content = (tmp_path / "x.png").read_bytes()
    else:
        content = png_of_colours(values)
    clear = int(grey[0, 3])
    for label in "ab":
        (tmp_path / "set" / label).mkdir(parents=True)
        for i in range(4):
            (tmp_path / "set" / label / f"{i}.png").write_bytes(with_clear(content, *[clear] * channels))
    seen = pixels_of(load(tmp_path / "set", tmp_path / "cache"))["a/0.png"]
    expected = np.where(grey == clear, 255, RAMP * 255)
    assert np.abs(seen - expected).max() < 1


def sgi(compression: int, channels: int) -> bytes:
    """Write an SGI image of 2 by 2 pixels of 16 bits."""
    dimension = 2 if channels == 1 else 3
    head = struct.pack(">HBBHHHH", 474, compression, 2, dimension, 2, 2, channels).ljust(512, b"\0")
    if not compression:
        return head + struct.pack(f">{4 * channels}H", *range(100, 100 + 4 * channels))
    n_rows = 2 * channels
    begin = 512 + 8 * n_rows
    row = struct.pack(">4H", 0x82, 300, 301, 0)
    tables = struct.pack(f">{n_rows}I", *[begin + 8 * i for i in range(n_rows)]) + struct.pack(
        f">{n_rows}I", *[8] * n_rows
    )
    return head + tables + row * n_rows


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("compression", [0, 1])
def test_sgi_of_16_bits_is_refused_not_cut_off(tmp_path, compression, channels) -> None:
    path = tmp_path / "x.sgi"
    path.write_bytes(sgi(compression, channels))
    with pytest.raises(
        UnreadableError, match=r"Pillow reads half of the bits of SGI of 16 bits\. Save it as"
    ):
        decode_file(path, SEEN)


def test_fits_whose_bytes_pillow_mixes_up_is_refused(tmp_path) -> None:
    cards = ["SIMPLE  = T", "BITPIX  = 16", "NAXIS   = 2", "NAXIS1  = 4", "NAXIS2  = 4", "END"]
    head = "".join(card.ljust(80) for card in cards).ljust(2880).encode()
    (tmp_path / "x.fits").write_bytes(head + bytes(2880))
    with pytest.raises(UnreadableError, match="Pillow mixes up the bytes of numbers in FITS"):
        decode_file(tmp_path / "x.fits", SEEN)


@pytest.mark.parametrize("n_classes", [30, 120])
def test_one_dark_class_among_many_is_told(tmp_path, n_classes) -> None:
    root = tmp_path / "set"
    for label in range(n_classes):
        (root / f"{label:03d}").mkdir(parents=True)
        for i in range(5):
            values = (RAMP * (16 if label == 17 else 255 - i)).astype(np.uint8)
            Image.fromarray(np.roll(values, label, 1)).save(root / f"{label:03d}" / f"{i}.png")
    notes = load(root, tmp_path / "cache").notes
    assert any(note.startswith("Images of '017' use 6 % of their range, 0 to 16 of 255") for note in notes)


def test_a_class_of_which_only_some_images_are_dark_is_not_told(tmp_path) -> None:
    root = tmp_path / "set"
    for label in range(100):
        (root / f"{label:03d}").mkdir(parents=True)
        for i in range(11):
            dark = label == 17 and i in (0, 5, 10)
            values = np.roll((RAMP * (16 if dark else 255 - i)).astype(np.uint8), label + i, 1)
            Image.fromarray(values).save(root / f"{label:03d}" / f"{i:02d}.png")
    assert not any("of their range" in note for note in load(root, tmp_path / "cache").notes)


def test_images_of_8_bits_are_decoded_once(tmp_path, monkeypatch) -> None:
    array = (RAMP * 255).astype(np.uint8)
    root = ramps(tmp_path / "set", {"x.jpg": array, "y.png": array, "z.tif": array})
    decoded = []

    def counted(*arguments):
        decoded.append(arguments)
        return decoder_for(*arguments)

    decoder_for = Image._getdecoder
    monkeypatch.setattr(Image, "_getdecoder", counted)
    load(root, tmp_path / "cache")
    load(root, tmp_path / "cache")
    assert len(decoded) == 24


def test_a_range_that_is_stored_is_found_again(tmp_path) -> None:
    root = ramps(tmp_path / "set", dict([WIDE["12 bits in 16"]]))
    for interpolation in ("nearest", "bicubic"):
        for _ in range(2):
            data = load_data(root, image_size=64, interpolation=interpolation, cache=tmp_path / "cache")
            assert [(one.low, one.high, one.n_images) for one in data.ranges] == [(0, 4095, 8)]


# --- new images ---------------------------------------------------------------------------------

OF_SET = (ValueRange(format="TIFF", numbers="16-bit", low=0, high=4095),)


def new(path: Path, values: np.ndarray) -> Path:
    Image.fromarray(values).save(path)
    return path


def test_a_new_image_is_seen_in_the_range_of_the_set(tmp_path) -> None:
    dark = new(tmp_path / "x.tiff", (RAMP * 1000).astype(np.uint16))
    assert decode_file(dark, SEEN, OF_SET).pixels.max() == 62
    bright = new(tmp_path / "y.tiff", (RAMP * 5000).astype(np.uint16))
    assert decode_file(bright, SEEN, OF_SET).pixels.max() == 255


def test_a_new_image_in_another_format_is_seen_in_the_range_of_such_numbers(tmp_path) -> None:
    image = new(tmp_path / "x.png", (RAMP * 4095).astype(np.uint16))
    assert np.abs(decode_file(image, SEEN, OF_SET).pixels - RAMP * 255).max() < 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((RAMP * 65535).astype(np.uint16), r"numbers are 0 to 65535, most of them outside of 0 to 4095"),
        (RAMP.astype(np.float32), r"it is a float TIFF image, 0 to 1, and no other image says"),
    ],
)
def test_a_new_image_that_the_set_does_not_explain_is_refused(tmp_path, values, message) -> None:
    with pytest.raises(UnreadableError, match=message):
        decode_file(new(tmp_path / "x.tiff", values), SEEN, OF_SET)


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError("out of memory error when reading image file")], ids=repr
)
def test_a_lack_of_memory_leaves_no_image_out(tmp_path, monkeypatch, error) -> None:
    root = ramps(tmp_path / "set", {"x.png": (RAMP * 255).astype(np.uint8)})

    def full(image):
        raise error

    monkeypatch.setattr(decode_module, "_to_rgb", full)
    with pytest.raises(DataError, match=r"The memory does not suffice to decode the image .*png") as caught:
        load(Source(root, skip_unreadable=True), tmp_path / "cache")
    assert not isinstance(caught.value, UnreadableError)
