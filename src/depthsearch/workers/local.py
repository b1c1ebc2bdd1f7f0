"""Several workers in processes of this machine: one a GPU, or several; on CPUs the cores are divided.

A worker is a process that can be killed at any moment. What it was doing is then reported as lost, another
process takes its place, and a job that had not begun is simply begun there. Workers end with the process that
made them, however that ends.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import torch

from depthsearch.errors import StudyError
from depthsearch.features import remove_shared
from depthsearch.machine import name_process
from depthsearch.signals import children_uninterrupted, deferred, name_of_signal
from depthsearch.text import first_line
from depthsearch.training.loop import EpochResult
from depthsearch.training.objective import Task
from depthsearch.workers.jobs import Failed, Job, JobRunner, Lost, Report, failed_to_start, portable, run_job
from depthsearch.workers.places import (
    AWAY_SECONDS,
    FIRST_PAUSE_SECONDS,
    HARDLY_SECONDS,
    HUNG_SECONDS,
    PATIENCE_SECONDS,
    TICK_SECONDS,
    Place,
    make_locks_mortal,
)
from depthsearch.workers.plans import WorkerPlan

__all__ = ["LocalProcesses"]

# A killed process that lives on for so long will for longer.
KILL_SECONDS = 10.0
READY = "ready"

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class _Worker(Place):
    """A place for a process.

    Attributes:
        plan: Where it computes.
        process: None: it is to be started.
        connection: To the process.
        is_ready: Whether the process has reported that it can work.
        has_begun: Whether the process has the job.
        is_asking: Whether it waits for an answer.
        computed: Processor seconds that the process had used when it was last seen to use some, and when
            that was.
        failing_since: Since when no process could be started; None: the last one could.
    """

    plan: WorkerPlan
    process: BaseProcess | None = None
    connection: Connection | None = None
    is_ready: bool = False
    has_begun: bool = False
    is_asking: bool = False
    computed: tuple[float, float] = (0.0, 0.0)
    failing_since: float | None = None


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
        """Start the workers; they get ready on their own.

        Args:
            tasks: What to train, by the space's names for the backbones.
            plans: One for each worker.
            run: Does a job; each process finds it by its name.
            hung_seconds: A worker that has used no processor for so long is taken for dead.
            patience_seconds: For how long to try to start a worker that does not start.
        """
        self.hung_seconds = hung_seconds
        self.patience_seconds = patience_seconds
        self._run = run
        self._payload = pickle.dumps(dict(tasks))
        self._context = _context()
        self._workers = [_Worker(plan=plan) for plan in plans]
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
        """Whether a worker may have too little memory since others have some: a GPU's, or the machine's."""
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
        """Give a job to a free worker: one that is ready, or is expected to be soon.

        Returns:
            The worker's name.

        Raises:
            RuntimeError: If none is free.
        """
        free = [worker for worker in self._workers if worker.job is None]
        if len(free) <= len(self._waiting):
            raise RuntimeError(f"no worker is free for job {job.key}")
        if job.is_alone:
            self._empty(free)
        worker = min(free, key=lambda worker: (not worker.is_ready, worker.failing_since is not None))
        worker.job, worker.has_begun = job, False
        self._begin(worker)
        return worker.plan.name

    def wait(self, seconds: float) -> Sequence[tuple[int | str, Report]]:
        """Wait for reports; meanwhile put new processes in the place of dead ones.

        Raises:
            StudyError: If a worker cannot be started, over and over.
        """
        deadline = time.monotonic() + seconds
        while True:
            self._keep_alive()
            self._begin_waiting()
            left = deadline - time.monotonic()
            if self._reports or left <= 0:
                reports, self._reports = self._reports, []
                return reports
            there = {w.connection: w for w in self._workers if w.connection is not None}
            if not there:
                time.sleep(min(left, FIRST_PAUSE_SECONDS))
                continue
            for connection in multiprocessing.connection.wait(list(there), min(left, TICK_SECONDS)):
                self._listen(there[connection])  # type: ignore[index]

    def answer(self, key: int | str, *, go_on: bool) -> None:
        """Tell a worker whether its training goes on."""
        worker = next(worker for worker in self._workers if worker.has(key))
        worker.is_asking = False
        if not go_on:
            worker.job = None
        self._note_computing(worker)
        # A worker that has died meanwhile is seen by the next wait.
        with contextlib.suppress(OSError):
            if worker.connection is not None:
                worker.connection.send(go_on)

    def withdraw(self, key: int | str) -> bool:
        """Take back a job that no process has; say whether it was."""
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
        """Give up what runs: an epoch cannot be stopped, so its process is replaced."""
        for worker in self._workers:
            if worker.job is not None:
                worker.job = None
                _remove(worker)
        self._reports, self._waiting = [], []

    def close(self) -> None:
        """End the processes."""
        self._end()

    def _keep_alive(self) -> None:
        """Start what is to be started, and kill what hangs."""
        now = time.monotonic()
        # Where this process was stopped, or waited for the database, the workers may have been idle since.
        was_away, self._looked = now - self._looked > AWAY_SECONDS, now
        for worker in self._workers:
            if worker.process is None:
                if now >= worker.next_try:
                    self._spawn(worker)
            elif was_away:
                self._note_computing(worker)
            elif _is_at_work(worker) and self._hangs(worker):
                self._lose(worker, f"it computed nothing for {self.hung_seconds:g} s and was ended")

    def _spawn(self, worker: _Worker) -> None:
        with contextlib.ExitStack() as stack:
            try:
                # Of another class on Windows.
                ends: tuple[Any, Any] = self._context.Pipe()
                ours, theirs = (stack.enter_context(end) for end in ends)
                process = self._context.Process(  # type: ignore[attr-defined]
                    target=_serve, args=(theirs, self._payload, worker.plan, self._run), daemon=True
                )
                with _environment(OMP_NUM_THREADS=str(worker.plan.threads)), children_uninterrupted():
                    process.start()
            except (OSError, EOFError) as error:
                # The second where the process that all are forked from has died; another is started then.
                self._failed_to_start(worker, first_line(error))
                return
            stack.pop_all()
            theirs.close()
        worker.process, worker.connection, worker.is_ready = process, ours, False
        self._note_computing(worker)

    def _listen(self, worker: _Worker) -> None:
        """Take in what a worker has sent, or its death."""
        assert worker.connection is not None
        try:
            message: Any = worker.connection.recv()
        except (EOFError, OSError):
            self._lose(worker, f"its process {_how_it_ended(worker.process)}")
            return
        self._note_computing(worker)
        if not worker.is_ready:
            if message == READY:
                worker.is_ready, worker.failing_since, worker.n_failed = True, None, 0
                self._begin(worker)
                return
            _remove(worker)
            if message.kind == "bug":
                raise message.error
            self._failed_to_start(worker, message.reason)
        elif worker.job is not None and worker.has_begun:
            key, report = message
            # One that was stopped ends in its own time; nobody asked for what it says then.
            if key == worker.job.key and isinstance(report, Failed) and report.kind == "device":
                self._lose(worker, report.reason)
            elif key == worker.job.key:
                self._reports.append((key, report))
                worker.is_asking = isinstance(report, EpochResult)
                if not worker.is_asking:
                    worker.job = None

    def _begin(self, worker: _Worker) -> None:
        """Send the job that waits for its process, once that is ready."""
        if worker.job is None or worker.has_begun or not worker.is_ready or worker.connection is None:
            return
        # A process that is dead already is seen by the next wait, and the job begun by the next process.
        with contextlib.suppress(OSError):
            worker.connection.send(worker.job)
            worker.has_begun = True
            worker.is_asking = False
            self._note_computing(worker)

    def _begin_waiting(self) -> None:
        """Let workers that are ready and free do what others were to do and cannot."""
        for worker in self._workers:
            if self._waiting and worker.is_ready and worker.job is None:
                worker.job, worker.has_begun = self._waiting.pop(0), False
                self._begin(worker)

    def _empty(self, workers: Sequence[_Worker]) -> None:
        """Put new processes in the place of idle ones, which have things in memory from earlier jobs."""
        for worker in workers:
            if worker.is_ready:
                _remove(worker)

    def _lose(self, worker: _Worker, reason: str) -> None:
        """Take a process for dead."""
        was_ready = worker.is_ready
        _remove(worker)
        if worker.job is not None and worker.has_begun:
            self._reports.append((worker.job.key, Lost(reason=f"{worker.plan.name}: {reason}")))
            worker.job = None
        elif was_ready:
            log.warning("%s: %s; another takes its place.", worker.plan.name, reason)
        if not was_ready:
            self._failed_to_start(worker, reason)

    def _failed_to_start(self, worker: _Worker, reason: str) -> None:
        """Try again later, or give up; its job is for the first worker that is free.

        Raises:
            StudyError: If it has been tried for long, and there is no other worker either.
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

    def _note_computing(self, worker: _Worker) -> None:
        worker.computed = (_processor_seconds(worker.process), time.monotonic())

    def _hangs(self, worker: _Worker) -> bool:
        used, since = worker.computed
        now_used = _processor_seconds(worker.process)
        if now_used - used > HARDLY_SECONDS:
            worker.computed = (now_used, time.monotonic())
            return False
        return time.monotonic() - since > self.hung_seconds


def _is_at_work(worker: _Worker) -> bool:
    """Whether a worker's process has something to do, and no report of it waits to be read."""
    is_starting = not worker.is_ready
    trains = worker.job is not None and worker.has_begun and not worker.is_asking
    return (is_starting or trains) and not (worker.connection is not None and worker.connection.poll())


def _end_all(workers: Sequence[_Worker]) -> None:
    """End all processes: an interrupt in the middle would leave some that Python waits for at its end."""
    with deferred():
        for worker in workers:
            worker.job = None
            if worker.process is not None:
                worker.process.kill()
        for worker in workers:
            _remove(worker)


def _remove(worker: _Worker) -> None:
    """End a worker's process."""
    if worker.connection is not None:
        worker.connection.close()
    if worker.process is not None:
        worker.process.kill()
        worker.process.join(KILL_SECONDS)
        if worker.process.exitcode is None:
            # It waits for a disk or a GPU that does not answer, and dies when that does.
            log.warning("Process %d of %s cannot be ended now.", worker.process.pid, worker.plan.name)
        else:
            worker.process.close()
    worker.process = worker.connection = None
    worker.is_ready = worker.is_asking = False


def _context() -> BaseContext:
    """Choose how processes start: on Linux from one that has PyTorch loaded and nothing running."""
    # Elsewhere, what PyTorch loads does not stand a fork.
    if sys.platform == "linux":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        return context
    return multiprocessing.get_context("spawn")


@contextlib.contextmanager
def _environment(**names: str) -> Iterator[None]:
    """Set variables that the environment does not have yet, for processes started meanwhile."""
    missing = {name: value for name, value in names.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


def _processor_seconds(process: BaseProcess | None) -> float:
    """Processor time that a process has used; 0 for one that is gone."""
    try:
        times = psutil.Process(process.pid if process is not None else None).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _how_it_ended(process: BaseProcess | None) -> str:
    """Describe how a process died."""
    if process is None:
        return "is gone"
    process.join(5.0)
    code = process.exitcode
    if code is None:
        return "stopped talking"
    if code < 0:
        name = name_of_signal(-code)
        killed = " (the system kills what takes too much memory)" if name == "SIGKILL" else ""
        return f"was ended by {name}{killed}"
    return f"ended with status {code}"


def _serve(connection: Connection, payload: bytes, plan: WorkerPlan, run: JobRunner) -> None:
    """Do jobs until nobody is there to give one: the main function of a worker."""
    # Ctrl-C and a SIGTERM to all of a group are for the coordinator, which ends its workers.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    shared: list[Path] = []
    watching = threading.Thread(target=_end_with_parent, args=(shared,), daemon=True)
    watching.start()
    name_process(plan.name)
    torch.set_num_threads(plan.threads)
    make_locks_mortal()
    try:
        if plan.gpu is not None:
            torch.cuda.set_device(plan.gpu)
        tasks: Mapping[str, Task] = pickle.loads(payload)
        budgets = (task.budget for task in tasks.values() if task.budget is not None)
        shared += {budget.shared_folder for budget in budgets if budget.shared_folder is not None}
    except Exception as error:  # noqa: BLE001 (whoever started this tries again, or raises it)
        connection.send(failed_to_start(error))
        return
    # Nobody at the other end: the coordinator is gone, or is about to kill this process.
    with contextlib.suppress(EOFError, OSError):
        connection.send(READY)
        while True:
            _do(connection, tasks, connection.recv(), run)
    watching.join(KILL_SECONDS)


def _do(connection: Connection, tasks: Mapping[str, Task], job: Job, run: JobRunner) -> None:
    """Do a job; after each epoch wait for the answer."""
    with contextlib.closing(run(tasks, job)) as reports:
        for report in reports:
            connection.send((job.key, portable(report)))
            if isinstance(report, EpochResult) and not connection.recv():
                return


def _end_with_parent(shared: Sequence[Path]) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        # It may have been killed; what it keeps in shared memory nobody else would remove.
        for folder in shared:
            remove_shared(folder)
        os._exit(1)
