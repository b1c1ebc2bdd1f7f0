"""A worker's process as the coordinator sees it: started, watched, ended."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

import psutil

from depthsearch.signals import children_uninterrupted, name_of_signal
from depthsearch.workers import serving
from depthsearch.workers.jobs import JobRunner
from depthsearch.workers.places import HARDLY_SECONDS, Place
from depthsearch.workers.plans import WorkerPlan

# A killed process that has not ended by then will live on for longer.
KILL_SECONDS = 10.0
# How long to wait for the exit status of a process that has closed its connection.
EXIT_SECONDS = 5.0

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class ProcessPlace(Place):
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

    def start(self, context: BaseContext, payload: bytes, run: JobRunner) -> None:
        """Start a process here, which gets the pickled tasks.

        Raises:
            OSError: If the system cannot start one.
            EOFError: If the process that all are forked from has died; another is started next time.
        """
        with contextlib.ExitStack() as stack:
            # Of another class on Windows.
            ends: tuple[Any, Any] = context.Pipe()
            ours, theirs = (stack.enter_context(end) for end in ends)
            process = context.Process(  # type: ignore[attr-defined]
                target=serving.serve, args=(theirs, payload, self.plan, run), daemon=True
            )
            with _environment(OMP_NUM_THREADS=str(self.plan.threads)), children_uninterrupted():
                process.start()
            stack.pop_all()
            theirs.close()
        self.process, self.connection, self.is_ready = process, ours, False
        self.note_computing()

    def end(self) -> None:
        """End the process, if there is one."""
        if self.connection is not None:
            self.connection.close()
        if self.process is not None:
            self.process.kill()
            self.process.join(KILL_SECONDS)
            if self.process.exitcode is None:
                # It waits for a disk or a GPU that does not answer, and dies when that does.
                log.warning("Process %d of %s cannot be ended now.", self.process.pid, self.plan.name)
            else:
                self.process.close()
        self.process = self.connection = None
        self.is_ready = self.is_asking = False

    def send(self, message: object) -> bool:
        """Send a message to the process; return whether that worked: the next wait sees that it has died."""
        with contextlib.suppress(OSError):
            if self.connection is not None:
                self.connection.send(message)
                return True
        return False

    def note_computing(self) -> None:
        """Note that the process is at work now."""
        self.computed = (self._processor_seconds(), time.monotonic())

    def hangs(self, hung_seconds: float) -> bool:
        """Return whether the process has something to do and has used no processor for so long."""
        is_training = self.job is not None and self.has_begun and not self.is_asking
        if self.is_ready and not is_training:
            return False
        if self.connection is not None and self.connection.poll():
            # What it has sent waits to be read.
            return False
        used, since = self.computed
        if self._processor_seconds() - used > HARDLY_SECONDS:
            self.note_computing()
            return False
        return time.monotonic() - since > hung_seconds

    def how_it_ended(self) -> str:
        """Describe how the process died."""
        assert self.process is not None
        self.process.join(EXIT_SECONDS)
        code = self.process.exitcode
        if code is None:
            return "closed its connection"
        if code >= 0:
            return f"ended with status {code}"
        name = name_of_signal(-code)
        hint = " (the system kills what takes too much memory)" if name == "SIGKILL" else ""
        return f"was ended by {name}{hint}"

    def _processor_seconds(self) -> float:
        """Return the processor time that the process has used; 0 for one that is gone."""
        try:
            times = psutil.Process(self.process.pid if self.process is not None else None).cpu_times()
        except psutil.Error:
            return 0.0
        return float(times.user + times.system)


def process_context() -> BaseContext:
    """Choose how processes start: on Linux from one that has PyTorch loaded and nothing running."""
    # Elsewhere, what PyTorch loads does not survive a fork.
    if sys.platform == "linux":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([serving.__name__])
        return context
    return multiprocessing.get_context("spawn")


@contextlib.contextmanager
def _environment(**names: str) -> Iterator[None]:
    """Set variables that the environment does not have yet, for processes started in this context."""
    missing = {name: value for name, value in names.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]
