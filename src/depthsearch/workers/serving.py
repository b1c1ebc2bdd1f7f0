"""What runs in a worker's process: it does jobs until the coordinator is gone."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from depthsearch.devices import quick_releases
from depthsearch.features.tiers.shared import remove_shared
from depthsearch.machine import name_process
from depthsearch.training.outcomes import EpochResult
from depthsearch.training.task import Task
from depthsearch.workers.jobs import Job, JobRunner, failed_to_start, portable
from depthsearch.workers.places import make_locks_mortal
from depthsearch.workers.plans import WorkerPlan

# The first message of a worker that can work.
READY = "ready"
# How long to wait for the end of this process once its coordinator is gone.
END_SECONDS = 10.0


def serve(connection: Connection, payload: bytes, plan: WorkerPlan, run: JobRunner) -> None:
    """Do jobs until nobody is there to send one: the main function of a worker's process.

    The connection is to the coordinator, and the payload the pickled tasks.
    """
    # Ctrl-C and a SIGTERM to the whole group are for the coordinator, which ends its workers.
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
    except Exception as error:  # noqa: BLE001 (drivers and pickles raise anything; the coordinator decides)
        connection.send(failed_to_start(error))
        return
    # Nobody at the other end: the coordinator is gone, or is about to kill this process.
    with contextlib.suppress(EOFError, OSError), quick_releases():
        connection.send(READY)
        while True:
            _do(connection, tasks, connection.recv(), run)
    watching.join(END_SECONDS)


def _do(connection: Connection, tasks: Mapping[str, Task], job: Job, run: JobRunner) -> None:
    """Do a job; wait for the answer after each epoch."""
    with contextlib.closing(run(tasks, job)) as reports:
        for report in reports:
            connection.send((job.key, portable(report)))
            if isinstance(report, EpochResult) and not connection.recv():
                return


def _end_with_parent(shared: Sequence[Path]) -> None:
    """End this process as soon as its parent has ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        # It may have been killed; nobody else would remove what it keeps in shared memory.
        for folder in shared:
            remove_shared(folder)
        os._exit(1)
