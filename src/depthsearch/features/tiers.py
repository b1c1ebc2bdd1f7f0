"""Where kept tensors lie: in the memory of the host or of a device, and in files; each within its budget.

What a tier should hold is its plan, ``wanted``, made elsewhere. What is not in the plan goes when its place
is needed, the longest unused first.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import fx

from depthsearch.devices import is_out_of_memory
from depthsearch.features.images import ViewedImages
from depthsearch.features.parts import Layout
from depthsearch.features.rowfile import SUFFIX, MappedRows, RowWriter, content_of, is_whole
from depthsearch.files import remove_abandoned

__all__ = ["Disk", "Filling", "Item", "Memory", "Rows"]

# A file's description is a little smaller.
DESCRIPTION_BYTES = 512

log = logging.getLogger(__name__)


class Rows(Protocol):
    """Rows of a kept tensor by image."""

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        """Copy the rows ``(b, *shape)`` of the images at ``index`` ``(b,)``."""


class Resident:
    """Rows in memory, of the host or of a device."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        return self.rows.index_select(0, index.to(self.rows.device, non_blocking=True))


@dataclass(frozen=True, slots=True)
class Item:
    """One tensor that may be kept: a node's values for one set in one view."""

    key: str
    node: fx.Node
    layout: Layout
    viewed: ViewedImages

    @property
    def n_bytes(self) -> int:
        """Bytes of all its rows."""
        return self.layout.row_bytes * len(self.viewed)

    def __str__(self) -> str:
        return f"{self.key} ({self.node.name}, view {self.viewed.number} of {len(self.viewed)} images)"


class Memory:
    """Tensors kept in one memory, the longest unused first."""

    def __init__(self, name: str, device: torch.device, budget_bytes: int) -> None:
        self.name = name
        self.device = device
        self.budget_bytes = budget_bytes
        self.wanted: frozenset[str] = frozenset()
        self.rows: dict[str, Resident] = {}
        self._promised: dict[str, int] = {}

    def find(self, key: str) -> Resident | None:
        """Find a tensor by its key; it counts as used now."""
        found = self.rows.pop(key, None)
        if found is not None:
            self.rows[key] = found
        return found

    def allocate(self, item: Item) -> torch.Tensor | None:
        """Make room for a wanted tensor: what is not in the plan goes, the longest unused first."""
        if item.key not in self.wanted:
            return None
        for key in [key for key in self.rows if key not in self.wanted]:
            if self._used_bytes() + item.n_bytes <= self.budget_bytes:
                break
            log.debug("%s: %s goes, %d bytes", self.name, key, self.rows.pop(key).rows.nbytes)
        if self._used_bytes() + item.n_bytes > self.budget_bytes:
            log.debug("%s: no room for %s, %d bytes", self.name, item, item.n_bytes)
            return None
        try:
            shape = (len(item.viewed), *item.layout.shape)
            rows = torch.empty(shape, dtype=item.layout.dtype, device=self.device)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            log.debug("%s: full already, no room for %s, %d bytes", self.name, item, item.n_bytes)
            return None
        self._promised[item.key] = item.n_bytes
        return rows

    def keep(self, item: Item, rows: torch.Tensor) -> Resident:
        """Keep the tensor that was allocated, now filled."""
        self.forget(item)
        self.rows[item.key] = Resident(rows)
        log.debug("%s: keeps %s, %d bytes", self.name, item, item.n_bytes)
        return self.rows[item.key]

    def forget(self, item: Item) -> None:
        """Take back the promise of room."""
        self._promised.pop(item.key, None)

    def _used_bytes(self) -> int:
        return sum(kept.rows.nbytes for kept in self.rows.values()) + sum(self._promised.values())


class Disk:
    """Tensors kept as files; shared with other processes, and with studies of other days."""

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        self.folder = folder
        self.budget_bytes = budget_bytes
        self.wanted: frozenset[str] = frozenset()
        self._mapped: dict[str, MappedRows] = {}
        self._promised: dict[str, int] = {}
        if budget_bytes:
            with contextlib.suppress(OSError):
                remove_abandoned(folder)

    def keys(self) -> set[str]:
        """List the keys of the files there, whole or not, and of those mapped already."""
        found = set(self._mapped)
        if self.budget_bytes:
            with contextlib.suppress(OSError):
                names = {entry.name for entry in os.scandir(self.folder)}
                found |= {name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)}
        return found

    def find(self, item: Item) -> MappedRows | None:
        """Open a file if it is whole; one that is damaged is removed."""
        if item.key in self._mapped:
            return self._mapped[item.key]
        path = self._path(item.key)
        try:
            if not is_whole(path, content_of(item.key, item.layout, len(item.viewed))):
                log.debug("disk: %s is damaged or foreign, and removed", path)
                path.unlink(missing_ok=True)
                return None
            # A file of another user, or on a disk mounted for reading, keeps its time.
            with contextlib.suppress(OSError):
                os.utime(path)
            rows = self._mapped[item.key] = MappedRows(path, item.layout, len(item.viewed))
        except (OSError, ValueError) as error:
            log.debug("disk: %s cannot be used: %s", path, error)
            return None
        return rows

    def begin(self, item: Item) -> RowWriter | None:
        """Begin a wanted file if there is room; what is not in the plan goes, the longest unused first."""
        if item.key not in self.wanted:
            return None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._make_room(item.n_bytes + DESCRIPTION_BYTES):
                log.debug("disk: no room for %s, %d bytes", item, item.n_bytes)
                return None
            writer = RowWriter(self._path(item.key))
        except OSError as error:
            self.give_up(error)
            return None
        self._promised[item.key] = item.n_bytes + DESCRIPTION_BYTES
        return writer

    def end(self, item: Item, writer: RowWriter, words: Mapping[str, object]) -> None:
        """Give a complete file its name.

        Raises:
            OSError: If it cannot be written.
        """
        self.forget(item)
        writer.end(content_of(item.key, item.layout, len(item.viewed)), words)
        log.debug("disk: keeps %s, %d bytes", item, item.n_bytes)

    def forget(self, item: Item) -> None:
        """Take back the promise of room."""
        self._promised.pop(item.key, None)

    def give_up(self, error: OSError) -> None:
        """Write no more: the disk is full, or the folder cannot be written to."""
        log.warning("Features are no longer kept on disk: %s", error)
        self.wanted = frozenset()
        self.budget_bytes = 0

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{SUFFIX}"

    def _make_room(self, n_bytes: int) -> bool:
        files = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            # Another process may remove it meanwhile.
            with contextlib.suppress(OSError):
                files.append((path.stat(), path))
        used = sum(found.st_size for found, _ in files) + sum(self._promised.values())
        for found, path in sorted(files, key=lambda file: file[0].st_mtime):
            if used + n_bytes <= self.budget_bytes:
                break
            if path.stem not in self.wanted:
                # A file that is mapped takes up the disk for as long as it is.
                self._mapped.pop(path.stem, None)
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
                    used -= found.st_size
                    log.debug("disk: %s goes, %d bytes", path.stem, found.st_size)
        free = shutil.disk_usage(self.folder).free - sum(self._promised.values())
        return used + n_bytes <= self.budget_bytes and n_bytes <= free


class Filling:
    """A tensor on its way into memory, onto the disk, or both."""

    def __init__(self, item: Item, memories: Sequence[Memory], disk: Disk) -> None:
        self.item = item
        self.disk = disk
        self.memory: Memory | None = None
        self.rows: torch.Tensor | None = None
        for memory in memories:
            if self.rows is None:
                self.memory, self.rows = memory, memory.allocate(item)
        self.writer = disk.begin(item)
        self.n_done = 0

    @property
    def has_place(self) -> bool:
        """Whether there is room for it anywhere."""
        return self.rows is not None or self.writer is not None

    def add(self, value: torch.Tensor) -> None:
        """Take the values of the next images ``(b, ...)``."""
        rows = self.item.layout.to_rows(value)
        if rows.dtype != self.item.layout.dtype or rows.shape[1:] != self.item.layout.shape:
            raise RuntimeError(f"{self.item} is {rows.dtype} {tuple(rows.shape)}, not {self.item.layout}")
        if self.rows is not None:
            self.rows[self.n_done : self.n_done + len(rows)].copy_(rows)
        if self.writer is not None:
            try:
                self.writer.write(rows.cpu())
            except OSError as error:
                self._stop_writing(error)
        self.n_done += len(rows)

    def end(self, words: Mapping[str, object]) -> int:
        """Keep what was computed; return how many bytes.

        Raises:
            RuntimeError: If some images are missing.
        """
        if self.has_place and self.n_done != len(self.item.viewed):
            raise RuntimeError(f"{self.item}: only {self.n_done} were computed")
        if self.memory is not None and self.rows is not None:
            self.memory.keep(self.item, self.rows)
        if self.writer is not None:
            try:
                self.disk.end(self.item, self.writer, words)
            except OSError as error:
                self._stop_writing(error)
        return self.item.n_bytes if self.has_place else 0

    def abandon(self, reason: BaseException) -> None:
        """Keep nothing."""
        if self.memory is not None:
            self.memory.forget(self.item)
        if self.writer is not None:
            self.disk.forget(self.item)
            self.writer.abandon(reason)

    def _stop_writing(self, error: OSError) -> None:
        self.disk.forget(self.item)
        self.disk.give_up(error)
        if self.writer is not None:
            self.writer.abandon(error)
        self.writer = None
