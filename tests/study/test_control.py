"""A study while it runs: where it stands, asked to stop, given a guess to try next."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

import depthsearch
from depthsearch.cli import main
from depthsearch.cli.console import PlainConsole
from depthsearch.errors import CutError, SettingsError, StudyError
from depthsearch.models.backbones import load_backbone
from depthsearch.options.study import StudyOptions
from depthsearch.results import StoredStudy
from depthsearch.results.summary import cut_json
from depthsearch.search.space import SearchSpace
from depthsearch.study import (
    FINISHED,
    EpochDone,
    Stopped,
    TrialEnded,
    TrialStarted,
    confirm,
    coordinator,
    enqueue,
    lease as lease_module,
    open_study,
    request_stop,
    search,
    wait_until_free,
)
from depthsearch.study.control import AFTER, note_bounds
from depthsearch.study.lease import holder_of, lease
from depthsearch.study.progress import STATES, Status, status, status_json
from depthsearch.study.storage.optuna_private import storage_of, trial_id_of


@dataclass(frozen=True, kw_only=True)
class Place:
    """A study in a database of its own, opened anew for each call, as by another process."""

    folder: Path
    storage: optuna.storages.RDBStorage
    task: Any
    space: SearchSpace
    options: dict[str, Any]

    def open(self) -> optuna.Study:
        return open_study(self.storage, "s", self.task, self.space, {}, **self.options)

    def start(self, n_trials: int, **options: Any) -> Iterator[Any]:
        options = {"sampler": "random", "pruner": "none", "checkpoints": self.folder, **options}
        return search(self.open(), self.task, self.space, n_trials=n_trials, **options)

    def run(self, n_trials: int, **options: Any) -> list[Any]:
        return list(self.start(n_trials, **options))

    def confirm(self) -> Iterator[Any]:
        options = {"n_cuts": 1, "n_seeds": 2, "resample": True, "checkpoints": self.folder}
        return confirm(self.open(), self.task, self.space, **options)

    def states(self) -> list[str]:
        return [trial.state.name for trial in self.open().get_trials()]


@pytest.fixture(scope="module")
def make(longer, space, open_quick_storage) -> Callable[..., Place]:
    def make_(folder: Path, task: Any = longer, space: SearchSpace = space, **options: Any) -> Place:
        folder.mkdir(exist_ok=True)
        storage = open_quick_storage(f"sqlite:///{folder}/studies.db")
        return Place(folder=folder, storage=storage, task=task, space=space, options=options)

    return make_


@pytest.fixture
def place(make, tmp_path: Path) -> Place:
    return make(tmp_path / "place")


@pytest.fixture(scope="module")
def uninterrupted(make, tmp_path_factory) -> list[tuple[Any, ...]]:
    """What three trials give that run without a stop."""
    place = make(tmp_path_factory.mktemp("uninterrupted"))
    place.run(3)
    return told(place)


def told(place: Place) -> list[tuple[Any, ...]]:
    """Give what finished trials were tried with and came to, by number."""
    trials = place.open().get_trials(states=FINISHED)
    return [(t.number, t.params, t.value, t.intermediate_values) for t in trials]


def stopping_at(events: Iterator[Any], place: Place, number: int, epoch: int, after: str) -> list[Any]:
    """Ask for a stop, as another process does, once a trial has trained an epoch; give all events."""
    seen = []
    for event in events:
        seen.append(event)
        if isinstance(event, EpochDone) and (event.number, event.result.epoch) == (number, epoch):
            holder = request_stop(place.open(), after=after)
            assert (holder.pid, holder.host) == (os.getpid(), socket.gethostname())
    return seen


# --- stop ---------------------------------------------------------------------------------------


def test_a_stop_after_the_epoch_leaves_the_trial_to_go_on_and_nothing_is_lost(place, uninterrupted) -> None:
    events = stopping_at(place.start(3), place, 1, 1, "epoch")
    assert events[-1] == Stopped(after="epoch")
    assert [e.result.epoch for e in events if isinstance(e, EpochDone) and e.number == 1] == [1]
    assert place.states()[:3] == ["COMPLETE", "RUNNING", "WAITING"]
    assert holder_of(place.open().user_attrs, time.time()) is None
    again = place.run(3)
    assert (again[0].number, again[0].adopted) == (1, True)
    assert not any(isinstance(event, Stopped) for event in again)
    assert told(place) == uninterrupted


def test_a_stop_after_the_trial_lets_it_end(place, uninterrupted) -> None:
    events = stopping_at(place.start(3), place, 1, 1, "trial")
    assert [type(event) for event in events[-2:]] == [TrialEnded, Stopped]
    assert place.states()[:3] == ["COMPLETE", "COMPLETE", "WAITING"]
    place.run(3)
    assert told(place) == uninterrupted


@pytest.mark.parametrize("after", AFTER)
def test_a_stop_in_the_last_epoch_of_all_is_told_so_that_no_confirmation_follows(place, after: str) -> None:
    events = stopping_at(place.start(1), place, 0, 3, after)
    assert [type(event) for event in events[-2:]] == [TrialEnded, Stopped]
    assert place.states()[0] == "COMPLETE"


def test_a_request_of_the_last_moment_is_not_missed(place) -> None:
    with closing(place.start(1)) as events:
        while not isinstance(next(events), TrialEnded):
            pass
        # The search checks once more and gives its lease back: nothing of a request may fall in between.
        request_stop(place.open())
        assert next(events) == Stopped(after="epoch")


def test_what_a_dead_coordinator_was_asked_stops_no_later_one(place) -> None:
    stopping_at(place.start(2), place, 1, 1, "epoch")
    assert place.open().user_attrs["stop_request"]["after"] == "epoch"
    assert not any(isinstance(event, Stopped) for event in place.run(2))


def test_a_confirmation_stops_and_goes_on(place) -> None:
    place.run(3)
    # The first may be of the head alone, which has one epoch.
    number = len(place.states()) + 1
    events = stopping_at(place.confirm(), place, number, 1, "epoch")
    assert events[-1] == Stopped(after="epoch")
    assert place.states()[number] == "RUNNING"
    assert status(place.open()).state == "interrupted"
    again = list(place.confirm())
    assert (again[0].number, again[0].adopted) == (number, True)
    assert all(trial.state == TrialState.COMPLETE for trial in confirming(place))
    assert {trial.user_attrs["seed"] for trial in confirming(place)} == {0, 1}


def confirming(place: Place) -> list[optuna.trial.FrozenTrial]:
    return [t for t in place.open().get_trials() if t.user_attrs.get("origin") == "confirm"]


def test_a_pruned_trial_is_told_even_if_a_stop_is_asked_for(place, monkeypatch: pytest.MonkeyPatch) -> None:
    always = optuna.pruners.ThresholdPruner(lower=2.0, n_warmup_steps=2)
    monkeypatch.setattr(coordinator, "make_pruner", lambda *_: always)
    stopping_at(place.start(3), place, 2, 2, "epoch")
    assert place.states()[2] == "PRUNED"


def test_nobody_who_runs_a_study_is_nobody_to_stop(place) -> None:
    study = place.open()
    with pytest.raises(
        StudyError, match=r"^Nobody runs study 's': there is nothing to stop\. Where it stands: depthsearch"
    ):
        request_stop(study)
    with closing(place.start(1)) as events:
        next(events)
        with pytest.raises(SettingsError, match=r"^after 'minute': give epoch or trial\.$"):
            request_stop(study, after="minute")
    assert "stop_request" not in place.open().user_attrs


def test_a_fit_is_not_stopped_from_outside(place) -> None:
    study = place.open()
    with lease(study, "fit"), pytest.raises(StudyError, match=r"trains its answer \(depthsearch fit\)"):
        request_stop(study)


def test_the_studies_of_others_are_left_alone(place) -> None:
    foreign = optuna.create_study(study_name="foreign", storage=place.storage)
    for asking in (lambda: request_stop(foreign), lambda: enqueue(foreign, 1)):
        with pytest.raises(StudyError, match=r"^Study 'foreign' was not made by depthsearch\."):
            asking()
    assert foreign.user_attrs == {}
    assert status(foreign) == Status(study="foreign", state="foreign")


def test_a_coordinator_on_another_machine_is_asked_through_the_database(place) -> None:
    study = place.open()
    process = {"host": "elsewhere", "machine": None, "pid": 7, "started": None}
    elsewhere = {**process, "doing": "study", "token": "t", "renewed": time.time()}
    study.set_user_attr("coordinator", elsewhere)
    holder = request_stop(study, after="trial")
    assert (holder.host, holder.pid) == ("elsewhere", 7)
    assert study.user_attrs["stop_request"] == {"token": "t", "after": "trial"}
    assert status(study).state == "stopping"
    started = time.monotonic()
    assert not wait_until_free(study, holder, 0.3)
    assert 0.3 <= time.monotonic() - started < 5
    # Silent for long, it is dead.
    study.set_user_attr("coordinator", {**elsewhere, "renewed": time.time() - lease_module.LEASE_SECONDS})
    assert wait_until_free(study, holder, 0)


# --- enqueue ------------------------------------------------------------------------------------


def test_a_guess_is_tried_next_with_what_is_sensible_at_its_depth(place, uninterrupted) -> None:
    study = place.open()
    cut = place.space.cuts[3]
    number = enqueue(study, cut.layer)
    assert number == len(study.get_trials()) - 1
    events = place.run(4)
    started = [(e.number, e.origin) for e in events if isinstance(e, TrialStarted)]
    assert started == [(number, "guess"), (0, "baseline"), (1, "baseline"), (2, "anchor")]
    guess = next(trial for trial in StoredStudy.read(study).trials if trial.number == number)
    assert (guess.cut, guess.origin, guess.state) == (cut, "guess", "complete")
    assert guess.params["head_width"] == 0
    rates = {trial.cut.index: trial.params["learning_rate"] for trial in StoredStudy.read(study).trials}
    assert rates[0] < guess.params["learning_rate"] < rates[len(place.space.cuts) - 1]
    # The others are what they would have been.
    assert [each for each in told(place) if each[0] != number] == uninterrupted


def test_a_guess_is_tried_next_while_the_study_runs(place) -> None:
    order = []
    with closing(place.start(3)) as events:
        for event in events:
            if isinstance(event, TrialStarted):
                order.append((event.origin, event.point.cut.name))
            if isinstance(event, EpochDone) and event.number == 0:
                enqueue(place.open(), place.space.cuts[5].name, learning_rate=2e-3, head_width=16)
    assert order == [
        ("baseline", place.space.cuts[-1].name),
        ("guess", place.space.cuts[5].name),
        ("baseline", place.space.cuts[0].name),
    ]
    trial = place.open().get_trials()[-1]
    assert (trial.params["learning_rate"], trial.params["head_width"]) == (2e-3, 16)


def test_a_guess_is_judged_as_others_are_unless_it_is_to_end(place, monkeypatch: pytest.MonkeyPatch) -> None:
    always = optuna.pruners.ThresholdPruner(lower=2.0)
    monkeypatch.setattr(coordinator, "make_pruner", lambda *_: always)
    judged = enqueue(place.open(), place.space.cuts[6].layer)
    kept = enqueue(place.open(), place.space.cuts[5].layer, to_the_end=True)
    place.run(2)
    states = place.states()
    assert (states[judged], states[kept]) == ("PRUNED", "COMPLETE")


def test_a_guess_beyond_the_trials_wanted_waits_for_more(place) -> None:
    place.run(1)
    number = enqueue(place.open(), place.space.cuts[6].layer)
    assert place.run(1) == []
    assert status(place.open()).guesses_waiting == 1
    started = [event.number for event in place.run(2) if isinstance(event, TrialStarted)]
    assert started == [number]


def test_a_guess_comes_on_top_where_every_candidate_is_tried(make, tmp_path, task, space) -> None:
    three = SearchSpace(cuts=(space.cuts[0], space.cuts[1], space.cuts[2]), head_width=0)
    place = make(tmp_path / "exhaustive", task, three, exhaustive=True)
    with closing(place.start(3)) as events:
        next(event for event in events if isinstance(event, TrialEnded))
        enqueue(place.open(), three.cuts[1].layer, learning_rate=1e-4)
        list(events)
    assert place.states() == ["COMPLETE"] * 4
    found = status(place.open())
    assert (found.state, found.trials_done, found.trials_wanted) == ("complete", 4, 4)


def test_the_same_setting_is_not_tried_twice_but_one_that_failed_may_be(place) -> None:
    study = place.open()
    place.run(1)
    last = place.space.cuts[-1]
    with pytest.raises(StudyError, match=r"^Trial 0 of study 's' has just this setting at .* is complete\."):
        enqueue(study, last.layer)
    with pytest.raises(StudyError, match=r"^Trial 1 of study 's' has just this setting at .* is waiting\."):
        enqueue(study, place.space.cuts[0].layer)
    number = enqueue(study, last.layer, learning_rate=1.5e-3)
    with pytest.raises(StudyError, match=rf"^Trial {number} of study 's' has just this"):
        enqueue(study, last.layer, learning_rate=1.5e-3)
    waiting = study.get_trials()[number]
    storage_of(study).set_trial_state_values(trial_id_of(study, waiting.number), state=TrialState.FAIL)
    assert enqueue(study, last.layer, learning_rate=1.5e-3) == number + 1


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"layer": "conv9"}, CutError, r"^No cut 'conv9'\. Near: layer "),
        ({"layer": 1_000}, CutError, r"^No cut '1000'\. Near: "),
        (
            {"learning_rate": 0.5},
            SettingsError,
            r"^learning rate 0.5 is not in study 's', which has 0.0001 to 0.01\. Give that, or start a study",
        ),
        ({"learning_rate": float("nan")}, SettingsError, r"^learning rate nan is not in study 's', which"),
        ({"learning_rate": 1e-6}, SettingsError, r"which has 0.0001 to 0\.01\."),
        (
            {"head_width": 8},
            SettingsError,
            r"^head width 8 is not in study 's', which has 0, 16\. Give that,",
        ),
        ({"head_width": 32}, SettingsError, r"which has 0, 16\."),
        ({"head_width": -16}, SettingsError, r"which has 0, 16\."),
        ({"backbone": "resnet50"}, SettingsError, r"^Backbone 'resnet50' is not in study 's': give test_r"),
    ],
)
def test_what_a_study_does_not_search_is_refused(
    place, asked: dict[str, Any], error: type, said: str
) -> None:
    study = place.open()
    n_trials = len(study.get_trials())
    with pytest.raises(error, match=said):
        enqueue(study, **{"layer": place.space.cuts[2].layer, **asked})
    assert len(study.get_trials()) == n_trials


def test_what_is_fixed_cannot_be_another(make, tmp_path, task, space) -> None:
    fixed = SearchSpace(cuts=space.cuts, learning_rate=(1e-3, 1e-3), head_width=16)
    study = make(tmp_path / "fixed", task, fixed).open()
    with pytest.raises(SettingsError, match=r"^learning rate 0.002 is not in study 's', which has 0\.001\."):
        enqueue(study, space.cuts[2].layer, learning_rate=2e-3)
    with pytest.raises(SettingsError, match=r"^head width 0 is not in study 's', which has 16\."):
        enqueue(study, space.cuts[2].layer, head_width=0)
    number = enqueue(study, space.cuts[2].layer, learning_rate=1e-3, head_width=16)
    assert study.get_trials()[number].system_attrs["fixed_params"]["head_width"] == 16
    linear = make(tmp_path / "linear", task, SearchSpace(cuts=space.cuts, head_width=0)).open()
    with pytest.raises(SettingsError, match=r"^head width 16 is not in study 's', which has 0, a linear h"):
        enqueue(linear, space.cuts[2].layer, head_width=16)
    number = enqueue(linear, space.cuts[2].layer, head_width=0)
    assert "head_width" not in linear.get_trials()[number].system_attrs["fixed_params"]


def test_of_several_backbones_the_layer_or_its_name_says_which(make, tmp_path, task) -> None:
    names = ("test_resnet", "test_byobnet")
    other = load_backbone(names[1], "random", image_size=16)
    tasks = {names[0]: task, names[1]: replace(task, backbone=other)}
    models = {name: each.backbone.model for name, each in tasks.items()}
    both = SearchSpace.across(models, image_size=16, head_width=(16, 16))
    place = make(tmp_path / "both", tasks, both)
    study = place.open()
    assert StoredStudy.read(study).space == both
    first, second = (both.cuts_of(name) for name in names)
    shared = next(cut for cut in first[1:-1] if cut.layer in {each.layer for each in second})
    with pytest.raises(
        SettingsError, match=r"is in test_resnet and test_byobnet: choose one with --backbone"
    ):
        enqueue(study, shared.layer)
    with pytest.raises(SettingsError, match=r"^Backbone 'x' is not in study 's': give test_resnet or test_"):
        enqueue(study, shared.layer, backbone="x")
    with pytest.raises(CutError, match=r"^No cut 'conv9'\. Near: test_resnet layer "):
        enqueue(study, "conv9")
    alone = next(cut for cut in second[1:-1] if cut.name not in {each.name for each in first})
    for number in (
        enqueue(study, alone.name),
        enqueue(study, shared.layer, learning_rate=2e-3, backbone=names[1]),
    ):
        params = study.get_trials()[number].system_attrs["fixed_params"]
        assert params["backbone"] == names[1]
        assert f"cut_{names[1]}" in params
    events = place.start(1)
    started = next(event for event in events if isinstance(event, TrialStarted))
    assert (started.origin, started.point.cut) == ("guess", alone)
    events.close()


# --- status -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_study_goes_through_its_states(place) -> None:
    """Guards status of a study that another process runs, from empty to complete."""
    assert status(place.open()).state == "empty"
    with closing(place.start(2, then_confirm=True)) as events:
        for event in events:
            found = status(place.open())
            assert (found.state, found.trials_wanted) == ("running", 2)
            if isinstance(event, TrialStarted):
                (running,) = found.running
                assert (running.number, running.origin, running.epoch) == (event.number, "baseline", 0)
                assert running.cut == event.point.cut
            if isinstance(event, EpochDone) and event.number == 1:
                break
        assert (found.running[0].epoch, found.running[0].epochs) == (1, 3)
        assert found.holder is not None
        assert (found.holder.pid, found.holder.host) == (os.getpid(), socket.gethostname())
        assert (found.trials_done, found.answer.trial, found.answer.n_trainings) == (1, 0, 1)
        # A third of the second and last trial is done.
        each = place.open().get_trials()[0].user_attrs["seconds"]
        assert found.seconds_left == pytest.approx(each * 2 / 3)
        request_stop(place.open())
        assert status(place.open()).state == "stopping"
    found = status(place.open())
    assert (found.state, found.holder, len(found.running)) == ("interrupted", None, 1)
    place.run(2, then_confirm=True)
    # The confirmation is still to come.
    assert status(place.open()).state == "interrupted"
    for _ in place.confirm():
        assert status(place.open()).state == "running"
    found = status(place.open())
    assert (found.state, found.seconds_left) == ("complete", 0.0)
    assert found.confirmed == found.confirming == 4
    assert (found.answer.n_trainings, found.answer.standard_error is None) == (2, False)
    assert found.full_fine_tunes > 0
    place.run(2)
    assert status(place.open()).state == "complete"
    with lease(place.open(), "fit"):
        assert status(place.open()).holder.doing == "fit"


def test_status_writes_nothing(place) -> None:
    place.run(1)
    before = (place.folder / "studies.db").read_bytes()
    status(optuna.load_study(study_name="s", storage=place.storage))
    assert (place.folder / "studies.db").read_bytes() == before


def test_a_study_from_before_it_kept_what_it_is_to_reach_has_that_of_its_options(place) -> None:
    study = place.open()
    study.set_user_attr("provenance", {"options": {"backbone": ["test_resnet"], "trials": 4, "confirm": 0}})
    with lease(study):
        assert (status(study).trials_wanted, status(study).state) == (4, "running")
    study.set_user_attr("provenance", {})
    assert status(study).trials_wanted is None


def test_the_json_of_a_status_has_the_same_keys_whatever_the_state(place) -> None:
    foreign = optuna.create_study(study_name="foreign", storage=place.storage)
    empty = status_json(status(place.open()))
    with closing(place.start(2)) as events:
        next(event for event in events if isinstance(event, TrialEnded))
        next(event for event in events if isinstance(event, EpochDone))
        running = json.loads(json.dumps(status_json(status(place.open()))))
    assert list(running) == list(empty) == list(status_json(status(foreign)))
    assert list(running) == [
        "study",
        "state",
        "holder",
        "backbone",
        "data",
        "metric",
        "trials_done",
        "trials_wanted",
        "trials_at_most",
        "confirmed",
        "confirming",
        "guesses_waiting",
        "answer",
        "running",
        "full_fine_tunes",
        "seconds",
        "seconds_left",
        "command",
    ]
    assert running["state"] in STATES
    assert list(running["holder"]) == ["pid", "host", "doing"]
    assert list(running["answer"]) == ["cut", "backbone", "score", "standard_error", "n_trainings", "trial"]
    (trial,) = running["running"]
    assert list(trial) == ["number", "origin", "cut", "epoch", "epochs"]
    assert list(trial["cut"]) == ["index", "layer", "name", "kind", "keras_name"]


def test_control_is_public() -> None:
    assert depthsearch.request_stop is request_stop
    assert depthsearch.enqueue is enqueue
    assert depthsearch.status is status


# --- the commands -------------------------------------------------------------------------------


@pytest.fixture
def url(place) -> str:
    return f"sqlite:///{place.folder}/studies.db"


def test_where_a_row_is_too_wide_status_has_a_line_for_each_fact(place, url, capsys, monkeypatch) -> None:
    place.run(1)
    capsys.readouterr()
    monkeypatch.setattr(
        import_module("depthsearch.cli.commands.status"), "console_for", lambda: PlainConsole(width=60)
    )
    assert main(["status", "--storage", url]) == 0
    lines = capsys.readouterr().out.splitlines()
    facts = [line.split("│")[1:3] for line in lines if line.count("│") == 3]
    assert max(len(line) for line in lines if "│" in line) <= 60
    assert ["study", "s"] in [[part.strip() for part in fact] for fact in facts]
    assert ["trials", "1/1"] in [[part.strip() for part in fact] for fact in facts]


def test_the_status_of_all_studies_is_a_table_with_a_row_each(place, url, capsys) -> None:
    optuna.create_study(study_name="foreign", storage=place.storage)
    events = place.start(2)
    next(event for event in events if isinstance(event, TrialEnded))
    next(event for event in events if isinstance(event, EpochDone))
    assert main(["status", "--storage", url]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"│ foreign +│.*│ not +│|not depthsearch's", shown)
    assert "trial 1" in shown
    assert "1/2" in shown
    events.close()
    assert main(["status", "s", "--storage", url, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["storage"], [each["state"] for each in told["studies"]]) == (url, ["interrupted"])
    assert main(["status", "s", "--storage", url]) == 0
    assert "s goes on with the command that started it." in capsys.readouterr().out


def test_a_database_without_studies_says_how_to_begin(open_quick_storage, tmp_path, capsys) -> None:
    url = f"sqlite:///{tmp_path}/none.db"
    optuna.get_all_study_names(open_quick_storage(url))
    assert main(["status", "--storage", url]) == 0
    assert capsys.readouterr().out == f"No study in {url}. Begin one: depthsearch study --storage {url}\n"
    assert main(["status", "--storage", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"storage": url, "studies": []}


def test_a_guess_says_what_tries_it(place, url, capsys) -> None:
    def enqueued(cut: int) -> str:
        assert main(["enqueue", "s", "--layer", str(place.space.cuts[cut].layer), "--storage", url]) == 0
        return capsys.readouterr().out

    place.open()
    first = enqueued(3)
    assert re.match(r"Enqueued as trial 6: layer \d+ \(.*\), lr 0\.\d+, head linear\.\n", first)
    assert first.endswith("It is tried first by the next start of the study.\n")
    with closing(place.start(2)) as events:
        next(event for event in events if isinstance(event, TrialStarted))
        assert enqueued(5).endswith(
            f"It is tried next, by process {os.getpid()} on {socket.gethostname()}.\n"
        )
        assert (
            "The study has 2 trials, and all are taken: to try this one, start it again with --trials 3.\n"
            in enqueued(6)
        )
        list(events)


def interrupted(*_: object) -> bool:
    raise KeyboardInterrupt


def test_a_stop_that_takes_longer_than_one_waits_says_so(place, url, capsys) -> None:
    with closing(place.start(1)) as events:
        next(events)
        assert main(["stop", "--storage", url, "--wait", "0.1"]) == 2
        told = capsys.readouterr()
        asked = rf"Asked process {os.getpid()} on \S+ to stop study s after this epoch\.\n"
        assert re.fullmatch(asked, told.out)
        said = rf"depthsearch stop: process {os.getpid()} on \S+ still runs study 's' after 0\.1 s, .*\n"
        assert re.fullmatch(said, told.err)


@pytest.mark.parametrize(
    ("end", "status", "last"),
    [
        (lambda *_: True, 0, "Study s has stopped. To go on, run the command that started it."),
        (interrupted, 130, "Interrupted."),
    ],
)
def test_who_waits_for_a_stop_is_told_what_is_known_of_the_study(
    place, url, capsys, monkeypatch: pytest.MonkeyPatch, end, status: int, last: str
) -> None:
    monkeypatch.setattr(import_module("depthsearch.cli.commands.stop"), "wait_until_free", end)
    with closing(place.start(1)) as events:
        next(events)
        assert main(["stop", "--storage", url, "--wait", "60"]) == status
    told = capsys.readouterr()
    assert (told.out + told.err).splitlines()[-1] == last


def test_a_stop_and_a_guess_are_one_object_on_stdout_where_json_is_asked_for(place, url, capsys) -> None:
    def told(status: int, *argv: str) -> dict[str, Any]:
        assert main([*argv, "--storage", url, "--json"]) == status
        (line,) = capsys.readouterr().out.splitlines()
        return json.loads(line)

    cuts = [place.space.cuts[n] for n in (3, 5, 6)]
    layers = [("enqueue", "s", "--layer", str(cut.layer)) for cut in cuts]
    place.open()
    guess = told(0, *layers[0], "--learning-rate", "2e-3", "--head-width", "16", "--to-the-end")
    assert guess == {
        "study": "s",
        "trial": 6,
        "cut": cut_json(cuts[0]),
        "setting": {"learning_rate": 2e-3, "head_width": 16},
        "to_the_end": True,
        "when": "next start",
    }
    with closing(place.start(2)) as events:
        next(event for event in events if isinstance(event, TrialStarted))
        assert told(0, *layers[1])["when"] == "next"
        assert told(0, *layers[2])["when"] == "more trials"
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "doing": "study"}
        asked = {"study": "s", "after": "trial", "holder": holder}
        assert told(0, "stop", "--after", "trial") == {**asked, "stopped": None}
        assert told(2, "stop", "--after", "trial", "--wait", "0") == {**asked, "stopped": False}


def study_arguments(url: str, *, epochs: int) -> list[str]:
    options = "--backbone test_resnet --weights random --image-size 16 --trials 3 --pruner none"
    device = "--device cpu --precision float32 --name s --head-width 0 --confirm 0"
    return ["study", *options.split(), "--epochs", str(epochs), *device.split(), "--storage", url]


@pytest.mark.slow
def test_a_running_study_stops_on_request_and_goes_on_with_nothing_lost(
    tmp_path, capsys, open_quick_storage
) -> None:
    """Guards stop between processes, with its exit status."""
    url, other = (f"sqlite:///{tmp_path}/{name}.db" for name in ("stopped", "whole"))
    argv = study_arguments(url, epochs=4)
    command = [sys.executable, "-m", "depthsearch", *argv, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        number = None
        for line in process.stderr:
            number = line.split()[1] if line.startswith("trial ") else number
            if number == "1" and "epoch 1/4" in line:
                break
        assert main(["stop", "s", "--wait", "60", "--storage", url, "--json"]) == 0
        out, rest = process.communicate(timeout=60)
    assert process.returncode == 0
    asked = capsys.readouterr()
    assert "Study s has stopped" in asked.err
    assert json.loads(asked.out)["stopped"] is True
    assert json.loads(out)["stopped"] is True
    said, _, again = rest.splitlines()[-1].partition(" go on with: ")
    assert said == "Stopped on request. What is finished is kept;"
    assert "Traceback" not in rest
    study = optuna.load_study(study_name="s", storage=open_quick_storage(url))
    assert [trial.state.name for trial in study.get_trials()[:3]] == ["COMPLETE", "RUNNING", "WAITING"]
    assert main(["status", "--storage", url]) == 0
    assert "depthsearch study --backbone test_resnet" in capsys.readouterr().out
    assert main(["stop", "s", "--storage", url]) == 2
    assert capsys.readouterr().err == (
        "depthsearch stop: Nobody runs study 's': there is nothing to stop. "
        "Where it stands: depthsearch status.\n"
    )
    assert main(shlex.split(again)[1:]) == 0
    assert "trial 1 (baseline, continued)" in capsys.readouterr().err
    assert main(study_arguments(other, epochs=4)) == 0
    whole = optuna.load_study(study_name="s", storage=open_quick_storage(other))
    values = [[(t.params, t.intermediate_values) for t in each.get_trials()] for each in (study, whole)]
    assert values[0] == values[1]
    capsys.readouterr()
    assert main(["status", "--storage", url, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["studies"]
    assert (found["state"], found["answer"]["n_trainings"]) == ("complete", 1)


def test_the_report_of_a_study_that_has_not_begun_is_a_line(place, url, capsys) -> None:
    place.open()
    capsys.readouterr()
    assert main(["report", "--storage", url]) == 0
    assert capsys.readouterr().out == "Study s: no trial is complete yet.\n"


def test_the_report_says_which_trials_its_command_does_not_try(place, url, tmp_path, capsys) -> None:
    study = place.open()
    study.set_user_attr("provenance", {"options": {"backbone": ["test_resnet"], "trials": 1, "seed": 0}})
    number = enqueue(study, place.space.cuts[6].layer)
    place.run(1)
    assert main(["report", "--storage", url, "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    assert f"Not by that command: trials {number}, which somebody had it try" in text
    assert main(["enqueue", "s", "--layer", str(place.space.cuts[7].layer), "--storage", url]) == 0
    capsys.readouterr()
    assert main(["status", "--storage", url]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "1/1, 1 guess waiting" in shown
    assert "complete" in shown


def test_a_study_opened_in_python_has_no_options_to_note_bounds_in(place) -> None:
    """The command may go on with it."""
    study = place.open()
    before = dict(study.user_attrs["provenance"])
    note_bounds(study, StudyOptions(backbone="test_resnet", budget=2))
    assert study.user_attrs["provenance"] == before
    study.set_user_attr("provenance", {"options": {"backbone": ["test_resnet"], "budget": 1.0}})
    note_bounds(study, StudyOptions(backbone="test_resnet", budget=2))
    assert study.user_attrs["provenance"]["options"] == {
        "backbone": ["test_resnet"],
        "budget": 2.0,
        "timeout": None,
    }
