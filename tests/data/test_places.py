"""Files that tables name as Windows or a Mac writes them."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from depthsearch.data import Columns, load_data, read_samples

NOISE = np.random.default_rng(0).integers(0, 255, (12, 8, 8, 3), dtype=np.uint8)


def named(folder: Path, names: list[str]) -> list[str]:
    """Write images of these paths."""
    for name, pixels in zip(names, NOISE, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    return names


def table(folder: Path, names: list[str], head: str = "image,label", lead: str = "") -> Path:
    rows = [f"{lead.format(i)}{name},{'ab'[i % 2]}" for i, name in enumerate(names)]
    (folder / "samples.csv").write_text("\n".join([head, *rows]), encoding="utf-8")
    return folder / "samples.csv"


WRITTEN = {
    "backslashes": ("images/{}.png", lambda name: name.replace("/", "\\")),
    "a point and backslashes": ("images/{}.png", lambda name: ".\\" + name.replace("/", "\\")),
    "NFD for NFC": ("b\u00e4ume/\u00fc{}.png", lambda name: unicodedata.normalize("NFD", name)),
    "NFC for NFD": ("ba\u0308ume/u\u0308{}.png", lambda name: unicodedata.normalize("NFC", name)),
    "NFD for a folder in NFC and files in NFD": (
        "b\u00e4ume/u\u0308{}.png",
        lambda name: unicodedata.normalize("NFD", name),
    ),
    "NFD and backslashes": (
        "b\u00e4ume/\u00fc{}.png",
        lambda name: unicodedata.normalize("NFD", name).replace("/", "\\"),
    ),
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_files_are_found_whatever_system_wrote_their_names(tmp_path, kind) -> None:
    pattern, written = WRITTEN[kind]
    names = named(tmp_path, [pattern.format(i) for i in range(12)])
    file = table(tmp_path, [written(name) for name in names])
    data = load_data(file, image_size=8, cache=tmp_path / "cache")
    assert sorted(data.paths) == sorted(names)
    samples = read_samples(file, Columns())
    assert [Path(sample.images[0]) for sample in samples] == [tmp_path / name for name in names]


def test_a_file_whose_name_holds_a_backslash_is_that_file(tmp_path) -> None:
    names = named(tmp_path, [f"im\\{i}.png" for i in range(12)])
    data = load_data(table(tmp_path, names), image_size=8, cache=tmp_path / "cache")
    assert sorted(data.paths) == sorted(names)


def test_metadata_written_on_windows_keep_their_splits(tmp_path) -> None:
    names = named(tmp_path / "set", [f"{s}/{i}.png" for s in ("train", "val") for i in range(6)])
    written = [name.replace("/", "\\") for name in names]
    table(tmp_path / "set", written, head="file_name,label").rename(tmp_path / "set" / "metadata.csv")
    data = load_data(tmp_path / "set", image_size=8, cache=tmp_path / "cache")
    assert {data.paths[row].split("/")[0] for row in data.val.rows.tolist()} == {"val"}


@pytest.mark.parametrize("head", [",image,label", "Unnamed: 0,image,label", ",,image,label"])
def test_an_index_column_is_no_trouble(tmp_path, head) -> None:
    names = named(tmp_path, [f"{i}.png" for i in range(12)])
    lead = "{0}," * (head.count(",") - 1)
    data = load_data(table(tmp_path, names, head, lead), image_size=8, cache=tmp_path / "cache")
    assert data.classes == ("a", "b")
    (note,) = data.notes
    assert note.startswith("Columns of samples.csv that are not read: ")
