"""How much may be kept, and where."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch

from depthsearch.devices import Device
from depthsearch.files import nearest_folder

__all__ = ["Budget", "choose_budget"]

# Of what is free at the start: the rest is for training, and for others.
MEMORY_SHARE = 0.25
DEVICE_SHARE = 0.4
DISK_SHARE = 0.2
MOST_DISK_BYTES = 8 * 2**30
# Limit and use of a container's memory, in the second and first version of control groups.
CONTAINER_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much may be kept.

    Attributes:
        memory_bytes: In main memory.
        device_bytes: In the memory of a GPU, where there is one.
        disk_bytes: In files; what other studies keep in the same folder counts too.
        folder: Where the files lie.
    """

    memory_bytes: int
    device_bytes: int
    disk_bytes: int
    folder: Path

    def divided(self, n: int) -> Budget:
        """Give one of n stores its part."""
        return replace(
            self,
            memory_bytes=self.memory_bytes // n,
            device_bytes=self.device_bytes // n,
            disk_bytes=self.disk_bytes // n,
        )


def choose_budget(
    device: Device, folder: Path, *, memory_bytes: int | None = None, disk_bytes: int | None = None
) -> Budget:
    """Choose a budget for a machine as it is now.

    Args:
        device: Where training runs; only a CUDA device has memory of its own here.
        folder: Where the files are to lie; it need not be there yet.
        memory_bytes: In main memory, and at most as much in the GPU's; default: a quarter of the main memory
            that is free, and two fifths of the GPU's.
        disk_bytes: Default: 8 GiB, but at most a fifth of the disk that is free.
    """
    on_device = 0
    if device.kind == "cuda":
        on_device = int(DEVICE_SHARE * torch.cuda.mem_get_info()[0])
        on_device = on_device if memory_bytes is None else min(memory_bytes, on_device)
    if memory_bytes is None:
        memory_bytes = int(MEMORY_SHARE * _free_memory_bytes())
    if disk_bytes is None:
        disk_bytes = min(MOST_DISK_BYTES, int(DISK_SHARE * _free_disk_bytes(folder)))
    return Budget(memory_bytes=memory_bytes, device_bytes=on_device, disk_bytes=disk_bytes, folder=folder)


def _free_memory_bytes() -> int:
    """Memory that can be had: the machine's, or what is left to the container."""
    free = psutil.virtual_memory().available
    for limit, used in CONTAINER_FILES:
        with contextlib.suppress(OSError, ValueError):
            free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
    return int(max(0, free))


def _free_disk_bytes(folder: Path) -> int:
    there = nearest_folder(folder)
    return shutil.disk_usage(there).free
