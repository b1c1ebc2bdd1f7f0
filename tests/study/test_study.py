"""The coordinator: what it trains first, how trials end, and that nothing is lost or counted twice."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState

from depthsearch.cli import main
from depthsearch.data import Division, load_data
from depthsearch.errors import SettingsError, StudyError
from depthsearch.features import Budget
from depthsearch.machine import start_of, this_machine
from depthsearch.models.backbones import load_backbone
from depthsearch.results import StoredStudy
from depthsearch.search.firsts import count_exhaustive
from depthsearch.search.space import SearchSpace
from depthsearch.signals import deferred
from depthsearch.study import (
    FINISHED,
    CurveDrawn,
    EpochDone,
    Event,
    TrialEnded,
    TrialStarted,
    coordinator,
    open_storage,
    open_study,
    search,
)
from depthsearch.study.choosing.upcoming import upcoming_trials
from depthsearch.training import loop
from depthsearch.training.costs import full_fine_tune_macs
from depthsearch.training.objective import train_point
from depthsearch.training.task import Task
from depthsearch.workers import jobs

N_ANCHORS = 6


@dataclass(frozen=True, kw_only=True)
class Place:
    """A database and a folder for checkpoints, with one study in it."""

    folder: Path
    storage: optuna.storages.RDBStorage

    def open(self, task: Task, space: SearchSpace) -> optuna.Study:
        return open_study(self.storage, "s", task, space, {})

    def start(self, task: Task, space: SearchSpace, n_trials: int, **names: Any) -> Iterator[Any]:
        """Open the study anew, as another process does, and search."""
        names = {"sampler": "tpe", "pruner": "none", **names}
        study = self.open(task, space)
        return search(study, task, space, n_trials=n_trials, checkpoints=self.folder / "checkpoints", **names)

    def run(self, task: Task, space: SearchSpace, n_trials: int, **names: Any) -> optuna.Study:
        for _ in self.start(task, space, n_trials, **names):
            pass
        return self.open(task, space)


@pytest.fixture(scope="module")
def place_in(open_quick_storage) -> Callable[[Path], Place]:
    """Make places for studies."""

    def make(folder: Path) -> Place:
        folder.mkdir(exist_ok=True)
        return Place(folder=folder, storage=open_quick_storage(f"sqlite:///{folder}/studies.db"))

    return make


@pytest.fixture
def place(place_in, tmp_path: Path) -> Place:
    return place_in(tmp_path / "place")


@pytest.fixture(scope="module")
def uninterrupted(longer, space, place_in, tmp_path_factory) -> list[dict[str, Any]]:
    """What nine trials store that run without a stop: anchors, suggestions, some pruned."""
    place = place_in(tmp_path_factory.mktemp("uninterrupted"))
    return stored(place.run(longer, space, 9, pruner="halving"))


PREFIX_COST = ("prefix_macs", "macs", "kept_bytes", "read_bytes")


def stored(study: optuna.Study, *, but: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Give all that trials store but their times, and some more."""
    trials = []
    for trial in study.get_trials():
        left_out = ("seconds", "results", *but)
        attributes = {k: v for k, v in trial.user_attrs.items() if k not in left_out}
        epochs = [
            {k: v for k, v in result.items() if "second" not in k and k not in but}
            for result in trial.user_attrs.get("results", [])
        ]
        trials.append(
            {
                "number": trial.number,
                "state": trial.state.name,
                "params": trial.params,
                "values": trial.values,
                "intermediate": trial.intermediate_values,
                "epochs": epochs,
                **attributes,
            }
        )
    return trials


def tell_anchors(study: optuna.Study, space: SearchSpace) -> None:
    """Give what is enqueued a score without training it."""
    for trial in study.get_trials():
        if trial.state == TrialState.WAITING:
            asked = study.ask()
            study.tell(asked, space.suggest(asked).cut.frozen_mac_share)


# --- what is trained ----------------------------------------------------------------------------


def test_the_baselines_come_first_then_a_spread_over_depth(place, task, space) -> None:
    study = place.open(task, space)
    last = len(space.cuts) - 1
    enqueued = [trial.system_attrs["fixed_params"] for trial in study.get_trials()]
    assert [params["cut"] for params in enqueued] == [
        last,
        0,
        *(round(d * last) for d in (0.25, 0.5, 0.75, 0.9)),
    ]
    assert [t.user_attrs["origin"] for t in study.get_trials()] == ["baseline"] * 2 + ["anchor"] * 4
    assert {params["head_width"] for params in enqueued} == {0}
    rates = [p["learning_rate"] for p in sorted(enqueued, key=lambda p: p["cut"])]
    assert rates == sorted(rates)
    assert (rates[0], rates[-1]) == pytest.approx((5e-4, 2e-3))


def test_opening_a_study_again_enqueues_nothing_twice(place, task, space) -> None:
    place.open(task, space)
    assert len(place.open(task, space).get_trials()) == N_ANCHORS


def test_anchors_stay_within_the_ranges_that_are_searched(place, task, space) -> None:
    narrow = SearchSpace(
        cuts=space.cuts,
        learning_rate=(1e-6, 1e-5),
        head_width=0,
        head_depth=(2, 3),
        weight_decay=(0.1, 0.2),
        optimizer=("sgd",),
    )
    for trial in place.open(task, narrow).get_trials():
        for name, distribution in narrow.distributions().items():
            value = trial.system_attrs["fixed_params"][name]
            assert distribution._contains(distribution.to_internal_repr(value)), name


def test_baselines_are_never_pruned_and_everything_else_can_be(
    place, longer, space, monkeypatch: pytest.MonkeyPatch
) -> None:
    always = optuna.pruners.ThresholdPruner(lower=2.0)
    monkeypatch.setattr(coordinator, "make_pruner", lambda *_: always)
    trials = place.run(longer, space, 4).get_trials()[:4]
    assert [t.state.name for t in trials] == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"]
    assert [trials[0].params["cut"], trials[1].params["cut"]] == [len(space.cuts) - 1, 0]


def test_a_pruned_trial_says_after_which_epoch(place, longer, space, monkeypatch: pytest.MonkeyPatch) -> None:
    always = optuna.pruners.ThresholdPruner(lower=2.0, n_warmup_steps=2)
    monkeypatch.setattr(coordinator, "make_pruner", lambda *_: always)
    events = list(place.start(longer, space, 3))
    trial = place.open(longer, space).get_trials()[2]
    assert trial.user_attrs["reason"] == "pruned after epoch 2"
    assert list(trial.intermediate_values) == [1, 2]
    assert len(trial.user_attrs["results"]) == 2
    assert (events[-1].state, events[-1].reason) == (TrialState.PRUNED, "pruned after epoch 2")


def test_a_trial_stores_its_cut_scores_cost_and_results(place, task, space) -> None:
    trial = place.run(task, space, 1).get_trials()[0]
    results = trial.user_attrs["results"]
    assert trial.intermediate_values == {result["epoch"]: result["score"] for result in results}
    assert trial.value == results[-1]["score"]
    spent = ("prefix_macs", "forward_macs", "backward_macs")
    assert trial.user_attrs["macs"] == sum(result[name] for result in results for name in spent)
    for name in ("plain_macs", "kept_bytes", "read_bytes"):
        assert trial.user_attrs[name] == sum(result[name] for result in results)
    assert trial.user_attrs["seconds"] == pytest.approx(sum(r["seconds"] for r in results), abs=1e-3)
    assert trial.user_attrs["cut_name"] == space.cuts[-1].name


@pytest.mark.slow
@pytest.mark.parametrize("cost", [None, "parameters"])
def test_a_trial_stores_both_of_its_costs_whatever_the_aim(place, task, space, cost) -> None:
    """Of everything trained with a linear head of 10 classes, and of a head of one hidden layer alone."""
    study = place.open(task, space)
    study.enqueue_trial({"cut": len(space.cuts) - 1, "learning_rate": 1e-3, "head_width": 16})
    study = place.run(task, space, 7, pruner="none" if cost is None else "median", cost=cost)
    _, whole, *_, hidden = study.get_trials()
    model = task.backbone.model
    n_features = model.get_submodule(task.backbone.classifier).in_features
    n_backbone = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("fc."))
    assert whole.user_attrs["trainable_parameters"] == n_backbone + 10 * (n_features + 1)
    n_passes = task.recipe.epochs * (3 * len(task.data.train) + len(task.data.val))
    assert whole.user_attrs["training_macs"] == 3 * full_fine_tune_macs(task) / n_passes
    assert hidden.user_attrs["trainable_parameters"] == 16 * (n_features + 1) + 2 * 16 + 10 * 17
    head_only = space.cuts[-1].training_macs
    assert hidden.user_attrs["training_macs"] == head_only + 3 * (16 * n_features + 10 * 16)
    assert StoredStudy.read(study).cost_aim == cost


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_a_study_of_two_aims_that_was_stopped_is_the_one_that_was_not(
    place_in, tmp_path, task, space, sampler: str
) -> None:
    """Guards contracts 6 and 7 with two aims."""
    names = {"sampler": sampler, "pruner": "median", "cost": "macs"}
    whole, stopped = place_in(tmp_path / "whole"), place_in(tmp_path / "stopped")
    for place in (whole, stopped):
        tell_anchors(place.open(task, space), space)
    straight = stored(whole.run(task, space, N_ANCHORS + 4, **names))
    for n_trials in (N_ANCHORS + 2, N_ANCHORS + 4):
        events = stopped.start(task, space, n_trials, **names)
        for event in events:
            if isinstance(event, EpochDone) and event.result.epoch == 1:
                break
        events.close()
    again = stored(stopped.run(task, space, N_ANCHORS + 4, **names))
    assert [t["params"] for t in again] == [t["params"] for t in straight]
    assert [t["values"] for t in again] == [t["values"] for t in straight]


def test_a_study_may_go_on_with_another_aim(place, task, space) -> None:
    place.run(task, space, 1, cost="macs")
    assert StoredStudy.read(place.run(task, space, 2)).cost_aim is None


def test_events_tell_each_trial_from_its_start_to_its_end(place, task, space) -> None:
    events = list(place.start(task, space, 2))
    # The head alone is solved, in one step.
    solved, trained = [TrialStarted, EpochDone, TrialEnded], [TrialStarted, EpochDone, EpochDone, TrialEnded]
    curve, *events = events
    assert [type(event) for event in (curve, *events)] == [CurveDrawn, *solved, *trained]
    assert [event.number for event in events] == [0] * 3 + [1] * 4
    assert [event.origin for event in events if isinstance(event, TrialStarted)] == ["baseline"] * 2
    ended = events[-1]
    assert (ended.state, ended.reason) == (TrialState.COMPLETE, None)
    assert ended.score == events[-2].result.score


def test_the_transfer_curve_is_drawn_once_and_stored(place, task, space) -> None:
    (curve, *_), again = list(place.start(task, space, 1)), list(place.start(task, space, 2))
    stored = place.open(task, space).user_attrs["transfer_curve"]
    assert [point["cut"] for point in stored["points"]] == [point.cut for point in curve.curve.points]
    assert stored["points"][-1]["cut"] == space.cuts[-1].index
    assert stored["macs"] == curve.curve.macs > 0
    assert not any(isinstance(event, CurveDrawn) for event in again)


@pytest.mark.slow
def test_a_study_on_kept_features_is_the_one_without(place, place_in, task, space, tmp_path: Path) -> None:
    """Guards contract 3 for a whole study."""
    budget = Budget(memory_bytes=2**28, device_bytes=0, disk_bytes=2**28, folder=tmp_path / "features")
    kept = replace(task, budget=budget)
    plain, fast = (
        [event for event in where.start(each, space, 8) if isinstance(event, EpochDone)]
        for each, where in ((task, place), (kept, place_in(tmp_path)))
    )
    assert [(e.number, e.result.score, e.result.val_loss) for e in plain] == [
        (e.number, e.result.score, e.result.val_loss) for e in fast
    ]
    assert sum(e.result.macs for e in fast) < sum(e.result.macs for e in plain)
    assert [e.result.plain_macs for e in fast] == [e.result.macs for e in plain]


def test_trials_to_come_are_those_enqueued_and_then_any_more_where_trials_have_been(space) -> None:
    def trial(cut: int, state: TrialState) -> optuna.trial.FrozenTrial:
        waits = state == TrialState.WAITING
        return optuna.trial.create_trial(
            state=state,
            value=0.5 if state == TrialState.COMPLETE else None,
            params={} if waits else {"cut": cut},
            distributions={} if waits else {"cut": space.distributions()["cut"]},
            system_attrs={"fixed_params": {"cut": cut}} if waits else {},
        )

    trials = [trial(3, TrialState.COMPLETE), trial(3, TrialState.COMPLETE), trial(5, TrialState.WAITING)]
    found = list(upcoming_trials(trials, space, n_trials=13).values())
    assert sum(found) == pytest.approx(1 + 10)
    assert found[3] == max(found)
    assert found[5] == pytest.approx(1 + found[0])
    assert sum(upcoming_trials(trials, space, n_trials=3).values()) == pytest.approx(1)


def test_the_number_of_trials_is_a_total(place, task, space) -> None:
    place.run(task, space, 2)
    assert len(list(place.start(task, space, 3))) == 4
    assert list(place.start(task, space, 3)) == []
    finished = place.open(task, space).get_trials(states=FINISHED)
    assert [trial.number for trial in finished] == [0, 1, 2]


# --- how trials end -----------------------------------------------------------------------------


def fail_at(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException) -> None:
    """Let the training of one trial raise after its first epoch."""
    calls = itertools.count()

    def failing(*given, **named):
        training = train_point(*given, **named)
        if next(calls) == number:
            yield next(training)
            raise error
        yield from training

    monkeypatch.setattr(jobs, "train_point", failing)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried\nto allocate"), "CUDA out of memory. Tried"),
        pytest.param(
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            "[enforce fail] Defau",
            marks=pytest.mark.slow,
        ),
        pytest.param(MemoryError(), "MemoryError", marks=pytest.mark.slow),
    ],
)
def test_a_trial_out_of_memory_fails_and_the_study_goes_on(
    place, task, space, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    fail_at(monkeypatch, 0, error)
    first, second, *_ = place.run(task, space, 2).get_trials()
    assert (first.state, first.value) == (TrialState.FAIL, None)
    assert first.user_attrs["reason"].startswith(f"out of memory on cpu at batch size 32: {reason}")
    assert second.state == TrialState.COMPLETE


def test_any_other_error_fails_its_trial_and_surfaces(
    place, task, space, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, 1, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match=r"^a bug$"):
        place.run(task, space, 4)
    trials = place.open(task, space).get_trials()
    assert [t.state.name for t in trials[:3]] == ["COMPLETE", "FAIL", "WAITING"]
    assert trials[1].user_attrs["reason"] == "RuntimeError: a bug"
    monkeypatch.undo()
    trials = place.run(task, space, 3).get_trials()
    assert [t.state.name for t in trials[:3]] == ["COMPLETE", "FAIL", "COMPLETE"]


@pytest.mark.slow
def test_trials_that_diverge_are_pruned_with_the_epoch(place, task, space) -> None:
    """Guards contract 5: a loss that is not finite is no score."""
    wild = replace(space, learning_rate=(1e39, 1e39))
    trials = place.run(task, wild, N_ANCHORS + 1).get_trials()
    # A linear head alone is solved, whatever the learning rate.
    head = {"cut": len(space.cuts) - 1, "head_width": 0}
    trained = [trial for trial in trials if not head.items() <= trial.params.items()]
    assert len(trained) >= N_ANCHORS - 1
    assert {trial.state for trial in trained} == {TrialState.PRUNED}
    for trial in trained:
        assert trial.user_attrs["reason"].startswith(("diverged: training loss", "diverged: validation loss"))
        assert " in epoch " in trial.user_attrs["reason"]


def test_a_finished_trial_leaves_no_checkpoint(place, task, space) -> None:
    place.run(task, space, 2)
    assert not [path for path in (place.folder / "checkpoints").rglob("*") if path.is_file()]


# --- the same study again -----------------------------------------------------------------------


def test_the_reference_study_has_every_kind_of_trial(uninterrupted) -> None:
    assert {trial["state"] for trial in uninterrupted} == {"COMPLETE", "PRUNED"}
    assert sum("origin" not in trial for trial in uninterrupted) == 3


@pytest.mark.slow
def test_the_same_seed_gives_the_same_study(place, longer, space, uninterrupted) -> None:
    """Guards contract 7."""
    assert stored(place.run(longer, space, 9, pruner="halving")) == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_the_same_seed_gives_the_same_suggestions(place_in, tmp_path, task, space, sampler: str) -> None:
    """Guards contract 7 for each sampler, without training."""
    studies = []
    for name in ("first", "again"):
        place = place_in(tmp_path / name)
        tell_anchors(place.open(task, space), space)
        studies.append(stored(place.run(task, space, N_ANCHORS + 2, sampler=sampler)))
    assert studies[0] == studies[1]
    assert studies[0][-1]["params"] != studies[0][-2]["params"]


def test_another_seed_gives_another_study(place, longer, space, uninterrupted) -> None:
    other = replace(longer, recipe=replace(longer.recipe, seed=1))
    # The head alone is solved: its one result is the same for every seed.
    solved, trained, *_ = stored(place.run(other, space, 2))
    assert solved["epochs"] == uninterrupted[0]["epochs"]
    assert trained["params"] == uninterrupted[1]["params"]
    assert [e["val_loss"] for e in trained["epochs"]] != [e["val_loss"] for e in uninterrupted[1]["epochs"]]
    study = place.open(other, space)
    tell_anchors(study, space)
    assert stored(place.run(other, space, N_ANCHORS + 1))[-1]["params"] != uninterrupted[N_ANCHORS]["params"]


@pytest.mark.slow
def test_a_study_stopped_after_every_epoch_ends_as_one_never_stopped(
    place, longer, space, uninterrupted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards contract 6 at every epoch of a study, and not at one."""
    trained = []
    real = loop.train_epoch
    monkeypatch.setattr(loop, "train_epoch", lambda *given: trained.append(given[-1]) or real(*given))
    seen: set[tuple[int, int]] = set()
    for attempt in range(60):
        events = place.start(longer, space, 9, pruner="halving")
        for event in events:
            if isinstance(event, EpochDone) and (event.number, event.result.epoch) not in seen:
                seen.add((event.number, event.result.epoch))
                break
        else:
            break
        if attempt % 2:
            events.close()
        else:
            with pytest.raises(KeyboardInterrupt, match=r"^Ctrl-C$"):
                events.throw(KeyboardInterrupt("Ctrl-C"))
    trials = stored(place.open(longer, space))
    assert trials == uninterrupted
    # Only a last epoch, behind which no checkpoint is written, is trained once more. What is solved has none.
    trained_ones = [trial for trial in trials if trial["epochs"][0]["epoch"] == 1]
    n_complete = sum(trial["state"] == "COMPLETE" for trial in trained_ones)
    assert len(trained) == sum(len(trial["epochs"]) for trial in trained_ones) + n_complete


def until_first_epoch(events: Generator[Event, None, None]) -> None:
    """Stop a study behind the first epoch of its second trial: its first is solved in one step."""
    for event in events:
        if isinstance(event, EpochDone) and event.number == 1:
            break
    events.close()


def test_an_orphan_is_adopted_under_its_own_number(place, longer, space) -> None:
    events = place.start(longer, space, 2)
    until_first_epoch(events)
    assert place.open(longer, space).get_trials()[1].state == TrialState.RUNNING
    started, *later = place.start(longer, space, 2)
    assert (started.number, started.adopted, started.origin) == (1, True, "baseline")
    assert [event.result.epoch for event in later[:-1]] == [1, 2, 3]
    trial = place.open(longer, space).get_trials()[1]
    assert (trial.state, list(trial.intermediate_values)) == (TrialState.COMPLETE, [1, 2, 3])


def test_an_orphan_without_its_checkpoint_is_trained_from_its_start(place, longer, space) -> None:
    until_first_epoch(place.start(longer, space, 2))
    (checkpoint,) = (place.folder / "checkpoints").rglob("*.pt")
    checkpoint.unlink()
    trial = place.run(longer, space, 2).get_trials()[1]
    assert [result["epoch"] for result in trial.user_attrs["results"]] == [1, 2, 3]


def test_an_orphan_that_was_asked_for_and_not_yet_given_values_gets_those_of_its_seed(
    place_in, tmp_path, task, space
) -> None:
    trials = []
    for asked in (False, True):
        place = place_in(tmp_path / str(asked))
        study = place.open(task, space)
        tell_anchors(study, space)
        if asked:
            study.ask()
        trials.append(stored(place.run(task, space, N_ANCHORS + 1))[-1])
    assert trials[0] == trials[1]


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Python's own handler of SIGINT: whoever starts the tests in the background may have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_signals_wait_while_the_study_is_written_to() -> None:
    written = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012, SIM117 (the order inside is what is tested)
        with deferred():
            signal.raise_signal(signal.SIGINT)
            written.append("all of it")
    assert written == ["all of it"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# --- every candidate ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def five(backbone) -> SearchSpace:
    """Three candidates and the two ends."""
    return SearchSpace.for_model(
        backbone.model, image_size=16, head_width=(16, 16), layers=["layer[234].0.conv1"]
    )


def exhaust(place: Place, task: Task, space: SearchSpace, n_trials: int, **how: Any) -> optuna.Study:
    """Open the study anew and search it, stopped after ``n_epochs``."""
    n_epochs, rates = how.pop("n_epochs", None), how.pop("learning_rates", ())
    study = open_study(place.storage, "s", task, space, {}, exhaustive=True, learning_rates=rates)
    names = {"sampler": "tpe", "pruner": "none", "checkpoints": place.folder, **how}
    events = search(study, task, space, n_trials=n_trials, **names)
    epochs = (event for event in events if isinstance(event, EpochDone))
    for _ in itertools.islice(epochs, n_epochs):
        pass
    events.close()
    return study


def test_an_exhaustive_search_trains_every_candidate_to_its_end_and_then_goes_on(
    place, task, five, monkeypatch: pytest.MonkeyPatch
) -> None:
    always = optuna.pruners.ThresholdPruner(lower=2.0)
    monkeypatch.setattr(coordinator, "make_pruner", lambda *_: always)
    trials = exhaust(place, task, five, 6).get_trials()
    assert [trial.params["cut"] for trial in trials[:5]] == [4, 0, 3, 2, 1]
    assert [t.state.name for t in trials] == ["COMPLETE"] * 5 + ["PRUNED"]
    assert [t.user_attrs.get("origin") for t in trials] == ["baseline"] * 2 + ["exhaustive"] * 3 + [None]
    by_depth = sorted(trials[:5], key=lambda trial: trial.params["cut"])
    rates = [5e-4 * 4 ** (place / 4) for place in range(5)]
    assert [t.params["learning_rate"] for t in by_depth] == pytest.approx(rates)
    assert {t.params["head_width"] for t in by_depth} == {0}


@pytest.mark.slow
def test_an_exhaustive_search_that_was_stopped_trains_each_candidate_once(place, task, five) -> None:
    """Guards contract 6 for the exhaustive search."""
    for n_epochs in (1, 4, 2):
        exhaust(place, task, five, 5, n_epochs=n_epochs)
    study = exhaust(place, task, five, 5)
    assert [trial.params["cut"] for trial in study.get_trials()] == [4, 0, 3, 2, 1]
    assert {trial.state for trial in study.get_trials()} == {TrialState.COMPLETE}
    # The head alone is solved, in one step.
    assert [len(trial.intermediate_values) for trial in study.get_trials()] == [1, 2, 2, 2, 2]


def test_learning_rates_make_a_grid(place, task, five) -> None:
    space = replace(five, learning_rate=(1e-4, 1e-3))
    study = exhaust(place, task, space, 0, learning_rates=(1e-4, 1e-3))
    grid = [trial.system_attrs["fixed_params"] for trial in study.get_trials()]
    found = [(params["cut"], params["learning_rate"]) for params in grid]
    assert found == [(cut, rate) for cut in (4, 0, 3, 2, 1) for rate in (1e-4, 1e-3)]
    assert len(grid) == count_exhaustive(space, (1e-4, 1e-3))


def test_a_fixed_learning_rate_is_that_of_every_candidate(place, task, five) -> None:
    study = exhaust(place, task, replace(five, learning_rate=(2e-3, 2e-3)), 0)
    rates = {trial.system_attrs["fixed_params"]["learning_rate"] for trial in study.get_trials()}
    assert rates == {2e-3}
    assert len(study.get_trials()) == count_exhaustive(five) == 5


def test_an_exhaustive_search_and_another_are_two_studies(place, task, five) -> None:
    place.open(task, five)
    message = r"--search adaptive \(here exhaustive, learning rates 0.001\)"
    with pytest.raises(StudyError, match=message):
        exhaust(place, task, five, 0, learning_rates=(1e-3,))


# --- another study ------------------------------------------------------------------------------


def with_recipe(**changes: Any) -> Callable[[Task, SearchSpace], tuple[Task, SearchSpace]]:
    return lambda task, space: (replace(task, recipe=replace(task.recipe, **changes)), space)


def with_backbone(name: str, **options: Any) -> Callable[[Task, SearchSpace], tuple[Task, SearchSpace]]:
    options = {"image_size": 16, **options}
    return lambda task, space: (replace(task, backbone=load_backbone(name, "random", **options)), space)


def with_other_split(task: Task, space: SearchSpace) -> tuple[Task, SearchSpace]:
    return replace(task, data=load_data("digits", Division(seed=1), image_size=16)), space


def with_poolings(task: Task, space: SearchSpace) -> tuple[Task, SearchSpace]:
    return task, SearchSpace.for_model(task.backbone.model, ("pool",), image_size=16, head_width=(16, 16))


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (with_backbone("test_efficientnet"), r"--backbone test_resnet \(here test_efficientnet\)"),
        (
            with_backbone("test_resnet", seed=1),
            r"--weights random \(seed 0\) \[\w{12}\] \(here random \(s",
        ),
        (with_backbone("test_resnet", image_size=24), r"--image-size 16 \(here 24\)"),
        (with_other_split, r"--data digits \[\w{12}\] \(here digits \[\w{12}\]\)"),
        (with_poolings, r"cuts 16 from .* \(here \d+ from "),
        (
            lambda task, space: (task, replace(space, learning_rate=(1e-3, 1e-2))),
            r"--learning-rate 0\.0001:0\.01 \(here 0\.001:0\.01\)",
        ),
        (
            lambda task, space: (task, replace(space, dropout=(0.0, 0.5))),
            r"--dropout 0\.0 \(here 0\.0,0\.5\)",
        ),
        (with_recipe(seed=1), r"--seed 0 \(here 1\)"),
        (with_recipe(epochs=5), r"--epochs 2 \(here 5\)"),
        (with_recipe(metric="loss"), r"--metric accuracy \(here loss\)"),
        (with_recipe(balance="weights"), r"--balance none \(here weights\)"),
    ],
)
def test_a_study_of_that_name_with_other_settings_is_refused(place, task, space, change, difference) -> None:
    place.open(task, space)
    message = rf"^Study 's' is stored with other settings: .*{difference}.*give another --name\.$"
    with pytest.raises(StudyError, match=message):
        place.open(*change(task, space))
    assert len(place.open(task, space).get_trials()) == N_ANCHORS


def test_a_study_of_somebody_else_is_refused(place, task, space) -> None:
    foreign = optuna.create_study(study_name="s", storage=place.storage)
    foreign.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(StudyError, match=r"^Study 's' was not made by depthsearch\. Give another --name\.$"):
        place.open(task, space)


def test_an_empty_study_that_goes_the_other_way_is_refused(place, task, space) -> None:
    optuna.create_study(study_name="s", storage=place.storage, direction="minimize")
    with pytest.raises(StudyError, match=r"^Study 's' was not made by depthsearch\. Give another --name\.$"):
        place.open(task, space)


def test_a_loss_is_minimized(place, task, space) -> None:
    by_loss = replace(task, recipe=replace(task.recipe, metric="loss"))
    assert place.open(by_loss, space).direction == optuna.study.StudyDirection.MINIMIZE


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("studies.db", r"--storage 'studies\.db' is no database URL: give sqlite:///studies\.db or another"),
        ("nonesuch://x", r"^--storage nonesuch://x cannot be opened: .*nonesuch"),
        ("sqlite:////no/such/folder/s.db", r"--storage .* cannot be opened: .*unable to open database file"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_named(url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        open_storage(url)


# --- the lease ----------------------------------------------------------------------------------


@pytest.fixture
def neighbour() -> Iterator[subprocess.Popen[bytes]]:
    """Another process that lives."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def lease(pid: int, *, started: str | None = None) -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "machine": this_machine(),
        "pid": pid,
        "started": started or start_of(pid),
        "doing": "study",
        "token": "theirs",
        "renewed": time.time(),
    }


def test_a_second_coordinator_is_refused_while_the_first_lives(place, task, space, neighbour) -> None:
    place.open(task, space).set_user_attr("coordinator", lease(neighbour.pid))
    with pytest.raises(
        StudyError, match=rf"^Study 's' is being run by process {neighbour.pid} on .*Stop that"
    ):
        place.run(task, space, 1)
    neighbour.kill()
    neighbour.wait()
    assert place.run(task, space, 1).get_trials()[0].state == TrialState.COMPLETE


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when a process was started")
def test_the_number_of_a_dead_coordinator_given_to_another_process_holds_nothing(
    place, task, space, neighbour
) -> None:
    place.open(task, space).set_user_attr("coordinator", lease(neighbour.pid, started="1"))
    assert place.run(task, space, 1).get_trials()[0].state == TrialState.COMPLETE


def test_the_lease_is_held_while_trials_run_and_given_back_after(place, task, space) -> None:
    events = place.start(task, space, 1)
    next(events)
    holder = place.open(task, space).user_attrs["coordinator"]
    assert (holder["pid"], holder["host"]) == (os.getpid(), socket.gethostname())
    with pytest.raises(StudyError, match=rf"is being run by process {os.getpid()} on"):
        place.run(task, space, 1)
    events.close()
    assert place.open(task, space).user_attrs["coordinator"] is None


# --- a killed process ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_process_costs_nothing_that_was_finished(place_in, tmp_path: Path) -> None:
    """Guards contract 6 against SIGKILL, which no handler sees."""

    def command(name: str) -> list[str]:
        options = (
            "--backbone test_resnet --weights random --image-size 16 --subset 0.2 "
            "--trials 3 --epochs 6 --pruner none"
        )
        device = "--device cpu --precision float32 --name s --head-width 0"
        url = f"sqlite:///{tmp_path / name}/studies.db"
        return ["study", *options.split(), *device.split(), "--storage", url]

    killed, whole = place_in(tmp_path / "killed"), place_in(tmp_path / "whole")
    arguments = [sys.executable, "-m", "depthsearch", *command("killed")]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        number = None
        for line in process.stderr:
            number = line.split()[1] if line.startswith("trial ") else number
            if number == "1" and "epoch 2/6" in line:
                process.kill()
                break
    study = optuna.load_study(study_name="s", storage=killed.storage)
    assert [trial.state.name for trial in study.get_trials()[:3]] == ["COMPLETE", "RUNNING", "WAITING"]
    assert main(command("killed")) == 0
    assert main(command("whole")) == 0
    again = optuna.load_study(study_name="s", storage=killed.storage)
    straight = optuna.load_study(study_name="s", storage=whole.storage)
    # What lay in the killed process's memory is computed again, so the frozen prefix costs more.
    assert stored(again, but=PREFIX_COST) == stored(straight, but=PREFIX_COST)
