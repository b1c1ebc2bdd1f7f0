"""Workers on the nodes of a Ray cluster, each an actor: a process that Ray starts where there is room.

Ray only places and runs them. The coordinator decides, judges and stores; its Optuna study is the only state.
An actor holds one job, is asked for one epoch after the other, and is replaced when it or its node dies.
Checkpoints come back with each epoch, so that a trial can go on on another node.
"""

from __future__ import annotations

import functools
import logging
import pickle
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from depthsearch.text import first_line
from depthsearch.training.outcomes import EpochResult
from depthsearch.training.task import Task, any_of
from depthsearch.workers.jobs import Failed, Job, JobRunner, Lost, Report, Training, run_job
from depthsearch.workers.places import (
    AWAY_SECONDS,
    FIRST_PAUSE_SECONDS,
    HUNG_SECONDS,
    PATIENCE_SECONDS,
    TICK_SECONDS,
)
from depthsearch.workers.ray.absence import Absence
from depthsearch.workers.ray.actors import LOOKS, ActorPlace, actor_class
from depthsearch.workers.ray.checkpoints import Bytes, Tokens, read_checkpoint, write_checkpoint
from depthsearch.workers.ray.connecting import import_ray, reason_of
from depthsearch.workers.ray.remote import NoImages, Ready, Terms, own_versions
from depthsearch.workers.ray.slots import plan_slots

# An answer is fetched in less time, or its node is gone.
FETCH_SECONDS = 120.0
# How long to wait for the other workers once one is ready.
GATHER_SECONDS = 30.0

log = logging.getLogger(__name__)


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
        """Ask for the workers, without waiting: they start as soon as the cluster has room.

        Args:
            tasks: What to train, by the space's names for the backbones, each on the device that it names.
                Those with a budget keep features in each node's own folder, within that node's room.
            n_workers: How many; default: as many as the cluster has room for now. Those without room yet join
                later.
            num_cpus: Of each worker, see `slots.plan_slots`.
            num_gpus: Likewise.
            memory_bytes: Of each node, for the features of frozen layers, see `features.choose_budget`.
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
        self._ends_ray = ends_ray
        self.device = any_of(tasks).device
        on_gpus = self.device.kind == "cuda"
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        self.slots = slots = plan_slots(
            nodes, on_gpus=on_gpus, n_workers=n_workers, num_cpus=num_cpus, num_gpus=num_gpus
        )
        terms = Terms(
            run=run, versions=own_versions(), slots=slots, memory_bytes=memory_bytes, disk_bytes=disk_bytes
        )
        self._tasks = tasks
        # Every node finds there what is asked of all workers.
        self._terms, self._pickled = self._ray.put(terms), self._ray.put(pickle.dumps(dict(tasks)))
        self._actor = actor_class(self._ray, slots)
        numbers = range(1, slots.n_workers + 1)
        self._workers = [ActorPlace(ray=self._ray, number=n, hung_seconds=hung_seconds) for n in numbers]
        self._waiting: list[Job] = []
        self._reports: list[tuple[int | str, Report]] = []
        # Keys of jobs that an actor could not begin.
        self._not_begun: set[int | str] = set()
        self._tokens = Tokens()
        self._looked = time.monotonic()
        why = f"none has started yet, or no node has {slots} free for one"
        self._absence = Absence(patience_seconds=patience_seconds, reason=why)
        self._keep_alive()

    @property
    def n_workers(self) -> int:
        """How many jobs run at once: the number of workers now, and 1 while there is none."""
        return max(1, sum(worker.ready is not None for worker in self._workers))

    @property
    def shares_memory(self) -> bool:
        """Whether a worker may run out of memory because others use some: a GPU's, or a node's."""
        gpus_each = self.slots.num_gpus
        return gpus_each < 1 if gpus_each else self.n_workers > len({p.node for p in self.places.values()})

    @property
    def places(self) -> Mapping[str, Ready]:
        """Where the workers are, by their names."""
        return {worker.name: worker.ready for worker in self._workers if worker.ready is not None}

    def start(self, job: Job) -> str:
        """Assign a job to a free worker; without one it waits for the first that comes.

        A job that is to run alone gets a new worker: idle ones are ended, and free their memory.

        Returns:
            The worker's name.

        Raises:
            RuntimeError: If all are busy.
        """
        n_jobs = len(self._waiting) + sum(worker.job is not None for worker in self._workers)
        if n_jobs >= self.n_workers:
            raise RuntimeError(f"no worker is free for job {job.key}")
        if job.is_alone:
            for worker in self._workers:
                if worker.ready is not None and worker.job is None:
                    worker.end()
        self._waiting.append(job)
        self._begin_waiting()
        names = (worker.name for worker in self._workers if worker.has(job.key))
        return next(names, "the next worker that comes")

    def wait(self, seconds: float) -> Sequence[tuple[int | str, Report]]:
        """Wait for reports; meanwhile replace actors that have died.

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
            # A checkpoint takes time to arrive: meanwhile the others are heard.
            timeout = min(left, TICK_SECONDS, self.hung_seconds / LOOKS)
            arrived, _ = self._ray.wait(list(asked), timeout=timeout)
            for answer in arrived:
                self._listen(asked[answer])
            if self.n_workers > n_before:
                deadline = 0.0

    def answer(self, key: int | str, *, go_on: bool) -> None:
        """Answer a worker whether its training goes on."""
        worker = next(worker for worker in self._workers if worker.has(key))
        if go_on:
            worker.step()
        else:
            worker.job = None
            worker.stop()

    def withdraw(self, key: int | str) -> bool:
        """Withdraw a job that no actor has; return whether that was possible."""
        n_before = len(self._waiting)
        self._waiting = [job for job in self._waiting if job.key != key]
        return len(self._waiting) < n_before

    def drop(self) -> None:
        """Drop all jobs: an epoch cannot be stopped, so its actor is replaced."""
        for worker in self._workers:
            if worker.job is not None and worker.doing:
                worker.end()
            elif worker.job is not None:
                worker.stop()
            worker.job = None
        self._waiting, self._reports = [], []
        self._not_begun.clear()

    def close(self) -> None:
        """End the actors, and Ray where it was started for them."""
        for worker in self._workers:
            worker.end()
        self._workers = []
        self._tokens.remove()
        if self._ends_ray:
            self._ray.shutdown()

    def gather(self, seconds: float = GATHER_SECONDS) -> None:
        """Wait for the first worker, then for the others, at most for so long.

        Raises:
            StudyError: If none comes for long.
        """
        started = time.monotonic()
        while not self.places or (
            len(self.places) < len(self._workers) and time.monotonic() - started < seconds
        ):
            self.wait(TICK_SECONDS)

    @functools.cached_property
    def _carried(self) -> Any:
        """The tasks with their images, put where every node finds them once one of them lacks the file."""
        # Those of one data set share it.
        data = {id(task.data): task.data.carried() for task in self._tasks.values()}
        return self._ray.put(
            {name: replace(task, data=data[id(task.data)]) for name, task in self._tasks.items()}
        )

    def _keep_alive(self) -> None:
        """Start the actors that are missing, and end those that hang.

        Raises:
            StudyError: If there is no worker for long.
        """
        now = time.monotonic()
        self._look_for_signs(now)
        for worker in self._workers:
            if worker.actor is None and now >= worker.next_try:
                worker.actor = self._actor.remote()
                worker.set_up(self._pickled, self._terms)
        if any(worker.ready for worker in self._workers):
            self._absence.end()
        else:
            self._absence.go_on(now)

    def _look_for_signs(self, now: float) -> None:
        """End the actors that have something to compute and do not."""
        # While this process was stopped, or waited for the database, nobody has asked them.
        was_away = now - self._looked > min(AWAY_SECONDS, self.hung_seconds / 2)
        self._looked = now
        asked = {worker.sign: worker for worker in self._workers if worker.sign is not None}
        if asked:
            arrived, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=0)
            for sign in arrived:
                asked[sign].take_sign(now)
        for worker in self._workers:
            if worker.look(now, was_away=was_away):
                self._lose(worker, f"it computed nothing for {self.hung_seconds:g} s and was ended")

    def _begin_waiting(self) -> None:
        """Assign waiting jobs to free workers."""
        for worker in self._workers:
            if self._waiting and worker.ready is not None and worker.job is None:
                self._begin(worker, self._waiting.pop(0))

    def _begin(self, worker: ActorPlace, job: Job) -> None:
        kept = token = None
        if isinstance(job, Training) and job.checkpoint is not None:
            path = job.checkpoint.absolute()
            job = replace(job, checkpoint=path)
            token = self._tokens.token_in(path.parent)
            if not worker.shares:
                kept = read_checkpoint(path)
        worker.job = job
        worker.begin(token, kept)

    def _listen(self, worker: ActorPlace) -> None:
        """Receive an actor's answer, or notice its death."""
        try:
            answers = self._ray.get(worker.answers, timeout=FETCH_SECONDS)
        except self._ray.exceptions.RayTaskError as error:
            self._failed(worker, error)
            return
        except self._ray.exceptions.RayError as error:
            self._lose(worker, reason_of(error))
            return
        doing = worker.doing
        worker.note_answered()
        if doing == "setup":
            self._set_up(worker, answers[0])
            self._begin_waiting()
        elif doing == "begin":
            assert worker.job is not None
            self._not_begun.discard(worker.job.key)
            worker.shares, worker.n_failed = answers[0], 0
            worker.step()
        else:
            self._take(worker, *answers)

    def _set_up(self, worker: ActorPlace, answer: Ready | NoImages | Failed) -> None:
        """Note whether an actor can work, and send it the images if it lacks them."""
        if isinstance(answer, NoImages):
            log.info("worker %d gets the images from here: %s", worker.number, answer.reason)
            worker.set_up(self._carried, self._terms)
        elif isinstance(answer, Ready):
            worker.ready = answer
        elif answer.kind == "bug":
            raise answer.error
        else:
            worker.end()
            self._failed_to_start(worker, answer.reason)

    def _take(self, worker: ActorPlace, report: Report, kept: Bytes | None) -> None:
        """Store a report, and first the checkpoint that came with it."""
        assert worker.job is not None
        if isinstance(report, Failed) and report.kind == "device":
            self._lose(worker, report.reason)
            return
        if kept is not None and isinstance(worker.job, Training) and worker.job.checkpoint is not None:
            try:
                write_checkpoint(worker.job.checkpoint, kept)
            except OSError as error:
                # As on the node itself: a full disk costs the checkpoint, not the training.
                log.warning("No checkpoint from %s: %s", worker.name, first_line(error))
        self._reports.append((worker.job.key, report))
        if not isinstance(report, EpochResult):
            worker.job = None

    def _failed(self, worker: ActorPlace, error: Any) -> None:
        """Handle what was raised in an actor outside of the job itself: a bug, or a full disk."""
        cause = error.cause if isinstance(error.cause, Exception) else error
        if worker.job is None:
            raise cause
        if isinstance(cause, OSError):
            # A matter of its node: the job may go on elsewhere.
            self._lose(worker, first_line(cause))
            return
        reason = f"{worker.name}: {first_line(cause)}"
        self._reports.append((worker.job.key, Failed(kind="bug", reason=reason, error=cause)))
        worker.job = None
        worker.end()

    def _lose(self, worker: ActorPlace, reason: str) -> None:
        """Report an actor as lost, and end it."""
        name, doing, job = worker.name, worker.doing, worker.job
        # It may live on a node that is cut off from here: it is not to train beside the one that takes over.
        worker.end()
        worker.job = None
        if job is None:
            self._failed_to_start(worker, reason)
        elif doing == "begin":
            self._not_begun_by(worker, job, f"{name}: {reason}")
        else:
            self._reports.append((job.key, Lost(reason=f"{name}: {reason}")))

    def _not_begun_by(self, worker: ActorPlace, job: Job, reason: str) -> None:
        """Assign a job once more, as nothing of it has run; after a second failure report it as lost."""
        self._absence.reason = reason
        worker.pause()
        if job.key in self._not_begun:
            self._not_begun.remove(job.key)
            self._reports.append((job.key, Lost(reason=reason)))
            return
        log.warning("%s; its job is assigned once more.", reason)
        self._not_begun.add(job.key)
        self._waiting.insert(0, job)
        self._begin_waiting()

    def _failed_to_start(self, worker: ActorPlace, reason: str) -> None:
        """Schedule another try."""
        if not worker.n_failed:
            log.warning("worker %d cannot be started yet: %s", worker.number, reason)
        self._absence.reason = reason
        worker.pause()
