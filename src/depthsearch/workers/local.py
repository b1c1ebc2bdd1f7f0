"""Several workers in processes of this machine: one a GPU, or several; on CPUs the cores are divided.

A worker is a process that can be killed at any moment. What it was doing is then reported as lost, another
process takes its place, and a job that had not begun is simply begun there. Workers end with the process that
started them, however that ends.
"""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from depthsearch.errors import StudyError
from depthsearch.signals import deferred
from depthsearch.text import first_line
from depthsearch.training.outcomes import EpochResult
from depthsearch.training.task import Task
from depthsearch.workers.jobs import Failed, Job, JobRunner, Lost, Report, run_job
from depthsearch.workers.places import (
    AWAY_SECONDS,
    FIRST_PAUSE_SECONDS,
    HUNG_SECONDS,
    PATIENCE_SECONDS,
    TICK_SECONDS,
)
from depthsearch.workers.plans import WorkerPlan
from depthsearch.workers.process import ProcessPlace, process_context
from depthsearch.workers.serving import READY

log = logging.getLogger(__name__)


class LocalProcesses:
    """Runs jobs in processes of this machine; see `jobs.Executor`."""

    def __init__(
        self,
        tasks: Mapping[str, Task],
        plans: Sequence[WorkerPlan],
        *,
        run: JobRunner = run_job,
        hung_seconds: float = HUNG_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """Start the workers, without waiting until they are ready.

        Args:
            tasks: What to train, by the space's names for the backbones.
            plans: One for each worker.
            run: Does a job; each process imports it by its name.
            hung_seconds: A worker that has used no processor for so long is taken for dead.
            patience_seconds: For how long to try to start a worker that does not start.
        """
        self.hung_seconds = hung_seconds
        self.patience_seconds = patience_seconds
        self._run = run
        self._payload = pickle.dumps(dict(tasks))
        self._context = process_context()
        self._workers = [ProcessPlace(plan=plan) for plan in plans]
        # Jobs of workers that cannot be started: for the first that is free.
        self._waiting: list[Job] = []
        self._reports: list[tuple[int | str, Report]] = []
        self._looked = time.monotonic()
        # At the end of Python, multiprocessing would wait for workers that nobody has ended.
        self._end = weakref.finalize(self, _end_all, self._workers)
        self._keep_alive()

    @property
    def n_workers(self) -> int:
        """How many jobs run at once."""
        return len(self._workers)

    @property
    def shares_memory(self) -> bool:
        """Whether a worker may run out of memory because others use some: a GPU's, or the machine's."""
        gpus = [worker.plan.gpu for worker in self._workers]
        return len(gpus) > len(set(gpus))

    @property
    def all_ready(self) -> bool:
        """Whether every worker can begin at once."""
        return all(worker.is_ready for worker in self._workers)

    @property
    def pids(self) -> tuple[int, ...]:
        """Numbers of the processes that live."""
        pids = (worker.process.pid for worker in self._workers if worker.process is not None)
        return tuple(pid for pid in pids if pid is not None)

    def start(self, job: Job) -> str:
        """Assign a job to a free worker: one that is ready, or is expected to be soon.

        Returns:
            The worker's name.

        Raises:
            RuntimeError: If none is free.
        """
        free = [worker for worker in self._workers if worker.job is None]
        if len(free) <= len(self._waiting):
            raise RuntimeError(f"no worker is free for job {job.key}")
        if job.is_alone:
            # Idle processes have things in memory from earlier jobs; new ones take their places.
            for idle in free:
                if idle.is_ready:
                    idle.end()
        worker = min(free, key=lambda worker: (not worker.is_ready, worker.failing_since is not None))
        self._assign(worker, job)
        return worker.plan.name

    def wait(self, seconds: float) -> Sequence[tuple[int | str, Report]]:
        """Wait for reports; meanwhile replace processes that have died.

        Raises:
            StudyError: If a worker cannot be started, over and over.
        """
        deadline = time.monotonic() + seconds
        while True:
            self._keep_alive()
            self._assign_waiting()
            left = deadline - time.monotonic()
            if self._reports or left <= 0:
                reports, self._reports = self._reports, []
                return reports
            connected = {w.connection: w for w in self._workers if w.connection is not None}
            if not connected:
                time.sleep(min(left, FIRST_PAUSE_SECONDS))
                continue
            for connection in multiprocessing.connection.wait(list(connected), min(left, TICK_SECONDS)):
                self._listen(connected[connection])  # type: ignore[index]

    def answer(self, key: int | str, *, go_on: bool) -> None:
        """Answer a worker whether its training goes on."""
        worker = next(worker for worker in self._workers if worker.has(key))
        worker.is_asking = False
        if not go_on:
            worker.job = None
        worker.note_computing()
        worker.send(go_on)

    def withdraw(self, key: int | str) -> bool:
        """Withdraw a job that no process has begun; return whether that was possible."""
        for job in self._waiting:
            if job.key == key:
                self._waiting.remove(job)
                return True
        for worker in self._workers:
            if worker.has(key) and not worker.has_begun:
                worker.job = None
                return True
        return False

    def drop(self) -> None:
        """Drop all jobs: an epoch cannot be stopped, so its process is replaced."""
        for worker in self._workers:
            if worker.job is not None:
                worker.job = None
                worker.end()
        self._reports, self._waiting = [], []

    def close(self) -> None:
        """End the processes."""
        self._end()

    def _keep_alive(self) -> None:
        """Start the processes that are missing, and end those that hang."""
        now = time.monotonic()
        # While this process was stopped, or waited for the database, the workers may have been idle.
        was_away, self._looked = now - self._looked > AWAY_SECONDS, now
        for worker in self._workers:
            if worker.process is None:
                if now >= worker.next_try:
                    self._spawn(worker)
            elif was_away:
                worker.note_computing()
            elif worker.hangs(self.hung_seconds):
                self._lose(worker, f"it computed nothing for {self.hung_seconds:g} s and was ended")

    def _spawn(self, worker: ProcessPlace) -> None:
        try:
            worker.start(self._context, self._payload, self._run)
        except (OSError, EOFError) as error:
            self._failed_to_start(worker, first_line(error))

    def _listen(self, worker: ProcessPlace) -> None:
        """Receive a worker's message, or notice its death."""
        assert worker.connection is not None
        try:
            message: Any = worker.connection.recv()
        except (EOFError, OSError):
            self._lose(worker, f"its process {worker.how_it_ended()}")
            return
        worker.note_computing()
        if worker.is_ready:
            self._take(worker, *message)
        elif message == READY:
            worker.is_ready, worker.failing_since, worker.n_failed = True, None, 0
            self._begin(worker)
        else:
            worker.end()
            if message.kind == "bug":
                raise message.error
            self._failed_to_start(worker, message.reason)

    def _take(self, worker: ProcessPlace, key: int | str, report: Report) -> None:
        """Store a report; one of a job that was stopped meanwhile is ignored."""
        if not worker.has(key) or not worker.has_begun:
            return
        if isinstance(report, Failed) and report.kind == "device":
            self._lose(worker, report.reason)
            return
        self._reports.append((key, report))
        worker.is_asking = isinstance(report, EpochResult)
        if not worker.is_asking:
            worker.job = None

    def _assign(self, worker: ProcessPlace, job: Job) -> None:
        worker.job, worker.has_begun = job, False
        self._begin(worker)

    def _begin(self, worker: ProcessPlace) -> None:
        """Send a worker its job, once its process is ready."""
        if worker.job is None or worker.has_begun or not worker.is_ready:
            return
        # To a process that is dead already it cannot be sent: then the next process begins it.
        if worker.send(worker.job):
            worker.has_begun, worker.is_asking = True, False
            worker.note_computing()

    def _assign_waiting(self) -> None:
        """Assign the jobs of workers that cannot be started to others that are free."""
        for worker in self._workers:
            if self._waiting and worker.is_ready and worker.job is None:
                self._assign(worker, self._waiting.pop(0))

    def _lose(self, worker: ProcessPlace, reason: str) -> None:
        """Report a process as lost, and end it."""
        was_ready = worker.is_ready
        worker.end()
        if worker.job is not None and worker.has_begun:
            self._reports.append((worker.job.key, Lost(reason=f"{worker.plan.name}: {reason}")))
            worker.job = None
        elif was_ready:
            log.warning("%s: %s; another takes its place.", worker.plan.name, reason)
        if not was_ready:
            self._failed_to_start(worker, reason)

    def _failed_to_start(self, worker: ProcessPlace, reason: str) -> None:
        """Schedule another try; the worker's job goes to the first worker that is free.

        Raises:
            StudyError: If it has been tried for long, and no other worker is ready either.
        """
        now = time.monotonic()
        if worker.failing_since is None:
            worker.failing_since = now
            log.warning("%s cannot be started yet: %s", worker.plan.name, reason)
        if worker.job is not None:
            self._waiting.append(worker.job)
            worker.job = None
        is_only_hope = not any(other.is_ready for other in self._workers)
        if is_only_hope and now - worker.failing_since > self.patience_seconds:
            raise StudyError(
                f"{worker.plan.name} cannot be started: {reason}. Mend that and run the same command again."
            )
        worker.pause()


def _end_all(workers: Sequence[ProcessPlace]) -> None:
    """End all processes; an interrupt in between would leave some that Python waits for at its end."""
    with deferred():
        for worker in workers:
            worker.job = None
            if worker.process is not None:
                worker.process.kill()
        for worker in workers:
            worker.end()
