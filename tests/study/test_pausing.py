"""Studies that choose by gain per cost: pauses are stored, survive a stop, and end in honest states."""

from __future__ import annotations

import itertools
import math
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from depthsearch.options.attributes import TrialKey
from depthsearch.results import StoredStudy
from depthsearch.search.planning import planner
from depthsearch.search.planning.moves import Move, is_paused
from depthsearch.search.planning.planner import Planner
from depthsearch.search.planning.problem import Problem
from depthsearch.study import (
    FINISHED,
    EpochDone,
    SearchEnded,
    TrialEnded,
    TrialPaused,
    TrialStarted,
    confirm,
    open_storage,
    open_study,
    search,
)
from depthsearch.study.choosing.chooser import Chooser
from depthsearch.study.choosing.limits import Limits, spent_on
from depthsearch.study.progress import status
from depthsearch.training.costs import full_fine_tune_macs


@pytest.fixture(scope="module")
def longer(task):
    """Four epochs, so that a trial can be paused in its middle."""
    return replace(task, recipe=replace(task.recipe, epochs=4))


@pytest.fixture
def run(longer, space, tmp_path: Path):
    """Open the study anew, as another process does, and search."""

    def start(**options: Any):
        study = open_study(open_storage(f"sqlite:///{tmp_path}/studies.db"), "s", longer, space, {})
        usual = {"n_trials": 9, "sampler": "gain", "pruner": "pause", "checkpoints": tmp_path / "checkpoints"}
        return study, search(study, longer, space, **{**usual, **options})

    return start


@pytest.fixture
def all_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pause whatever may be after its second epoch, whenever it is judged there."""
    monkeypatch.setattr(Planner, "should_pause", is_at_its_second)


def is_at_its_second(planner: Planner, trials, number: int, **_: object) -> bool:
    return max(trials[number].intermediate_values) == 2


def test_what_is_cheap_comes_first(run, space) -> None:
    _, events = run(n_trials=6)
    started = [event.point.cut.index for event in events if isinstance(event, TrialStarted)]
    assert started[0] == len(space.cuts) - 1
    assert started[:6] == sorted(started[:6], reverse=True)
    assert 0 in started[:6]


@pytest.mark.usefixtures("all_pause")
def test_without_a_pruner_no_trial_waits(run) -> None:
    _, events = run(n_trials=3, pruner="none")
    assert not [event for event in events if isinstance(event, TrialPaused)]
    _, events = run(n_trials=4)
    assert [event for event in events if isinstance(event, TrialPaused)]


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.usefixtures("all_pause")
def test_a_trial_waits_with_its_checkpoint_and_goes_on_behind_it(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards what a pause keeps. Trainings of many epochs."""
    # Random images promise nothing.
    monkeypatch.setattr(planner, "LEAST_RATE", 0.0)
    monkeypatch.setattr(planner, "LEAST_GAIN", 0.0)
    study, events = run()
    paused, epochs = [], {}
    for event in events:
        if isinstance(event, TrialPaused):
            paused.append(event.number)
            stored = study.get_trials()[event.number]
            assert stored.state == TrialState.RUNNING
            assert is_paused(stored)
            states = {trial.number: trial.state for trial in StoredStudy.read(study).trials}
            assert states[event.number] == "paused"
            assert (event.number, 2) == (stored.number, stored.user_attrs[TrialKey.PAUSED])
        if isinstance(event, EpochDone) and not event.is_again:
            epochs.setdefault(event.number, []).append(event.result.epoch)
    assert paused
    # Both ends are trained whatever comes.
    assert not {0, 1} & set(paused)
    went_on = [number for number in paused if epochs[number] == [1, 2, 3, 4]]
    assert went_on
    for trial in study.get_trials():
        assert trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        if trial.state == TrialState.PRUNED:
            assert trial.user_attrs["reason"] == "pruned after epoch 2: going on was not worth its cost"
        assert [result["epoch"] for result in trial.user_attrs["results"]] == list(trial.intermediate_values)
    assert not list((tmp_path / "checkpoints").rglob("*.pt"))


@pytest.mark.slow
@pytest.mark.usefixtures("all_pause")
def test_a_study_stopped_between_is_the_one_never_stopped(run, longer, space, tmp_path: Path) -> None:
    """Guards contract 6 with paused trials, at five places of a study."""
    whole, events = run()
    list(events)
    other = open_study(open_storage(f"sqlite:///{tmp_path}/other.db"), "s", longer, space, {})
    options = {"n_trials": 9, "sampler": "gain", "pruner": "pause", "checkpoints": tmp_path / "others"}
    for n_events in (3, 9, 14, 20, 1000):
        events = search(other, longer, space, **options)
        list(itertools.islice(events, n_events))
        events.close()
    first, second = (
        [(t.params, t.state, t.value, t.intermediate_values) for t in study.get_trials()]
        for study in (whole, other)
    )
    assert first == second


@pytest.mark.usefixtures("all_pause")
def test_paused_trials_are_neither_adopted_nor_lost_by_a_stop(run) -> None:
    study, events = run()
    for event in events:
        if isinstance(event, TrialPaused):
            break
    events.close()
    number = event.number
    where = status(study)
    assert number not in [running.number for running in where.running]
    study, events = run(limits=Limits(budget=0.0))
    # Nothing more may be begun: it is ended, not trained.
    (ended,) = [event for event in events if isinstance(event, TrialEnded) and event.number == number]
    assert ended.state == TrialState.PRUNED


def test_a_search_ends_by_itself_and_is_complete_then(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Planner, "next_move", lambda *_, **__: None)
    study, events = run(n_trials=30)
    list(events)
    n_trials = len(study.get_trials())
    assert n_trials < 30
    where = status(study)
    assert where.state == "complete"


def test_what_is_left_of_a_budget_goes_to_cuts_at_any_learning_rate(
    run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "LEAST_RATE", -math.inf)
    monkeypatch.setattr(planner, "OTHER_RATE_COST", -math.inf)
    study, events = run(n_trials=16)
    list(events)
    assert planner.FEWEST_TRIALS <= len(study.get_trials()) < 14
    # With a bound, the same search does not end where no cut promises anything at its sensible rate.
    assert Limits(until=time.monotonic() + 1e6).are_given
    study, events = run(n_trials=16, limits=Limits(budget=1e6))
    list(events)
    assert len(study.get_trials()) == 16


def test_what_is_left_of_a_budget_counts_what_others_are_at(longer, space, tmp_path: Path) -> None:
    study = open_study(
        open_storage(f"sqlite:///{tmp_path}/shared.db"), "s", longer, space, {}, is_planned=True
    )
    planner = Planner(Problem(space, epochs=4))
    chooser = Chooser(study, 30, Limits(budget=0.5), "gain", planner, 0, is_exhaustive=False, pauses=True)
    begun = []
    while (trial := chooser.next_trial()) is not None:
        space.suggest(trial)
        begun.append(planner.cost_of(trial.params))
    assert len(begun) > 1
    assert sum(begun) <= 0.5


@pytest.mark.parametrize("is_enough", [True, False])
def test_a_search_says_when_the_rest_of_its_budget_is_too_small(
    run, monkeypatch: pytest.MonkeyPatch, *, is_enough: bool
) -> None:
    dear = Move(params={}, place=(), cost=50.0)

    def next_move(planner: Planner, trials, *, most: float = math.inf, **_: object) -> Move | None:
        return None if is_enough or most < dear.cost else dear

    monkeypatch.setattr(Planner, "next_move", next_move)
    _, events = run(n_trials=30, limits=Limits(budget=40.0))
    (ended,) = [event for event in events if isinstance(event, SearchEnded)]
    rest = r"the next .* does not fit into the 3\d\.\d\d full fine-tunes that are left of the budget$"
    assert re.match("another training is not worth its cost$" if is_enough else rest, ended.reason)


def test_a_budget_bounds_search_and_confirmation(run, longer, space, tmp_path: Path) -> None:
    study, events = run(n_trials=100, limits=Limits(budget=1.5))
    list(events)
    searched = spent_on(study)
    # What was begun within the budget was ended.
    assert searched < 2.6
    assert searched == pytest.approx(
        (
            sum(trial.user_attrs.get("macs", 0) for trial in study.get_trials())
            + study.user_attrs["transfer_curve"]["macs"]
        )
        / full_fine_tune_macs(longer)
    )
    options = {"n_cuts": 2, "n_seeds": 3, "checkpoints": tmp_path / "checkpoints"}
    list(confirm(study, longer, space, limits=Limits(budget=searched), **options))
    assert spent_on(study) == searched
    states = [t.state for t in study.get_trials() if t.user_attrs.get(TrialKey.ORIGIN) == "confirm"]
    assert set(states) == {TrialState.FAIL}
    # With more allowed it is planned again.
    list(confirm(study, longer, space, limits=Limits(budget=searched + 100), **options))
    again = [t for t in study.get_trials() if t.user_attrs.get(TrialKey.ORIGIN) == "confirm"]
    assert sum(t.state == TrialState.COMPLETE for t in again) == len(again) - len(states)


def test_when_time_is_up_what_runs_is_left_for_the_next_call(run) -> None:
    study, events = run(limits=Limits(until=time.monotonic()))
    assert not any(isinstance(event, TrialStarted) for event in events)
    study, events = run(sampler="random", pruner="none", n_trials=3)
    for event in events:
        if isinstance(event, EpochDone) and event.number == 1:
            break
    events.close()
    assert study.get_trials()[1].state == TrialState.RUNNING
    study, events = run(limits=Limits(until=time.monotonic()))
    assert not any(isinstance(event, TrialStarted | TrialEnded) for event in events)
    assert status(study).state == "interrupted"
    study, events = run(n_trials=2)
    (ended,) = [event for event in events if isinstance(event, TrialEnded) and event.number == 1]
    assert ended.state == TrialState.COMPLETE


def test_time_that_runs_out_in_an_epoch_leaves_the_trial(run, monkeypatch: pytest.MonkeyPatch) -> None:
    until = time.monotonic() + 1000
    study, events = run(limits=Limits(until=until))
    for event in events:
        if isinstance(event, EpochDone) and event.number == 1:
            monkeypatch.setattr(time, "monotonic", lambda: until + 1)
    assert event == SearchEnded(reason="its time is over; the same command goes on")
    trial = study.get_trials()[1]
    assert (trial.state, list(trial.intermediate_values)) == (TrialState.RUNNING, [1])


def test_a_trial_that_was_killed_between_its_parameters_is_completed(run, space) -> None:
    """Each parameter is stored by itself: a kill may come behind any."""
    study, events = run(n_trials=2)
    list(events)
    parts = [study.ask() for _ in range(2)]
    for part in parts:
        part.suggest_int("cut", 0, len(space.cuts) - 1)
    assert status(study).state == "interrupted"
    assert {part.number for part in parts} <= {trial.number for trial in StoredStudy.read(study).unset}
    study, events = run(n_trials=len(study.trials))
    list(events)
    assert {trial.state for trial in study.trials} <= set(FINISHED)
    assert all("learning_rate" in study.trials[part.number].params for part in parts)


def test_a_budget_below_the_first_pass_over_the_images_trains_the_head_alone(run, space) -> None:
    study, events = run(n_trials=9, limits=Limits(budget=1e-6))
    list(events)
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    assert [trial.params["cut"] for trial in complete] == [len(space.cuts) - 1]
