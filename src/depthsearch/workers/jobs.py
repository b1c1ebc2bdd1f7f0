"""Jobs for workers, and their reports: one result an epoch, then how it ended.

A worker only trains. The coordinator decides whether a training goes on after an epoch: the worker waits for
its answer after each `EpochResult`. Jobs and reports are sent between processes.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from depthsearch.devices import is_device_fault, is_out_of_memory, release_memory
from depthsearch.errors import DepthsearchError, DivergedError
from depthsearch.models.cuts import Cut
from depthsearch.search.space import Point
from depthsearch.text import first_line
from depthsearch.training.objective import train_point, transfer_curve
from depthsearch.training.outcomes import EpochResult, TransferCurve
from depthsearch.training.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """The training of one setting.

    Attributes:
        key: Number of the trial.
        point: Cut, learning rate, head.
        seed: Of the head's weights, batch order and dropout.
        split_seed: Divides training and validation images anew; None: as in the data set.
        checkpoint: File to go on from if it exists, and to write after each epoch.
        upcoming: How many more trials are expected at each cut.
        is_alone: Whether nothing may run beside it, as it needs all the memory there is.
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
    """The probes of a backbone's frozen features over depth.

    Attributes:
        key: The space's name for the backbone.
        cuts: Its candidates by depth.
        upcoming: How many trials are expected at each cut.
        is_alone: Whether nothing may run beside it, as it needs all the memory there is.
    """

    key: str
    cuts: tuple[Cut, ...]
    upcoming: Mapping[Cut, float]
    is_alone: bool = False


Job = Training | Probing
FailureKind = Literal["diverged", "memory", "device", "system", "bug"]


@dataclass(frozen=True, slots=True)
class Ended:
    """A training reached its last epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A job could not be done.

    Attributes:
        kind: ``diverged``; ``memory``: it ran out; ``device``: the GPU failed, and this process can compute
            nothing more on it; ``system``: a file or the like, whatever the setting; ``bug``.
        reason: In a line.
        error: What was raised.
    """

    kind: FailureKind
    reason: str
    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """The worker died or hangs; its job may go on elsewhere.

    Attributes:
        reason: In a line.
    """

    reason: str


Report = EpochResult | TransferCurve | Ended | Failed | Lost
# Does a job: a generator of reports, the last of which is no `EpochResult`; closed to stop.
JobRunner = Callable[[Mapping[str, Task], Job], Generator[Report, None, None]]


class Executor(Protocol):
    """Runs jobs on workers: here, in processes of this machine, or on a cluster."""

    @property
    def n_workers(self) -> int:
        """How many jobs run at once."""

    @property
    def shares_memory(self) -> bool:
        """Whether a worker may run out of memory because others use some."""

    def start(self, job: Job) -> str | None:
        """Assign a job to a free worker; return the worker's name, if there are several.

        Raises:
            RuntimeError: If none is free.
        """

    def wait(self, seconds: float) -> Sequence[tuple[int | str, Report]]:
        """Wait for reports, at most for so long; return each with its job's key.

        Raises:
            StudyError: If workers cannot be started.
        """

    def answer(self, key: int | str, *, go_on: bool) -> None:
        """Answer a training that has reported an epoch: it goes on, or ends."""

    def withdraw(self, key: int | str) -> bool:
        """Withdraw a job that no worker has begun; return whether that was possible."""

    def drop(self) -> None:
        """Drop all jobs, begun or not, and their reports."""

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
    except Exception as error:  # noqa: BLE001 (users' models and drivers raise anything; a bug is raised again by the receiver)
        yield _failed(tasks, job, error)
    finally:
        release_memory()


def _failed(tasks: Mapping[str, Task], job: Job, error: Exception) -> Failed:
    if isinstance(error, DivergedError):
        return Failed(kind="diverged", reason=f"diverged: {error}", error=error)
    if is_out_of_memory(error):
        task = tasks[job.point.cut.backbone if isinstance(job, Training) else job.key]
        # Its frames hold tensors: their memory is needed for the next job.
        error.__traceback__ = None
        where = f"out of memory on {task.device.kind} at batch size {task.recipe.batch_size}"
        return Failed(kind="memory", reason=f"{where}: {first_line(error)}", error=error)
    if is_device_fault(error):
        return Failed(kind="device", reason=first_line(error), error=error)
    if isinstance(error, OSError | DepthsearchError):
        return Failed(kind="system", reason=first_line(error), error=error)
    return Failed(kind="bug", reason=f"{type(error).__name__}: {error}", error=error)


def failed_to_start(error: Exception) -> Failed:
    """Report why a worker cannot work at all: ``system`` where a later try may succeed, else ``bug``."""
    is_of_system = isinstance(error, OSError | DepthsearchError)
    # A GPU may be in use or be reset, and memory be free later.
    is_transient = is_of_system or is_out_of_memory(error) or is_device_fault(error)
    kind: FailureKind = "system" if is_transient else "bug"
    return _portable_failure(Failed(kind=kind, reason=first_line(error), error=error))


def portable(report: Report) -> Report:
    """Make a report that can be pickled: an error keeps its traceback as a note, or is replaced."""
    return _portable_failure(report) if isinstance(report, Failed) else report


def _portable_failure(failed: Failed) -> Failed:
    in_worker = "".join(traceback.format_exception(failed.error))
    try:
        error = pickle.loads(pickle.dumps(failed.error))
    except Exception:  # noqa: BLE001 (pickling a foreign error may raise anything)
        error = RuntimeError(failed.reason)
    error.add_note(f"In the worker:\n{in_worker}")
    return replace(failed, error=error)
