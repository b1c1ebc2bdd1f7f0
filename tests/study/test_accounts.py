"""The accounts that benchmarks print of faults and of several workers can fail."""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from benchmarks.faults import campaign as faults
from benchmarks.faults.campaign import Account, Bench, Disturbed, Scene
from benchmarks.speed import workers

CLEAN = Account(
    made=3, needed=3, crashed=0, finished=22, lost=0, doubled=0, stuck=0, different=0, same_answer=True
)


def scene_in(folder: Path) -> Scene:
    """A place where nothing runs yet."""
    return Scene(
        folder=folder,
        photos=folder / "photos",
        storage=f"sqlite:///{folder}/studies.db",
        workers=2,
        epochs=1,
        rates="1e-3",
    )


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return scene_in(tmp_path)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch):
    """Have a line of Python run in place of a study, each start another; the last one ever again."""

    def set_up(*lines: str) -> None:
        def start(scene: Scene) -> None:
            line = lines[min(scene.n_starts, len(lines) - 1)]
            scene.process = subprocess.Popen([sys.executable, "-c", line])
            scene.n_starts += 1

        monkeypatch.setattr(Scene, "start", start)
        monkeypatch.setattr(faults, "RESTART_SECONDS", 0.0)

    return set_up


def run_to_end(scene: Scene) -> Scene:
    scene.start()
    while not scene.has_ended():
        pass
    return scene


# --- faults ---------------------------------------------------------------------------------------


def test_an_account_of_all_that_was_to_happen_is_clean() -> None:
    assert CLEAN.is_clean
    assert replace(CLEAN, made=51, needed=1).is_clean


@pytest.mark.parametrize(
    "change",
    [
        {"made": 0},
        {"made": 2},
        {"crashed": 1},
        {"lost": 1},
        {"doubled": 1},
        {"stuck": 1},
        {"different": 1},
        {"same_answer": False},
    ],
    ids=str,
)
def test_an_account_with_anything_else_is_not_clean(change: dict[str, int]) -> None:
    assert not replace(CLEAN, **change).is_clean


@pytest.mark.parametrize(
    "line", ["raise SystemExit(1)", "raise SystemExit(2)", "import os; os.kill(os.getpid(), 9)"]
)
def test_a_coordinator_that_ends_by_itself_has_crashed_and_is_started_again(runs, scene, capfd, line) -> None:
    runs(f"print('its last words', flush=True); {line}", "pass")
    scene.output.write_text("its last words\n")
    run_to_end(scene)
    assert (scene.n_starts, scene.n_crashes) == (2, 1)
    assert "its last words" in capfd.readouterr().err


def test_a_coordinator_that_was_killed_has_not_crashed(runs, scene) -> None:
    runs("import time; time.sleep(60)", "pass")
    scene.start()
    assert scene.kill_coordinator()
    while not scene.has_ended():
        pass
    assert (scene.n_starts, scene.n_crashes, scene.n_kills["coordinator"]) == (2, 0, 1)


def test_who_ended_just_before_was_not_killed(runs, scene) -> None:
    runs("raise SystemExit(1)", "pass")
    scene.start()
    assert scene.process is not None
    scene.process.wait()
    assert not scene.kill_coordinator()
    while not scene.has_ended():
        pass
    assert (scene.n_crashes, scene.n_kills["coordinator"]) == (1, 0)


def test_a_coordinator_may_refuse_only_while_files_are_gone(runs, scene) -> None:
    runs("raise SystemExit(2)", "import time; time.sleep(60)")
    scene.start()
    faults.start_without_files(scene, 0.0)
    assert (scene.n_refusals, scene.n_crashes, scene.may_refuse) == (1, 0, False)


def test_a_coordinator_that_crashes_each_time_is_given_up(runs, scene) -> None:
    runs("raise SystemExit(1)")
    with pytest.raises(RuntimeError, match="not done after 4 starts and 4 crashes"):
        run_to_end(scene)


def test_a_study_that_is_done_before_a_fault_has_met_none(runs, scene) -> None:
    runs("pass")
    assert faults.disturb_while_running(scene, lambda: True, 3, n_epochs=10) == 0


def test_a_fault_that_could_not_be_made_is_not_counted(runs, scene) -> None:
    runs("import time; time.sleep(1)")
    answers = iter([True, False, True])
    assert faults.disturb_while_running(scene, lambda: next(answers), 3, n_epochs=0) == 2


def test_photos_that_nobody_missed_are_no_fault(runs, scene) -> None:
    for folder in (scene.photos, scene.folder / "cache" / "depthsearch" / "images"):
        folder.mkdir(parents=True)
    # Without workers there is none to be killed.
    runs("import time; time.sleep(60)", "raise SystemExit(2)", "import time; time.sleep(60)")
    scene.start()
    assert not faults.without_files(scene, 0.0)
    assert (scene.n_kills["worker"], scene.n_refusals) == (0, 1)
    assert scene.photos.is_dir()


def test_a_study_without_a_kill_is_a_row_and_the_last_one(runs, tmp_path: Path) -> None:
    runs("pass")
    bench = bench_in(tmp_path)
    assert [(row.n_made, row.n_needed) for row in bench.killed("sqlite", 4)] == [(0, 1)]


def bench_in(folder: Path) -> Bench:
    options = argparse.Namespace(
        kills=4, storage=["sqlite"], only=["disk"], workers=2, epochs=1, rates="1e-3", away=1.0, seed=0,
        seconds_between=60.0, coordinators=0.5,
    )  # fmt: skip
    return Bench(root=folder, options=options, stack=contextlib.ExitStack(), undisturbed=scene_in(folder))


def test_a_row_that_cannot_be_run_is_not_clean_and_the_others_are_run(scene, monkeypatch, capsys) -> None:
    monkeypatch.setattr(faults, "account", lambda disturbed, _: replace(CLEAN, made=disturbed.n_made))

    def studies(*made: int) -> Generator[Disturbed, None, None]:
        for n in made:
            if n < 0:
                raise RuntimeError("no such thing here")
            yield Disturbed(what="row", scene=scene, n_made=n, n_needed=3)

    rows = [("first", studies(2)), ("second", studies(3, -1)), ("third", studies(3))]
    assert faults.judge(rows, scene) == [False, True, False, True]
    shown = capsys.readouterr().out.splitlines()
    assert "| second | NOT DONE: no such thing here |" in shown[2]
    assert {row.count("|") for row in shown} == {len(faults.COLUMNS) + 1}


def test_a_disk_that_cannot_be_mounted_is_not_clean(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    bench = bench_in(tmp_path)
    assert bench.undisturbed is not None
    assert faults.judge(bench.rows(), bench.undisturbed) == [False]
    assert "disk full | NOT DONE: only root can mount a tmpfs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--away", "0.1"), "--away 0.1 is too short to be noticed: give 1 or more"),
        (("--kills", "0", "--only", "kills"), "--only kills with --kills 0 leaves nothing to do"),
    ],
)
def test_an_account_of_nothing_is_refused(monkeypatch, capsys, options, told: str) -> None:
    monkeypatch.setattr(sys, "argv", ["faults.py", *options])
    with pytest.raises(SystemExit, match="2"):
        faults.parse_options()
    assert told in capsys.readouterr().err


def test_kills_are_rounded_up_for_each_storage(tmp_path: Path, monkeypatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(Bench, "killed", lambda self, storage, n_kills: asked.append(n_kills))
    bench = bench_in(tmp_path)
    bench.options = argparse.Namespace(kills=1, storage=["sqlite", "postgres"], only=["kills"])
    list(bench.rows())
    assert asked == [1, 1]


def test_a_worker_is_killed_by_the_name_that_it_has(runs, scene) -> None:
    name = "import pathlib, time; pathlib.Path('/proc/self/comm').write_text('worker 1'); time.sleep(60)"
    runs(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {name!r}])")
    scene.start()
    latest = time.monotonic() + 30
    while not (is_killed := scene.kill_worker(random.Random(0))) and time.monotonic() < latest:
        pass
    scene.end()
    assert is_killed


# --- workers --------------------------------------------------------------------------------------


def study_of(*ends: tuple[TrialState, int]) -> optuna.Study:
    """Make a study of trials that ended so, after so many epochs."""
    study = optuna.create_study(direction="maximize")
    for state, epochs in ends:
        values = {epoch: 0.5 for epoch in range(1, epochs + 1)}
        value = 0.5 if state == TrialState.COMPLETE else None
        study.add_trial(create_trial(state=state, value=value, intermediate_values=values))
    return study


DONE = (TrialState.COMPLETE, workers.EPOCHS)


def test_trained_trials_are_counted_as_many_as_there_are() -> None:
    assert workers.count_trained(study_of(DONE, DONE, (TrialState.WAITING, 0)), 2) == 2
    assert workers.count_trained(study_of(DONE, DONE, DONE), 2, n_more=1) == 3


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        ([DONE], "there are 1 complete after 5 epochs"),
        ([DONE, DONE, DONE], "there are 3 complete after 5 epochs"),
        ([DONE, DONE, (TrialState.FAIL, 2)], "2 complete after 5 epochs, 1 fail after 2 epochs"),
        ([DONE, (TrialState.PRUNED, 2)], "1 pruned after 2 epochs"),
        ([DONE, DONE, (TrialState.RUNNING, 0)], "1 running after 0 epochs"),
        ([DONE, (TrialState.COMPLETE, 4)], "1 complete after 4 epochs"),
        ([], "there are none"),
    ],
)
def test_trials_that_were_not_trained_as_wanted_are_no_rate(ends, told: str) -> None:
    with pytest.raises(RuntimeError, match=f"2 trials of 5 epochs were wanted; .*{told}"):
        workers.count_trained(study_of(*ends), 2)


def test_a_process_that_died_is_not_waited_for() -> None:
    processes = [SimpleNamespace(exitcode=None), SimpleNamespace(exitcode=-signal.SIGKILL)]
    with pytest.raises(RuntimeError, match="ended too early, with status -9"):
        workers.meet(threading.Barrier(3), processes)


def test_processes_that_do_not_come_are_waited_for_so_long() -> None:
    with pytest.raises(RuntimeError, match=r"0 of 1 processes of the plain way came within 0\.1 s"):
        workers.meet(threading.Barrier(2), [SimpleNamespace(exitcode=None)], 0.1)


def test_a_rate_counts_all_trials_that_were_trained() -> None:
    found = workers.Measured.of([(10.0, 8), (14.0, 10)])
    assert found.rate == 18 / 24
    assert found.cells(1.0) == "8 + 10 | 12.0 (10.0 to 14.0) | 0.75 |"


@pytest.mark.slow
def test_the_plain_way_ends_where_a_trial_of_it_fails(monkeypatch) -> None:
    """Guards the comparison with plain training: a failure must not count as fast."""
    # Nobody can sleep for so long.
    monkeypatch.setenv(workers.EPOCH_SECONDS, "nan")
    with pytest.raises(RuntimeError, match="ended too early, with status 1"):
        workers.plain(2, 4)
