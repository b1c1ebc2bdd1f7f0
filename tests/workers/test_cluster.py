"""Workers on a Ray cluster: a study outlives its nodes, trains to the same bits, and leaves nothing behind.

The clusters are simulated: their nodes are processes of this machine, each with a cache folder of its own.
"""

import argparse
import contextlib
import errno
import itertools
import json
import logging
import math
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import psutil
import pytest
import torch
import yaml
from optuna.trial import TrialState

from depthsearch.cli import main
from depthsearch.cli.parser import make_parser, options_from
from depthsearch.data import load_data
from depthsearch.devices import Device
from depthsearch.errors import SettingsError, StudyError
from depthsearch.features import choose_budget, node_folder
from depthsearch.files import written_whole
from depthsearch.options.study import StudyOptions
from depthsearch.study import EpochDone, TrialLost, TrialStarted, open_study, request_stop, search
from depthsearch.study.preparing import executors
from depthsearch.training.outcomes import EpochResult, TransferCurve
from depthsearch.training.task import Task
from depthsearch.workers import Probing, RayWorkers, Training, ray_workers, starting
from depthsearch.workers.jobs import Ended, Failed, Job, Lost, Report
from depthsearch.workers.places import HUNG_SECONDS
from depthsearch.workers.ray import cluster, connecting, remote
from depthsearch.workers.ray.checkpoints import Tokens
from depthsearch.workers.ray.connecting import connect
from depthsearch.workers.ray.slots import Slots, plan_slots

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (extra ray)")
needs_clocks = pytest.mark.skipif(
    not hasattr(time, "pthread_getcpuclockid"), reason="this system tells no thread's processor time"
)

EPOCHS = 8
GONE_SECONDS = 20.0


# --- where workers go ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "how", "slots"),
    [
        # One a GPU, which takes its share of the CPUs; nodes without a GPU get none.
        ([{"CPU": 16, "GPU": 4}, {"CPU": 32}], {"on_gpus": True}, (4, 4, 1)),
        ([{"CPU": 16, "GPU": 4}, {"CPU": 8, "GPU": 4}], {"on_gpus": True}, (8, 2, 1)),
        # More than there are GPUs: they wait for nodes.
        ([{"CPU": 8, "GPU": 1}], {"on_gpus": True, "n_workers": 3}, (3, 8, 1)),
        ([{"CPU": 8, "GPU": 1}], {"on_gpus": True, "num_gpus": 0.5}, (2, 4, 0.5)),
        ([], {"on_gpus": True, "n_workers": 2}, (2, 1, 1)),
        # One a node on CPUs; a head that is given none has none.
        ([{"CPU": 8}, {"CPU": 8}, {"memory": 1}], {"on_gpus": False}, (2, 8, 0)),
        ([{"CPU": 8}, {"CPU": 4}], {"on_gpus": False}, (3, 4, 0)),
        # More workers, fewer CPUs for each.
        ([{"CPU": 8}, {"CPU": 8}], {"on_gpus": False, "n_workers": 3}, (3, 4, 0)),
        ([{"CPU": 2}], {"on_gpus": False, "n_workers": 5}, (5, 1, 0)),
        ([{"CPU": 8}], {"on_gpus": False, "num_cpus": 3}, (2, 3, 0)),
    ],
)
def test_workers_take_what_the_nodes_have(nodes, how, slots) -> None:
    n_workers, num_cpus, num_gpus = slots
    wanted = Slots(n_workers=n_workers, num_cpus=num_cpus, num_gpus=num_gpus)
    assert plan_slots(nodes, **how) == wanted


def test_a_cluster_without_room_for_any_worker_is_refused_unless_a_number_is_given() -> None:
    with pytest.raises(
        SettingsError, match=r"^The cluster has no node with 1 GPU and 1 CPU for a worker\. Give"
    ):
        plan_slots([{"CPU": 8}], on_gpus=True)


def test_a_node_has_room_for_as_many_workers_as_its_scarcest_allows() -> None:
    slots = Slots(n_workers=8, num_cpus=2, num_gpus=1)
    assert slots.on({"CPU": 16, "GPU": 3}) == 3
    assert slots.on({"CPU": 5, "GPU": 3}) == 2
    assert slots.on({"CPU": 16}) == 0
    assert Slots(n_workers=2, num_cpus=0.1, num_gpus=0).on({"CPU": 16}) == 2


# --- the way to a cluster -----------------------------------------------------------------------


def test_without_ray_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        SettingsError, match=r'^--executor ray needs Ray .*: pip install "depthsearch\[ray\]", or'
    ):
        connect()


@needs_ray
@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ray://head:10001", "depthsearch does not use Ray's client"),
        ("head", "that is no HOST:PORT"),
        ("127.0.0.1:99999", "No Ray cluster at --ray-address 127.0.0.1:99999: "),
        ("127.0.0.1:{closed}", "No Ray cluster at --ray-address 127.0.0.1:.*: Connection refused"),
        ("no-such-host.invalid:6379", "No Ray cluster at --ray-address no-such-host.invalid:6379: "),
    ],
)
def test_an_address_where_no_cluster_is_is_told_within_seconds(address: str, said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(SettingsError, match=said):
        connect(address.format(closed=closed))
    assert time.monotonic() - started < 10.0


@needs_ray
@pytest.mark.slow
def test_what_listens_but_is_no_cluster_is_told_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against Ray's own minutes of silence."""
    monkeypatch.setattr(connecting, "ANSWER_SECONDS", 5.0)
    # Another test of this process may have left Ray connected.
    monkeypatch.setattr(connecting.import_ray(), "is_initialized", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(
            SettingsError, match=rf"^What listens at --ray-address {address} is no Ray cluster"
        ):
            connect(address)


@needs_ray
@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("ActorUnavailableError", "it can no longer be reached: its process or its node has ended, or the"),
        ("RayActorError", "The actor experienced an error before finishing this task"),
    ],
)
def test_why_an_actor_is_lost_is_told_in_a_line(error: str, said: str) -> None:
    from ray import exceptions

    made = exceptions.RayActorError()
    if error == "ActorUnavailableError":
        made = exceptions.ActorUnavailableError("RpcError: Socket closed", actor_id=b"0" * 16)
    reason = connecting.reason_of(made)
    assert reason.startswith(said)
    assert "\n" not in reason


STARTED_HERE = """
import signal
from depthsearch.models.backbones import load_backbone
from depthsearch import cli
from depthsearch.cli import main
from depthsearch.data import load_data
from depthsearch.devices import choose_device
from depthsearch.workers import ray_workers
from depthsearch.signals import sigterm_interrupts
from depthsearch.training.task import Task
from depthsearch.training.recipe import Recipe

data = load_data("digits", image_size=16)
backbone = load_backbone("test_resnet", "random", image_size=16)
task = Task(backbone=backbone, data=data, recipe=Recipe(epochs=1), device=choose_device("cpu", "float32"))
with sigterm_interrupts():
    before = signal.getsignal(signal.SIGTERM)
    workers = ray_workers({"": task}, n_workers=1, address="local")
    assert signal.getsignal(signal.SIGTERM) is before
    (place,) = workers.places.values()
    print(place.pid, flush=True)
    CLOSING
"""


@pytest.fixture
def started_here() -> Iterator[Callable[[str], subprocess.Popen]]:
    """Start a process that starts Ray for itself, and end with some code."""

    def start(closing: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", STARTED_HERE.replace("CLOSING", closing)],
            env={**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": folder},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    # Names of sockets are short, and pytest's folders are not.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield start


def gone(pid: int, seconds: float = GONE_SECONDS) -> bool:
    """Wait until a process has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        with contextlib.suppress(psutil.TimeoutExpired):
            psutil.Process(pid).wait(seconds)
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


@needs_ray
@pytest.mark.slow
def test_a_ray_of_its_own_is_started_without_a_word_and_ended(started_here) -> None:
    """Guards the terminal against Ray's messages, and the machine against what it leaves."""
    run = started_here("workers.close()")
    out, err = run.communicate(timeout=120)
    # A busy machine may take long to start a worker, and that is said.
    said = [line for line in err.splitlines() if not line.startswith("Waiting for a worker")]
    assert (run.returncode, said) == (0, [])
    assert gone(int(out))


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_coordinator_that_is_ended_leaves_no_worker(number: int, started_here) -> None:
    """Guards a cluster against actors that compute for nobody."""
    run = started_here("import time; time.sleep(120)")
    assert run.stdout is not None
    pid = int(run.stdout.readline())
    started = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(number)
    run.communicate(timeout=60)
    assert gone(pid)
    # After a kill, helpers of Ray's own may stay for a while.
    assert number == signal.SIGKILL or all(gone(process.pid) for process in started)
    for process in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


# --- a cluster that is none ---------------------------------------------------------------------


class Promise:
    """What a call of an actor will return; it is there already."""

    def __init__(self, value: Any) -> None:
        self.value = value


class PretendedRay:
    """A cluster of one node, whose actors do at once what they are asked for."""

    exceptions = SimpleNamespace(RayError=ConnectionError, RayTaskError=ConnectionAbortedError)

    def __init__(self) -> None:
        self.begun: list[tuple[Any, Any]] = []
        self.killed: list[Any] = []
        self.kill = self.killed.append

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 2}}]

    def put(self, value: Any) -> Any:
        return value

    def wait(self, promises: list[Promise], **_: Any) -> tuple[list[Promise], list[Promise]]:
        return promises, []

    def get(self, promises: list[Promise], **_: Any) -> list[Any]:
        return [promise.value for promise in promises]

    def remote(self, **_: Any) -> Callable[[type], Any]:
        return lambda _: SimpleNamespace(remote=self._actor)

    def _actor(self) -> Any:
        def begin(job: Job, *_: Any) -> Promise:
            self.begun.append((actor, job.key))
            return Promise(False)

        def step() -> tuple[Promise, Promise]:
            return Promise(TransferCurve(points=(), macs=0, seconds=0.0, kept_bytes=0)), Promise(None)

        ready = remote.Ready(place="here", node="one", pid=1)
        actor = SimpleNamespace(
            setup=SimpleNamespace(remote=lambda *_: Promise(ready)),
            begin=SimpleNamespace(remote=begin),
            step=SimpleNamespace(options=lambda **_: SimpleNamespace(remote=step)),
        )
        return actor


def test_what_needs_all_memory_has_no_idle_actor_beside_it(task, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = PretendedRay()
    monkeypatch.setattr(cluster, "import_ray", lambda: ray)
    with contextlib.closing(RayWorkers({"": task}, n_workers=2)) as workers:
        workers.gather()
        assert workers.n_workers == 2
        assert isinstance(one_report(workers, "beside others"), TransferCurve)
        assert ray.killed == []
        before = [worker.actor for worker in workers._workers]
        workers.start(Probing(key="alone", cuts=(), upcoming={}, is_alone=True))
        assert ray.killed == before
        # Nothing is begun beside it, and it is begun by one of those that come.
        with pytest.raises(RuntimeError, match="no worker is free for job 1"):
            workers.start(Probing(key="1", cuts=(), upcoming={}))
        while not (told := workers.wait(60)):
            pass
        assert [key for key, _ in told] == ["alone"]
        actor, key = ray.begun[-1]
        assert key == "alone"
        assert not any(actor is each for each in before)
        assert ray.killed == before


# --- a cluster of two nodes ---------------------------------------------------------------------


def pretended(tasks, job: Job) -> Iterator[Report]:
    """Do as a training does, without one: each epoch takes a while and is kept in the checkpoint."""
    if isinstance(job, Probing):
        yield TransferCurve(points=(), macs=0, seconds=0.0, kept_bytes=0)
        return
    done = []
    if job.checkpoint.exists():
        done = [EpochResult(**each) for each in json.loads(job.checkpoint.read_text())]
    yield from done
    for epoch in range(len(done) + 1, EPOCHS + 1):
        time.sleep(0.4)
        numbers = dict.fromkeys(("prefix_macs", "forward_macs", "backward_macs", "plain_macs"), 0)
        # Says who has trained this epoch.
        result = EpochResult(
            epoch=epoch,
            train_loss=1 / epoch,
            val_loss=1 / epoch,
            score=1 - math.exp(-epoch - job.point.cut.index),
            seconds=0.4,
            images_per_second=os.getpid(),
            kept_bytes=0,
            read_bytes=0,
            **numbers,
        )
        done.append(result)
        # At once or not at all, as a training does: this process may be killed meanwhile.
        with written_whole(job.checkpoint, durable=False) as file:
            file.write(json.dumps([asdict(each) for each in done]).encode())
        yield result
    yield Ended()


def who(result: EpochResult) -> int:
    """Say which process has trained an epoch."""
    return int(result.images_per_second)


class TwoNodes:
    """A cluster on this machine; each node has one CPU, and a cache and a place for files of its own."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self.folder = folder
        self.cluster = Cluster()
        # Else a dead node is told from a slow one after half a minute only.
        quick = {
            "health_check_initial_delay_ms": 0,
            "health_check_period_ms": 500,
            "health_check_failure_threshold": 4,
        }
        self.add("head", _system_config=quick, include_dashboard=False)
        self.second = self.add("second")

    def add(self, name: str, **how: Any) -> Any:
        folder = self.folder / name
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        places = {"XDG_CACHE_HOME": str(folder / "cache"), "TMPDIR": str(folder / "tmp")}
        return self.cluster.add_node(num_cpus=1, env_vars=places, **how)

    def with_second(self) -> Any:
        """Give the second node, a new one if it has been removed."""
        if self.second is None:
            self.second = self.add("second")
        return self.second

    def remove_second(self) -> None:
        """End the second node as a power failure does."""
        self.cluster.remove_node(self.second, allow_graceful=False)
        self.second = None


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory) -> Iterator[TwoNodes]:
    """A cluster that this process is connected to."""
    ray = pytest.importorskip("ray", reason="Ray is not installed (extra ray)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        nodes = TwoNodes(tmp_path_factory.mktemp("nodes"))
        assert connect(nodes.cluster.address)
        yield nodes
        ray.shutdown()
        nodes.cluster.shutdown()
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def workers_on(two_nodes) -> Iterator[Callable[..., RayWorkers]]:
    """Make workers on the cluster of two nodes; they are ended afterwards."""
    made = []

    def make(task: Task, **how: Any) -> RayWorkers:
        two_nodes.with_second()
        made.append(RayWorkers({"": task}, **how))
        made[-1].gather(240.0)
        return made[-1]

    yield make
    for workers in made:
        workers.close()


@pytest.fixture
def longer(task) -> Task:
    return replace(task, recipe=replace(task.recipe, epochs=EPOCHS))


@pytest.fixture
def start(open_quick_storage, tmp_path: Path, space) -> Callable[..., tuple[optuna.Study, Iterator[Any]]]:
    """Open a study and search with some workers, or in this process."""

    def begin(task: Task, workers: RayWorkers | None, n_trials: int, name: str = "s", **how: Any):
        study = open_study(
            open_quick_storage(f"sqlite:///{tmp_path}/{name}.db"), name, task, space, {}, **how
        )
        given = {"sampler": "random", "pruner": "none", "n_trials": n_trials, "executor": workers}
        return study, search(study, task, space, checkpoints=tmp_path / f"{name}-checkpoints", **given)

    return begin


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["shared", "apart"])
def test_a_study_outlives_a_node_and_its_trial_goes_on_from_its_checkpoint(
    folder, two_nodes, workers_on, start, longer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Guards the one fault that clusters have every day."""
    if folder == "apart":
        # No node sees what the coordinator puts beside its checkpoints.
        monkeypatch.setattr(Tokens, "token_in", lambda *_: None)
    workers = workers_on(longer, run=pretended)
    workers.gather(120)
    assert workers.n_workers == 2
    doomed = {p.pid: name for name, p in workers.places.items() if p.node == two_nodes.second.node_id}
    study, events = start(longer, workers, 6)
    told, lost = [], []
    for event in events:
        if isinstance(event, TrialLost):
            lost.append(event)
            two_nodes.with_second()
        elif isinstance(event, EpochDone) and not lost:
            told.append(event)
            if two_nodes.second and event.result.epoch == 1 and who(event.result) in doomed:
                two_nodes.remove_second()
    trials = study.get_trials()
    assert [trial.number for trial in trials if trial.state == TrialState.COMPLETE] == list(range(6))
    assert len(trials) == 6
    for trial in trials:
        assert [result["epoch"] for result in trial.user_attrs["results"]] == list(range(1, EPOCHS + 1))
        assert list(trial.intermediate_values) == list(range(1, EPOCHS + 1))
    (event,) = lost
    assert event.reason.startswith(doomed[next(iter(doomed))])
    # The second: Ray has noticed the broken connection before it has missed the node.
    assert re.search(r"its node has died|can no longer be reached", event.reason)
    assert [trial.number for trial in trials if "lost" in trial.user_attrs] == [event.number]
    # It went on from its checkpoint: what the lost node had told is its own, the rest another's.
    results = [EpochResult(**result) for result in trials[event.number].user_attrs["results"]]
    n_told = sum(done.number == event.number for done in told)
    n_own = sum(who(result) in doomed for result in results)
    assert [who(result) in doomed for result in results[:n_own]] == [True] * n_own
    assert 1 <= n_told <= n_own < EPOCHS
    # A node that comes later is worked on as well.
    workers.gather(120)
    assert workers.n_workers == 2
    workers.close()
    assert not list(tmp_path.glob("*-checkpoints/*/*"))


def stored(study: optuna.Study) -> list[dict[str, Any]]:
    """Give what trials store but their times, by number."""
    found = []
    for trial in study.get_trials(states=(TrialState.COMPLETE,)):
        epochs = [
            {name: value for name, value in result.items() if "second" not in name}
            for result in trial.user_attrs["results"]
        ]
        found.append(
            {"params": trial.params, "state": trial.state.name, "value": trial.value, "epochs": epochs}
        )
    return found


@pytest.mark.slow
@pytest.mark.parametrize("carried", [False, True])
def test_a_cluster_trains_to_the_bits_that_this_process_does(
    carried, workers_on, start, task, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also on nodes without the file that the images are mapped from: they get it from Ray."""
    cache = tmp_path / "images"
    data = load_data("digits", image_size=16, cache=cache)
    task = replace(task, data=replace(data, train=data.train.chosen(torch.arange(64))))
    alone, events = start(task, None, 8, name="alone", exhaustive=True)
    list(events)
    if carried:
        files = [path for path in cache.rglob("*") if path.is_file()]
        assert files
        for path in files:
            path.unlink()
    with caplog.at_level(logging.INFO, logger="depthsearch"):
        workers = workers_on(task)
    n_carried = sum("gets the images from here: Cannot read the decoded images" in m for m in caplog.messages)
    assert n_carried == (2 if carried else 0)
    together, events = start(task, workers, 8, name="together", exhaustive=True)
    started = [event.worker for event in events if isinstance(event, TrialStarted)]
    assert len(set(started)) == 2
    assert len(stored(together)) == 8
    assert stored(together) == stored(alone)


@pytest.mark.slow
def test_each_node_keeps_features_in_its_own_folder(
    two_nodes, workers_on, start, task, tmp_path: Path
) -> None:
    """Guards nodes that share a file system against each other."""
    kept = replace(task, budget=choose_budget(task.device, tmp_path / "kept here"))
    workers = workers_on(kept, memory_bytes=0, disk_bytes=2**30)
    _, events = start(kept, workers, 4)
    list(events)
    for name in ("head", "second"):
        cache = two_nodes.folder / name / "cache" / "depthsearch"
        assert list(node_folder(cache / "features").glob("*.features")), name
        # Also where nodes see the same cache folder.
        assert not list(cache.glob("features/*.features")), name
    assert not (tmp_path / "kept here").exists()


@pytest.mark.slow
def test_giving_up_ends_the_actors_that_train_and_closing_all(workers_on, start, longer) -> None:
    """Guards the cluster after a stop."""
    workers = workers_on(longer, run=pretended)
    before = {place.pid for place in workers.places.values()}
    study, events = start(longer, workers, 8)
    told = (event.result for event in events if isinstance(event, EpochDone))
    *_, last = itertools.islice(told, 5)
    # As Ctrl-C does: the trials are left for the next call, and what runs is given up. One worker runs
    # nothing now: it has told of its epoch.
    events.close()
    assert all(gone(pid) for pid in before - {who(last)})
    workers.gather()
    after = {place.pid for place in workers.places.values()}
    assert len(after) == 2
    assert after & before == {who(last)}
    running = [trial.number for trial in study.get_trials() if trial.state == TrialState.RUNNING]
    _, events = start(longer, workers, 8)
    adopted = [event.number for event in events if isinstance(event, TrialStarted) and event.adopted]
    assert adopted == running
    assert running
    workers.close()
    assert all(gone(pid) for pid in after)


@pytest.mark.slow
def test_a_stop_after_an_epoch_keeps_the_workers(workers_on, start, longer) -> None:
    """Guards a pruned trial's worker: to start another takes seconds."""
    workers = workers_on(longer, run=pretended)
    before = workers.places
    study, events = start(longer, workers, 8)
    for event in events:
        if isinstance(event, EpochDone) and event.result.epoch == 2:
            request_stop(study)
    states = [trial.state for trial in study.get_trials()]
    assert TrialState.RUNNING in states
    _, events = start(longer, workers, 4)
    list(events)
    assert workers.places == before
    done = [t for t in study.get_trials() if t.state == TrialState.COMPLETE]
    assert [[result["epoch"] for result in t.user_attrs["results"]] for t in done] == [
        list(range(1, EPOCHS + 1))
    ] * len(done)
    assert len(done) >= 4


def broken(tasks, job: Job) -> Iterator[Report]:
    """Have a bug, outside of what `run_job` catches."""
    raise ZeroDivisionError(f"broken at job {job.key!r}")
    yield


@pytest.mark.slow
def test_a_bug_in_a_worker_surfaces_here(workers_on, start, task) -> None:
    """Guards contract 5 on a cluster: a bug is a traceback and no score."""
    _, events = start(task, workers_on(task, run=broken, n_workers=1), 2)
    with pytest.raises(ZeroDivisionError, match=r"^broken at job (''|0)$"):
        list(events)


def not_begun(tasks, job: Job) -> Iterator[Report]:
    """End the process when the job is taken, or find a disk full or the GPU failing once it runs."""
    if job.key == "ends":
        os._exit(1)

    def run() -> Iterator[Report]:
        if job.key == "gpu":
            yield Failed(kind="device", reason="CUDA error: unspecified", error=RuntimeError())
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield

    return run()


def one_report(workers: RayWorkers, key: str, seconds: float = 240.0) -> Report:
    """Have a job done, and give the first that is told of it."""
    deadline = time.monotonic() + seconds
    workers.start(Probing(key=key, cuts=(), upcoming={}))
    while not (told := workers.wait(1.0)):
        assert time.monotonic() < deadline, "nothing is told"
    ((of, report),) = told
    assert of == key
    return report


@pytest.mark.slow
def test_a_job_that_cannot_be_begun_or_meets_a_full_disk_or_a_failing_gpu_goes_on_elsewhere(
    workers_on, task, caplog: pytest.LogCaptureFixture
) -> None:
    """Guards a trial against the node that it met."""
    workers = workers_on(task, run=not_begun)
    report = one_report(workers, "ends")
    assert isinstance(report, Lost)
    ended = r"worker [12] on \S+: .*( died|can no longer be reached)"
    assert re.match(ended, report.reason)
    # The first time it may have been the worker.
    again = [line for line in caplog.messages if line.endswith("its job is assigned once more.")]
    assert len(again) == 1
    assert re.match(ended, again[0])
    report = one_report(workers, "full")
    assert isinstance(report, Lost)
    assert re.search(r"^worker [12] on \S+: \[Errno 28\] No space left on device$", report.reason)
    report = one_report(workers, "gpu")
    assert isinstance(report, Lost)
    assert re.search(r"^worker [12] on \S+: CUDA error: unspecified$", report.reason)


def hanging(tasks, job: Job) -> Iterator[Report]:
    """Wait for ever, stop the process, or compute for a while."""
    if job.key == "waits":
        threading.Event().wait()
    elif job.key == "stops":
        os.kill(os.getpid(), signal.SIGSTOP)
    until = time.monotonic() + 5.0
    while time.monotonic() < until:
        math.factorial(1000)
    yield TransferCurve(points=(), macs=0, seconds=0.0, kept_bytes=0)


@needs_clocks
@pytest.mark.slow
def test_an_actor_that_hangs_is_replaced_and_one_that_computes_is_not(workers_on, task) -> None:
    """Guards --hung-after on a cluster, by processor time."""
    workers = workers_on(task, run=hanging, hung_seconds=2.0)
    for key in ("waits", "stops"):
        report = one_report(workers, key)
        assert isinstance(report, Lost)
        assert re.match(r"worker [12] on \S+: it computed nothing for 2 s and was ended$", report.reason)
    assert isinstance(one_report(workers, "computes"), TransferCurve)


@pytest.mark.slow
def test_a_cluster_where_no_worker_can_work_says_why(
    two_nodes, task, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Guards against a study that waits for ever."""
    two_nodes.with_second()
    too_large = RayWorkers({"": task}, n_workers=1, num_cpus=64, patience_seconds=1.0)
    with (
        contextlib.closing(too_large),
        pytest.raises(StudyError, match=r"no node has 64 CPUs free for one\."),
    ):
        too_large.gather()
    monkeypatch.setattr(cluster, "own_versions", lambda: {"depthsearch": "0.0.1", "torch": torch.__version__})
    # A machine that is busy takes its time to start a worker: only one that has started can be told off.
    for seconds in (40.0, 160.0):
        older = RayWorkers({"": task}, n_workers=1, patience_seconds=seconds)
        with contextlib.closing(older), pytest.raises(StudyError) as raised:
            older.gather()
        if "none has started yet" not in str(raised.value):
            break
    said = (
        r"^The cluster has had no worker for \d+ s: .* has depthsearch .*, the coordinator 0\.0\.1\. Install"
    )
    assert re.match(said, str(raised.value))


@pytest.mark.slow
def test_a_cluster_without_gpus_computes_on_cpus_and_says_so_if_asked_for_others(two_nodes, task) -> None:
    """Guards --device on a cluster."""
    with contextlib.closing(ray_workers({"": task}, n_workers=1)) as workers:
        assert len(workers.places) == 1
        assert workers.slots.num_gpus == 0
    with pytest.raises(SettingsError, match=r"^--device cuda: the cluster has no GPU now\."):
        ray_workers({"": task}, device="cuda")
    with pytest.raises(SettingsError, match=r"^--executor ray computes on cpu and cuda, not on mps\."):
        ray_workers({"": task}, device="mps")


def asked(tmp_path: Path, *more: str) -> list[str]:
    """Give a command line of a short study."""
    size = ["--image-size", "16", "--trials", "4", "--epochs", "1", "--confirm", "0", "--device", "cpu"]
    small = ["--backbone", "test_resnet", "--weights", "random", "--subset", "0.1", *size]
    return ["study", *small, "--storage", f"sqlite:///{tmp_path}/s.db", "--name", "s", *more]


@pytest.mark.slow
def test_a_study_of_the_command_line_runs_on_the_cluster_that_is_there(
    two_nodes, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards --executor ray as a user runs it."""
    two_nodes.with_second()
    made = []

    def noted(*args: Any, **how: Any) -> RayWorkers:
        made.append(ray_workers(*args, **how))
        return made[-1]

    monkeypatch.setattr(executors, "ray_workers", noted)
    on_ray = ["--executor", "ray", "--ray-address", two_nodes.cluster.address, "--hung-after", "77"]
    assert main(asked(tmp_path, *on_ray, "--workers", "2", "--json")) == 0
    assert [workers.hung_seconds for workers in made] == [77.0]
    out, err = capsys.readouterr()
    assert re.search(
        r"Workers +[12] on [12] nodes? of a Ray cluster.*; 1 CPU each, cpu, (float32|bf16)\.", err
    )
    assert json.loads(out.splitlines()[-1])["best"]
    provenance = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/s.db").user_attrs[
        "provenance"
    ]
    assert not {"executor", "ray_address", "workers", "hung_after"} & set(provenance["options"])


@pytest.mark.parametrize(("given", "expected"), [(None, HUNG_SECONDS), (77.0, 77.0)])
def test_a_worker_of_a_cluster_may_hang_as_long_as_one_of_this_machine(monkeypatch, given, expected) -> None:
    class Asked(Exception):
        pass

    def asked_for(*_: Any, hung_seconds: float, **__: Any) -> RayWorkers:
        assert hung_seconds == expected
        raise Asked

    monkeypatch.setattr(executors, "ray_workers", asked_for)
    options = StudyOptions(backbone="tiny", executor="ray", hung_after=given)
    tasks = {
        "": argparse.Namespace(device=Device(kind="cpu", bf16=False, channels_last=True, compiled=False))
    }
    with pytest.raises(Asked), executors.started_executor(options, tasks, None, print):
        pass


@pytest.mark.parametrize("address", [None, "head:6379", "local"])
def test_what_a_study_is_stored_with_is_what_the_cluster_computes_on(
    address, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator may have no GPU, and be replaced by one that has some."""
    gpu = Device(kind="cuda", bf16=True, channels_last=True, compiled=False)
    given = {}

    def asked_for(tasks: Any, **how: Any) -> RayWorkers:
        given.update(device=how["device"], tasks=tasks)
        raise SettingsError("seen enough")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(executors, "import_ray", lambda: None)
    monkeypatch.setattr(executors, "connect", lambda _: False)
    monkeypatch.setattr(executors, "cluster_has_gpus", lambda: True)
    monkeypatch.setattr(starting, "import_ray", lambda: pytest.fail("it is not asked"))
    monkeypatch.setattr(executors, "cluster_device", lambda here, *_, has_gpus: gpu if has_gpus else here)
    monkeypatch.setattr(executors, "ray_workers", asked_for)
    more = ["--executor", "ray", *([] if address is None else ["--ray-address", address])]
    argv = asked(tmp_path, *more)
    argv[argv.index("--device") + 1] = "auto"
    assert main(argv) == 2
    told = capsys.readouterr().err
    assert "seen enough" in told
    (task,) = given["tasks"].values()
    if address == "local" and not torch.cuda.is_available():
        assert (given["device"], task.device.kind) == ("cpu", "cpu")
    elif address != "local":
        assert (given["device"], task.device) == ("cuda", gpu)
        assert "Device cuda, bf16; features are kept by each node." in told


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_ray_that_would_be_started_here_has_no_gpu_that_is_not_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_: str) -> bool:
        raise SettingsError("No Ray cluster at --ray-address auto.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(executors, "import_ray", lambda: None)
    monkeypatch.setattr(executors, "connect", none)
    assert main([*asked(tmp_path, "--executor", "ray"), "--device", "cuda"]) == 2
    assert "--device cuda: the cluster has no GPU now." in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_coordinator_without_a_gpu_asks_the_cluster_for_one(
    two_nodes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards the choice of a device that this machine lacks."""
    assert main([*asked(tmp_path, "--executor", "ray"), "--device", "cuda"]) == 2
    assert "--device cuda: the cluster has no GPU now." in capsys.readouterr().err
    assert not (tmp_path / "s.db").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ["--ray-address", "auto"],
            "--ray-address needs --executor ray: add that, or leave --ray-address out.",
        ),
        (
            ["--executor", "ray"],
            'needs Ray (import of ray halted; None in sys.modules): pip install "depthsearch',
        ),
    ],
)
def test_what_keeps_a_study_from_a_cluster_is_one_line(
    more, said, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(asked(tmp_path, *more)) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert said in last


# --- a worker, without Ray ----------------------------------------------------------------------


def test_what_killed_workers_have_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    here, elsewhere = remote._machine(), "0" * 16
    dead = tmp_path / f"depthsearch-worker-{here}-999999999-1"
    # Of another machine, where there may be such a process.
    theirs = tmp_path / f"depthsearch-worker-{elsewhere}-999999999-1"
    abandoned = tmp_path / f"depthsearch-worker-{elsewhere}-999999999-2"
    foreign = tmp_path / "depthsearch-worker-notes"
    for folder in (dead, theirs, abandoned, foreign):
        folder.mkdir()
        (folder / "trial-1.pt").touch()
    long_ago = time.time() - remote.ABANDONED_SECONDS - 60
    for folder in (abandoned, foreign):
        os.utime(folder, (long_ago, long_ago))
    own = remote._own_folder()
    assert remote._own_folder() == own
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([own.name, theirs.name, foreign.name])


def written(tasks, job: Job) -> Iterator[Report]:
    """Train two epochs, each of which adds a letter to the checkpoint, if there is room."""
    numbers = dict.fromkeys(EpochResult.__annotations__, 0)
    for epoch in (1, 2):
        with contextlib.suppress(OSError):
            job.checkpoint.parent.mkdir(exist_ok=True)
            before = job.checkpoint.read_text() if job.checkpoint.exists() else ""
            job.checkpoint.write_text(before + "x")
        yield EpochResult(**{**numbers, "epoch": epoch})
    yield Ended()


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[remote.Trainer]:
    """Make a worker that can work, with a place for files of its own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "node"))
    (tmp_path / "node").mkdir()
    before = signal.getsignal(signal.SIGINT)
    made = remote.Trainer()
    signal.signal(signal.SIGINT, before)
    made._run = written
    yield made
    made.stop()


def training(folder: Path) -> Training:
    """Give a job whose checkpoint lies in a folder that the worker does not have."""
    checkpoint = folder / "not there" / "trial-1.pt"
    return Training(key=1, point=None, seed=0, split_seed=None, checkpoint=checkpoint, upcoming={})


def test_a_checkpoint_travels_with_each_epoch_and_one_that_is_gone_costs_nothing_else(
    trainer, tmp_path: Path
) -> None:
    def trained_then_removed(tasks, job: Job) -> Iterator[Report]:
        for report in written(tasks, job):
            if isinstance(report, EpochResult) and report.epoch == 2:
                shutil.rmtree(job.checkpoint.parent)
            yield report

    trainer._run = trained_then_removed
    assert not trainer.begin(training(tmp_path), None, np.frombuffer(b"kept", np.uint8))
    (first, kept), (second, none), last = (trainer.step() for _ in range(3))
    assert (first.epoch, bytes(kept)) == (1, b"keptx")
    assert (second.epoch, none) == (2, None)
    assert last == (Ended(), None)


def test_a_worker_without_room_for_files_trains_but_does_not_go_on_from_a_checkpoint(
    trainer, tmp_path: Path
) -> None:
    (tmp_path / "node").rmdir()
    (tmp_path / "node").touch()
    with pytest.raises(OSError, match="Not a directory"):
        trainer.begin(training(tmp_path), None, np.frombuffer(b"kept", np.uint8))
    assert not trainer.begin(training(tmp_path), None, None)
    assert [trainer.step()[0].epoch for _ in range(2)] == [1, 2]
    assert trainer.step() == (Ended(), None)


@needs_clocks
def test_a_worker_tells_what_it_computes_but_not_what_others_in_its_process_do(
    trainer, tmp_path: Path
) -> None:
    waits, may_compute, has_computed, may_end = (threading.Event() for _ in range(4))

    def computes_at_last(tasks, job: Job) -> Iterator[Report]:
        waits.set()
        may_compute.wait(30)
        spin(0.2)
        has_computed.set()
        may_end.wait(30)
        yield Ended()

    def spin(seconds: float) -> None:
        before = time.thread_time()
        while time.thread_time() - before < seconds:
            math.factorial(1000)

    trainer._run = computes_at_last
    trainer.begin(training(tmp_path), None, None)
    assert trainer.computed() is None
    with ThreadPoolExecutor(1) as threads:
        step = threads.submit(trainer.step)
        assert waits.wait(30)
        before = trainer.computed()
        spin(0.2)
        assert trainer.computed() - before < 0.1
        may_compute.set()
        assert has_computed.wait(30)
        assert 0.2 <= trainer.computed() - before < 0.3
        may_end.set()
        assert step.result() == (Ended(), None)
    assert trainer.computed() is None


# --- the files of the documentation -------------------------------------------------------------

CLUSTER_FILES = Path(__file__).parents[2] / "docs" / "scaling" / "cluster"
# What KubeRay's reference of ray.io/v1 has; authOptions since 1.5.1.
RAY_JOB_FIELDS = {
    *("activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate", "metadata"),
    *("clusterSelector", "submitterConfig", "managedBy", "deletionStrategy", "entrypoint", "runtimeEnvYAML"),
    *("jobId", "submissionMode", "entrypointResources", "entrypointNumCpus", "entrypointNumGpus"),
    *("ttlSecondsAfterFinished", "shutdownAfterJobFinishes", "suspend"),
}
RAY_CLUSTER_FIELDS = {
    *("authOptions", "suspend", "managedBy", "autoscalerOptions", "headServiceAnnotations", "rayVersion"),
    *("enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec", "workerGroupSpecs"),
}
HEAD_FIELDS = {"template", "headService", "enableIngress", "rayStartParams", "serviceType"}
WORKER_FIELDS = {
    *("suspend", "groupName", "replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds"),
    *("rayStartParams", "template", "scaleStrategy", "numOfHosts"),
}


def options_of(command: str) -> Any:
    """Read a documented command as the command line does."""
    program, *words = shlex.split(command)
    assert program == "depthsearch"
    given = vars(make_parser().parse_args(words))
    return options_from(given.pop("command"), given)


def test_the_job_for_kubernetes_has_only_fields_that_kuberay_knows() -> None:
    job = yaml.safe_load((CLUSTER_FILES / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    cluster_spec = spec["rayClusterSpec"]
    assert set(spec) <= RAY_JOB_FIELDS
    assert set(cluster_spec) <= RAY_CLUSTER_FIELDS
    assert set(cluster_spec["headGroupSpec"]) <= HEAD_FIELDS
    for group in [cluster_spec["headGroupSpec"], *cluster_spec["workerGroupSpecs"]]:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        mounted = {mount["name"] for each in pod["containers"] for mount in each["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        # A claim's volume is root's, and Ray's images run as somebody else.
        claims = {volume["name"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume}
        assert not claims or pod["securityContext"]["fsGroup"] > 0
    (workers,) = cluster_spec["workerGroupSpecs"]
    assert set(workers) <= WORKER_FIELDS
    asked_for = options_of(spec["entrypoint"])
    assert (asked_for.executor, asked_for.workers) == ("ray", workers["replicas"])
    assert ":" not in asked_for.storage.removeprefix("postgresql://")


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_the_script_for_slurm_is_one_that_bash_reads() -> None:
    script = CLUSTER_FILES / "slurm.sh"
    checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    (study,) = re.findall(r"^study=\((.*?)^\)", script.read_text(), re.DOTALL | re.MULTILINE)
    more = re.search(r'"\$\{study\[@\]\}" (--executor.*) &$', script.read_text(), re.MULTILINE)
    assert more is not None
    assert options_of(f"{study} --executor ray").storage.startswith("postgresql://")
    assert "--ray-address" in more[1]
