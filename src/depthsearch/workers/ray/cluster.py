"""Workers on the nodes of a Ray cluster, each an actor: a process that Ray starts where there is room.

Ray only places and runs them. What is tried, judged and stored stays with the coordinator, whose Optuna study
is the only state: an actor holds one job, is asked for one epoch after the other, and is replaced when it or
its node dies. Checkpoints come back with each epoch, so that a trial goes on on another node.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from depthsearch.errors import StudyError
from depthsearch.files import written_whole
from depthsearch.text import first_line
from depthsearch.training.loop import EpochResult
from depthsearch.training.objective import Task
from depthsearch.workers.jobs import Failed, Job, JobRunner, Lost, Report, Training, run_job
from depthsearch.workers.places import (
    AWAY_SECONDS,
    FIRST_PAUSE_SECONDS,
    HARDLY_SECONDS,
    HUNG_SECONDS,
    PATIENCE_SECONDS,
    TICK_SECONDS,
    Place,
)
from depthsearch.workers.ray.connecting import import_ray, reason_of
from depthsearch.workers.ray.remote import Bytes, NoImages, Ready, Terms, Trainer, own_versions
from depthsearch.workers.ray.slots import Resources, Slots, plan_slots

__all__ = ["RayWorkers"]

# How long to wait without any worker before warning of it.
NOTE_SECONDS = 20.0
# Threads of an actor: the one for what it is to do, and one that tells whether it does.
SIGNS = "signs"
# How often to ask an actor for a sign in the time after which it counts as hung.
LOOKS = 10
# What has been computed is there; fetching it takes no longer, or its node is gone.
FETCH_SECONDS = 120.0
# For how long the others may be awaited once one worker is ready.
GATHER_SECONDS = 30.0

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class _Worker(Place):
    """A place for an actor.

    Attributes:
        number: From 1.
        actor: None: it is to be started.
        ready: What the actor has reported once it could work; None: it cannot yet.
        doing: What its last call is for: ``setup``, ``begin`` or ``step``; empty: nothing, it waits.
        answers: What that call will return; the last of them comes last.
        sign: What will say how much it has computed; None: it is not asked now.
        next_look: When to ask.
        computed: Processor seconds that it had used when it was last seen to use some, and when that was;
            None: as far as is known it has nothing to compute.
        shares: Whether its node has the coordinator's folder for checkpoints, as far as is known.
    """

    number: int
    actor: Any = None
    ready: Ready | None = None
    doing: str = ""
    answers: list[Any] = field(default_factory=list)
    sign: Any = None
    next_look: float = 0.0
    computed: tuple[float, float] | None = None
    shares: bool = False

    @property
    def name(self) -> str:
        """The worker's name, with its place."""
        return f"worker {self.number}" + (f" on {self.ready.place}" if self.ready else "")


class RayWorkers:
    """Runs jobs on the cluster that this process is connected to; see `jobs.Executor`.

    Attributes:
        slots: How many workers are wanted, and what each takes.
        device: What they compute on.
        hung_seconds: An actor that computes nothing for so long is taken for dead.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        *,
        n_workers: int | None = None,
        num_cpus: float | None = None,
        num_gpus: float | None = None,
        memory_bytes: int | None = None,
        disk_bytes: int | None = None,
        run: JobRunner = run_job,
        hung_seconds: float = HUNG_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
        ends_ray: bool = False,
    ) -> None:
        """Ask for the workers; they come as the cluster has room, and get ready on their own.

        Args:
            tasks: What to train, by the space's names for the backbones, each on the device that it names.
                Those with a budget keep in each node's own folder what that node has room for.
            n_workers: How many; default: as many as the cluster has room for now. What there is no room for
                yet joins once there is.
            num_cpus: Of each worker, see `slots.plan_slots`.
            num_gpus: Likewise.
            memory_bytes: Of each node, for what the frozen layers compute, see `features.choose_budget`.
            disk_bytes: Likewise.
            run: Does a job.
            hung_seconds: An actor that has used no processor for so long, or is mute, is taken for dead.
            patience_seconds: For how long to wait while there is no worker at all.
            ends_ray: Whether `close` is to end the connection, and Ray where it was started here.

        Raises:
            SettingsError: If the cluster has no room for any worker and no number is given.
        """
        self._ray = import_ray()
        self.hung_seconds = hung_seconds
        self._patience_seconds = patience_seconds
        self._ends_ray = ends_ray
        self.device = next(iter(tasks.values())).device
        on_gpus = self.device.kind == "cuda"
        self.slots = plan_slots(
            self._nodes(), on_gpus=on_gpus, n_workers=n_workers, num_cpus=num_cpus, num_gpus=num_gpus
        )
        self._terms = self._put_terms(run, memory_bytes, disk_bytes)
        self._tasks = tasks
        self._pickled = self._ray.put(pickle.dumps(dict(tasks)))
        self._carried: Any = None
        self._actor = _actor_class(self._ray, self.slots)
        self._workers = [_Worker(number=number + 1) for number in range(self.slots.n_workers)]
        self._waiting: list[Job] = []
        self._reports: list[tuple[int | str, Report]] = []
        # Keys of jobs that an actor was given and could not begin.
        self._not_begun: set[int | str] = set()
        self._tokens: dict[Path, str] = {}
        # Since when there is no worker; None: there is one.
        self._none_since: float | None = None
        self._has_told = False
        self._looked = time.monotonic()
        self._why_none = f"none has started yet, or no node has {self.slots} free for one"
        self._keep_alive()

    @property
    def n_workers(self) -> int:
        """How many jobs run at once: as many as there are workers now, and one while there is none."""
        return max(1, sum(worker.ready is not None for worker in self._workers))

    @property
    def shares_memory(self) -> bool:
        """Whether a worker may have too little memory since others have some: a GPU's, or a node's."""
        gpus_each = self.slots.num_gpus
        return gpus_each < 1 if gpus_each else self.n_workers > len({p.node for p in self.places.values()})

    @property
    def places(self) -> Mapping[str, Ready]:
        """Where the workers are, by their names."""
        return {worker.name: worker.ready for worker in self._workers if worker.ready is not None}

    def start(self, job: Job) -> str:
        """Give a job to a free worker; without one it waits for the first that comes.

        One that is to be alone has a new worker: what idle ones keep in memory ends with them.

        Returns:
            The worker's name.

        Raises:
            RuntimeError: If all are busy.
        """
        n_jobs = len(self._waiting) + sum(worker.job is not None for worker in self._workers)
        if n_jobs >= self.n_workers:
            raise RuntimeError(f"no worker is free for job {job.key}")
        if job.is_alone:
            self._empty()
        self._waiting.append(job)
        self._begin_waiting()
        names = (worker.name for worker in self._workers if worker.has(job.key))
        return next(names, "the next worker that comes")

    def wait(self, seconds: float) -> Sequence[tuple[int | str, Report]]:
        """Wait for reports; meanwhile put new actors in the place of dead ones.

        Returns early, without a report, when a worker has come.

        Raises:
            StudyError: If there is no worker for long.
        """
        deadline = time.monotonic() + seconds
        while True:
            self._keep_alive()
            n_before, left = self.n_workers, deadline - time.monotonic()
            asked = {worker.answers[-1]: worker for worker in self._workers if worker.doing}
            if self._reports or left <= 0:
                reports, self._reports = self._reports, []
                return reports
            if not asked:
                time.sleep(min(left, FIRST_PAUSE_SECONDS))
                continue
            # That of a checkpoint is here once its bytes are: meanwhile others are listened to.
            there, _ = self._ray.wait(list(asked), timeout=min(left, TICK_SECONDS, self.hung_seconds / LOOKS))
            for answer in there:
                self._listen(asked[answer])
            if self.n_workers > n_before:
                deadline = 0.0

    def answer(self, key: int | str, *, go_on: bool) -> None:
        """Tell a worker whether its training goes on."""
        worker = next(worker for worker in self._workers if worker.has(key))
        if go_on:
            self._step(worker)
        else:
            worker.job = None
            worker.actor.stop.remote()

    def withdraw(self, key: int | str) -> bool:
        """Take back a job that no actor has; say whether it was."""
        before = len(self._waiting)
        self._waiting = [job for job in self._waiting if job.key != key]
        return len(self._waiting) < before

    def drop(self) -> None:
        """Give up what runs: an epoch cannot be stopped, so its actor is replaced."""
        for worker in self._workers:
            if worker.job is not None and worker.doing:
                self._remove(worker)
            elif worker.job is not None:
                worker.actor.stop.remote()
            worker.job = None
        self._waiting, self._reports = [], []
        self._not_begun.clear()

    def close(self) -> None:
        """End the actors, and Ray where it was started for them."""
        for worker in self._workers:
            self._remove(worker)
        for folder, token in self._tokens.items():
            with contextlib.suppress(OSError):
                (folder / token).unlink(missing_ok=True)
        self._workers, self._tokens = [], {}
        if self._ends_ray:
            self._ray.shutdown()

    def gather(self, seconds: float = GATHER_SECONDS) -> None:
        """Wait for the first worker, then for the others, but for so long at the most.

        Raises:
            StudyError: If none comes for long.
        """
        started = time.monotonic()
        while not self.places or (
            len(self.places) < len(self._workers) and time.monotonic() - started < seconds
        ):
            self.wait(TICK_SECONDS)

    def _put_terms(self, run: JobRunner, memory_bytes: int | None, disk_bytes: int | None) -> Any:
        """Put the terms of all workers where every node finds them."""
        terms = Terms(
            run=run,
            versions=own_versions(),
            slots=self.slots,
            memory_bytes=memory_bytes,
            disk_bytes=disk_bytes,
        )
        return self._ray.put(terms)

    def _nodes(self) -> list[Resources]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _keep_alive(self) -> None:
        """Ask for the actors that are missing, and end those that hang.

        Raises:
            StudyError: If there is no worker for long.
        """
        now = time.monotonic()
        self._look_for_signs(now)
        for worker in self._workers:
            if worker.actor is None and now >= worker.next_try:
                worker.actor = self._actor.remote()
                self._call(worker, "setup", worker.actor.setup.remote(self._pickled, self._terms))
        if any(worker.ready for worker in self._workers):
            self._none_since = None
            return
        if self._none_since is None:
            self._none_since, self._has_told = now, False
        waited = now - self._none_since
        if waited > NOTE_SECONDS and not self._has_told:
            self._has_told = True
            log.warning("Waiting for a worker of the cluster: %s", self._why_none)
        if waited > self._patience_seconds:
            raise StudyError(
                f"The cluster has had no worker for {self._patience_seconds:g} s: {self._why_none}. "
                "Mend that and run the same command again."
            )

    def _look_for_signs(self, now: float) -> None:
        """End the actors that are to compute and do not."""
        # Where this process was stopped, or waited for the database, nobody has asked them.
        was_away = now - self._looked > min(AWAY_SECONDS, self.hung_seconds / 2)
        self._looked = now
        asked = {worker.sign: worker for worker in self._workers if worker.sign is not None}
        if asked:
            there, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=0)
            for sign in there:
                self._take_sign(asked[sign], now)
        for worker in self._workers:
            if worker.doing and worker.sign is None and now >= worker.next_look:
                worker.sign = worker.actor.computed.options(concurrency_group=SIGNS).remote()
                worker.next_look = now + self.hung_seconds / LOOKS
            if worker.computed is not None and was_away:
                worker.computed = worker.computed[0], now
            elif self._hangs(worker, now):
                self._lose(worker, f"it computed nothing for {self.hung_seconds:g} s and was ended")

    def _hangs(self, worker: _Worker, now: float) -> bool:
        if worker.computed is None or now - worker.computed[1] <= self.hung_seconds:
            return False
        # What has been answered waits to be heard, or the rest of it is on its way here.
        answered, _ = self._ray.wait(worker.answers[:1], timeout=0, fetch_local=False)
        return not answered

    def _take_sign(self, worker: _Worker, now: float) -> None:
        """Take in how much an actor has computed."""
        sign, worker.sign = worker.sign, None
        # Of its death one hears by what it was to answer.
        with contextlib.suppress(self._ray.exceptions.RayError):
            used = self._ray.get(sign)
            if used is None:
                # What it needs is on its way there, or what it has done on its way here.
                worker.computed = None
            elif worker.computed is None or used - worker.computed[0] > HARDLY_SECONDS:
                worker.computed = used, now

    def _call(self, worker: _Worker, doing: str, *answers: Any) -> None:
        worker.doing, worker.answers = doing, list(answers)
        now = time.monotonic()
        worker.sign, worker.next_look = None, now + self.hung_seconds / LOOKS
        # The others wait for room, or for what they need.
        worker.computed = (0.0, now) if doing == "step" else None

    def _begin_waiting(self) -> None:
        """Hand jobs that wait to workers that are free."""
        for worker in self._workers:
            if self._waiting and worker.ready is not None and worker.job is None:
                self._begin(worker, self._waiting.pop(0))

    def _empty(self) -> None:
        """End idle actors, which have things in memory from earlier jobs; new ones take their places."""
        for worker in self._workers:
            if worker.ready is not None and worker.job is None:
                self._remove(worker)

    def _begin(self, worker: _Worker, job: Job) -> None:
        kept = token = None
        if isinstance(job, Training) and job.checkpoint is not None:
            path = job.checkpoint.absolute()
            job = replace(job, checkpoint=path)
            token = self._token(path.parent)
            if not worker.shares:
                kept = _read(path)
        worker.job = job
        self._call(worker, "begin", worker.actor.begin.remote(job, token, kept))

    def _token(self, folder: Path) -> str | None:
        """Put a file where checkpoints lie: a node that sees it has the same folder."""
        if folder not in self._tokens:
            token = f".{secrets.token_hex(8)}.coordinator"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / token).touch()
            except OSError:
                return None
            self._tokens[folder] = token
        return self._tokens[folder]

    def _step(self, worker: _Worker) -> None:
        self._call(worker, "step", *worker.actor.step.options(num_returns=2).remote())

    def _listen(self, worker: _Worker) -> None:
        """Take in what an actor has answered, or its death."""
        try:
            answers = self._ray.get(worker.answers, timeout=FETCH_SECONDS)
        except self._ray.exceptions.RayTaskError as error:
            self._failed(worker, error)
            return
        except self._ray.exceptions.RayError as error:
            self._lose(worker, reason_of(error))
            return
        doing = worker.doing
        self._call(worker, "")
        if doing == "setup":
            self._set_up(worker, answers[0])
            self._begin_waiting()
        elif doing == "begin":
            assert worker.job is not None
            self._not_begun.discard(worker.job.key)
            worker.shares, worker.n_failed = answers[0], 0
            self._step(worker)
        else:
            self._take(worker, *answers)

    def _set_up(self, worker: _Worker, answer: Ready | NoImages | Failed) -> None:
        """Take in whether an actor can work."""
        if isinstance(answer, NoImages):
            log.info("worker %d gets the images from here: %s", worker.number, answer.reason)
            if self._carried is None:
                self._carried = self._ray.put(_carried(self._tasks))
            self._call(worker, "setup", worker.actor.setup.remote(self._carried, self._terms))
        elif isinstance(answer, Ready):
            worker.ready = answer
        elif answer.kind == "bug":
            raise answer.error
        else:
            self._remove(worker)
            self._failed_to_start(worker, answer.reason)

    def _take(self, worker: _Worker, report: Report, kept: Bytes | None) -> None:
        """Take in a report, and first the checkpoint that came with it."""
        assert worker.job is not None
        if isinstance(report, Failed) and report.kind == "device":
            self._lose(worker, report.reason)
            return
        if kept is not None and isinstance(worker.job, Training) and worker.job.checkpoint is not None:
            try:
                with written_whole(worker.job.checkpoint, durable=False) as file:
                    file.write(kept.data)
            except OSError as error:
                # As where it is trained: a full disk costs the checkpoint and not the training.
                log.warning("No checkpoint from %s: %s", worker.name, first_line(error))
        self._reports.append((worker.job.key, report))
        if not isinstance(report, EpochResult):
            worker.job = None

    def _failed(self, worker: _Worker, error: Any) -> None:
        """Pass on what was raised in an actor, outside of the job itself: a bug, or a disk that is full."""
        cause = error.cause if isinstance(error.cause, Exception) else error
        if worker.job is None:
            raise cause
        if isinstance(cause, OSError):
            # Of its node: elsewhere the job may go on.
            self._lose(worker, first_line(cause))
            return
        reason = f"{worker.name}: {first_line(cause)}"
        self._reports.append((worker.job.key, Failed(kind="bug", reason=reason, error=cause)))
        worker.job = None
        self._remove(worker)

    def _lose(self, worker: _Worker, reason: str) -> None:
        """Take an actor for dead."""
        name, doing, job = worker.name, worker.doing, worker.job
        # Should it live, its node cut off from here, it is not to train beside the one that takes over.
        self._remove(worker)
        worker.job = None
        if job is None:
            self._failed_to_start(worker, reason)
        elif doing == "begin":
            self._not_begun_by(worker, job, f"{name}: {reason}")
        else:
            self._reports.append((job.key, Lost(reason=f"{name}: {reason}")))

    def _not_begun_by(self, worker: _Worker, job: Job, reason: str) -> None:
        """Hand a job out once more, as nothing of it has run; a second time it may be at fault."""
        self._why_none = reason
        worker.pause()
        if job.key in self._not_begun:
            self._not_begun.remove(job.key)
            self._reports.append((job.key, Lost(reason=reason)))
            return
        log.warning("%s; what it was to begin is given out once more.", reason)
        self._not_begun.add(job.key)
        self._waiting.insert(0, job)
        self._begin_waiting()

    def _failed_to_start(self, worker: _Worker, reason: str) -> None:
        """Try again later."""
        if not worker.n_failed:
            log.warning("worker %d cannot be started yet: %s", worker.number, reason)
        self._why_none = reason
        worker.pause()

    def _remove(self, worker: _Worker) -> None:
        """End a worker's actor."""
        if worker.actor is not None:
            with contextlib.suppress(self._ray.exceptions.RayError, RuntimeError):
                self._ray.kill(worker.actor)
        worker.actor = worker.ready = None
        self._call(worker, "")
        worker.shares = False


def _actor_class(ray: Any, slots: Slots) -> Any:
    """Make a class of actors, spread over the nodes: a node's memory and disk are for its own workers."""
    return ray.remote(
        num_cpus=slots.num_cpus,
        num_gpus=slots.num_gpus,
        scheduling_strategy="SPREAD",
        concurrency_groups={SIGNS: 1},
    )(Trainer)


def _carried(tasks: Mapping[str, Task]) -> dict[str, Task]:
    """Return the tasks with their images; those of one data set share it."""
    data = {id(task.data): task.data.carried() for task in tasks.values()}
    return {name: replace(task, data=data[id(task.data)]) for name, task in tasks.items()}


def _read(path: Path) -> Bytes | None:
    """Read a checkpoint, if it is there."""
    try:
        return np.fromfile(path, dtype=np.uint8)
    except OSError:
        return None
