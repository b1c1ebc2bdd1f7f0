"""How much faster several workers are than one.

    python -m benchmarks.speed.workers --workers 1 2 4 8    # trials that sleep
    python -m benchmarks.speed.workers --workers 1 2 --real  # that train

Simulated trials sleep for each epoch, so that what is measured is what the service itself takes: asking,
reporting, judging, telling, passing on. Beside it the plain way, with trials of as many epochs: as many
processes, each with Optuna's `study.optimize` on one SQLite file. Of these, several may begin a last trial in
the same moment; what is shown of linear counts every trial that was trained.
Real trials train a residual network of 370,000 parameters on scikit-learn's digits, an exhaustive search, so
that any number of workers trains the same trials; each worker has one thread. Nothing is beside them, and
linear is what the first row took.

Ends with 1 where a process died, or a trial was not trained to its last epoch: a time of that tells nothing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import optuna
from optuna.trial import TrialState

from benchmarks.shared.machine import machine_facts, print_facts
from depthsearch import Recipe, SearchSpace, Task, choose_device, load_backbone, load_data
from depthsearch.data import Division
from depthsearch.study import TrialLost, open_storage, open_study, search
from depthsearch.training.outcomes import EpochResult, TransferCurve
from depthsearch.workers import Ended, Job, LocalProcesses, Probing, Report, plan_workers, run_job

EPOCHS = 5
# For the processes that workers run in.
EPOCH_SECONDS = "DEPTHSEARCH_BENCHMARK_EPOCH_SECONDS"
# How long the processes of the plain way may take to load Optuna, and to be done beside their trials.
PATIENCE_SECONDS = 600.0


def simulated(tasks: Mapping[str, Task], job: Job) -> Generator[Report, None, None]:
    """Sleep in place of training."""
    if isinstance(job, Probing):
        yield TransferCurve(points=(), macs=0, seconds=0.0, kept_bytes=0)
        return
    seconds = float(os.environ[EPOCH_SECONDS])
    for epoch in range(1, EPOCHS + 1):
        time.sleep(seconds)
        yield EpochResult(
            epoch=epoch,
            train_loss=1 / epoch,
            val_loss=1 / epoch,
            score=score(job.point.cut.frozen_mac_share, epoch),
            seconds=seconds,
            images_per_second=1.0,
            prefix_macs=0,
            forward_macs=1,
            backward_macs=2,
            plain_macs=3,
            kept_bytes=0,
            read_bytes=0,
        )
    yield Ended()


def score(depth: float, epoch: int) -> float:
    """Best at a depth of 0.6, and rising with the epochs."""
    return 0.9 - (depth - 0.6) ** 2 - 0.2 / epoch


def make_task(subset: float = 1.0) -> Task:
    """A small network on a share of the digits."""
    return Task(
        backbone=load_backbone("test_resnet", "random", image_size=32),
        data=load_data("digits", Division(subset=subset), image_size=32),
        recipe=Recipe(epochs=EPOCHS),
        device=choose_device("cpu", "float32"),
    )


def count_trained(study: optuna.Study, n_wanted: int, *, n_more: int = 0) -> int:
    """Count the trials of a study, all of which have to be trained to their last epoch.

    Args:
        study: That is done.
        n_wanted: Trials that it should have.
        n_more: So many more it may have.

    Raises:
        RuntimeError: If a trial was not, or there are fewer or more.
    """
    # Planned first trials that are more than what is wanted wait for ever.
    trials = [t for t in study.get_trials(deepcopy=False) if t.state != TrialState.WAITING]
    ends = Counter((trial.state.name.lower(), max(trial.intermediate_values, default=0)) for trial in trials)
    n_trained = ends[TrialState.COMPLETE.name.lower(), EPOCHS]
    if n_trained < len(trials) or not n_wanted <= n_trained <= n_wanted + n_more:
        told = ", ".join(f"{n} {state} after {epochs} epochs" for (state, epochs), n in ends.items())
        raise RuntimeError(f"{n_wanted} trials of {EPOCHS} epochs were wanted; there are {told or 'none'}")
    return n_trained


def ours(task: Task, n_workers: int, n_trials: int, sampler: str, *, real: bool) -> tuple[float, int]:
    """Seconds of a search, once the workers are there, and the trials that it trained.

    Raises:
        RuntimeError: If not all were trained, or a worker was lost.
    """
    space = SearchSpace.for_model(task.backbone.model, image_size=task.backbone.preprocessing.image_size)
    n_wanted = len(space.cuts) if real else n_trials
    with tempfile.TemporaryDirectory() as folder:
        storage = open_storage(f"sqlite:///{folder}/studies.db")
        study = open_study(storage, "s", task, space, {}, exhaustive=real)
        plans = [replace(plan, threads=1) for plan in plan_workers(task.device, n_workers)]
        run = run_job if real else simulated
        with closing(LocalProcesses({"": task}, plans, run=run)) as executor:
            # Until all are ready, which takes as long as loading PyTorch.
            executor.wait(0)
            while not executor.all_ready:
                executor.wait(0.1)
            pids = executor.pids
            started = time.perf_counter()
            events = search(
                study,
                task,
                space,
                n_trials=n_wanted,
                sampler=sampler,
                pruner="none",
                checkpoints=Path(folder),
                executor=executor,
            )
            lost = [event.reason for event in events if isinstance(event, TrialLost)]
            seconds = time.perf_counter() - started
            if lost or executor.pids != pids:
                raise RuntimeError(f"a worker was lost: {lost[0] if lost else 'between two trials'}")
        n_trained = count_trained(study, n_wanted)
        storage.engine.dispose()
    return seconds, n_trained


def plain_trial(trial: optuna.Trial) -> float:
    """Suggest, sleep, report, as a person would write it."""
    depth = trial.suggest_int("cut", 0, 15) / 15
    trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True)
    for epoch in range(1, EPOCHS + 1):
        time.sleep(float(os.environ[EPOCH_SECONDS]))
        trial.report(score(depth, epoch), step=epoch)
        trial.should_prune()
    return score(depth, EPOCHS)


class Process(Protocol):
    """A process, of which only its end is of interest: its status, or None."""

    @property
    def exitcode(self) -> int | None:
        """Its exit status; None: it runs."""


class Barrier(Protocol):
    """Of `threading` or `multiprocessing`."""

    @property
    def n_waiting(self) -> int:
        """How many wait at it."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait until all are there."""


def plain_worker(url: str, n_trials: int, barrier: Barrier) -> None:
    """Run trials until there are enough."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(study_name="s", storage=url, pruner=optuna.pruners.NopPruner())
    barrier.wait(PATIENCE_SECONDS)
    enough = optuna.study.MaxTrialsCallback(n_trials, states=None)
    study.optimize(plain_trial, callbacks=[enough])
    barrier.wait(PATIENCE_SECONDS)


def meet(barrier: Barrier, processes: Sequence[Process], seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until all processes are at the barrier, and let them go on.

    Raises:
        RuntimeError: If one has ended, or they are not there in time.
    """
    latest = time.monotonic() + seconds
    while (n_there := barrier.n_waiting) < len(processes):
        ended = [process.exitcode for process in processes if process.exitcode is not None]
        if ended:
            raise RuntimeError(f"a process of the plain way ended too early, with status {ended[0]}")
        if time.monotonic() > latest:
            raise RuntimeError(
                f"{n_there} of {len(processes)} processes of the plain way came within {seconds:g} s"
            )
        time.sleep(0.002)
    barrier.wait(PATIENCE_SECONDS)


def plain(n_workers: int, n_trials: int) -> tuple[float, int]:
    """Seconds of as many trials with a process each that asks and tells, and the trials that it trained.

    Raises:
        RuntimeError: If not all were trained, or a process failed.
    """
    context = multiprocessing.get_context("spawn")
    processes: list[multiprocessing.context.SpawnProcess] = []
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/plain.db"
        study = optuna.create_study(study_name="s", storage=url, direction="maximize")
        barrier = context.Barrier(n_workers + 1)
        try:
            for _ in range(n_workers):
                process = context.Process(target=plain_worker, args=(url, n_trials, barrier))
                process.start()
                processes.append(process)
            meet(barrier, processes)
            begun = time.perf_counter()
            one_by_one = n_trials * EPOCHS * float(os.environ[EPOCH_SECONDS])
            meet(barrier, processes, one_by_one + PATIENCE_SECONDS)
            seconds = time.perf_counter() - begun
            for process in processes:
                process.join(PATIENCE_SECONDS)
            if any(process.exitcode != 0 for process in processes):
                raise RuntimeError(f"processes of the plain way ended with {[p.exitcode for p in processes]}")
        finally:
            for process in processes:
                process.kill()
                process.join()
        # Each but one may have begun another before it saw that there were enough.
        return seconds, count_trained(study, n_trials, n_more=n_workers - 1)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What some rounds took.

    Attributes:
        seconds: Of each round.
        n_trained: Trials of each round.
    """

    seconds: tuple[float, ...]
    n_trained: tuple[int, ...]

    @classmethod
    def of(cls, rounds: Iterable[tuple[float, int]]) -> Measured:
        """Run the rounds."""
        seconds, n_trained = zip(*rounds, strict=True)
        return cls(seconds=seconds, n_trained=n_trained)

    @property
    def rate(self) -> float:
        """Trials a second."""
        return sum(self.n_trained) / sum(self.seconds)

    def cells(self, linear: float) -> str:
        """Show trials, seconds, and what share of a linear rate that is."""
        mean = sum(self.seconds) / len(self.seconds)
        spread = f" ({min(self.seconds):.1f} to {max(self.seconds):.1f})" if len(self.seconds) > 1 else ""
        trained = " + ".join(map(str, self.n_trained))
        return f"{trained} | {mean:.1f}{spread} | {self.rate / linear:.2f} |"


def main() -> None:
    """Print a row for each number of workers."""
    parser = argparse.ArgumentParser(description="Throughput of several workers.")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--epoch-seconds", type=float, default=0.5)
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--real", action="store_true", help="train, instead of sleeping")
    parser.add_argument("--subset", type=float, default=1.0, help="share of the images that are trained on")
    arguments = parser.parse_args()
    os.environ[EPOCH_SECONDS] = str(arguments.epoch_seconds)
    os.environ["OMP_NUM_THREADS"] = "1"
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    task = make_task(arguments.subset)
    print_facts(machine_facts(task.device))
    columns = "workers | trials | seconds | of linear"
    if not arguments.real:
        columns += " | plain, trials | seconds | of linear"
    print(f"| {columns} |\n|{'---|' * (columns.count('|') + 1)}", flush=True)
    try:
        print_rows(task, arguments)
    except RuntimeError as error:
        sys.exit(f"Not measured: {error}")


def print_rows(task: Task, arguments: argparse.Namespace) -> None:
    """Print a row for each number of workers.

    Raises:
        RuntimeError: If something was not trained as it should be.
    """
    rounds, n_trials = range(arguments.rounds), arguments.trials
    # Trials a second of one worker.
    single: float | None = None if arguments.real else 1 / (EPOCHS * arguments.epoch_seconds)
    for n_workers in arguments.workers:
        found = Measured.of(
            ours(task, n_workers, n_trials, arguments.sampler, real=arguments.real) for _ in rounds
        )
        single = single or found.rate / n_workers
        linear = single * n_workers
        beside = ""
        if not arguments.real:
            beside = f" {Measured.of(plain(n_workers, n_trials) for _ in rounds).cells(linear)}"
        print(f"| {n_workers} | {found.cells(linear)}{beside}", flush=True)


if __name__ == "__main__":
    main()
