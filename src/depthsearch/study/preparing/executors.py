"""The workers of a study: this process, several of this machine, or a cluster's."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace

from depthsearch.devices import Device
from depthsearch.errors import SettingsError
from depthsearch.features.tiers.shared import remove_shared, shared_memory_folder
from depthsearch.machine import usable_cores
from depthsearch.options.study import StudyOptions
from depthsearch.search.space import SearchSpace
from depthsearch.study.events import Note, Say
from depthsearch.study.preparing.tasks import device_here
from depthsearch.text import counted
from depthsearch.training.task import Task, any_of
from depthsearch.workers.gpu import check_room
from depthsearch.workers.here import InProcess
from depthsearch.workers.jobs import Executor
from depthsearch.workers.local import LocalProcesses
from depthsearch.workers.places import HUNG_SECONDS
from depthsearch.workers.plans import WorkerPlan, plan_workers
from depthsearch.workers.ray.cluster import RayWorkers
from depthsearch.workers.ray.connecting import connect, import_ray
from depthsearch.workers.starting import cluster_device, cluster_has_gpus, ray_workers


def check_executor(options: StudyOptions) -> Device:
    """Check that the workers or the cluster can be had, before anything is loaded.

    Returns:
        What is computed on: this machine's device, or that of the cluster's workers.

    Raises:
        SettingsError: If not, with what to install or which option to change.
    """
    device = device_here(options)
    if options.executor == "ray":
        return _device_of_cluster(options, device)
    plans = plan_workers(device, options.workers)
    if len(plans) == 1 and options.hung_after is not None:
        raise SettingsError(
            "--hung-after is for several workers, and this process alone would train: give --workers 2 or "
            "more, or leave it out."
        )
    return device


def _device_of_cluster(options: StudyOptions, here: Device) -> Device:
    """Choose the device of a cluster that runs already; Ray on this machine is not started for that."""
    ray = import_ray()
    address = options.ray_address or os.environ.get("RAY_ADDRESS")
    is_new = False
    runs = address != "local"
    try:
        if runs:
            is_new = connect(address or "auto")
    except SettingsError:
        if address:
            raise
        runs = False
    try:
        has_gpus = cluster_has_gpus() if runs else here.kind == "cuda"
        return cluster_device(here, options.device, options.precision, has_gpus=has_gpus)
    finally:
        if is_new:
            ray.shutdown()


@contextmanager
def started_executor(
    options: StudyOptions, tasks: Mapping[str, Task], space: SearchSpace, say: Say
) -> Iterator[Executor]:
    """Start the workers that a study's options ask for, and end them.

    Raises:
        SettingsError: If there is no room for so many, or no cluster.
        StudyError: If no worker comes for long.
    """
    if options.executor == "ray":
        with closing(_on_a_cluster(options, tasks, say)) as executor:
            yield executor
        return
    device = any_of(tasks).device
    plans = plan_workers(device, options.workers)
    if len(plans) == 1:
        yield InProcess(tasks)
        return
    check_room(tasks, space, plans)
    if device.kind == "cpu" and len(plans) > usable_cores():
        text = f"{len(plans)} workers on {usable_cores()} cores wait for each other: fewer are as fast."
        say(Note(text=text, level="warning"))
    n_threads = plans[0].threads
    of = f"of {counted(n_threads, 'thread')}"
    say(Note(text=f"Workers   {len(plans)}, {of} each{_on_gpus(plans)}."))
    with (
        _sharing(tasks, plans) as shared,
        closing(LocalProcesses(shared, plans, hung_seconds=options.hung_after or HUNG_SECONDS)) as executor,
    ):
        yield executor


def _on_a_cluster(options: StudyOptions, tasks: Mapping[str, Task], say: Say) -> RayWorkers:
    executor = ray_workers(
        tasks,
        n_workers=options.workers,
        address=options.ray_address,
        # What the study is stored with: a cluster whose GPUs are gone meanwhile is refused.
        device=any_of(tasks).device.kind,
        precision=options.precision,
        memory_bytes=options.keep_memory,
        disk_bytes=options.keep_disk,
        hung_seconds=options.hung_after or HUNG_SECONDS,
    )
    n_asked, n_there = executor.slots.n_workers, len(executor.places)
    n_nodes = len({place.node for place in executor.places.values()})
    later = f", {n_asked - n_there} more once there is room" if n_there < n_asked else ""
    say(
        Note(
            text=f"Workers   {n_there} on {counted(n_nodes, 'node')} of a Ray cluster"
            f"{later}; {executor.slots} each, {executor.device.kind}, {executor.device.precision}."
        )
    )
    return executor


def _on_gpus(plans: tuple[WorkerPlan, ...]) -> str:
    on = Counter(plan.gpu for plan in plans if plan.gpu is not None)
    return f", on {counted(len(on), 'GPU')}" if on else ""


@contextmanager
def _sharing(tasks: Mapping[str, Task], plans: tuple[WorkerPlan, ...]) -> Iterator[Mapping[str, Task]]:
    """Share the features that the workers keep, in memory that all of them see."""
    n_on_device = max(Counter(plan.gpu for plan in plans).values())
    folder = shared_memory_folder()
    try:
        yield {
            name: task
            if task.budget is None
            else replace(
                task, budget=task.budget.shared(folder, n_workers=len(plans), n_on_device=n_on_device)
            )
            for name, task in tasks.items()
        }
    finally:
        if folder is not None:
            remove_shared(folder)
