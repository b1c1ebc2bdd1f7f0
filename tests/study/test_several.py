"""Several backbones in one study: one space, one sampler, one answer."""

import json
import re
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import torch.nn.functional as F
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import FixedTrial, TrialState
from safetensors.torch import save_file

from depthsearch import Objective, SearchSpace, list_cuts
from depthsearch.cli import main
from depthsearch.data import load_data
from depthsearch.errors import SettingsError, StudyError
from depthsearch.models.backbones import load_backbone
from depthsearch.options.weights import weights_by_backbone, with_full_paths
from depthsearch.report.page.composing import compose
from depthsearch.report.text import as_json
from depthsearch.results import StoredStudy, summary as summary_module
from depthsearch.results.evidence import promising, weigh
from depthsearch.results.summary import standings, summarize
from depthsearch.results.trials import cost_of
from depthsearch.search.firsts import first_settings
from depthsearch.search.sampling import ExtrapolatingGPSampler, make_sampler
from depthsearch.seeds import seed_from
from depthsearch.study import CurveDrawn, TrialStarted, confirm, open_study, search
from depthsearch.study.preparing.again import prepare_again
from depthsearch.study.storage.optuna_private import storage_of
from depthsearch.training.costs import full_fine_tune_macs
from depthsearch.training.objective import train_point
from depthsearch.training.task import Task
from depthsearch.visualization.words import layer_ranges

NAMES = ("test_resnet", "test_byobnet")
N_TRIALS = 15


@pytest.fixture(scope="module")
def tasks(task) -> Mapping[str, Task]:
    """Both backbones on the same 64 digits; the second sees them larger."""
    other = load_backbone(NAMES[1], "random", image_size=16)
    return {NAMES[0]: task, NAMES[1]: replace(task, backbone=other)}


@pytest.fixture(scope="module")
def both(tasks) -> SearchSpace:
    models = {name: task.backbone.model for name, task in tasks.items()}
    return SearchSpace.across(models, image_size=16, head_width=(16, 16))


@pytest.fixture(scope="module")
def run(tasks, both, open_quick_storage) -> Callable[..., optuna.Study]:
    """Search and confirm in a database of its own; stop after some events and go on, if asked to."""

    def make(folder: Path, *, stop_after: int | None = None, sampler: str = "gp") -> optuna.Study:
        storage = open_quick_storage(f"sqlite:///{folder}/studies.db")
        options = {"sampler": sampler, "pruner": "none", "checkpoints": folder}
        for stop in (stop_after, None) if stop_after else (None,):
            study = open_study(storage, "s", tasks, both, {})
            with closing(search(study, tasks, both, n_trials=N_TRIALS, **options)) as events:
                for n, _ in enumerate(events):
                    if n == stop:
                        break
        list(confirm(study, tasks, both, n_cuts=2, n_seeds=2, resample=True, checkpoints=folder))
        return optuna.load_study(study_name="s", storage=storage)

    return make


@pytest.fixture(scope="module")
def finished(run, tmp_path_factory) -> optuna.Study:
    return run(tmp_path_factory.mktemp("finished"))


# --- the space ----------------------------------------------------------------------------------


def test_each_backbone_has_a_cut_of_its_own(both, tasks) -> None:
    n_cuts = {name: len(list_cuts(task.backbone.model, image_size=16)) for name, task in tasks.items()}
    assert both.backbones == NAMES
    assert both.distributions()["backbone"] == CategoricalDistribution(NAMES)
    for name in NAMES:
        found = both.distributions(name)
        assert found[f"cut_{name}"] == IntDistribution(0, n_cuts[name] - 1)
        assert not any(f"cut_{other}" in found for other in NAMES if other != name)


def test_every_candidate_of_every_backbone_can_be_suggested(both) -> None:
    points = [
        both.suggest(
            FixedTrial(
                {
                    "backbone": cut.backbone,
                    f"cut_{cut.backbone}": cut.index,
                    "learning_rate": 1e-3,
                    "head_width": 0,
                }
            )
        )
        for cut in both.cuts
    ]
    assert [point.cut for point in points] == list(both.cuts)
    assert {str(point.cut).split()[0] for point in points} == set(NAMES)


def test_one_backbone_makes_the_space_of_that_model(backbone, space) -> None:
    alone = SearchSpace.across({"mine": backbone.model}, image_size=16, head_width=(16, 16))
    assert alone == space


@pytest.mark.parametrize(
    ("models", "message"),
    [((), r"Backbones \[\]: give at least one"), (("a", ""), r"Backbones \['a', ''\]: give at least one")],
)
def test_backbones_without_names_are_refused(backbone, models: tuple[str, ...], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        SearchSpace.across(dict.fromkeys(models, backbone.model), image_size=16)


def test_cuts_that_are_mixed_up_are_refused(both) -> None:
    shuffled = (both.cuts[0], both.cuts[-1], *both.cuts[1:-1])
    with pytest.raises(SettingsError, match=r"mixed: give SearchSpace\.across"):
        replace(both, cuts=shuffled)


def test_the_first_trials_are_every_backbones_ends_then_all_depths_in_turn(both) -> None:
    settings = first_settings(both)
    points = [both.point(params) for params, _ in settings]
    assert [origin for _, origin in settings[:4]] == ["baseline"] * 4
    assert {(p.cut.backbone, p.cut.frozen_mac_share) for p in points[:4]} == {
        (name, share) for name in NAMES for share in (0.0, 1.0)
    }
    assert {origin for _, origin in settings[4:]} == {"anchor"}
    assert [point.cut.backbone for point in points] == [*NAMES] * 6


# --- the study ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_trial_scores_as_its_backbone_alone_does(finished, tasks, both) -> None:
    """Guards several backbones against sharing what is one's alone."""
    for trial in finished.trials[:6]:
        point = both.point(trial.params)
        task = tasks[point.cut.backbone]
        results = train_point(task, point, seed=seed_from(task.recipe.seed, trial.number))
        assert [result.score for result in results] == list(trial.intermediate_values.values())


def test_each_backbone_is_probed_once(run, tasks, both, open_quick_storage, tmp_path) -> None:
    storage = open_quick_storage(f"sqlite:///{tmp_path}/studies.db")
    options = {"n_trials": 1, "sampler": "random", "pruner": "none", "checkpoints": tmp_path}
    study = open_study(storage, "s", tasks, both, {})
    events = [*search(study, tasks, both, **options), *search(study, tasks, both, **options)]
    assert [e.backbone for e in events if isinstance(e, CurveDrawn)] == list(NAMES)
    assert sum(isinstance(e, TrialStarted) for e in events) == 1
    curves = [part.curve for part in summarize(study).parts]
    assert [curve[-1].name for curve in curves] == [part.cuts[-1].name for part in summarize(study).parts]


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [3, 44])
def test_a_stop_anywhere_changes_nothing(run, finished, tmp_path, stop_after: int) -> None:
    """Guards contracts 6 and 7 with several backbones."""
    again = run(tmp_path, stop_after=stop_after)

    def facts(study: optuna.Study) -> list[Any]:
        return [(t.params, t.state, t.intermediate_values) for t in study.trials]

    assert facts(again) == facts(finished)


def test_another_list_of_backbones_is_another_study(finished, tasks, space) -> None:
    storage = storage_of(finished)
    alone = tasks[NAMES[0]]
    message = rf"--backbone {NAMES[0]},{NAMES[1]} \(here {NAMES[0]}\)"
    with pytest.raises(StudyError, match=message):
        open_study(storage, "s", alone, space, {})


def test_an_objective_of_ones_own_takes_several_backbones(tasks, both) -> None:
    study = optuna.create_study(direction="maximize", sampler=TPESampler(seed=0))
    study.optimize(Objective(task=tasks, space=both), n_trials=4)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    assert {trial.params["backbone"] for trial in study.trials} == set(NAMES)


def test_images_of_another_size_are_split_alike(pictures) -> None:
    """Else one backbone were judged on what another has learned from."""
    small, large = (load_data(pictures, image_size=size) for size in (16, 48))
    for a, b in ((small.train, large.train), (small.val, large.val), (small.test, large.test)):
        assert torch.equal(a.labels, b.labels)
        every = torch.arange(len(a))
        shrunk = F.adaptive_avg_pool2d(b.gather(every).float(), 8).flatten(1)
        plain = F.adaptive_avg_pool2d(a.gather(every).float(), 8).flatten(1)
        assert torch.equal(torch.cdist(shrunk, plain).argmin(1), every)


# --- the sampler --------------------------------------------------------------------------------


def told(both: SearchSpace, scores: Callable[[str, float], float], n: int, sampler: Any) -> optuna.Study:
    """Make a study of n random trials whose scores are a function of backbone and depth."""
    study = optuna.create_study(direction="maximize", sampler=RandomSampler(seed=1))
    for _ in range(n):
        trial = study.ask()
        cut = both.suggest(trial).cut
        depth = cut.index / (len(both.cuts_of(cut.backbone)) - 1)
        study.tell(trial, scores(cut.backbone, depth))
    study.sampler = sampler
    return study


@pytest.mark.parametrize("name", ["gp", "tpe", "random"])
def test_every_sampler_suggests_a_backbone_and_its_own_cut(both, name: str) -> None:
    study = told(both, lambda _, depth: depth, 10, None)
    for seed in range(5):
        study.sampler = make_sampler(name, seed)
        trial = study.ask()
        point = both.suggest(trial)
        (cut,) = (key for key in trial.params if key.startswith("cut"))
        assert cut == f"cut_{point.cut.backbone}"
        study.tell(trial, 0.5)


def test_what_one_backbone_shows_of_depth_is_a_hint_for_the_other(both) -> None:
    """Of the better backbone only the ends are known, of the other that the middle is best."""

    def suggested(best: float) -> float:
        study = optuna.create_study(direction="maximize")
        trials = [(NAMES[0], depth / 8) for depth in range(9)] * 2 + [(NAMES[1], 0.0), (NAMES[1], 1.0)]
        for name, depth in trials:
            index = round(depth * (len(both.cuts_of(name)) - 1))
            study.enqueue_trial(
                {"backbone": name, f"cut_{name}": index, "learning_rate": 1e-3, "head_width": 0}
            )
            trial = study.ask()
            both.suggest(trial)
            study.tell(trial, 0.9 - (depth - best) ** 2 + 0.05 * (name == NAMES[1]))
        study.sampler = ExtrapolatingGPSampler(seed=0)
        point = both.suggest(study.ask())
        assert point.cut.backbone == NAMES[1]
        return point.cut.index / (len(both.cuts_of(NAMES[1])) - 1)

    assert suggested(0.25) < 0.5 < suggested(0.75)


# --- the answer ---------------------------------------------------------------------------------


def test_every_backbone_is_trained_again_and_the_ends_of_the_most_promising(finished) -> None:
    chosen = promising(StoredStudy.read(finished), 1)
    cuts = [trial.cut for trial in chosen]
    assert {cut.backbone for cut in cuts} == set(NAMES)
    of_first = [cut for cut in summarize(finished).cuts if cut.backbone == cuts[0].backbone]
    assert {of_first[0], of_first[-1]} <= set(cuts)
    evidence = weigh(StoredStudy.read(finished))
    assert evidence is not None
    assert {c.cut.backbone for c in evidence.confirmed} == set(NAMES)


def test_the_answer_is_the_cheapest_to_train_of_those_that_lose_little(finished) -> None:
    evidence = weigh(StoredStudy.read(finished))
    assert evidence is not None
    enough = [c for c in evidence.settled if c.chance >= 0.9]
    cheapest = min(enough, key=lambda c: c.cut.training_macs, default=evidence.best)
    assert evidence.answer.cut.training_macs == cheapest.cut.training_macs
    assert {place for place, _ in enumerate(summarize(finished).cuts)} >= set(evidence.level)
    assert len(evidence.expected) == len(summarize(finished).cuts)


def test_cost_orders_the_cuts_of_different_backbones(both) -> None:
    by_cost = sorted(both.cuts, key=cost_of)
    macs = [cut.training_macs for cut in by_cost]
    assert macs == sorted(macs)
    for name in NAMES:
        assert [cut.index for cut in by_cost if cut.backbone == name] == list(
            range(len(both.cuts_of(name)) - 1, -1, -1)
        )


def test_the_parts_of_a_summary_are_its_backbones(finished, tasks) -> None:
    summary = summarize(finished)
    assert summary.backbone == ", ".join(NAMES)
    assert [part.backbone for part in summary.parts] == list(NAMES)
    numbers = sorted(trial.number for part in summary.parts for trial in part.trials)
    assert numbers == [trial.number for trial in summary.trials]
    assert sum(part.holds_answer for part in summary.parts) == 1
    curves = [finished.user_attrs[f"transfer_curve_{name}"]["macs"] for name in NAMES]
    units = [full_fine_tune_macs(tasks[name]) for name in NAMES]
    spent = [
        (sum(t.macs for t in part.trials) + curve) / unit
        for part, curve, unit in zip(summary.parts, curves, units, strict=True)
    ]
    assert [part.cost.full_fine_tunes for part in summary.parts] == pytest.approx(spent)
    assert summary.cost.full_fine_tunes == pytest.approx(sum(spent))


def test_what_is_said_of_a_backbone_alone_is_of_its_own_cuts(finished) -> None:
    summary = summarize(finished)
    assert summary.evidence is not None
    levels = []
    for part in summary.parts:
        assert part.evidence is not None
        assert {c.cut.backbone for c in part.evidence.confirmed} == {part.backbone}
        assert len(part.evidence.expected) == len(part.cuts)
        levels += [part.cuts[place] for place in part.evidence.level]
    assert levels == [summary.cuts[place] for place in summary.evidence.level]


def test_places_among_all_candidates_become_places_of_each_backbone(finished, both, monkeypatch) -> None:
    evidence = weigh(StoredStudy.read(finished))
    assert evidence is not None
    n = len(both.cuts_of(NAMES[0]))
    level = replace(evidence, level=(1, n - 1, n, n + 2))
    monkeypatch.setattr(summary_module, "weigh", lambda _: level)
    first, second = summarize(finished).parts
    assert (first.evidence.level, second.evidence.level) == ((1, n - 1), (0, 2))
    assert second.evidence.expected == evidence.expected[n:]


def test_the_best_backbone_stands_first(finished) -> None:
    summary = summarize(finished)
    found = standings(summary)
    assert summary.evidence is not None
    assert found[0].is_answer
    assert found[0].score == summary.evidence.answer.mean
    assert found[0].trial.number == summary.chosen.number
    assert {standing.backbone for standing in found} == set(NAMES)


def test_the_json_tells_of_each_backbone(finished) -> None:
    told = as_json(summarize(finished))
    assert json.loads(json.dumps(told)) == told
    assert [each["backbone"] for each in told["backbones"]] == list(NAMES)
    assert told["answer"]["cut"]["backbone"] in NAMES
    assert set(told["evidence"]["level_layers"]) == set(NAMES)
    for each, stored in zip(told["backbones"], StoredStudy.read(finished).backbones.values(), strict=True):
        assert each["answer"]["training_macs"] <= 3 * each["macs"] < 3 * stored.full_fine_tune_macs


def test_ranges_of_layers_do_not_run_from_one_backbone_into_the_next(both) -> None:
    first, second = (both.cuts_of(name) for name in NAMES)
    n = len(first)
    said = layer_ranges(both.cuts, (n - 2, n - 1, n, n + 1, n + 3))
    assert said == (
        f"{NAMES[0]} {first[-2].layer} to {first[-1].layer}; "
        f"{NAMES[1]} {second[0].layer} to {second[1].layer}, {second[3].layer}"
    )


def test_the_report_compares_the_backbones_and_shows_each(finished) -> None:
    summary = summarize(finished)
    page = compose(summary, StoredStudy.read(finished))
    markdown, html = page.markdown(), page.html()
    section = markdown.split("## Backbones")[1].split("\n## ")[0]
    rows = [line.split("|")[1].strip(" *") for line in section.splitlines() if line.startswith("|")][2:]
    assert rows == [s.backbone for s in standings(summary)]
    assert {*page.plots.depth} == {*NAMES}
    assert all(name in text for text in (markdown, html) for name in NAMES)
    names = [trace.name for plot in page.plots.depth.values() for trace in plot.figure.data]
    assert names.count("best of this backbone") == names.count("answer") == 1


def test_trials_name_their_cut_and_nothing_twice(finished) -> None:
    for trial in StoredStudy.read(finished).trials:
        assert trial.params.keys() == {"learning_rate", "head_width"}
        assert len(trial.place) == 3
        assert trial.cut.backbone in NAMES


# --- the command line ---------------------------------------------------------------------------


@pytest.fixture
def last_line(tmp_path, monkeypatch, capsys) -> Callable[..., Any]:
    """Run a command in an empty folder; give the JSON in its last line."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Any:
        assert main(words) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


@pytest.mark.slow
def test_from_the_search_to_the_model(pictures, last_line) -> None:
    """Guards several backbones from the search to the model."""
    options = ("--data", str(pictures), "--weights", "random", "--image-size", "16", "--batch-size", "8")
    few = ("--epochs", "1", "--trials", "4", "--confirm", "1", "--seeds", "2", "--device", "cpu", "--json")
    answer = last_line("study", "--backbone", ",".join(NAMES), *options, *few)["answer"]
    fitted = last_line("fit", "--json", "--out", "model")
    assert fitted["backbone"] == answer["cut"]["backbone"]
    assert fitted["cut"]["name"] == answer["cut"]["name"]
    config = json.loads(Path("model/config.json").read_text(encoding="utf-8"))
    assert config["architecture"] == fitted["backbone"]
    last_line("report", "--out", "out", "--json")
    assert f"--backbone {','.join(NAMES)}" in Path("out/report.md").read_text(encoding="utf-8")


def test_one_file_of_weights_is_not_for_two_backbones(pictures, tmp_path, capsys) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"")
    words = ("--backbone", ",".join(NAMES), "--data", str(pictures), "--weights", str(weights))
    assert main(("study", *words)) == 2
    complaint = capsys.readouterr().err
    assert f"one file is no weights for 2 backbones. Give auto, random, or {NAMES[1]}=FILE." in complaint


@pytest.mark.slow
def test_each_backbone_may_have_weights_of_its_own(pictures, tmp_path, capsys, monkeypatch) -> None:
    """Guards --weights NAME=FILE to the trained model."""
    monkeypatch.chdir(tmp_path)
    made = load_backbone(NAMES[1], "random", seed=7).model
    save_file(made.state_dict(), tmp_path / "mine.safetensors")
    weights = f"{NAMES[0]}=random,{NAMES[1]}=mine.safetensors"
    words = f"--epochs 1 --trials 2 --confirm 0 --device cpu --weights {weights}"
    argv = ["study", "--backbone", ",".join(NAMES), "--data", str(pictures), *words.split(), "--name", "s"]
    assert main(argv) == 0
    told = capsys.readouterr().err
    assert f"Backbone {NAMES[0]}, weights: random (seed 0)" in told
    assert f"Backbone {NAMES[1]}, weights: file mine.safetensors (" in told
    assert told.count(" see images with timm's mean ") == 1
    assert f"The weights of {NAMES[1]} see images with timm's mean 0." in told.replace("\n", " ")
    monkeypatch.chdir(pictures)
    (task, _) = prepare_again(
        StoredStudy.read(optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/depthsearch.db")),
        lambda note: None,
        backbone=NAMES[1],
        keep_memory=None,
    )
    assert str(task.backbone.weights).startswith("file mine.safetensors (")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("auto", {"a": "auto", "b": "auto"}),
        ("b=x=1/w.pt", {"a": "auto", "b": "x=1/w.pt"}),
        ("b=w.pt,a=random", {"a": "random", "b": "w.pt"}),
    ],
)
def test_weights_are_read_by_backbone(given: str, expected: dict[str, str]) -> None:
    assert weights_by_backbone(given, ["a", "b"]) == expected
    full = {
        name: value if value in ("auto", "random") else str(Path(value).resolve())
        for name, value in expected.items()
    }
    assert weights_by_backbone(with_full_paths(given, ["a", "b"]), ["a", "b"]) == full


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("w.pt", "one file is no weights for 2 backbones"),
        ("c=w.pt", "one file is no weights for 2 backbones"),
        ("a=w.pt,a=v.pt", "a is given twice. Keep one of them."),
    ],
)
def test_weights_that_cannot_be_told_apart_are_refused(given: str, told: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(told)):
        weights_by_backbone(given, ["a", "b"])


def test_a_file_whose_name_has_an_equals_sign_is_one_file() -> None:
    assert weights_by_backbone("lr=0.1/w.pt", ["a"]) == {"a": "lr=0.1/w.pt"}
