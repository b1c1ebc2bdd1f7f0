"""What a worker is given to do, and what it sends back: one result an epoch, then how it ended.

A worker only trains. Whether a training goes on after an epoch is for the coordinator to say, so that after
each `EpochResult` the worker waits for an answer. Jobs and reports travel between processes.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from depthsearch.devices import is_device_fault, is_out_of_memory, release_memory
from depthsearch.errors import DepthsearchError, DivergedError
from depthsearch.models.cuts import Cut
from depthsearch.search.space import Point
from depthsearch.text import first_line
from depthsearch.training.loop import EpochResult
from depthsearch.training.objective import Task, TransferCurve, train_point, transfer_curve

__all__ = [
    "Ended",
    "Executor",
    "Failed",
    "Job",
    "JobRunner",
    "Lost",
    "Probing",
    "Report",
    "Training",
    "run_job",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Train one setting.

    Attributes:
        key: Number of the trial.
        point: Cut, learning rate, head.
        seed: Of the head's weights, batch order and dropout.
        split_seed: Divides training and validation images anew; None: they are as the data set says.
        checkpoint: File to go on from if it is there, and to write after each epoch.
        upcoming: How many more trials may come at each cut.
        is_alone: Whether nothing runs beside it, as it needs all the memory there is.
    """

    key: int
    point: Point
    seed: int
    split_seed: int | None
    checkpoint: Path | None
    upcoming: Mapping[Cut, float]
    is_alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Probing:
    """Probe the frozen features of a backbone over depth.

    Attributes:
        key: The space's name for the backbone.
        cuts: Its candidates by depth.
        upcoming: How many trials may come at each cut.
        is_alone: Whether nothing runs beside it, as it needs all the memory there is.
    """

    key: str
    cuts: tuple[Cut, ...]
    upcoming: Mapping[Cut, float]
    is_alone: bool = False


Job = Training | Probing


@dataclass(frozen=True, slots=True)
class Ended:
    """A training went to its last epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A job could not be done.

    Attributes:
        kind: ``diverged``; ``memory``: it ran out of it; ``device``: the GPU failed, and this process can
            compute nothing more on it; ``system``: a file or the like, nothing that speaks of the setting;
            ``bug``.
        reason: In a line.
        error: What was raised.
    """

    kind: str
    reason: str
    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """The worker died or hangs; what it was doing may go on elsewhere.

    Attributes:
        reason: In a line.
    """

    reason: str


Report = EpochResult | TransferCurve | Ended | Failed | Lost
# Does a job: yields reports, of which the last is no `EpochResult`; closed to stop.
JobRunner = Callable[[Mapping[str, Task], Job], Generator[Report, None, None]]


class Executor(Protocol):
    """Runs jobs on workers: here, in processes of this machine, or on a cluster."""

    @property
    def n_workers(self) -> int:
        """How many jobs run at once."""

    @property
    def shares_memory(self) -> bool:
        """Whether a worker may have too little memory since others have some."""

    def start(self, job: Job) -> str | None:
        """Give a job to a free worker; return the worker's name, if there are several.

        Raises:
            RuntimeError: If none is free.
        """

    def wait(self, seconds: float) -> Sequence[tuple[int | str, Report]]:
        """Wait for reports, for so long at the most; give each with its job's key.

        Raises:
            StudyError: If workers cannot be started.
        """

    def answer(self, key: int | str, *, go_on: bool) -> None:
        """Say whether a training goes on after the epoch that it has reported."""

    def withdraw(self, key: int | str) -> bool:
        """Take back a job that no worker has begun; say whether it was."""

    def drop(self) -> None:
        """Give up what still runs, wherever it is: nobody wants its reports."""

    def close(self) -> None:
        """End the workers."""


def run_job(tasks: Mapping[str, Task], job: Job) -> Generator[Report, None, None]:
    """Do a job in this process; close the generator to stop.

    Args:
        tasks: What to train, by the space's names for the backbones.
        job: What to do.

    Yields:
        A result for each epoch, then how it ended; of a probing the curve.
    """
    others = tuple(tasks.values())
    try:
        if isinstance(job, Probing):
            yield transfer_curve(tasks[job.key], job.cuts, upcoming=job.upcoming, others=others)
        else:
            task = tasks[job.point.cut.backbone]
            if job.split_seed is not None:
                task = task.resampled(job.split_seed)
            yield from train_point(
                task,
                job.point,
                seed=job.seed,
                checkpoint=job.checkpoint,
                upcoming=job.upcoming,
                others=others,
            )
            yield Ended()
    except Exception as error:  # noqa: BLE001 (whoever gets the report decides; a bug surfaces there)
        yield _failed(tasks, job, error)
    finally:
        release_memory()


def _failed(tasks: Mapping[str, Task], job: Job, error: Exception) -> Failed:
    if isinstance(error, DivergedError):
        return Failed(kind="diverged", reason=f"diverged: {error}", error=error)
    if is_out_of_memory(error):
        task = tasks[job.point.cut.backbone if isinstance(job, Training) else job.key]
        # What the frames of the error hold is to be free for the next.
        error.__traceback__ = None
        where = f"out of memory on {task.device.kind} at batch size {task.recipe.batch_size}"
        return Failed(kind="memory", reason=f"{where}: {first_line(error)}", error=error)
    if is_device_fault(error):
        return Failed(kind="device", reason=first_line(error), error=error)
    if isinstance(error, OSError | DepthsearchError):
        return Failed(kind="system", reason=first_line(error), error=error)
    return Failed(kind="bug", reason=f"{type(error).__name__}: {error}", error=error)


def portable(report: Report) -> Report:
    """Make a report fit to travel: an error takes its traceback along as a note, or is replaced."""
    if not isinstance(report, Failed):
        return report
    error = report.error
    told = "".join(traceback.format_exception(error))
    try:
        error = pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 (errors of others pickle, or not, in many ways)
        error = RuntimeError(report.reason)
    error.add_note(f"In the worker:\n{told}")
    return Failed(kind=report.kind, reason=report.reason, error=error)
