"""Workers in processes of their own: they search as one, and what one of them loses goes on elsewhere."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import torch
from optuna.trial import TrialState

from depthsearch.devices import Device, choose_device, release_memory
from depthsearch.errors import DataError, DivergedError, SettingsError, StudyError
from depthsearch.features import Budget
from depthsearch.seeds import seed_from
from depthsearch.study import (
    EpochDone,
    Stopped,
    TrialEnded,
    TrialLost,
    TrialStarted,
    confirm,
    open_study,
    request_stop,
    search,
)
from depthsearch.study.choosing.confirmation import CONFIRMATION
from depthsearch.study.choosing.lost import replaced
from depthsearch.study.storage.optuna_private import storage_of, trial_id_of
from depthsearch.training import objective, task as task_module
from depthsearch.training.outcomes import EpochResult, TransferCurve
from depthsearch.training.task import Task
from depthsearch.workers import (
    Ended,
    Failed,
    InProcess,
    Job,
    LocalProcesses,
    Lost,
    Probing,
    Report,
    Training,
    WorkerPlan,
    plan_workers,
    run_job,
)
from depthsearch.workers.gpu import check_room, peak_bytes, refuse_too_many

# Of the task `longer`.
EPOCHS = 3
CURVE = TransferCurve(points=(), macs=0, seconds=0.0, kept_bytes=0)


def scored(job: Training) -> Iterator[EpochResult]:
    """Give what a training of a few milliseconds would: scores that the cut and the seed decide."""
    done = int(job.checkpoint.read_text()) if job.checkpoint and job.checkpoint.exists() else 0
    for epoch in range(1, EPOCHS + 1):
        if epoch > done:
            time.sleep(0.02)
            assert job.checkpoint is not None
            job.checkpoint.parent.mkdir(parents=True, exist_ok=True)
            job.checkpoint.write_text(str(epoch))
        score = job.point.cut.frozen_mac_share + epoch / 100 + job.seed % 1000 / 1e6
        costs = dict.fromkeys(("prefix_macs", "forward_macs", "backward_macs", "plain_macs"), 1)
        yield EpochResult(
            epoch=epoch,
            train_loss=0.5,
            val_loss=0.5,
            score=score,
            seconds=0.02,
            images_per_second=1.0,
            kept_bytes=0,
            read_bytes=0,
            **costs,
        )


def pretend(tasks: Mapping[str, Task], job: Job) -> Iterator[Report]:
    """Do a job without training anything."""
    if isinstance(job, Probing):
        yield CURVE
        return
    yield from scored(job)
    yield Ended()


def die_at_two(tasks: Mapping[str, Task], job: Job) -> Iterator[Report]:
    """Kill the worker after the first epoch of trial 2, the first time, and after each of trial 3."""
    for report in pretend(tasks, job):
        yield report
        if isinstance(job, Training) and isinstance(report, EpochResult):
            assert job.checkpoint is not None
            been = job.checkpoint.with_suffix(".died")
            if (job.key == 2 and not been.exists()) or job.key == 3:
                been.touch()
                os.kill(os.getpid(), signal.SIGKILL)


def hang_at_one(tasks: Mapping[str, Task], job: Job) -> Iterator[Report]:
    """Stop the worker in trial 1, the first time; stopped, it is alive and computes nothing."""
    for report in pretend(tasks, job):
        yield report
        if job.key == 1 and isinstance(job, Training):
            assert job.checkpoint is not None
            been = job.checkpoint.with_suffix(".hung")
            if not been.exists():
                been.touch()
                os.kill(os.getpid(), signal.SIGSTOP)


def fail_by_number(tasks: Mapping[str, Task], job: Job) -> Iterator[Report]:
    """Trial 2 diverges, trial 3 has too little memory, trial 4 meets a disk that is gone, trial 5 a bug."""
    errors: dict[int | str, Exception] = {
        2: DivergedError("training loss nan in epoch 1"),
        3: torch.OutOfMemoryError("CUDA out of memory. Tried"),
        4: OSError(5, "Input/output error"),
        5: RuntimeError("a bug"),
    }
    kinds = {2: "diverged", 3: "memory", 4: "system", 5: "bug"}
    if job.key in errors:
        yield Failed(kind=kinds[int(job.key)], reason=str(errors[job.key]), error=errors[job.key])
    else:
        yield from pretend(tasks, job)


@pytest.fixture
def start(longer, space, tmp_path, open_quick_storage) -> Iterator[Callable[..., Iterator[Any]]]:
    """Search with workers that run a function in place of trainings."""
    storage = open_quick_storage(f"sqlite:///{tmp_path}/studies.db")
    with contextlib.ExitStack() as stack:

        def start_(run: Any, n_trials: int, n_workers: int = 3, **options: Any) -> Iterator[Any]:
            study = open_study(storage, "s", longer, space, {})
            plans = plan_workers(longer.device, n_workers)
            executor = stack.enter_context(
                contextlib.closing(LocalProcesses({"": longer}, plans, run=run, **options))
            )
            names = {"sampler": "tpe", "pruner": "none", "checkpoints": tmp_path / "checkpoints"}
            return search(study, longer, space, n_trials=n_trials, executor=executor, **names)

        yield start_


@pytest.fixture
def trials(longer, space, tmp_path, open_quick_storage) -> Callable[[], list[optuna.trial.FrozenTrial]]:
    return lambda: open_study(
        open_quick_storage(f"sqlite:///{tmp_path}/studies.db"), "s", longer, space, {}
    ).get_trials()


# --- they search as one -------------------------------------------------------------------------


@pytest.mark.slow
def test_workers_train_different_trials_at_once_and_each_once(start, trials) -> None:
    """Guards contract 6 with several workers."""
    events = list(start(pretend, 12))
    started = [event for event in events if isinstance(event, TrialStarted)]
    ended = [event for event in events if isinstance(event, TrialEnded)]
    assert sorted(event.number for event in started) == list(range(12))
    assert sorted(event.number for event in ended) == list(range(12))
    assert {event.worker for event in started} == {"worker 1", "worker 2", "worker 3"}
    running = itertools.accumulate(
        isinstance(e, TrialStarted) - isinstance(e, TrialEnded)
        for e in events
        if not isinstance(e, EpochDone)
    )
    assert max(running) == 3
    assert {trial.state for trial in trials()} == {TrialState.COMPLETE}
    assert [list(trial.intermediate_values) for trial in trials()] == [[1, 2, 3]] * 12
    assert len({tuple(sorted(trial.params.items())) for trial in trials()}) == 12


@pytest.mark.slow
def test_workers_train_what_one_process_trains_to_the_bit(
    longer, space, tmp_path, open_quick_storage
) -> None:
    """Every candidate once, then the best again with two seeds: the same scores, losses and answer."""
    found = []
    for name in ("here", "there"):
        study = open_study(
            open_quick_storage(f"sqlite:///{tmp_path}/{name}.db"), "s", longer, space, {}, exhaustive=True
        )
        made = (
            InProcess({"": longer})
            if name == "here"
            else LocalProcesses({"": longer}, plan_workers(longer.device, 2))
        )
        with contextlib.closing(made) as executor:
            where: dict[str, Any] = {"checkpoints": tmp_path / name, "executor": executor}
            n_trials = len(space.cuts)
            list(search(study, longer, space, n_trials=n_trials, sampler="tpe", pruner="none", **where))
            list(confirm(study, longer, space, n_cuts=2, n_seeds=2, **where))
        trials = sorted(study.get_trials(), key=lambda trial: trial.number)
        results = [
            [(r["score"], r["val_loss"], r["train_loss"]) for r in t.user_attrs["results"]] for t in trials
        ]
        found.append(([t.params for t in trials], [t.value for t in trials], results))
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_stop_lets_every_worker_end_its_epoch_and_the_next_start_adopts_all(
    start, trials, longer, space, tmp_path, open_quick_storage
) -> None:
    """Guards contract 6 for a stop while several workers train."""
    stored = open_study(open_quick_storage(f"sqlite:///{tmp_path}/studies.db"), "s", longer, space, {})
    events = []
    for event in start(pretend, 12):
        events.append(event)
        if isinstance(event, EpochDone) and (event.number, event.result.epoch) == (4, 1):
            request_stop(stored)
    assert isinstance(events[-1], Stopped)
    left = [trial for trial in trials() if trial.state == TrialState.RUNNING]
    # One that a worker had not begun when the stop came has no epoch.
    assert any(trial.intermediate_values for trial in left)
    again = list(start(pretend, 12))
    adopted = {event.number for event in again if isinstance(event, TrialStarted) and event.adopted}
    assert adopted == {trial.number for trial in left}
    assert Counter(trial.state for trial in trials()) == {TrialState.COMPLETE: 12}
    assert [list(trial.intermediate_values) for trial in trials()] == [[1, 2, 3]] * 12


# --- what is lost goes on -----------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_worker_costs_an_epoch_and_a_deadly_trial_fails_in_the_end(start, trials) -> None:
    """Guards what a lost worker costs. Processes start."""
    events = list(start(die_at_two, 6))
    lost = [event for event in events if isinstance(event, TrialLost)]
    assert Counter(event.number for event in lost) == {2: 1, 3: 2}
    assert lost[0].reason.endswith("was ended by SIGKILL (the system kills what takes too much memory)")
    found = trials()
    assert [trial.number for trial in found] == list(range(len(found)))
    assert [trial.state.name for trial in found[:6]] == ["COMPLETE"] * 3 + ["FAIL"] + ["COMPLETE"] * 2
    assert found[3].user_attrs["reason"].startswith("lost its worker 3 times: worker ")
    assert found[3].value is None
    # It went on behind the epoch that was reported.
    assert [(e.number, e.adopted) for e in events if isinstance(e, TrialStarted) and e.number == 2] == [
        (2, False),
        (2, True),
    ]
    assert list(found[2].intermediate_values) == [1, 2, 3]
    assert [result["epoch"] for result in found[2].user_attrs["results"]] == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="stops a process as Linux does")
def test_a_worker_that_hangs_is_ended_and_its_trial_goes_on(start, trials) -> None:
    """Guards against workers that hang. Processes start and are stopped."""
    events = list(start(hang_at_one, 4, hung_seconds=1.5))
    (lost,) = (event for event in events if isinstance(event, TrialLost))
    assert (lost.number, lost.n_lost) == (1, 1)
    assert lost.reason.endswith("it computed nothing for 1.5 s and was ended")
    assert {trial.state for trial in trials()[:4]} == {TrialState.COMPLETE}


def test_failures_are_told_for_what_they_are(start, trials) -> None:
    with pytest.raises(StudyError, match=r"^Trial 4 stopped: \[Errno 5\] Input/output error\. Mend that and"):
        list(start(fail_by_number, 5, n_workers=1))
    states = [trial.state.name for trial in trials()]
    # With one worker there is nobody beside it who takes the memory.
    assert states == ["COMPLETE", "COMPLETE", "PRUNED", "FAIL", "RUNNING", "WAITING"]
    assert trials()[2].user_attrs["diverged"]
    assert trials()[3].user_attrs["reason"] == "CUDA out of memory. Tried"


def test_a_bug_surfaces_with_its_traceback(start, trials) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)^a bug\nIn the worker:.*RuntimeError: a bug"):
        list(start(fail_at_five, 6, n_workers=2))
    assert trials()[5].state == TrialState.FAIL


def fail_at_five(tasks: Mapping[str, Task], job: Job) -> Iterator[Report]:
    yield from (fail_by_number if job.key == 5 else pretend)(tasks, job)


def short_of_memory(tasks: Mapping[str, Task], job: Job) -> Iterator[Report]:
    """Trial 1 has too little memory at first, trial 2 always."""
    if job.key in (1, 2):
        assert isinstance(job, Training)
        assert job.checkpoint is not None
        been = job.checkpoint.with_suffix(".full")
        assert job.is_alone == been.exists()
        if job.key == 2 or not been.exists():
            been.parent.mkdir(parents=True, exist_ok=True)
            been.touch()
            yield Failed(kind="memory", reason="out of memory on cuda", error=MemoryError())
            return
    yield from pretend(tasks, job)


@pytest.mark.slow
def test_what_has_too_little_memory_beside_others_goes_on_alone(start, trials) -> None:
    """Guards the way back from too little memory. Processes start."""
    events = list(start(short_of_memory, 6, n_workers=2))
    numbers = [(type(e).__name__, e.number) for e in events if isinstance(e, TrialStarted | TrialEnded)]
    # Each after all others, and one after the other.
    assert numbers[-4:] == [("TrialStarted", 1), ("TrialEnded", 1), ("TrialStarted", 2), ("TrialEnded", 2)]
    assert trials()[1].state == TrialState.COMPLETE
    assert (trials()[2].state, trials()[2].user_attrs["reason"]) == (TrialState.FAIL, "out of memory on cuda")
    assert not any("lost" in trial.user_attrs for trial in trials())


def probe_short_of_memory(tasks: Mapping[str, Task], job: Job) -> Iterator[Report]:
    """A probing has too little memory beside others."""
    if isinstance(job, Probing) and not job.is_alone:
        yield Failed(kind="memory", reason="out of memory on cuda", error=MemoryError())
    else:
        yield from pretend(tasks, job)


@pytest.mark.slow
def test_a_probing_that_has_too_little_memory_is_done_alone(start, trials) -> None:
    """Guards a probe that fits only where nothing else runs."""
    events = list(start(probe_short_of_memory, 6, n_workers=2))
    kinds = [type(event).__name__ for event in events]
    assert kinds.index("CurveDrawn") > max(i for i, kind in enumerate(kinds) if kind == "TrialEnded")
    assert [trial.state for trial in trials()] == [TrialState.COMPLETE] * 6


def never_probed(tasks: Mapping[str, Task], job: Job) -> Iterator[Report]:
    if isinstance(job, Probing):
        yield Failed(kind="memory", reason="out of memory on cuda", error=MemoryError())
    else:
        yield from pretend(tasks, job)


def test_a_probing_that_has_too_little_memory_alone_stops_the_study(start) -> None:
    with pytest.raises(StudyError, match=r"^The frozen features could not be probed: out of memory on cuda"):
        list(start(never_probed, 2, n_workers=2))


@pytest.mark.slow
def test_a_training_that_needs_all_memory_has_no_idle_process_beside_it(longer, space, tmp_path) -> None:
    """Guards that idle workers hold no memory. Processes start."""
    with contextlib.closing(
        LocalProcesses({"": longer}, plan_workers(longer.device, 2), run=pretend)
    ) as made:
        while not made.all_ready:
            made.wait(0.1)
        before = made.pids
        made.start(training(space, 1, tmp_path))
        assert made.pids == before
        made.drop()
        while not made.all_ready:
            made.wait(0.1)
        before = made.pids
        made.start(replace(training(space, 2, tmp_path), is_alone=True))
        ended = [psutil.Process(pid) for pid in before if psutil.pid_exists(pid)]
        assert ended == []
        while not (reports := made.wait(60)):
            pass
        assert isinstance(reports[0][1], EpochResult)


def lose_the_gpu(tasks: Mapping[str, Task], job: Job) -> Iterator[Report]:
    """The GPU fails under trial 1, and its process can do nothing more."""
    if job.key == 1 and isinstance(job, Training):
        assert job.checkpoint is not None
        been = job.checkpoint.with_suffix(".failed")
        if not been.exists():
            been.parent.mkdir(parents=True, exist_ok=True)
            been.write_text(str(os.getpid()))
            yield Failed(kind="device", reason="CUDA error: unspecified launch failure", error=RuntimeError())
            return
        assert been.read_text() != str(os.getpid())
    yield from pretend(tasks, job)


@pytest.mark.slow
def test_a_gpu_that_fails_costs_its_process_and_the_trial_goes_on(start, trials) -> None:
    """Guards against GPUs that fail. Processes start and end."""
    events = list(start(lose_the_gpu, 4))
    (lost,) = (event for event in events if isinstance(event, TrialLost))
    assert (lost.number, lost.n_lost) == (1, 1)
    assert lost.reason.endswith(": CUDA error: unspecified launch failure")
    assert {trial.state for trial in trials()[:4]} == {TrialState.COMPLETE}


def test_a_gpu_that_fails_under_the_only_process_stops_the_study(
    longer, space, tmp_path, open_quick_storage
) -> None:
    study = open_study(open_quick_storage(f"sqlite:///{tmp_path}/s.db"), "s", longer, space, {})
    executor = InProcess({"": longer}, run=lose_the_gpu)
    options = {"sampler": "tpe", "pruner": "none", "checkpoints": tmp_path, "executor": executor}
    with pytest.raises(StudyError, match=r"^Trial 1 stopped: CUDA error: unspecified launch failure\. Mend"):
        list(search(study, longer, space, n_trials=4, **options))
    assert study.trials[1].state == TrialState.RUNNING


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (
            getattr(torch, "AcceleratorError", RuntimeError)("CUDA error: unspecified launch failure"),
            "device",
        ),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "device"),
        (RuntimeError("CUDA error: out of memory"), "memory"),
        (torch.OutOfMemoryError("CUDA out of memory."), "memory"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "bug"),
        (OSError(5, "Input/output error"), "system"),
    ],
)
def test_an_error_is_told_for_what_it_is(longer, space, tmp_path, monkeypatch, error, kind) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr("depthsearch.workers.jobs.train_point", fail)
    (failed,) = run_job({"": longer}, training(space, 1, tmp_path))
    assert isinstance(failed, Failed)
    assert failed.kind == kind


@pytest.mark.slow
def test_a_trial_whose_last_loss_was_not_told_is_ended_by_the_next_start(
    start, trials, longer, space, tmp_path, open_quick_storage
) -> None:
    """Guards trials whose workers died unheard. Processes start and are killed."""
    stored = open_study(open_quick_storage(f"sqlite:///{tmp_path}/studies.db"), "s", longer, space, {})
    for event in start(pretend, 2):
        if isinstance(event, EpochDone) and event.number == 1:
            break
    (left,) = [trial for trial in trials() if trial.state == TrialState.RUNNING and trial.number == 1]
    reasons = ["worker 1: one", "worker 2: two", "three"]
    storage_of(stored).set_trial_user_attr(trial_id_of(stored, left.number), "lost", reasons)
    events = list(start(pretend, 2))
    # Told from its start, though nothing of it is trained: who follows knows it by that.
    told = [event for event in events if isinstance(event, TrialStarted | TrialEnded) and event.number == 1]
    assert [type(event) for event in told] == [TrialStarted, TrialEnded]
    assert told[0].adopted
    assert not any(isinstance(event, EpochDone) and event.number == 1 for event in events)
    assert trials()[1].state == TrialState.FAIL
    assert trials()[1].user_attrs["reason"] == "lost its worker 3 times: three"


def die_at_once(tasks: Mapping[str, Task], job: Job) -> Iterator[Report]:
    """Kill the worker of the first baseline, and of the first training of a confirmation, three times."""
    if isinstance(job, Training) and (job.key == 0 or job.seed == FIRST_SEED):
        assert job.checkpoint is not None
        died = job.checkpoint.parent.parent / f"died-{job.seed}"
        died.parent.mkdir(parents=True, exist_ok=True)
        # One trial of all that have this seed, and only it.
        victims = [*died.read_text().split(), str(job.key)] if died.exists() else [str(job.key)]
        if len(victims) <= 3 and len(set(victims)) == 1:
            died.write_text(" ".join(victims))
            os.kill(os.getpid(), signal.SIGKILL)
    yield from pretend(tasks, job)


FIRST_SEED = seed_from(0, 0, CONFIRMATION)


@pytest.mark.slow
def test_what_failed_by_lost_workers_and_must_not_be_missing_is_trained_by_the_next_start(
    longer, space, tmp_path, open_quick_storage
) -> None:
    """Guards that ends are not missing for good. Processes start and are killed."""
    study = open_study(open_quick_storage(f"sqlite:///{tmp_path}/s.db"), "s", longer, space, {})
    where = {"checkpoints": tmp_path / "checkpoints"}
    plans = plan_workers(longer.device, 2)
    with contextlib.closing(LocalProcesses({"": longer}, plans, run=die_at_once)) as executor:

        def go_on() -> None:
            options = {"n_trials": 6, "sampler": "tpe", "pruner": "none", "executor": executor}
            list(search(study, longer, space, **options, **where))

        go_on()
        assert study.trials[0].state == TrialState.FAIL
        go_on()
        (again,) = study.trials[6:]
        assert (again.params, again.state) == (study.trials[0].params, TrialState.COMPLETE)
        assert again.user_attrs["origin"] == "baseline"
        go_on()
        assert len(study.trials) == 7
        for n_trainings in (2 * 2, 2 * 2 + 1):
            list(
                confirm(study, longer, space, n_cuts=1, n_seeds=2, resample=True, executor=executor, **where)
            )
            confirming = [t for t in study.trials if t.user_attrs.get("origin") == "confirm"]
            assert len(confirming) >= n_trainings
            # The search is done, whatever a confirmation has lost or trained in its place.
            go_on()
            assert len(study.trials) == 7 + len(confirming)
    # Both ends and the best, with each seed.
    done = Counter(
        (t.user_attrs["confirms"], t.user_attrs["seed"]) for t in confirming if t.value is not None
    )
    assert set(done.values()) == {1}
    assert len(done) == 2 * len({number for number, _ in done})


def test_a_confirmation_has_its_place_taken_by_one_of_the_same_seed_only() -> None:
    def stored(number: int, state: TrialState, **attributes: Any) -> optuna.trial.FrozenTrial:
        lost = {"lost": ["one", "two", "three"]} if state == TrialState.FAIL else {}
        value = 0.5 if state == TrialState.COMPLETE else None
        attributes = {"origin": "confirm", "confirms": 0, "resample": False, **attributes, **lost}
        trial = optuna.trial.create_trial(state=state, value=value, user_attrs=attributes)
        trial.number = number
        return trial

    failed = stored(3, TrialState.FAIL, seed=0)
    others = [
        stored(4, TrialState.COMPLETE, seed=1),
        stored(5, TrialState.COMPLETE, seed=0, resample=True),
        stored(6, TrialState.COMPLETE, seed=0, confirms=1),
    ]
    assert replaced([failed, *others]) == set()
    assert replaced([failed, *others, stored(7, TrialState.COMPLETE, seed=0)]) == {3}


def test_a_dropped_job_is_forgotten_and_its_worker_serves_the_next(longer, space, tmp_path) -> None:
    with contextlib.closing(
        LocalProcesses({"": longer}, plan_workers(longer.device, 1), run=pretend)
    ) as made:
        for key in (7, 8):
            made.start(training(space, key, tmp_path))
            (_, report), *_ = made.wait(60)
            assert isinstance(report, EpochResult)
            made.drop()
        assert made.wait(0) == []
        made.start(training(space, 10, tmp_path))
        with pytest.raises(RuntimeError, match="no worker is free for job 11"):
            made.start(training(space, 11, tmp_path))


def training(space: Any, key: int, folder: Path) -> Training:
    point = space.point(dict(cut=0, learning_rate=1e-3, head_width=0))
    return Training(
        key=key, point=point, seed=key, split_seed=None, checkpoint=folder / f"{key}.pt", upcoming={}
    )


def test_workers_that_cannot_start_are_waited_for_and_then_named(longer, space, tmp_path) -> None:
    broken = replace(longer, data=Unreadable())
    made = LocalProcesses({"": broken}, plan_workers(longer.device, 2), run=pretend, patience_seconds=1.0)
    made.start(training(space, 0, tmp_path))
    with (
        contextlib.closing(made),
        pytest.raises(StudyError, match=r"^worker \d cannot be started: the images are gone\. Mend that and"),
    ):
        made.wait(60)


@pytest.mark.slow
def test_a_worker_that_hangs_before_it_can_work_is_ended_too(longer, space, tmp_path) -> None:
    """Guards the start of workers, where no job's clock runs."""
    silent = replace(longer, data=Silent())
    plans = plan_workers(longer.device, 1)
    made = LocalProcesses({"": silent}, plans, run=pretend, hung_seconds=1.0, patience_seconds=1.0)
    made.start(training(space, 0, tmp_path))
    message = r"^worker 1 cannot be started: it computed nothing for 1 s and was ended\. Mend that"
    with contextlib.closing(made), pytest.raises(StudyError, match=message):
        made.wait(60)


class Silent:
    """A data set on a disk that does not answer."""

    def __reduce__(self) -> Any:
        return time.sleep, (600,)


def test_a_job_that_nobody_has_begun_can_be_taken_back(longer, space, tmp_path) -> None:
    silent = replace(longer, data=Silent())
    with contextlib.closing(LocalProcesses({"": silent}, plan_workers(longer.device, 1))) as made:
        made.start(training(space, 0, tmp_path))
        assert not made.withdraw(1)
        assert made.withdraw(0)
        made.start(training(space, 2, tmp_path))


class Unreadable:
    """A data set whose file another process cannot read."""

    def __reduce__(self) -> Any:
        return gone, ()


def gone() -> None:
    raise DataError("the images are gone")


def test_a_worker_that_cannot_start_holds_no_job(longer, space, tmp_path, monkeypatch, caplog) -> None:
    spawn = LocalProcesses._spawn

    def spawn_first(self: LocalProcesses, worker: Any) -> None:
        if worker.plan.name == "worker 2":
            self._failed_to_start(worker, "its GPU is in use")
        else:
            spawn(self, worker)

    monkeypatch.setattr(LocalProcesses, "_spawn", spawn_first)
    plans = plan_workers(longer.device, 2)
    made = LocalProcesses({"": longer}, plans, run=pretend, patience_seconds=30.0)
    with contextlib.closing(made):
        made.start(training(space, 1, tmp_path))
        made.start(training(space, 2, tmp_path))
        with pytest.raises(RuntimeError, match="no worker is free for job 3"):
            made.start(training(space, 3, tmp_path))
        ended = []
        while len(ended) < 2:
            for key, report in made.wait(60):
                # One worker is ready: the other may be tried for as long as it likes.
                made.patience_seconds = 0.0
                if isinstance(report, EpochResult):
                    made.answer(key, go_on=True)
                else:
                    ended.append((key, report))
    assert sorted(ended, key=lambda each: each[0]) == [(1, Ended()), (2, Ended())]
    assert [r.getMessage() for r in caplog.records] == ["worker 2 cannot be started yet: its GPU is in use"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux tells of a process")
def test_a_terminal_s_interrupt_is_not_heard_by_workers_that_start(longer) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with contextlib.closing(LocalProcesses({"": longer}, plan_workers(longer.device, 1))) as made:
        (pid,) = made.pids
        for process in (psutil.Process(pid), psutil.Process(pid).parent()):
            assert process is not None
            assert process.pid != os.getpid()
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            blocked = next(line for line in status.splitlines() if line.startswith("SigBlk"))
            assert int(blocked.split()[1], 16) >> (signal.SIGINT - 1) & 1
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


@pytest.mark.slow
def test_workers_end_with_the_process_that_made_them_and_leave_no_memory_behind(tmp_path: Path) -> None:
    """Guards /dev/shm after a SIGKILL of the coordinator."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "features.npy").touch()
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from types import SimpleNamespace as Plain\n"
        "from depthsearch.workers import LocalProcesses, WorkerPlan\n"
        "if __name__ == '__main__':\n"
        "    plans = [WorkerPlan(name=str(n), gpu=None, threads=1) for n in range(2)]\n"
        "    task = Plain(budget=Plain(shared_folder=Path(__file__).parent / 'shared'))\n"
        "    made = LocalProcesses({'': task}, plans)\n"
        "    while not made.all_ready:\n"
        "        made.wait(0.1)\n"
        "    print(*made.pids, flush=True)\n"
        "    time.sleep(600)\n"
    )
    (tmp_path / "made.py").write_text(code)
    with subprocess.Popen([sys.executable, tmp_path / "made.py"], stdout=subprocess.PIPE, text=True) as made:
        assert made.stdout is not None
        workers = [psutil.Process(int(pid)) for pid in made.stdout.readline().split()]
        made.kill()
    assert len(workers) == 2
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []
    assert not (tmp_path / "shared").exists()


# --- where they compute -------------------------------------------------------------------------


def test_gpus_are_dealt_out_and_cores_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Device(kind="cuda", bf16=True, channels_last=True)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("depthsearch.workers.plans.usable_cores", lambda: 16)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [(plan.gpu, plan.threads) for plan in plan_workers(cuda)] == [(0, 8), (1, 8)]
    assert [(plan.gpu, plan.threads) for plan in plan_workers(cuda, 3)] == [(0, 5), (1, 5), (0, 5)]
    assert plan_workers(cuda, 3)[2].name == "worker 3 on GPU 0"
    cpu = Device(kind="cpu", bf16=False, channels_last=True)
    assert plan_workers(cpu) == (WorkerPlan(name="worker 1", gpu=None, threads=16),)
    assert [plan.threads for plan in plan_workers(cpu, 32)] == [1] * 32
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [plan.threads for plan in plan_workers(cpu, 4)] == [3] * 4


def test_one_mps_device_is_not_shared() -> None:
    with pytest.raises(SettingsError, match=r"^--workers 2 cannot share the one mps device\. Give"):
        plan_workers(Device(kind="mps", bf16=False, channels_last=False), 2)


@pytest.mark.parametrize(
    ("free", "advice"),
    [
        (3.5, "Give fewer --workers, 3 a GPU, or"),
        (1.5, "Give fewer --workers, one worker a GPU, or"),
        (0.5, "Give fewer --workers, a smaller --batch-size than 64, or"),
    ],
)
def test_more_workers_than_a_gpu_has_room_for_are_refused(free: float, advice: str) -> None:
    gib = 2**30
    refuse_too_many(4, each_bytes=gib, free_bytes=4 * gib, batch_size=64)
    with pytest.raises(
        SettingsError, match=rf"^4 workers on a GPU need 4\.0 GiB, .* {free} GiB are free.*{advice}"
    ):
        refuse_too_many(4, each_bytes=gib, free_bytes=int(free * gib), batch_size=64)


def test_the_fullest_gpu_and_what_all_backbones_keep_decide_on_the_room(longer, space, monkeypatch) -> None:
    gib = 2**30
    free = {0: 9 * gib, 1: 6 * gib}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (free[gpu], 80 * gib))
    monkeypatch.setattr("depthsearch.workers.gpu.peak_bytes", lambda *_: gib)
    budget = Budget(memory_bytes=0, device_bytes=gib, disk_bytes=0, folder=Path())
    tasks = {name: replace(longer, budget=budget) for name in "ab"}
    plans = [WorkerPlan(name=str(n), gpu=n % 2, threads=1) for n in range(6)]
    with pytest.raises(SettingsError, match=r"need 4\.8 GiB, .* 4\.0 GiB are free beside kept features"):
        check_room(tasks, space, plans)
    check_room(tasks, space, plans[:4])
    check_room(tasks, space, plans[:2])


def test_nothing_is_left_of_what_was_measured(longer, space, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the trained weights nor the frozen copy beside them, which refer to themselves."""
    made, alive = [], []

    def noted(make):
        def make_and_note(*given, **named):
            model = make(*given, **named)
            module = getattr(model, "module", model)
            made.extend(weakref.ref(each) for each in (module, *module.parameters()))
            return model

        return make_and_note

    def release() -> None:
        release_memory()
        alive.append([found for found in made if found() is not None])

    for module, name in ((objective, "suffix_of"), (task_module, "FrozenBackbone")):
        monkeypatch.setattr(module, name, noted(getattr(module, name)))
    monkeypatch.setattr("depthsearch.workers.gpu.release_memory", release)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 7)
    n_weights = len(list(longer.backbone.model.parameters()))
    assert peak_bytes(longer, space, "") == 7
    assert len(made) > 2 * n_weights
    assert alive == [[]]


@pytest.mark.gpu
def test_what_training_everything_takes_of_a_gpu_is_measured(longer, space) -> None:
    on_gpu = replace(longer, device=choose_device("cuda"))
    n_bytes = sum(4 * parameter.numel() for parameter in longer.backbone.model.parameters())
    # Weights, gradients and two moments at the least.
    assert peak_bytes(on_gpu, space, "") > 4 * n_bytes


def test_here_or_there_a_job_gives_the_same_reports(longer, space, tmp_path) -> None:
    """A real training of a few digits, with the report of its end."""
    reports = []
    here = InProcess({"": longer})
    with contextlib.closing(LocalProcesses({"": longer}, plan_workers(longer.device, 1))) as there:
        for number, executor in enumerate((here, there)):
            executor.start(training(space, 3, tmp_path / str(number)))
            seen = []
            while not seen or isinstance(seen[-1], EpochResult):
                for key, report in executor.wait(60):
                    seen.append(report)
                    if isinstance(report, EpochResult):
                        executor.answer(key, go_on=True)
            reports.append(seen)
    told = [
        [(r.score, r.val_loss, r.train_loss) if isinstance(r, EpochResult) else r for r in seen]
        for seen in reports
    ]
    assert told[0] == told[1]
    assert told[0][-1] == Ended()


def test_a_job_that_fails_says_how(longer, space, tmp_path) -> None:
    wild = replace(
        training(space, 1, tmp_path), point=replace(training(space, 1, tmp_path).point, learning_rate=1e39)
    )
    *_, failed = run_job({"": longer}, wild)
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.reason[:24]) == ("diverged", "diverged: training loss ")
    assert not isinstance(failed, Lost)
