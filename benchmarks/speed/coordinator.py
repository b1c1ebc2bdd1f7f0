"""What the coordinator takes between two trials, and for an epoch.

    python -m benchmarks.speed.coordinator --trials 30 100

One worker that takes no time: what is measured is all that happens between a report of its and the next job
or the next wait, which is asking, suggesting, judging, storing. Between two trials: from the last report of
one until the next has begun. An epoch: from its report until the worker may go on. The first trials are
planned ones, enqueued; they are among those counted. Milliseconds of wall time and of the processor, median
and 90th percentile over all trials but the last, or over all epochs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median, quantiles

import optuna

from benchmarks.shared.machine import machine_facts, print_facts
from benchmarks.shared.postgres_server import postgres_server
from benchmarks.speed.workers import EPOCH_SECONDS, make_task, simulated
from depthsearch import SearchSpace, Task
from depthsearch.study import open_storage, open_study, search
from depthsearch.training.outcomes import EpochResult
from depthsearch.workers import Ended, InProcess, Report

# Wall and processor seconds.
Times = list[tuple[float, float]]


class Timed(InProcess):
    """One worker here, whose waits part the coordinator's time.

    Attributes:
        trials: What was taken between two trials, each.
        epochs: What an epoch took, each.
    """

    def __init__(self, task: Task) -> None:
        """Make an executor of trials that take no time."""
        super().__init__({"": task}, run=simulated)
        self.trials: Times = []
        self.epochs: Times = []
        self._reported: Report | None = None
        self._since = (0.0, 0.0)

    def wait(self, seconds: float) -> Sequence[tuple[int | str, Report]]:
        """Note what has been taken since the last report."""
        now, before = clocks(), self._since
        taken = now[0] - before[0], now[1] - before[1]
        if isinstance(self._reported, EpochResult):
            self.epochs.append(taken)
        elif isinstance(self._reported, Ended):
            self.trials.append(taken)
        reports = super().wait(seconds)
        self._reported = reports[0][1] if reports else None
        self._since = clocks()
        return reports


def clocks() -> tuple[float, float]:
    """Read wall time and processor time, in seconds."""
    return time.perf_counter(), time.process_time()


def measure(task: Task, url: str, name: str, *, n_trials: int, sampler: str, pruner: str) -> Timed:
    """Run a search of trials that take no time."""
    space = SearchSpace.for_model(task.backbone.model, image_size=task.backbone.preprocessing.image_size)
    study = open_study(open_storage(url), name, task, space, {})
    executor = Timed(task)
    with tempfile.TemporaryDirectory() as folder:
        for _ in search(
            study,
            task,
            space,
            n_trials=n_trials,
            sampler=sampler,
            pruner=pruner,
            checkpoints=Path(folder),
            executor=executor,
        ):
            pass
    return executor


def cells(times: Times) -> str:
    """Show how many there are, and of wall and processor the median and the 90th percentile."""
    shown = [
        f"{1e3 * median(each):.1f} ({1e3 * quantiles(each, n=10)[-1]:.1f})"
        for each in zip(*times, strict=True)
    ]
    return " | ".join([str(len(times)), *shown])


@contextlib.contextmanager
def database(kind: str) -> Iterator[str]:
    """Make an empty database; yield its URL."""
    with contextlib.ExitStack() as stack:
        if kind == "postgresql":
            yield stack.enter_context(postgres_server()).url
        else:
            yield f"sqlite:///{stack.enter_context(tempfile.TemporaryDirectory())}/studies.db"


def main() -> None:
    """Print a row for each number of trials."""
    parser = argparse.ArgumentParser(description="What the coordinator takes.")
    parser.add_argument("--trials", type=int, nargs="+", default=[30, 100])
    parser.add_argument("--sampler", nargs="+", default=["random", "tpe"])
    parser.add_argument("--pruner", default="none")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    given = parser.parse_args()
    os.environ[EPOCH_SECONDS] = "0"
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    task = make_task()
    print_facts(machine_facts(task.device))
    print("| sampler | trials | between two, n | wall, ms | CPU, ms | epochs, n | wall, ms | CPU, ms |")
    print(f"|{'---|' * 8}", flush=True)
    with database(given.database) as url:
        for sampler in given.sampler:
            for n_trials in given.trials:
                name = f"{sampler}-{n_trials}"
                taken = measure(task, url, name, n_trials=n_trials, sampler=sampler, pruner=given.pruner)
                print(
                    f"| {sampler} | {n_trials} | {cells(taken.trials)} | {cells(taken.epochs)} |", flush=True
                )


if __name__ == "__main__":
    main()
