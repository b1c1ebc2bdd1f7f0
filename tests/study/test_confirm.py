"""Training promising cuts again: what is planned, that it goes on after a stop, and on which images."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState

from depthsearch.data import divided
from depthsearch.errors import DataError, DivergedError
from depthsearch.features import Budget
from depthsearch.results.summary import summarize
from depthsearch.search.space import SearchSpace
from depthsearch.seeds import seed_from
from depthsearch.study import (
    ConfirmationPlanned,
    EpochDone,
    TrialEnded,
    TrialStarted,
    confirm,
    open_study,
    search,
)
from depthsearch.study.choosing.confirmation import CONFIRMATION
from depthsearch.training.objective import train_point
from depthsearch.training.task import Task
from depthsearch.workers import jobs as module

N_TRIALS = 7


class Study:
    """A searched study in a database of its own, opened anew for each call, as by another process."""

    def __init__(
        self, folder: Path, open_storage: Any, task: Task, space: SearchSpace, *, searched: Path | None = None
    ) -> None:
        folder.mkdir()
        if searched:
            shutil.copy(searched, folder / "studies.db")
        self.folder, self.task, self.space = folder, task, space
        self.storage = open_storage(f"sqlite:///{folder}/studies.db")

    def open(self) -> optuna.Study:
        return open_study(self.storage, "s", self.task, self.space, {})

    def search(self, n_trials: int = N_TRIALS) -> None:
        options = {"sampler": "random", "pruner": "none", "checkpoints": self.folder}
        for _ in search(self.open(), self.task, self.space, n_trials=n_trials, **options):
            pass

    def start(self, n_cuts: int = 1, n_seeds: int = 2, *, resample: bool = True) -> Iterator[Any]:
        options = {"n_cuts": n_cuts, "n_seeds": n_seeds, "resample": resample, "checkpoints": self.folder}
        return confirm(self.open(), self.task, self.space, **options)

    def confirm(self, n_cuts: int = 1, n_seeds: int = 2, *, resample: bool = True) -> list[Any]:
        return list(self.start(n_cuts, n_seeds, resample=resample))

    def confirming(self) -> list[optuna.trial.FrozenTrial]:
        return [t for t in self.open().get_trials() if t.user_attrs.get("origin") == "confirm"]

    def scores(self) -> dict[tuple[int, int], float]:
        return {(t.user_attrs["confirms"], t.user_attrs["seed"]): t.value for t in self.confirming()}


@pytest.fixture(scope="module")
def searched(tmp_path_factory, open_quick_storage, task, space) -> Path:
    """Search once for all tests of this module: the database, as none of them has it open."""
    study = Study(tmp_path_factory.mktemp("searched") / "s", open_quick_storage, task, space)
    study.search()
    study.storage.engine.dispose()
    return study.folder / "studies.db"


@pytest.fixture
def make(searched: Path, tmp_path: Path, open_quick_storage, task, space):
    def make_(name: str = "one") -> Study:
        return Study(tmp_path / name, open_quick_storage, task, space, searched=searched)

    return make_


@pytest.fixture
def study(make) -> Study:
    return make()


def test_each_cut_is_trained_once_with_each_seed_and_named_as_what_it_is(study: Study) -> None:
    events = study.confirm(n_cuts=1, n_seeds=2)
    planned = events[0]
    assert isinstance(planned, ConfirmationPlanned)
    ends = {0, len(study.space.cuts) - 1}
    assert ends <= {cut.index for cut in planned.cuts}
    trials = study.confirming()
    assert planned.n_trainings == len(trials) == 2 * len(planned.cuts)
    assert len(study.scores()) == len(trials)
    originals = {t.number: t for t in study.open().get_trials()}
    assert all(t.params == originals[t.user_attrs["confirms"]].params for t in trials)
    assert {t.state for t in trials} == {TrialState.COMPLETE}
    assert {event.origin for event in events if isinstance(event, TrialStarted)} == {"confirm"}


def test_a_score_is_that_of_the_setting_trained_with_the_seed_that_all_cuts_share(study: Study) -> None:
    study.confirm(resample=False)
    trial = study.confirming()[0]
    point = study.space.point(trial.params)
    seed = seed_from(study.task.recipe.seed, trial.user_attrs["seed"], CONFIRMATION)
    expected = [result.score for result in train_point(study.task, point, seed=seed)]
    assert list(trial.intermediate_values.values()) == expected


def test_a_solved_head_is_not_confirmed_on_the_same_images(study: Study) -> None:
    """It would come to the same, and look like further evidence."""
    (planned,) = (e for e in study.confirm(resample=False) if isinstance(e, ConfirmationPlanned))
    last = len(study.space.cuts) - 1
    assert last in {cut.index for cut in planned.cuts}
    again = study.confirming()
    assert again
    assert planned.n_trainings == len(again)
    assert not [t for t in again if t.params["cut"] == last and not t.params.get("head_width")]


def test_what_is_done_is_not_done_again(study: Study) -> None:
    study.confirm()
    before = study.confirming()
    events = study.confirm()
    assert [type(event) for event in events] == [ConfirmationPlanned]
    assert events[0].n_trainings == 0
    assert [t.number for t in study.confirming()] == [t.number for t in before]


@pytest.mark.slow
def test_more_seeds_keep_those_that_are_there(study: Study) -> None:
    """Guards trainings that are paid for against being done again."""
    study.confirm(n_seeds=2)
    before = study.scores()
    assert study.confirm(n_seeds=3)[0].n_trainings == len(before) // 2
    after = study.scores()
    assert {key: after[key] for key in before} == before
    assert {seed for _, seed in after} == {0, 1, 2}


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [2, 8])
def test_a_stop_anywhere_costs_nothing(make, stop_after: int) -> None:
    """Guards contract 6 for the confirmation."""
    whole, stopped = make("whole"), make("stopped")
    whole.confirm()
    events = stopped.start()
    for n, _ in enumerate(events):
        if n == stop_after:
            break
    events.close()
    stopped.confirm()
    assert stopped.scores() == whole.scores()
    assert summarize(stopped.open()).evidence == summarize(whole.open()).evidence


@pytest.mark.slow
def test_what_an_earlier_plan_left_waiting_is_not_trained_unless_it_is_wanted_again(study: Study) -> None:
    """Guards against trainings that nobody wants any more."""
    events = study.start(n_cuts=1, n_seeds=3)
    next(events)
    events.close()
    assert len(study.open().get_trials(states=(TrialState.WAITING,))) > 0
    n_settings = len(study.confirm(n_cuts=1, n_seeds=2)[0].cuts)
    assert study.open().get_trials(states=(TrialState.WAITING,)) == []
    assert len(summarize(study.open()).confirming) == 2 * n_settings
    study.confirm(n_cuts=1, n_seeds=3)
    assert len(summarize(study.open()).confirming) == 3 * n_settings
    assert {len(c.scores) for c in summarize(study.open()).evidence.confirmed} == {3}


@pytest.mark.slow
def test_a_trial_stopped_in_its_middle_goes_on_under_its_number(study: Study) -> None:
    """Guards against a trial that counts twice."""
    events = study.start()
    for event in events:
        if isinstance(event, EpochDone):
            break
    events.close()
    (running,) = study.open().get_trials(states=(TrialState.RUNNING,))
    again = study.confirm()
    started = next(event for event in again if isinstance(event, TrialStarted))
    assert (started.number, started.adopted) == (running.number, True)


def test_none_is_pruned_and_the_search_counts_its_own_trials_only(study: Study) -> None:
    study.confirm()
    summary = summarize(study.open())
    assert summary.n_finished == len(summary.searched) == N_TRIALS
    assert len(summary.confirming) == len(study.confirming())
    study.search(N_TRIALS + 2)
    summary = summarize(study.open())
    assert summary.n_finished == N_TRIALS + 2
    # The search has gone on: what was planned before is planned anew.
    plan = study.open().user_attrs["confirmation"]
    study.confirm()
    assert study.open().user_attrs["confirmation"]["after"] == plan["after"] + 2


def test_trials_of_the_search_that_wait_are_left_to_the_search(
    tmp_path, open_quick_storage, task, space
) -> None:
    short = Study(tmp_path / "short", open_quick_storage, task, space)
    short.search(3)
    waiting = [t.number for t in short.open().get_trials(states=(TrialState.WAITING,))]
    assert waiting
    short.confirm()
    assert [t.number for t in short.open().get_trials(states=(TrialState.WAITING,))] == waiting


def test_a_search_that_goes_on_trains_nothing_of_a_confirmation_that_was_left(study: Study) -> None:
    for event in study.start():
        if isinstance(event, ConfirmationPlanned):
            break
    left = [t.number for t in study.confirming()]
    assert {t.state for t in study.confirming()} == {TrialState.WAITING}
    study.search(N_TRIALS + 1)
    assert {t.state for t in study.confirming()} == {TrialState.FAIL}
    (new,) = study.open().get_trials()[left[-1] + 1 :]
    assert (new.state, new.user_attrs.get("origin")) == (TrialState.COMPLETE, None)
    study.confirm()
    trained = [t for t in study.confirming() if t.number not in left]
    assert {t.state for t in trained} == {TrialState.COMPLETE}
    assert len(trained) == len({(t.user_attrs["confirms"], t.user_attrs["seed"]) for t in trained}) >= 4


def test_the_answer_of_the_summary_is_the_confirmed_one(study: Study) -> None:
    assert summarize(study.open()).evidence.confirmed == ()
    study.confirm(n_cuts=3)
    summary = summarize(study.open())
    assert len(summary.evidence.confirmed) >= 3
    assert summary.chosen.number == summary.evidence.answer.trial
    assert summary.chosen.confirms is None


@pytest.mark.slow
def test_a_training_that_diverges_is_no_score(study: Study, monkeypatch) -> None:
    """Guards contract 5 for the confirmation."""
    real, n_calls = module.train_point, 0

    def broken(*args: Any, **options: Any) -> Iterator[Any]:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 1:
            raise DivergedError("loss nan")
        yield from real(*args, **options)

    monkeypatch.setattr(module, "train_point", broken)
    ended = [event for event in study.confirm(n_cuts=3) if isinstance(event, TrialEnded)]
    assert ended[0].state == TrialState.PRUNED
    diverged = study.confirming()[0].user_attrs
    scores = {c.trial: c.scores for c in summarize(study.open()).evidence.confirmed}
    assert diverged["seed"] not in scores.get(diverged["confirms"], {})


# --- other splits ---------------------------------------------------------------------------------


def test_another_division_has_the_same_sizes_and_shares_of_classes(digits) -> None:
    train, val = divided(digits.train, digits.val, seed=1)
    assert (len(train), len(val)) == (len(digits.train), len(digits.val))
    assert sorted(torch.cat([train, val]).tolist()) == list(range(len(train) + len(val)))
    labels = digits.train.joined(digits.val).labels
    was, now = (torch.bincount(each) for each in (digits.val.labels, labels[val]))
    assert (was - now).abs().max() <= 1
    other, _ = divided(digits.train, digits.val, seed=2)
    assert not torch.equal(train, other)
    assert torch.equal(train, divided(digits.train, digits.val, seed=1)[0])


def test_a_class_of_one_image_cannot_be_divided(digits) -> None:
    lone = replace(digits.train, labels=digits.train.labels.clone())
    lone.labels[0] = 10
    with pytest.raises(DataError, match=r"cannot be divided anew.*leave --resample out"):
        divided(lone, digits.val, seed=0)


@pytest.mark.slow
def test_resampled_seeds_validate_on_other_images_the_same_for_every_cut(study: Study) -> None:
    """Guards the comparison of cuts under --resample: each seed's split is one for all."""
    study.confirm(resample=False)
    plain = study.scores()
    study.confirm()
    resampled = [t for t in study.confirming() if t.user_attrs["resample"]]
    # On the same images the solved head is left out.
    assert len(resampled) == len(plain) + 2
    tasks = [study.task.resampled(seed) for seed in (1, 1, 2)]
    assert torch.equal(tasks[0].val_rows, tasks[1].val_rows)
    assert not torch.equal(tasks[0].val_rows, tasks[2].val_rows)
    assert not set(tasks[0].val_rows.tolist()) & set(tasks[0].train_rows.tolist())
    # Of a seed the latest training counts.
    means = {c.trial: c.mean for c in summarize(study.open()).evidence.confirmed}
    for number, mean in means.items():
        own = [t.value for t in resampled if t.user_attrs["confirms"] == number]
        assert mean == pytest.approx(sum(own) / len(own))


@pytest.mark.parametrize("views", [1, 3])
def test_kept_features_change_nothing_on_other_splits(task, space, tmp_path, views: int) -> None:
    """The pool of both splits is kept once and serves every division, to the bit."""
    budget = Budget(memory_bytes=2**28, device_bytes=0, disk_bytes=2**28, folder=tmp_path)
    several = replace(task, recipe=replace(task.recipe, views=views, epochs=3))
    keeping = replace(several, budget=budget)
    point = space.point({"cut": len(space.cuts) - 3, "learning_rate": 1e-3, "head_width": 0})
    for seed in (1, 2):
        plain = list(train_point(several.resampled(seed), point, seed=5))
        kept = list(train_point(keeping.resampled(seed), point, seed=5, upcoming={point.cut: 4.0}))
        assert [r.val_loss for r in plain] == [r.val_loss for r in kept]
        assert [r.train_loss for r in plain] == [r.train_loss for r in kept]
    assert sum(r.read_bytes for r in kept) > 0
    # The second division found what the first had kept of the plain view.
    assert sum(r.prefix_macs for r in kept) < sum(r.prefix_macs for r in plain) / 2
