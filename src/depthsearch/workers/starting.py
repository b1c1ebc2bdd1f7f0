"""The workers of a cluster: connect to it, choose a device that it has, and wait for the first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from depthsearch.devices import Device, choose_device
from depthsearch.errors import SettingsError
from depthsearch.training.task import Task, any_of
from depthsearch.workers.places import HUNG_SECONDS, PATIENCE_SECONDS
from depthsearch.workers.ray.cluster import RayWorkers
from depthsearch.workers.ray.connecting import connect, import_ray, reason_of


def ray_workers(
    tasks: Mapping[str, Task],
    *,
    n_workers: int | None = None,
    address: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    memory_bytes: int | None = None,
    disk_bytes: int | None = None,
    hung_seconds: float = HUNG_SECONDS,
) -> RayWorkers:
    """Connect to a cluster, or start Ray here, and wait for the first workers.

    Args:
        tasks: What to train, by the space's names for the backbones, on the device of this machine.
        n_workers: See `RayWorkers`.
        address: See `connecting.connect`.
        device: ``auto``: the cluster's GPUs if it has some; ``cpu`` or ``cuda``.
        precision: See `devices.choose_device`; for a GPU that this machine lacks, chosen on the cluster.
        memory_bytes: See `RayWorkers`.
        disk_bytes: Likewise.
        hung_seconds: Likewise.

    Raises:
        SettingsError: If Ray is missing, the cluster cannot be reached, or it does not have such a device.
        StudyError: If no worker comes for long.
    """
    ends_ray = connect(address)
    workers = None
    try:
        here = any_of(tasks).device
        there = cluster_device(here, device, precision, has_gpus=cluster_has_gpus())
        workers = RayWorkers(
            {name: replace(task, device=there) for name, task in tasks.items()},
            n_workers=n_workers,
            memory_bytes=memory_bytes,
            disk_bytes=disk_bytes,
            hung_seconds=hung_seconds,
            ends_ray=ends_ray,
        )
        workers.gather()
    except BaseException:  # An interrupt too is not to leave Ray running.
        if workers is not None:
            workers.close()
        elif ends_ray:
            import_ray().shutdown()
        raise
    return workers


def cluster_has_gpus() -> bool:
    """Return whether the cluster that this process is connected to has GPUs now."""
    return any(node["Alive"] and node["Resources"].get("GPU") for node in import_ray().nodes())


def cluster_device(here: Device, kind: str, precision: str, *, has_gpus: bool) -> Device:
    """Choose what the workers of a cluster compute on.

    Args:
        here: What this machine has, which may be no GPU where the cluster has some.
        kind: See `ray_workers`.
        precision: See `ray_workers`.
        has_gpus: Whether the cluster has some; if this machine has none, it must be connected to the cluster.

    Raises:
        SettingsError: If the cluster has no such device, or it cannot compute in that precision.
    """
    if kind == "auto":
        kind = "cuda" if has_gpus else "cpu"
    if kind == "mps":
        raise SettingsError(
            "--executor ray computes on cpu and cuda, not on mps. Give --device cpu, or leave --executor out."
        )
    if kind == here.kind:
        return here
    if kind == "cpu":
        return choose_device("cpu", precision, compiled=here.compiled)
    if not has_gpus:
        raise SettingsError(
            "--device cuda: the cluster has no GPU now. Add nodes with GPUs, or give --device auto."
        )
    ray = import_ray()
    ask = ray.remote(num_gpus=1, num_cpus=0)(choose_device)
    try:
        device = ray.get(ask.remote("cuda", precision, compiled=here.compiled), timeout=PATIENCE_SECONDS)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise SettingsError(f"The cluster's GPUs cannot be used: {reason_of(error)}.") from error
    assert isinstance(device, Device)
    return device
