"""Where the workers of one machine compute: on a GPU each, or on a part of the cores."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from depthsearch.devices import Device
from depthsearch.errors import SettingsError
from depthsearch.machine import usable_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """Where one worker computes.

    Attributes:
        name: To be shown.
        gpu: Number of its GPU; None: it has none.
        threads: Of PyTorch, on the CPU.
    """

    name: str
    gpu: int | None
    threads: int


def plan_workers(device: Device, n_workers: int | None = None) -> tuple[WorkerPlan, ...]:
    """Divide GPUs or cores among workers; OMP_NUM_THREADS, where it is set, decides the threads.

    Args:
        device: What to compute on.
        n_workers: How many; default: one for each GPU, or one where there is none.

    Raises:
        SettingsError: If the device cannot be shared.
    """
    n_gpus = torch.cuda.device_count() if device.kind == "cuda" else 0
    n_workers = n_workers or max(1, n_gpus)
    if device.kind == "mps" and n_workers > 1:
        raise SettingsError(f"--workers {n_workers} cannot share the one mps device. Give --workers 1.")
    asked = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(asked) if asked.isdecimal() and int(asked) else max(1, usable_cores() // n_workers)
    plans = []
    for number in range(n_workers):
        gpu = number % n_gpus if n_gpus else None
        name = f"worker {number + 1}" + ("" if gpu is None else f" on GPU {gpu}")
        plans.append(WorkerPlan(name=name, gpu=gpu, threads=threads))
    return tuple(plans)
