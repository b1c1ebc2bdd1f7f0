"""What runs on a node of a cluster: a worker that holds one job, and runs an epoch whenever it is asked."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import platformdirs
import torch

from depthsearch import __version__
from depthsearch.devices import quick_releases
from depthsearch.errors import DataError, StudyError
from depthsearch.features.budget import choose_budget
from depthsearch.features.tiers.nodes import node_folder
from depthsearch.hashing import digest_of
from depthsearch.machine import start_of, this_machine, thread_clock
from depthsearch.text import first_line
from depthsearch.training.outcomes import EpochResult
from depthsearch.training.task import Task
from depthsearch.workers.jobs import Failed, Job, JobRunner, Report, Training, failed_to_start, portable
from depthsearch.workers.places import make_locks_mortal
from depthsearch.workers.ray.checkpoints import Bytes, read_checkpoint, write_checkpoint
from depthsearch.workers.ray.connecting import import_ray
from depthsearch.workers.ray.slots import Slots

PREFIX = "depthsearch-worker"
# Folders of workers: machine, process, start of the process.
FOLDER = re.compile(rf"{PREFIX}-([0-9a-f]{{16}})-(\d+)-(\w+)")
# The processes of another machine cannot be looked up: if nothing was written for so long, they have ended.
ABANDONED_SECONDS = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the coordinator asks of every worker.

    Attributes:
        run: Does a job.
        versions: The coordinator's; the worker must have the same.
        slots: What each worker takes of a node.
        memory_bytes: Of the node, for the features of frozen layers; see `features.choose_budget`.
        disk_bytes: Likewise.
    """

    run: JobRunner
    versions: Mapping[str, str]
    slots: Slots
    memory_bytes: int | None
    disk_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A worker is ready.

    Attributes:
        place: Where it is, for messages.
        node: Ray's identifier of the node.
        pid: Number of its process there.
    """

    place: str
    node: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NoImages:
    """A worker's node does not have the file of the images.

    Attributes:
        reason: In a line.
    """

    reason: str


def own_versions() -> dict[str, str]:
    """Return the versions that all workers must share."""
    return {"depthsearch": __version__, "torch": str(torch.__version__)}


class Trainer:
    """A worker, in a process of its own."""

    def __init__(self) -> None:
        # Ctrl-C is for the coordinator, which ends its workers.
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        make_locks_mortal()
        self._tasks: Mapping[str, Task] = {}
        self._reports: Generator[Report, None, None] | None = None
        self._checkpoint: Path | None = None
        # Stamp of the checkpoint that the coordinator has; None: it has none.
        self._known: tuple[int, int] | None = None
        # Of the thread that runs a call; None: none runs, or the system has no such clock.
        self._clock: Callable[[], float] | None = None
        # As long as this process lives.
        self._forever = contextlib.ExitStack()

    def computed(self) -> float | None:
        """Return the processor time of the thread that works, in seconds; to be called from another thread.

        Returns:
            None: nothing runs, or the system has no such clock.
        """
        clock = self._clock
        return None if clock is None else clock()

    def setup(self, tasks: bytes | Mapping[str, Task], terms: Terms) -> Ready | NoImages | Failed:
        """Get ready.

        Args:
            tasks: Pickled, with the name of the images' file; or unpickled, with the images themselves.
            terms: What the coordinator asks.
        """
        try:
            with self._timed():
                _check(terms.versions)
                # Ray sets the variable to what the worker has, unless the node has it already.
                asked = os.environ.get("OMP_NUM_THREADS", "")
                torch.set_num_threads(max(1, int(asked if asked.isdecimal() else terms.slots.num_cpus)))
                taken: Mapping[str, Task] = pickle.loads(tasks) if isinstance(tasks, bytes) else tasks
                here = import_ray().get_runtime_context()
                node: str = here.get_node_id()
                n_beside = _n_beside(terms.slots, node)
                self._tasks = {
                    name: _with_budget(task, terms, n_beside, n_tasks=len(taken))
                    for name, task in taken.items()
                }
                self._run = terms.run
                self._forever.enter_context(quick_releases())
        except Exception as error:  # noqa: BLE001 (drivers and pickles raise anything; the coordinator decides)
            if isinstance(error, DataError) and isinstance(tasks, bytes):
                return NoImages(reason=first_line(error))
            return failed_to_start(error)
        gpus = "".join(f", GPU {gpu}" for gpu in here.get_accelerator_ids().get("GPU", ()))
        return Ready(place=socket.gethostname() + gpus, node=node, pid=os.getpid())

    def begin(self, job: Job, token: str | None, kept: Bytes | None) -> bool:
        """Accept a job; nothing of it runs yet.

        Args:
            job: What to do.
            token: Name of a file that the coordinator has put beside the job's checkpoint.
            kept: The checkpoint to go on from.

        Returns:
            Whether this node has the coordinator's folder: then checkpoints need not be sent.

        Raises:
            OSError: If there is no room for the checkpoint to go on from.
        """
        with self._timed():
            self.stop()
            shares = False
            if isinstance(job, Training) and job.checkpoint is not None:
                shares = token is not None and (job.checkpoint.parent / token).exists()
                if not shares:
                    self._checkpoint = path = _own_folder() / job.checkpoint.name
                    write_checkpoint(path, kept)
                    self._known = _stamp(path)
                    job = replace(job, checkpoint=path)
            self._reports = self._run(self._tasks, job)
            return shares

    def step(self) -> tuple[Report, Bytes | None]:
        """Run an epoch.

        Returns:
            The report, and the checkpoint if the coordinator lacks it.
        """
        with self._timed():
            assert self._reports is not None
            report = portable(next(self._reports))
            if not isinstance(report, EpochResult):
                self.stop()
                return report, None
            return report, self._new_checkpoint()

    def stop(self) -> None:
        """End the job, if there is one."""
        if self._reports is not None:
            self._reports.close()
            self._reports = None
        if self._checkpoint is not None:
            with contextlib.suppress(OSError):
                self._checkpoint.unlink(missing_ok=True)
            self._checkpoint = None

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        """Let `computed` read how much this thread computes in this context."""
        self._clock = thread_clock()
        try:
            yield
        finally:
            self._clock = None

    def _new_checkpoint(self) -> Bytes | None:
        """Read the checkpoint if the coordinator lacks it; None also where it is gone."""
        if self._checkpoint is None:
            return None
        stamp = _stamp(self._checkpoint)
        if stamp in (None, self._known):
            return None
        content = read_checkpoint(self._checkpoint)
        if content is not None:
            self._known = stamp
        return content


def _check(versions: Mapping[str, str]) -> None:
    """Refuse to work for a coordinator of another version, whose results might differ.

    Raises:
        StudyError: Naming the versions.
    """
    for name, version in own_versions().items():
        if versions.get(name) != version:
            raise StudyError(
                f"{socket.gethostname()} has {name} {version}, the coordinator {versions.get(name)}. "
                "Install the same version on every node."
            )


def _n_beside(slots: Slots, node: str) -> int:
    """Count the workers that a node has room for, this one among them."""
    resources = (known["Resources"] for known in import_ray().nodes() if known["NodeID"] == node)
    return max(1, slots.on(next(resources, {})))


def _with_budget(task: Task, terms: Terms, n_beside: int, *, n_tasks: int) -> Task:
    """Choose a budget from this node's room and in its own folder; the node's workers share it."""
    if task.budget is None:
        return task
    # The cache folder may be in a home that all nodes see.
    folder = node_folder(Path(platformdirs.user_cache_dir("depthsearch")) / "features")
    budget = choose_budget(task.device, folder, memory_bytes=terms.memory_bytes, disk_bytes=terms.disk_bytes)
    if n_beside > 1:
        # Any of them may end first, so that none can hold a folder in shared memory for all.
        n_on_device = round(1 / terms.slots.num_gpus) if 0 < terms.slots.num_gpus < 1 else 1
        budget = budget.shared(None, n_workers=n_beside, n_on_device=n_on_device)
    return replace(task, budget=budget.divided(n_tasks))


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return an identifier of a file's present version; None if there is no file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def _own_folder() -> Path:
    """Make this process's folder for checkpoints, if possible, and remove those of ended processes."""
    root, machine = Path(tempfile.gettempdir()), _machine()
    own = root / f"{PREFIX}-{machine}-{os.getpid()}-{start_of(os.getpid())}"
    with contextlib.suppress(OSError):
        own.mkdir(exist_ok=True, mode=0o700)
        for folder in root.glob(f"{PREFIX}-*"):
            if folder != own and _has_ended(folder, machine):
                shutil.rmtree(folder, ignore_errors=True)
    return own


def _has_ended(folder: Path, machine: str) -> bool:
    """Return whether a folder belongs to a worker that has ended, perhaps on another machine."""
    parts = FOLDER.fullmatch(folder.name)
    if parts is None:
        return False
    if parts[1] == machine and parts[3].isdecimal():
        return start_of(int(parts[2])) != parts[3]
    try:
        return time.time() - folder.stat().st_mtime > ABANDONED_SECONDS
    except OSError:
        return False


def _machine() -> str:
    """Return a digest of host, boot and container, to which process numbers belong."""
    return digest_of(f"{socket.gethostname()} {this_machine()}", n_bytes=8)
