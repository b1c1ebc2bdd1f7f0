"""What a study's options become."""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from depthsearch.cli import main
from depthsearch.cli.parser import make_parser, options_from
from depthsearch.data.sources import imagefolder
from depthsearch.data.sources.scanning import scan_folder
from depthsearch.options.defaults import with_defaults
from depthsearch.options.reproduction import study_command
from depthsearch.options.study import StudyOptions
from depthsearch.search.space import Point
from depthsearch.study.preparing.tasks import RECIPE
from depthsearch.text import counted
from depthsearch.training import Recipe


def test_each_option_of_a_training_reaches_its_recipe_or_its_setting() -> None:
    """One that is left out would be taken and do nothing."""
    options, recipe, setting = (
        {field.name for field in fields(kind)} for kind in (StudyOptions, Recipe, Point)
    )
    assert set(RECIPE) | setting >= options & recipe
    assert set(RECIPE) <= options & recipe


def test_what_two_backbones_share_is_listed_and_told_once(
    pictures: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    """Of other sizes they read the images each by itself; before PyTorch is loaded they are checked."""
    listed = []
    monkeypatch.setattr(imagefolder, "scan_folder", lambda root: listed.append(root) or scan_folder(root))
    common = "--weights random --device cpu --precision float32 --epochs 1 --trials 1 --confirm 0"
    backbones = ["--backbone", "test_resnet,test_vit", "--storage", f"sqlite:///{tmp_path}/s.db"]
    assert main(["study", "--data", str(pictures), *backbones, *common.split()]) == 0
    told = capsys.readouterr().err
    assert told.count("Data pictures") == 1
    assert told.count("Backbone test_") == 2
    assert len(listed) == 2


@pytest.mark.parametrize(("n", "told"), [(0, "0 images"), (1, "1 image"), (1437, "1,437 images")])
def test_what_is_counted_stands_in_its_number(n: int, told: str) -> None:
    assert counted(n, "image") == told


@pytest.mark.parametrize(
    "options",
    [
        StudyOptions(backbone=("resnet18",), data="/photos", epochs=4, budget=1),
        StudyOptions(backbone=("resnet18",), data="/photos", search="exhaustive", epochs=2),
        StudyOptions(backbone=("densenet121",)),
        StudyOptions(backbone=("a", "b"), data="/photos", sampler="tpe", learning_rate=(1e-3, 1e-2)),
    ],
    ids=["budget", "exhaustive", "demo", "two"],
)
def test_a_short_command_gives_the_same_options_as_the_long_one(options: StudyOptions) -> None:
    stored = StudyOptions.from_json(with_defaults(options).as_json())
    long, short = (study_command(stored, name="s", n_trials=9, is_short=each) for each in (False, True))
    assert len(short) < len(long) / 3
    assert options_of_command(short) == options_of_command(long)


def options_of_command(command: str) -> StudyOptions:
    words = shlex.split(command.replace("\\\n", ""))[1:]
    given = vars(make_parser().parse_args(words))
    options = options_from(given.pop("command"), given)
    assert isinstance(options, StudyOptions)
    return with_defaults(options)
