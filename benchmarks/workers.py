"""How much faster several workers are than one.

    python benchmarks/workers.py --workers 1 2 4 8    # trials that sleep
    python benchmarks/workers.py --workers 1 2 --real  # that train

Simulated trials sleep for each epoch, so that what is measured is what the service itself takes: asking,
reporting, judging, telling, passing on. Beside it the plain way, on the same trials: as many processes, each
with Optuna's `study.optimize` on one SQLite file.
Real trials train a residual network of 370,000 parameters on scikit-learn's digits, an exhaustive search, so
that both sides do the same work; each worker has one thread.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import optuna
from machine import machine_facts, print_facts

from depthsearch import Recipe, SearchSpace, Task, choose_device, load_backbone, load_data
from depthsearch.executors import Ended, Job, LocalProcesses, Probing, Report, plan_workers, run_job
from depthsearch.objective import TransferCurve
from depthsearch.study import TrialEnded, open_storage, open_study, search
from depthsearch.training import EpochResult

EPOCHS = 5
# For the processes that workers run in.
EPOCH_SECONDS = "DEPTHSEARCH_BENCHMARK_EPOCH_SECONDS"


def simulated(tasks: Mapping[str, Task], job: Job) -> Iterator[Report]:
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


def make_task() -> Task:
    """A small network on the digits."""
    return Task(
        backbone=load_backbone("test_resnet", "random", image_size=32),
        data=load_data("digits", image_size=32),
        recipe=Recipe(epochs=EPOCHS),
        device=choose_device("cpu", "float32"),
    )


def ours(task: Task, n_workers: int, n_trials: int, sampler: str, *, real: bool) -> float:
    """Seconds of a search, once the workers are there."""
    space = SearchSpace.for_model(task.backbone.model, image_size=task.backbone.preprocessing.image_size)
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
            started = time.perf_counter()
            events = search(
                study,
                task,
                space,
                n_trials=len(space.cuts) if real else n_trials,
                sampler=sampler,
                pruner="none",
                checkpoints=Path(folder),
                executor=executor,
            )
            n_ended = sum(isinstance(event, TrialEnded) for event in events)
            seconds = time.perf_counter() - started
        assert n_ended == (len(space.cuts) if real else n_trials)
        storage.engine.dispose()
    return seconds


def plain_trial(trial: optuna.Trial) -> float:
    """Suggest, sleep, report, as a person would write it."""
    depth = trial.suggest_int("cut", 0, 15) / 15
    trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True)
    for epoch in range(1, EPOCHS + 1):
        time.sleep(float(os.environ[EPOCH_SECONDS]))
        trial.report(score(depth, epoch), step=epoch)
        trial.should_prune()
    return score(depth, EPOCHS)


def plain_worker(url: str, n_trials: int, barrier: object) -> None:
    """Run trials until there are enough."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(study_name="s", storage=url, pruner=optuna.pruners.NopPruner())
    barrier.wait()  # type: ignore[attr-defined]
    enough = optuna.study.MaxTrialsCallback(n_trials, states=None)
    study.optimize(plain_trial, callbacks=[enough])


def plain(n_workers: int, n_trials: int) -> float:
    """Seconds of the same with a process each that asks and tells."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/plain.db"
        optuna.create_study(study_name="s", storage=url, direction="maximize")
        barrier = context.Barrier(n_workers + 1)
        started = [
            context.Process(target=plain_worker, args=(url, n_trials, barrier)) for _ in range(n_workers)
        ]
        for process in started:
            process.start()
        barrier.wait()
        begun = time.perf_counter()
        for process in started:
            process.join()
        return time.perf_counter() - begun


def main() -> None:
    """Print a row for each number of workers."""
    parser = argparse.ArgumentParser(description="Throughput of several workers.")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--epoch-seconds", type=float, default=0.5)
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--real", action="store_true", help="train, instead of sleeping")
    arguments = parser.parse_args()
    os.environ[EPOCH_SECONDS] = str(arguments.epoch_seconds)
    os.environ["OMP_NUM_THREADS"] = "1"
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    task = make_task()
    print_facts(machine_facts(task.device))
    print("| workers | seconds | of linear | plain, seconds | of linear |\n|---|---|---|---|---|")
    first: tuple[int, float] | None = None
    for n_workers in arguments.workers:
        runs = [
            ours(task, n_workers, arguments.trials, arguments.sampler, real=arguments.real)
            for _ in range(arguments.rounds)
        ]
        seconds = sum(runs) / len(runs)
        if arguments.real:
            first = first or (n_workers, seconds)
            linear, beside = first[1] * first[0] / n_workers, "|"
        else:
            linear = arguments.trials * EPOCHS * arguments.epoch_seconds / n_workers
            by_hand = plain(n_workers, arguments.trials)
            beside = f"{by_hand:.1f} | {linear / by_hand:.2f}"
        spread = f" ({min(runs):.1f} to {max(runs):.1f})" if len(runs) > 1 else ""
        print(f"| {n_workers} | {seconds:.1f}{spread} | {linear / seconds:.2f} | {beside} |", flush=True)


if __name__ == "__main__":
    main()
