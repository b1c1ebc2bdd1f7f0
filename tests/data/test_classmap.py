"""Classes under new names."""

import json
import shutil
from pathlib import Path

import optuna
import pytest
import torch
from PIL import Image

from depthsearch.cli import main
from depthsearch.data import Source, load_data
from depthsearch.errors import DataError
from depthsearch.results import StoredStudy
from depthsearch.study.preparing.again import stored_options


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Hold ten images of each of four plants."""
    for row, name in enumerate(("elm", "oak", "rose", "tulip")):
        (tmp_path / "plants" / name).mkdir(parents=True)
        for place in range(10):
            Image.new("RGB", (9, 9), (50 * row, place, 0)).save(tmp_path / "plants" / name / f"{place}.png")
    return tmp_path / "plants"


PLANTS = {"oak": "tree", "elm": "tree", "rose": "flower", "tulip": "flower"}


def write(folder: Path, content: object) -> Path:
    path = folder / "map.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_classes_get_their_new_names_and_images_stay(folder, cache):
    plain = load_data(folder, image_size=8, cache=cache)
    data = load_data(Source(folder, classes_map=write(folder, PLANTS)), image_size=8, cache=cache)
    assert data.classes == ("flower", "tree")
    assert data.layout == "4 classes mapped to 2 by map.json"
    for split in (data.train, data.val, data.test):
        reds = split.gather(torch.arange(len(split)))[:, 0, 0, 0]
        assert split.labels.tolist() == [int(red < 100) for red in reds.tolist()]
    assert torch.equal(data.train.images, plain.train.images)


def test_each_map_is_another_data_set_and_one_that_changes_nothing_is_none(folder, cache):
    def fingerprint(names: dict[str, str] | None) -> str:
        file = None if names is None else write(folder, names)
        return load_data(Source(folder, classes_map=file), image_size=8, cache=cache).fingerprint

    plain = fingerprint(None)
    assert fingerprint({name: name for name in PLANTS}) == plain
    crossed = {"oak": "flower", "elm": "tree", "rose": "tree", "tulip": "flower"}
    assert len({plain, fingerprint(PLANTS), fingerprint(crossed)}) == 3


def test_digits_can_be_mapped(cache, tmp_path):
    file = write(tmp_path, {str(digit): "odd" if digit % 2 else "even" for digit in range(10)})
    data = load_data(Source("digits", classes_map=file), image_size=8, cache=cache)
    assert data.classes == ("even", "odd")
    assert len(data.train) == 1078


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{'oak': 'tree'}", r"map.json is no JSON: .* in line 1, column 2. Give a JSON object such as"),
        ("[1, 2]", "map.json holds no JSON object of names"),
        ("{}", "map.json holds no JSON object of names"),
        ({**PLANTS, "elm": 3}, "map.json maps 'elm' to 3, which is no name"),
        ({**PLANTS, "elm": {"a": "b"}}, 'map.json maps \'elm\' to {"a": "b"}, which is no name'),
        ({**PLANTS, "elm": " "}, "map.json maps 'elm' to \" \", which is no name"),
        ('{"oak": "a", "elm": "b", "oak": "c"}', "map.json names oak more than once"),
        (
            {**PLANTS, "tulips": "flower"},
            "names 1 that are no class of plants: tulips. Near 'tulips': 'tulip'",
        ),
        ({"1": "one", **PLANTS}, "no class of plants: 1. It has elm, oak, rose, tulip"),
        ({"oak": "tree"}, "leaves out 3 of the 4 classes of plants: elm, rose, tulip. Map each"),
        (dict.fromkeys(PLANTS, "plant"), "map.json maps every class to 'plant'. Leave two"),
    ],
)
def test_a_map_that_cannot_be_used_says_why_in_one_line(folder, cache, content, message):
    with pytest.raises(DataError, match=message) as caught:
        load_data(Source(folder, classes_map=write(folder, content)), image_size=8, cache=cache)
    assert "\n" not in str(caught.value)


def test_a_map_that_is_not_there_or_no_text_says_so(folder, cache):
    with pytest.raises(DataError, match=r"No file .*nowhere.json for --classes-map"):
        load_data(Source(folder, classes_map=folder / "nowhere.json"), image_size=8, cache=cache)
    (folder / "map.json").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"Cannot read .*map.json for --classes-map: invalid start byte"):
        load_data(Source(folder, classes_map=folder / "map.json"), image_size=8, cache=cache)


def test_a_study_keeps_its_map_and_refuses_another(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.move(write(folder, PLANTS), tmp_path)
    options = "--backbone test_resnet --weights random --image-size 16 --device cpu --precision float32"
    counts = "--trials 1 --epochs 1 --confirm 0 --head-width 0 --name plants --storage sqlite:///s.db"
    argv = ["study", "--data", "plants", *options.split(), *counts.split()]
    assert main([*argv, "--classes-map", "map.json"]) == 0
    assert "4 classes mapped to 2 by map.json): 2 classes (" in capsys.readouterr().err
    stored = optuna.load_study(study_name="plants", storage="sqlite:///s.db")
    assert stored_options(StoredStudy.read(stored)).classes_map == str(tmp_path / "map.json")
    assert main(argv) == 2
    assert "Study 'plants' is stored with other settings: --data plants [" in capsys.readouterr().err
    assert main(["fit", "--storage", "sqlite:///s.db"]) == 0
    config = json.loads((tmp_path / "plants-model" / "config.json").read_text())
    assert config["label_names"] == ["flower", "tree"]
