"""Studies that train settings again where that pays: in pairs, once a seed, also after a stop."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from depthsearch.cli import main
from depthsearch.models.backbones import load_backbone
from depthsearch.options.attributes import TrialKey
from depthsearch.options.defaults import with_defaults
from depthsearch.options.study import StudyOptions
from depthsearch.results import StoredStudy, front_of, summarize, weigh
from depthsearch.search.planning import planner
from depthsearch.search.planning.moves import Move, Race, Repeat
from depthsearch.search.planning.planner import Planner
from depthsearch.search.planning.problem import Problem
from depthsearch.search.space import SearchSpace
from depthsearch.seeds import seed_from
from depthsearch.study import TrialEnded, TrialStarted, open_study, search
from depthsearch.study.choosing.chooser import Chooser
from depthsearch.study.choosing.confirmation import CONFIRMATION, enqueue_again
from depthsearch.study.choosing.limits import Limits, spent_on
from depthsearch.study.conducting import _race, _resamples
from depthsearch.study.progress import status
from depthsearch.training.objective import train_point
from depthsearch.workers import jobs

N_SETTINGS = 4


@pytest.fixture
def tireless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be too little for its cost, so that the bounds alone end a search."""
    monkeypatch.setattr(planner, "LEAST_RATE", -math.inf)
    monkeypatch.setattr(planner, "LEAST_RATE", -math.inf)
    monkeypatch.setattr(planner, "LEAST_GAIN", -math.inf)


@pytest.fixture
def run(task, space, tmp_path: Path, open_quick_storage):
    """Open a study anew, as another process does, and search."""

    def start(name: str = "s", **options: Any) -> tuple[optuna.Study, Iterator[Any]]:
        storage = open_quick_storage(f"sqlite:///{tmp_path}/studies.db")
        study = open_study(storage, name, task, space, {}, is_planned=True)
        usual = {
            "n_trials": N_SETTINGS,
            "sampler": "gain",
            "pruner": "pause",
            "race": Race(n_seeds=2),
            "tolerance": 0.0,
            "checkpoints": tmp_path / name,
        }
        return study, search(study, task, space, **{**usual, **options})

    return start


def repeats_in(study: optuna.Study) -> list[FrozenTrial]:
    return [t for t in study.get_trials() if t.user_attrs.get(TrialKey.ORIGIN) == "confirm"]


def named(trial: FrozenTrial) -> tuple[int, int]:
    """Say which trial's setting is trained again, and with which seed."""
    return trial.user_attrs[TrialKey.CONFIRMS], trial.user_attrs[TrialKey.SEED]


def n_settings(study: optuna.Study) -> int:
    return len(study.get_trials()) - len(repeats_in(study))


# --- to the end -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("tireless")
def test_each_setting_is_trained_again_once_with_each_seed_and_then_it_ends(run) -> None:
    study, events = run()
    started = [event for event in events if isinstance(event, TrialStarted)]
    repeats = repeats_in(study)
    assert n_settings(study) == N_SETTINGS
    assert Counter(map(named, repeats)) == Counter((n, s) for n in range(N_SETTINGS) for s in (0, 1))
    originals = study.get_trials()
    for trial in repeats:
        assert trial.state == TrialState.COMPLETE
        assert trial.params == originals[trial.user_attrs[TrialKey.CONFIRMS]].params
        assert trial.user_attrs[TrialKey.RESAMPLE] is True
    assert {event.origin for event in started if event.number >= N_SETTINGS} == {"confirm"}
    assert status(study).state == "complete"
    evidence = weigh(StoredStudy.read(study))
    assert {len(setting.scores) for setting in evidence.settled} == {2}


@pytest.mark.usefixtures("tireless")
@pytest.mark.parametrize("resample", [False, True])
def test_a_seed_is_a_division_of_its_own_or_keeps_the_study_s(run, task, space, resample: bool) -> None:
    study, events = run(race=Race(n_seeds=2, resample=resample))
    list(events)
    trial = next(t for t in repeats_in(study) if named(t)[1] == 1 and t.params["cut"] < len(space.cuts) - 1)
    assert trial.user_attrs[TrialKey.RESAMPLE] is resample
    seed = seed_from(task.recipe.seed, 1, CONFIRMATION)
    division = task.resampled(seed) if resample else task
    expected = [result.score for result in train_point(division, space.point(trial.params), seed=seed)]
    assert list(trial.intermediate_values.values()) == expected


@pytest.mark.usefixtures("tireless")
def test_without_a_race_nothing_is_trained_again(run) -> None:
    study, events = run(race=None)
    list(events)
    assert repeats_in(study) == []
    assert n_settings(study) == N_SETTINGS


@pytest.mark.usefixtures("tireless")
def test_no_more_cuts_are_trained_again_than_asked_for(run) -> None:
    study, events = run(n_trials=6, race=Race(n_seeds=2, n_cuts=2))
    list(events)
    assert len({trial.params["cut"] for trial in repeats_in(study)}) == 2


@pytest.mark.usefixtures("tireless")
def test_it_ends_once_the_answer_holds(run) -> None:
    """With a tolerance of everything the cheapest is the answer; it is trained again, that is enough."""
    study, events = run(tolerance=100.0, race=Race(n_seeds=20))
    list(events)
    assert 0 < len(repeats_in(study)) < 20 * N_SETTINGS
    evidence = weigh(StoredStudy.read(study))
    assert evidence.is_shown
    assert evidence.answer.scores
    assert status(study).state == "complete"


@pytest.mark.usefixtures("tireless")
def test_the_budget_ends_what_is_trained_again(run) -> None:
    study, events = run("whole", race=Race(n_seeds=3))
    list(events)
    budget = spent_on(study) / 2
    limited, events = run("limited", race=Race(n_seeds=3), limits=Limits(budget=budget))
    list(events)
    dearest = max(trial.user_attrs["macs"] for trial in study.get_trials())
    unit = StoredStudy.read(study).backbones[""].full_fine_tune_macs
    # What was begun within the budget was ended.
    assert spent_on(limited) <= budget + dearest / unit
    assert len(repeats_in(limited)) < len(repeats_in(study))
    assert status(limited).state == "complete"


# --- stops ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("tireless")
def test_a_study_killed_between_two_trainings_of_a_pair_goes_on_with_the_second(run) -> None:
    """Guards pairs that a kill has parted. Two studies of real trainings."""
    study, events = run()
    for event in events:
        if isinstance(event, TrialEnded) and event.number >= N_SETTINGS:
            break
    events.close()
    first, second = repeats_in(study)
    assert (first.state, second.state) == (TrialState.COMPLETE, TrialState.WAITING)
    assert named(first)[1] == named(second)[1] == 0
    study, events = run()
    started = next(event for event in events if isinstance(event, TrialStarted))
    assert started.number == second.number
    list(events)
    whole, events = run("whole")
    list(events)
    scores = [{named(t): t.value for t in repeats_in(each)} for each in (study, whole)]
    assert scores[0] == scores[1]


@pytest.mark.usefixtures("tireless")
def test_a_training_that_fails_is_not_tried_for_ever(run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = jobs.train_point

    def broken(*arguments: Any, **options: Any) -> Iterator[Any]:
        if options.get("seed") == seed_from(0, 0, CONFIRMATION):
            raise RuntimeError("out of memory")
        yield from real(*arguments, **options)

    monkeypatch.setattr(jobs, "train_point", broken)
    study, events = run()
    list(events)
    failed = [named(t) for t in repeats_in(study) if t.state == TrialState.FAIL]
    assert failed
    assert len(failed) == len(set(failed))
    assert {seed for _, seed in failed} == {0}
    assert all(list(c.scores) == [1] for c in weigh(StoredStudy.read(study)).confirmed)


# --- several workers ------------------------------------------------------------------------------


@pytest.fixture
def chooser(run, space, task) -> Chooser:
    """Choose in a study of which the settings are trained, and two are to be compared."""
    study, events = run(race=None)
    list(events)
    planner = Planner(Problem(space, epochs=task.recipe.epochs), Race(n_seeds=3))
    return Chooser(
        study, N_SETTINGS, Limits(), "gain", planner, task.recipe.seed, is_exhaustive=False, pauses=True
    )


@pytest.mark.usefixtures("tireless")
def test_workers_share_a_pair_and_none_trains_what_another_does(chooser: Chooser) -> None:
    begun = [chooser.next_trial() for _ in range(6)]
    repeats = [chooser.study.get_trials()[trial.number] for trial in begun]
    assert {trial.state for trial in repeats} == {TrialState.RUNNING}
    assert len({named(trial) for trial in repeats}) == 6
    first, second = map(named, repeats[:2])
    assert first[1] == second[1]
    assert first[0] != second[0]


@pytest.mark.usefixtures("tireless")
def test_what_waits_to_be_trained_again_comes_before_anything_new(chooser: Chooser) -> None:
    enqueue_again(chooser.study, [Repeat(number=2, seed=1)], resample=True)
    assert named(chooser.study.get_trials()[chooser.next_trial().number]) == (2, 1)


def test_a_move_of_repeats_is_enqueued_whole(chooser: Chooser, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = (Repeat(number=1, seed=0), Repeat(number=3, seed=0))
    move = Move(params={}, place=(), repeats=pair, cost=0.1, gain=1.0)
    monkeypatch.setattr(Planner, "next_move", lambda *_, **__: move)
    number = chooser.next_trial().number
    begun, waiting = chooser.study.get_trials()[number:]
    assert (named(begun), begun.state) == ((1, 0), TrialState.RUNNING)
    assert (named(waiting), waiting.state) == ((3, 0), TrialState.WAITING)


# --- what is asked for ----------------------------------------------------------------------------


def options_of(**given: Any) -> StudyOptions:
    return with_defaults(StudyOptions(backbone=("x",), data="photos", **given))


def test_confirm_says_what_may_be_trained_again(task) -> None:
    assert _race(options_of(), task) == Race(n_seeds=20, n_cuts=None, resample=_resamples(options_of(), task))
    assert _race(options_of(confirm=3, seeds=4), task).n_cuts == 3
    assert _race(options_of(confirm=3, seeds=4), task).n_seeds == 4
    for given in ({"confirm": 0}, {"confirm": "all"}, {"sampler": "tpe"}, {"pruner": "median"}):
        assert _race(options_of(**given), task) is None


def test_images_are_divided_anew_where_the_study_divided_them(task) -> None:
    drawn, named_ = (
        replace(task, data=replace(task.data, val_is_drawn=is_drawn)) for is_drawn in (True, False)
    )
    assert _resamples(options_of(), drawn)
    assert not _resamples(options_of(), named_)
    assert not _resamples(options_of(resample=False), drawn)
    assert _resamples(options_of(resample=True), named_)
    # A class of one image cannot be on both sides.
    labels = drawn.data.train.labels.clone()
    labels[0] = labels.max() + 1
    lone = replace(drawn, data=replace(drawn.data, train=replace(drawn.data.train, labels=labels)))
    assert not _resamples(options_of(), lone)


@pytest.fixture
def command(pictures: Path, tmp_path: Path) -> list[str]:
    url = f"sqlite:///{tmp_path}/s.db"
    words = "--backbone test_resnet --weights random --image-size 16 --device cpu --precision float32"
    counts = "--trials 4 --epochs 1 --head-width 0 --layers layer[34].0.conv1 --name s"
    return ["study", "--data", str(pictures), *words.split(), *counts.split(), "--storage", url]


@pytest.mark.slow
@pytest.mark.usefixtures("tireless")
@pytest.mark.parametrize(
    ("asked", "resampled"),
    [
        (["--confirm", "0"], set()),
        (["--seeds", "2", "--tolerance", "0"], {True}),
        (["--seeds", "2", "--tolerance", "0", "--no-resample"], {False}),
    ],
)
def test_the_command_line_trains_again_as_asked(command, tmp_path, asked, resampled, capsys) -> None:
    """Guards the options of a race. Three studies by the command line."""
    assert main([*command, *asked]) == 0
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/s.db")
    assert {trial.user_attrs[TrialKey.RESAMPLE] for trial in repeats_in(study)} == resampled
    if resampled:
        assert study.user_attrs["aim"]["tolerance"] == 0
        assert {named(trial)[1] for trial in repeats_in(study)} == {0, 1}
    capsys.readouterr()


def test_a_larger_tolerance_gives_a_cheaper_cut_or_the_same(run) -> None:
    study, events = run()
    list(events)
    macs, stored = [], []
    for tolerance in (0.0, 1.0, 10.0, 100.0):
        study, events = run(tolerance=tolerance, limits=Limits(budget=0.0))
        list(events)
        evidence = weigh(StoredStudy.read(study))
        stored.append(evidence.tolerance)
        macs.append(evidence.answer.cut.training_macs)
    assert stored == pytest.approx([0.0, 0.01, 0.1, 1.0])
    assert macs == sorted(macs, reverse=True)
    assert macs[-1] == min(c.cut.training_macs for c in evidence.settled)


# --- several backbones, two aims ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("tireless")
@pytest.mark.parametrize("cost", [None, "macs"])
def test_several_backbones_are_searched_and_raced_in_one_study(
    task, tmp_path: Path, open_quick_storage, cost: str | None
) -> None:
    """Guards races across backbones. Two studies of real trainings."""
    tasks: Mapping[str, Any] = {
        "test_resnet": task,
        "test_byobnet": replace(task, backbone=load_backbone("test_byobnet", "random", image_size=16)),
    }
    models = {name: each.backbone.model for name, each in tasks.items()}
    space = SearchSpace.across(models, image_size=16, head_width=0)
    study = open_study(
        open_quick_storage(f"sqlite:///{tmp_path}/s.db"), "s", tasks, space, {}, is_planned=True
    )
    options = {"sampler": "gain", "pruner": "pause", "checkpoints": tmp_path, "tolerance": 0.0}
    list(search(study, tasks, space, n_trials=7, cost=cost, race=Race(n_seeds=1), **options))
    searched = [t for t in study.get_trials() if t.user_attrs.get(TrialKey.ORIGIN) != "confirm"]
    assert len(searched) == 7
    assert {t.params["backbone"] for t in searched} == set(tasks)
    again = {t.params["backbone"] for t in repeats_in(study)}
    # Along a front only what costs as much or less is compared with.
    assert again if cost else again == set(tasks)
    summary = summarize(study)
    assert summary.evidence.answer.cut.backbone in tasks
    assert [len(part.evidence.expected) for part in summary.parts] == [
        len(part.cuts) for part in summary.parts
    ]
    assert (front_of(summary) is None) == (cost is None)
