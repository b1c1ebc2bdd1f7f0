"""One worker: this process."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence

from depthsearch.training.outcomes import EpochResult
from depthsearch.training.task import Task
from depthsearch.workers.jobs import Job, JobRunner, Report, run_job


class InProcess:
    """Runs one job after the other in this process, an epoch at each `wait`; see `jobs.Executor`."""

    def __init__(self, tasks: Mapping[str, Task], *, run: JobRunner = run_job) -> None:
        """Make an executor.

        Args:
            tasks: What to train, by the space's names for the backbones.
            run: Does a job.
        """
        self._tasks = tasks
        self._run = run
        self._job: Job | None = None
        self._reports: Generator[Report, None, None] | None = None

    @property
    def n_workers(self) -> int:
        """How many jobs run at once."""
        return 1

    @property
    def shares_memory(self) -> bool:
        """Whether a worker may run out of memory because others use some."""
        return False

    def start(self, job: Job) -> None:
        """Accept a job; nothing of it runs yet.

        Raises:
            RuntimeError: If there is one already.
        """
        if self._job is not None:
            raise RuntimeError(f"job {self._job.key} runs already")
        self._job, self._reports = job, self._run(self._tasks, job)

    def wait(self, seconds: float) -> Sequence[tuple[int | str, Report]]:
        """Run an epoch, however long it takes."""
        if self._job is None or self._reports is None:
            return []
        key, report = self._job.key, next(self._reports)
        if not isinstance(report, EpochResult):
            self.drop()
        return [(key, report)]

    def answer(self, key: int | str, *, go_on: bool) -> None:
        """End the training, if it is not to go on."""
        if not go_on:
            self.drop()

    def withdraw(self, key: int | str) -> bool:
        """Return False: a job begins at the next `wait`, so that none is ever left waiting."""
        return False

    def drop(self) -> None:
        """End the job, if there is one."""
        if self._reports is not None:
            self._reports.close()
        self._job = self._reports = None

    close = drop
