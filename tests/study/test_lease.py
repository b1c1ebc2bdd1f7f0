"""The lease: one coordinator at a time, whatever happens to it, to the others and to the database."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import racing
import sqlalchemy
from optuna.storages import InMemoryStorage, RDBStorage

from depthsearch.errors import StudyError
from depthsearch.machine import start_of, this_machine
from depthsearch.study import lease as lease_module
from depthsearch.study.lease import holder_of, lease
from depthsearch.study.storage.opening import open_storage
from depthsearch.study.storage.optuna_private import database_of, storage_of

KINDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)]


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a database: SQLite's, unless a test asks for another kind."""
    kind = getattr(request, "param", "sqlite")
    return f"sqlite:///{tmp_path}/studies.db" if kind == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def study(url: str) -> Iterator[optuna.Study]:
    storage = open_storage(url)
    yield optuna.create_study(study_name="s", storage=storage)
    storage.engine.dispose()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases of 0.6 seconds, renewed each tenth."""
    monkeypatch.setattr(lease_module, "LEASE_SECONDS", 0.6)


def elsewhere(age: float = 0.0, **others: Any) -> dict[str, Any]:
    """Make a lease that a process on another machine holds."""
    holder = {"host": "elsewhere", "machine": None, "pid": 7, "started": None, "doing": "study"}
    return {**holder, "token": "theirs", "renewed": time.time() - age, **others}


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.02)


def renewing() -> int:
    return sum(thread.name == "depthsearch-lease" for thread in threading.enumerate())


# --- taking it ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("url", KINDS, indirect=True)
def test_of_processes_that_start_in_the_same_moment_one_holds_the_lease(url: str) -> None:
    """Guards against two owners of a study; only processes race."""
    storage = open_storage(url)
    names = [f"study {n:02d}" for n in range(30)]
    for n, name in enumerate(names):
        made = optuna.create_study(study_name=name, storage=storage)
        if n % 3 == 1:
            made.set_user_attr("coordinator", None)
        if n % 3 == 2:
            made.set_user_attr("coordinator", elsewhere(age=1000))
    storage.engine.dispose()
    kept = racing.run(racing.take_leases, url, 4)
    assert sorted(name for each in kept for name in each) == names


def test_the_lease_of_a_dead_process_elsewhere_is_taken_once_it_has_run_out(study: optuna.Study) -> None:
    assert lease_module.LEASE_SECONDS == 120
    study.set_user_attr("coordinator", elsewhere(age=100))
    with pytest.raises(StudyError, match="is being run by process 7 on elsewhere"), lease(study):
        pass
    study.set_user_attr("coordinator", elsewhere(age=121))
    with lease(study):
        assert study.user_attrs["coordinator"]["host"] == socket.gethostname()


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_clock_that_is_wrong_takes_no_lease(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    study.set_user_attr("coordinator", elsewhere())
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    with pytest.raises(StudyError, match="is being run by process 7 on elsewhere"), lease(study):
        pass
    study.set_user_attr("coordinator", None)
    with lease(study):
        assert abs(study.user_attrs["coordinator"]["renewed"] - now) < 60


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells containers apart")
def test_another_container_of_the_same_name_is_another_machine(study: optuna.Study) -> None:
    # Its process would look dead from here.
    holder = elsewhere(host=socket.gethostname(), machine="another", pid=2**22)
    study.set_user_attr("coordinator", holder)
    with pytest.raises(StudyError, match=f"is being run by process {2**22} on"), lease(study):
        pass
    study.set_user_attr("coordinator", {**holder, "machine": this_machine()})
    with lease(study):
        pass


def test_a_process_of_which_no_start_is_known_holds_a_lease_for_as_long_as_that_is_fresh() -> None:
    """Another may have its number since."""
    holder = elsewhere(host=socket.gethostname(), machine=this_machine(), pid=os.getpid())
    assert holder_of({"coordinator": holder}, time.time()) is not None
    old = {**holder, "renewed": time.time() - 10 * lease_module.LEASE_SECONDS}
    assert holder_of({"coordinator": old}, time.time()) is None


@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_a_process_is_told_from_a_later_one_of_its_number(
    system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if system == "linux" != sys.platform:
        pytest.skip("this is no Linux")
    monkeypatch.setattr(sys, "platform", system)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        first = start_of(process.pid)
        assert first
        assert start_of(process.pid) == first != start_of(os.getpid())
        process.kill()
        wait_for(lambda: start_of(process.pid) in ("ended", None))
    assert start_of(process.pid) is None


@pytest.mark.parametrize("url", KINDS, indirect=True)
def test_a_study_that_is_deleted_while_it_runs_is_told_and_leaves_nothing(study: optuna.Study) -> None:
    def deleted() -> None:
        with lease(study) as held:
            optuna.delete_study(study_name="s", storage=storage_of(study))
            held.renew()

    with pytest.raises(StudyError, match=r"^Study 's' was deleted\.$"):
        deleted()
    with database_of(study).engine.connect() as connection:
        count = sqlalchemy.text("SELECT count(*) FROM study_user_attributes")
        assert connection.execute(count).scalar_one() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells zombies apart")
def test_a_killed_process_that_nobody_has_asked_for_is_dead(study: optuna.Study) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = start_of(process.pid)
        here = {"host": socket.gethostname(), "machine": this_machine()}
        holder = elsewhere(**here, pid=process.pid, started=started)
        assert holder_of({"coordinator": holder}, time.time()) is not None
        process.kill()
        wait_for(lambda: holder_of({"coordinator": holder}, time.time()) is None)
        study.set_user_attr("coordinator", holder)
        with lease(study):
            pass


@pytest.mark.parametrize("storage", [InMemoryStorage, lambda: RDBStorage("sqlite://")])
def test_a_study_in_memory_has_a_lease_without_a_thread(storage: Callable[[], Any]) -> None:
    study = optuna.create_study(storage=storage())
    with lease(study) as held:
        assert renewing() == 0
        assert held.renew() is None
        with pytest.raises(StudyError, match="is being run by process"), lease(study):
            pass
        study.set_user_attr("coordinator", elsewhere())
        with pytest.raises(StudyError, match="was taken over by another process"):
            held.renew()


def test_a_lease_in_memory_is_renewed_where_it_is_asked_for(quick) -> None:
    study = optuna.create_study()
    with lease(study) as held:
        first = study.user_attrs["coordinator"]["renewed"]
        time.sleep(0.15)
        held.renew()
        assert study.user_attrs["coordinator"]["renewed"] > first


# --- holding it ---------------------------------------------------------------------------------


@pytest.mark.parametrize("url", KINDS, indirect=True)
def test_a_lease_is_renewed_through_an_epoch_of_any_length(study: optuna.Study, quick) -> None:
    with lease(study) as held:
        first = study.user_attrs["coordinator"]
        wait_for(lambda: study.user_attrs["coordinator"]["renewed"] > first["renewed"] + 0.6)
        assert {**study.user_attrs["coordinator"], "renewed": first["renewed"]} == first
        assert held.renew() is None
        assert renewing() == 1
    assert renewing() == 0
    time.sleep(0.3)
    assert study.user_attrs["coordinator"] is None


@pytest.mark.parametrize("url", KINDS, indirect=True)
def test_a_lease_that_another_took_is_never_written_again(study: optuna.Study, quick) -> None:
    with lease(study) as held:
        theirs = elsewhere()
        study.set_user_attr("coordinator", theirs)
        wait_for(lambda: renewing() == 0)
        with pytest.raises(StudyError, match=r"^Study 's' was taken over by another process\.$"):
            held.renew()
    assert study.user_attrs["coordinator"] == theirs


def test_what_is_asked_of_the_holder_comes_with_the_renewal(study: optuna.Study) -> None:
    with lease(study) as held:
        token = study.user_attrs["coordinator"]["token"]
        study.set_user_attr("stop_request", {"token": "another", "after": "epoch"})
        assert held.renew() is None
        study.set_user_attr("stop_request", {"token": token, "after": "trial"})
        assert held.renew() == "trial"
    assert held.asked() == "trial"


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_who_looks_from_a_machine_whose_clock_is_wrong_sees_who_runs_it(study, monkeypatch) -> None:
    study.set_user_attr("coordinator", elsewhere(renewed=lease_module.clock_of(study)))
    right = time.time
    for seconds in (-3600, 3600):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: right() + seconds)
        assert holder_of(study.user_attrs, lease_module.clock_of(study)) is not None
    study.set_user_attr("coordinator", elsewhere(renewed=lease_module.clock_of(study) - 3600))
    assert holder_of(study.user_attrs, lease_module.clock_of(study)) is None


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_lease_survives_an_outage(study: optuna.Study, postgres, quick) -> None:
    with lease(study) as held:
        postgres.stop("immediate")
        # Longer than the lease holds.
        time.sleep(1.0)
        postgres.start()
        assert held.renew() is None
        first = study.user_attrs["coordinator"]["renewed"]
        wait_for(lambda: study.user_attrs["coordinator"]["renewed"] > first)
    assert study.user_attrs["coordinator"] is None


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_lease_is_not_waited_for_when_it_is_given_back(study: optuna.Study, postgres) -> None:
    with lease(study):
        postgres.stop("immediate")
        started = time.monotonic()
    assert time.monotonic() - started < 10
    assert renewing() == 0


def test_what_waited_is_not_written_once_the_lease_is_lost(study: optuna.Study, url: str) -> None:
    trial = study.ask()
    theirs = elsewhere()
    with lease(study) as held:
        other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        other.execute(
            "UPDATE study_user_attributes SET value_json = ? WHERE key = 'coordinator'", (json.dumps(theirs),)
        )
        timer = threading.Timer(1.0, other.execute, ("COMMIT",))
        timer.start()
        with pytest.raises(StudyError, match="was taken over by another process"):
            trial.report(0.5, step=1)
        timer.join()
        other.close()
        with pytest.raises(StudyError, match="was taken over by another process"):
            held.renew()
    assert study.get_trials()[0].intermediate_values == {}
    assert study.user_attrs["coordinator"] == theirs
