"""A first look at images says what loading them would."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from depthsearch.data import load_data, survey
from depthsearch.errors import DataError


def test_it_counts_what_loading_the_same_images_gives(pictures: Path, tmp_path: Path) -> None:
    seen = survey(pictures)
    data = load_data(pictures, image_size=16, cache=tmp_path)
    labels = torch.cat([data.train.labels, data.val.labels, data.test.labels])
    assert seen.splits == {"train": len(data.train), "val": len(data.val), "test": len(data.test)}
    assert seen.classes == dict(zip(data.classes, torch.bincount(labels).tolist(), strict=True))
    assert (seen.n_samples, seen.own_splits, seen.imbalance) == (28, ("train",), 1.0)
    assert set(seen.shorter_sides) == {16}


def test_splits_of_a_table_are_its_own(pictures: Path, tmp_path: Path) -> None:
    paths = sorted(pictures.rglob("*.png"))
    rows = [
        f"{path},{path.parent.name},{'train' if place % 3 else 'val'}" for place, path in enumerate(paths)
    ]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["image,label,split", *rows]))
    assert survey(table).own_splits == ("train", "val")


def test_what_cannot_be_read_is_named_and_not_measured(pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures, tmp_path / "set")
    (tmp_path / "set" / "one" / "00.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    Image.new("RGB", (90, 70)).save(tmp_path / "set" / "nought" / "00.png")
    seen = survey(tmp_path / "set")
    assert seen.unreadable == ("one/00.png",)
    assert seen.shorter_sides[-1] == 70


def test_what_cannot_be_loaded_is_refused_alike(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^No folder .*gone\. Give a folder of images"):
        survey(tmp_path / "gone")
