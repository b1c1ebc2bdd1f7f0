"""How much may be kept, and where."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from depthsearch.devices import Device
from depthsearch.files import nearest_folder
from depthsearch.machine import free_memory_bytes

# Of what is free at the start: the rest is for training, and for others.
MEMORY_SHARE = 0.25
DEVICE_SHARE = 0.4
DISK_SHARE = 0.2
SHARED_SHARE = 0.8
MOST_DISK_BYTES = 8 * 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much may be kept.

    Attributes:
        memory_bytes: In main memory.
        device_bytes: In the memory of a GPU, where there is one.
        disk_bytes: In files; what other studies keep in the same folder counts too.
        folder: Where the files lie.
        shared_folder: Where what is kept in main memory lies as files that several processes read, see
            `shared.shared_memory_folder`; all that they keep there counts. None: each process keeps its own.
        n_stores: Among how many stores the files are divided: each plans with its part of them.
    """

    memory_bytes: int
    device_bytes: int
    disk_bytes: int
    folder: Path
    shared_folder: Path | None = None
    n_stores: int = 1

    def divided(self, n: int) -> Budget:
        """Return the part of one of n stores."""
        return replace(
            self,
            memory_bytes=self.memory_bytes // n if self.shared_folder is None else self.memory_bytes,
            device_bytes=self.device_bytes // n,
            n_stores=self.n_stores * n,
        )

    def shared(self, folder: Path | None, *, n_workers: int, n_on_device: int) -> Budget:
        """Return the budget of each of several workers of one machine that keep features together.

        What does not fit into the folder goes to the disk, whose files the system holds in memory as far as
        it can. Where nothing may lie on the disk, each worker has its part of the memory to itself, unless
        the folder has room for as much as such a part at least: all workers use the whole of the folder.

        Args:
            folder: Of `shared.shared_memory_folder`; None where there is none.
            n_workers: On this machine.
            n_on_device: Of them, on one GPU.
        """
        device_bytes = self.device_bytes // n_on_device
        memory_bytes = self.memory_bytes if self.shared_folder else self.memory_bytes * self.n_stores
        in_folder = min(memory_bytes, int(SHARED_SHARE * shutil.disk_usage(folder).free)) if folder else 0
        if not self.disk_bytes and in_folder < memory_bytes // n_workers:
            return replace(self, memory_bytes=self.memory_bytes // n_workers, device_bytes=device_bytes)
        more = min(memory_bytes - in_folder, int(DISK_SHARE * _free_disk_bytes(self.folder)))
        return replace(
            self,
            memory_bytes=in_folder,
            device_bytes=device_bytes,
            disk_bytes=self.disk_bytes + more if self.disk_bytes else 0,
            shared_folder=folder,
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
        memory_bytes = int(MEMORY_SHARE * free_memory_bytes())
    if disk_bytes is None:
        disk_bytes = min(MOST_DISK_BYTES, int(DISK_SHARE * _free_disk_bytes(folder)))
    return Budget(memory_bytes=memory_bytes, device_bytes=on_device, disk_bytes=disk_bytes, folder=folder)


def _free_disk_bytes(folder: Path) -> int:
    return shutil.disk_usage(nearest_folder(folder)).free
