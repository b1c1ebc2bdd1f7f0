"""The plain network that nobody has pretrained: one cut, nothing frozen, also beside other backbones."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import timm
import torch
from optuna.distributions import IntDistribution

from depthsearch import Objective, SearchSpace, list_cuts, load, split_at, transfer_curve
from depthsearch.classifier.explain.maps import pretrained_classes
from depthsearch.cli import main
from depthsearch.errors import SettingsError
from depthsearch.models.backbones import load_backbone, make_model
from depthsearch.report.page.composing import compose
from depthsearch.report.text import as_json, render
from depthsearch.results import StoredStudy
from depthsearch.results.evidence import weigh
from depthsearch.results.summary import standings, summarize
from depthsearch.search.firsts import count_exhaustive, first_settings
from depthsearch.search.sampling import make_sampler
from depthsearch.search.space import Point
from depthsearch.study import CurveDrawn, confirm, open_study, search
from depthsearch.training.task import Task

BOTH = ("cnn", "test_resnet")


@pytest.fixture(scope="module")
def scratch(task) -> Task:
    return replace(task, backbone=load_backbone("cnn", image_size=16))


@pytest.fixture(scope="module")
def alone(scratch) -> SearchSpace:
    return SearchSpace.across(
        {"cnn": scratch.backbone.model}, image_size=16, from_scratch=["cnn"], head_width=(16, 16)
    )


@pytest.fixture(scope="module")
def both(scratch, backbone) -> SearchSpace:
    models = {"cnn": scratch.backbone.model, "test_resnet": backbone.model}
    return SearchSpace.across(models, image_size=16, from_scratch=["cnn"], head_width=(16, 16))


def run(study, tasks, space, folder: Path, *, n_trials: int, sampler: str = "random") -> list[Any]:
    """Search, then confirm one cut with two seeds; give the events."""
    events = search(
        study, tasks, space, n_trials=n_trials, sampler=sampler, pruner="none", checkpoints=folder
    )
    return [*events, *confirm(study, tasks, space, n_cuts=1, n_seeds=2, checkpoints=folder)]


@pytest.fixture(scope="module")
def finished(scratch, alone, tmp_path_factory, open_quick_storage) -> optuna.Study:
    """Three trials of it alone, confirmed with two seeds."""
    folder = tmp_path_factory.mktemp("alone")
    study = open_study(open_quick_storage(f"sqlite:///{folder}/s.db"), "alone", scratch, alone, {})
    run(study, scratch, alone, folder, n_trials=3)
    return study


# --- the model ----------------------------------------------------------------------------------


def test_it_is_a_model_of_timms_once_the_package_is_imported() -> None:
    model = timm.create_model("cnn", num_classes=5, in_chans=1).eval()
    assert model(torch.zeros(2, 1, 40, 40)).shape == (2, 5)
    assert model.forward_features(torch.zeros(2, 1, 40, 40)).shape == (2, model.num_features, 2, 2)
    model.reset_classifier(7)
    assert model.get_classifier().out_features == 7


def test_it_is_as_large_as_it_says() -> None:
    first, *_, last = list_cuts(make_model("cnn"))
    assert (first.trainable_parameters, last.trainable_parameters) == (240_832, 0)
    assert round(first.training_macs / 3 / 1e9, 2) == 0.62


def test_its_layers_are_numbered_and_split_as_those_of_any_model() -> None:
    model = make_model("cnn")
    images = torch.randn(2, 3, 32, 32)
    cuts = list_cuts(model, image_size=32)
    assert [cut.name for cut in cuts] == [*(f"features.conv{n}" for n in range(1, 5)), "fc"]
    assert [cut.layer for cut in cuts] == [2, 5, 8, 11, 16]
    for cut in cuts:
        split = split_at(model, cut, image_size=32)
        split.suffix.eval()
        with torch.no_grad():
            assert torch.equal(split.suffix(split.prefix(images)), model(images))


@pytest.mark.parametrize("weights", ["auto", "random"])
@pytest.mark.parametrize("channels", [1, 3])
def test_its_weights_are_those_of_the_seed_whatever_is_asked_for(weights: str, channels: int) -> None:
    made, again = (load_backbone("cnn", weights, seed=3, in_chans=channels) for _ in range(2))
    other = load_backbone("cnn", weights, seed=4, in_chans=channels)
    assert str(made.weights) == "from scratch (seed 3)"
    assert made.from_scratch
    assert made.digest == again.digest != other.digest
    assert len(made.preprocessing.mean) == channels
    assert pretrained_classes(made) is None


def test_weights_of_a_file_are_pretrained_ones(tmp_path) -> None:
    torch.save(make_model("cnn", seed=5).state_dict(), tmp_path / "mine.pt")
    loaded = load_backbone("cnn", str(tmp_path / "mine.pt"))
    assert str(loaded.weights).startswith("file mine.pt (")
    assert not loaded.from_scratch


# --- a space with one candidate -----------------------------------------------------------------


def test_what_nobody_has_pretrained_has_one_cut_at_which_all_is_trained(alone, both) -> None:
    (cut,) = alone.cuts
    assert (cut.index, cut.frozen_mac_share, cut.trainable_parameters) == (0, 0.0, 240_832)
    assert alone.distributions()["cut"] == IntDistribution(0, 0)
    assert [cut.name for cut in both.cuts_of("cnn")] == ["features.conv1"]
    assert len(both.cuts_of("test_resnet")) > 10


def test_kinds_that_it_lacks_do_not_matter_to_it(scratch, alone) -> None:
    models = {"cnn": scratch.backbone.model}
    found = SearchSpace.across(models, ["concat"], image_size=16, from_scratch=["cnn"])
    assert found.cuts == alone.cuts


def test_its_first_trial_is_the_only_baseline(alone, both) -> None:
    assert [(params["cut"], why) for params, why in first_settings(alone)] == [(0, "baseline")]
    assert first_settings(alone)[0][0]["learning_rate"] == pytest.approx((5e-4 * 2e-3) ** 0.5)
    of_both = [(p["backbone"], why) for p, why in first_settings(both)]
    assert of_both[:3] == [("cnn", "baseline"), ("test_resnet", "baseline"), ("test_resnet", "baseline")]
    assert ("cnn", "anchor") not in of_both
    assert len(first_settings(alone, exhaustive=True)) == count_exhaustive(alone) == 1
    assert len(first_settings(both, exhaustive=True)) == count_exhaustive(both)


@pytest.mark.parametrize("name", ["gp", "tpe", "random"])
@pytest.mark.parametrize("which", ["alone", "both"])
def test_every_sampler_suggests_its_only_cut(request, name: str, which: str) -> None:
    space = request.getfixturevalue(which)
    study = optuna.create_study(direction="maximize")
    seen = set()
    for number in range(12):
        study.sampler = make_sampler(name, number)
        trial = study.ask()
        point = space.suggest(trial)
        seen.add(point.cut.backbone or "cnn")
        study.tell(trial, 0.5 + 0.1 * (point.cut.name == "features.conv1") - abs(point.learning_rate - 1e-3))
    assert "cnn" in seen


def test_a_space_without_any_choice_can_be_searched(alone) -> None:
    study = optuna.create_study(direction="maximize", sampler=make_sampler("gp", 0))
    space = replace(alone, learning_rate=(1e-3, 1e-3), head_width=0)
    for _ in range(10):
        trial = study.ask()
        assert space.suggest(trial) == Point(cut=alone.cuts[0], learning_rate=1e-3)
        study.tell(trial, 0.5)


def test_where_nothing_is_frozen_there_is_nothing_to_probe(scratch, alone) -> None:
    curve = transfer_curve(scratch, alone.cuts)
    assert (curve.points, curve.macs, curve.kept_bytes) == ((), 0, 0)


# --- the study ----------------------------------------------------------------------------------


def test_its_answer_rests_on_all_seeds(finished) -> None:
    evidence = weigh(StoredStudy.read(finished))
    assert evidence is not None
    (confirmed,) = evidence.confirmed
    assert len(confirmed.scores) == 2
    assert confirmed is evidence.answer is evidence.best
    assert evidence.level == (0,)


def test_the_result_has_no_feature_extraction(finished) -> None:
    summary = summarize(finished)
    assert summary.feature_extraction is None
    assert summary.full_fine_tuning == summary.best.score
    told = as_json(summary)
    assert json.loads(json.dumps(told)) == told
    assert told["answer"]["confirmed"] is True
    assert told["transfer_curve"] == []


def test_the_terminal_and_the_report_show_a_study_with_one_cut(finished, capsys) -> None:
    from rich.console import Console

    summary = summarize(finished)
    Console(width=200).print(render(summary))
    told = capsys.readouterr().out
    assert "feature extraction – · full fine-tuning 0." in told  # noqa: RUF001 (for nothing)
    assert "cannot be told" not in told
    page = compose(summary, StoredStudy.read(finished))
    for text in (page.markdown(), page.html()):
        assert "train everything" in text
        assert "with everything trained" not in text


@pytest.mark.slow
def test_it_is_a_baseline_among_several_backbones(task, scratch, both, tmp_path, open_quick_storage) -> None:
    """Guards a network from scratch beside pretrained ones in one study."""
    tasks = {"cnn": scratch, "test_resnet": task}
    study = open_study(open_quick_storage(f"sqlite:///{tmp_path}/s.db"), "both", tasks, both, {})
    events = run(study, tasks, both, tmp_path, n_trials=9, sampler="gp")
    assert [event.backbone for event in events if isinstance(event, CurveDrawn)] == ["test_resnet"]
    summary = summarize(study)
    assert {standing.backbone for standing in standings(summary)} == set(BOTH)
    of_it, other = summary.parts
    assert of_it.evidence is not None
    assert {trial.cut.index for trial in of_it.trials} == {0}
    assert of_it.feature_extraction is None
    assert other.feature_extraction is not None
    page = compose(summary, StoredStudy.read(study))
    assert all(name in page.html() and name in page.markdown() for name in BOTH)


def test_an_objective_of_ones_own_trains_it(scratch, alone) -> None:
    study = optuna.create_study(direction="maximize")
    study.optimize(Objective(task=scratch, space=alone), n_trials=1)
    assert study.best_trial.user_attrs["cut_name"] == "features.conv1"


# --- the command line ---------------------------------------------------------------------------


@pytest.fixture
def last_line(tmp_path, monkeypatch, capsys) -> Callable[..., Any]:
    """Run a command in an empty folder; give the JSON in its last line, and what it told."""
    monkeypatch.chdir(tmp_path)

    def run_(*words: str) -> tuple[Any, str]:
        status = main(words)
        told = capsys.readouterr()
        assert status == 0, told.err
        return json.loads(told.out.splitlines()[-1]), told.err

    return run_


@pytest.mark.slow
def test_from_the_search_to_a_model_that_another_process_loads(pictures, last_line) -> None:
    """Guards a model that timm knows only once depthsearch is imported."""
    options = ("--data", str(pictures), "--image-size", "16", "--batch-size", "8", "--epochs", "2")
    few = ("--trials", "2", "--confirm", "0", "--device", "cpu", "--precision", "float32", "--json")
    result, told = last_line("study", "--backbone", "cnn", *options, *few)
    assert "Backbone cnn, weights: from scratch (seed 0); 1 candidate cut; 16 px." in told
    assert result["weights"] == "from scratch (seed 0)"
    fitted, _ = last_line("fit", "--json", "--out", "model")
    assert fitted["timm_loads"] is False
    assert "timm.create_model` cannot load it" in Path("model/README.md").read_text(encoding="utf-8")
    image = next(pictures.rglob("*.png"))
    code = (
        "import sys, depthsearch\n"
        f"(found,) = depthsearch.load('model', device='cpu').predict([{str(image)!r}])\n"
        "print(repr(found.probability))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert float(ended.stdout) == load("model", device="cpu").predict([image])[0].probability
    index, _ = last_line("explain", "model", str(image), "--json")
    assert len(index["pictures"]) == 1


def picked_names(layers: list[str]) -> dict[str, list[str]]:
    models = {
        "cnn": load_backbone("cnn", "auto", image_size=16).model,
        **{name: timm.create_model("test_resnet", pretrained=False) for name in ("a", "b")},
    }
    space = SearchSpace.across(models, image_size=32, from_scratch=["cnn"], layers=layers)
    return {name: [cut.name for cut in space.cuts_of(name)] for name in space.backbones}


def test_picked_layers_are_those_of_pretrained_backbones() -> None:
    found = picked_names(["layer2.0.conv1"])
    assert found["a"] == found["b"]
    assert len(found["a"]) == 3
    assert found["a"][1] == "layer2.0.conv1"
    assert len(found["cnn"]) == 1


def test_a_layer_of_one_backbone_leaves_the_others_all_their_candidates() -> None:
    found = picked_names(["a:layer2.0.conv1", "a:layer3.0.conv1"])
    assert found["a"][1:-1] == ["layer2.0.conv1", "layer3.0.conv1"]
    assert len(found["b"]) > 4


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        (["c:layer2.0.conv1"], r"^layers: 'c:layer2\.0\.conv1' is of none of a, b\. Give one of these\.$"),
        (["cnn:features.0"], r"^layers: 'cnn:features\.0' is of none of a, b\."),
    ],
)
def test_a_layer_of_no_pretrained_backbone_is_refused(layers: list[str], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        picked_names(layers)


def test_layers_are_not_picked_where_there_are_none_to_freeze() -> None:
    with pytest.raises(SettingsError, match=r"^layers are picked, and no backbone has pretrained ones"):
        SearchSpace.across(
            {"cnn": load_backbone("cnn", "auto", image_size=16).model},
            image_size=16,
            from_scratch=["cnn"],
            layers=["features.0"],
        )
