"""Where kept tensors lie: in the memory of the process or of a device, and in files; each within its budget.

What a tier should hold is its plan, ``wanted``, made elsewhere. What is not in the plan goes when its place
is needed, the longest unused first.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import fx

from depthsearch.devices import is_out_of_memory
from depthsearch.features.images import ViewedImages
from depthsearch.features.parts import Layout
from depthsearch.features.tiers.rowfile import SUFFIX, MappedRows, RowWriter, content_of, is_whole
from depthsearch.files import PARTIAL_SUFFIX, remove_abandoned

# A file's description is a little smaller.
DESCRIPTION_BYTES = 512
# What the system counts a file's used room in.
BLOCK_BYTES = 512
# A file that another process has begun to read so short a time ago is not removed.
IN_USE_SECONDS = 10.0
# Where files of each name lie, in words.
PLACES = {"memory": "in shared memory", "disk": "on disk"}

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
        self.promised: dict[str, int] = {}

    def find(self, key: str) -> Resident | None:
        """Find a tensor by its key; it counts as used now."""
        resident = self.rows.pop(key, None)
        if resident is not None:
            self.rows[key] = resident
        return resident

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
        self.promised[item.key] = item.n_bytes
        return rows

    def keep(self, item: Item, rows: torch.Tensor) -> Resident:
        """Keep the tensor that was allocated, now filled."""
        self.forget(item)
        self.rows[item.key] = Resident(rows)
        log.debug("%s: keeps %s, %d bytes", self.name, item, item.n_bytes)
        return self.rows[item.key]

    def forget(self, item: Item) -> None:
        """Release the room that was promised."""
        self.promised.pop(item.key, None)

    def _used_bytes(self) -> int:
        return sum(kept.rows.nbytes for kept in self.rows.values()) + sum(self.promised.values())


class Files:
    """Tensors kept as files of one folder, on a disk or in memory that processes share.

    The folder is shared: with the processes of a study and with other studies, the budget too. What is being
    written counts in full from the start.
    """

    def __init__(self, name: str, folder: Path, budget_bytes: int) -> None:
        self.name = name
        self.folder = folder
        self.budget_bytes = budget_bytes
        self.wanted: frozenset[str] = frozenset()
        self._mapped: dict[str, MappedRows] = {}
        # Keys of what this process has read or written.
        self._used: set[str] = set()
        if budget_bytes:
            with contextlib.suppress(OSError):
                remove_abandoned(folder)

    def expect(self, wanted: frozenset[str]) -> None:
        """Set another plan; files that other processes have removed meanwhile are unmapped."""
        self.wanted = wanted
        if self.budget_bytes:
            # A removed file takes up its room for as long as it is mapped.
            there = self._listed()
            self._mapped = {key: rows for key, rows in self._mapped.items() if key in there}

    def keys(self) -> set[str]:
        """List the keys of the files there, whole or not, and of those mapped already."""
        return self._mapped.keys() | self._listed()

    def find(self, item: Item) -> MappedRows | None:
        """Open a file if it is whole; one that is damaged is removed. It counts as used now."""
        path = self.path_of(item.key)
        mapped = self._mapped.get(item.key)
        try:
            if mapped is None:
                if not self.budget_bytes or not os.path.lexists(path):
                    return None
                if not is_whole(path, content_of(item.key, item.layout, len(item.viewed))):
                    log.debug("%s: %s is damaged or foreign, and removed", self.name, path)
                    path.unlink(missing_ok=True)
                    return None
                mapped = self._mapped[item.key] = MappedRows(path, item.layout, len(item.viewed))
        except (OSError, ValueError) as error:
            log.debug("%s: %s cannot be used: %s", self.name, path, error)
            return None
        self._used.add(item.key)
        # A file of another user, or on a disk mounted for reading, keeps its time.
        with contextlib.suppress(OSError):
            os.utime(path)
        return mapped

    def begin(self, item: Item) -> RowWriter | None:
        """Begin a wanted file if there is room; what is not in the plan goes, the longest unused first."""
        if item.key not in self.wanted:
            return None
        try:
            # Its room is claimed before it is looked for: of two that begin at once, one sees the other.
            writer = RowWriter(self.path_of(item.key), claimed_bytes=item.n_bytes + DESCRIPTION_BYTES)
        except OSError as error:
            self.give_up(error)
            return None
        reason = OSError("no room")
        try:
            if self._make_room():
                return writer
            log.debug("%s: no room for %s, %d bytes", self.name, item, item.n_bytes)
        except OSError as error:
            reason = error
            self.give_up(error)
        writer.abandon(reason)
        return None

    def end(self, item: Item, writer: RowWriter, words: Mapping[str, object]) -> None:
        """Complete a file under its name.

        Raises:
            OSError: If it cannot be written.
        """
        writer.end(content_of(item.key, item.layout, len(item.viewed)), words)
        self._used.add(item.key)
        log.debug("%s: keeps %s, %d bytes", self.name, item, item.n_bytes)

    def give_up(self, error: OSError) -> None:
        """Write no more: the disk is full, or the folder cannot be written to."""
        log.warning("Features are no longer kept %s: %s", PLACES[self.name], error)
        self.wanted = frozenset()
        self.budget_bytes = 0

    def remove_unfinished(self, keys: Collection[str]) -> None:
        """Remove what was left by processes that were killed while they wrote these: nobody else may now."""
        for path in self.folder.glob(f"*{PARTIAL_SUFFIX}"):
            if path.name.partition(".")[0] in keys:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _listed(self) -> set[str]:
        if not self.budget_bytes:
            return set()
        try:
            names = [entry.name for entry in os.scandir(self.folder)]
        except OSError:
            return set()
        return {name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)}

    def path_of(self, key: str) -> Path:
        """Return where the file of a tensor is, or would be."""
        return self.folder / f"{key}{SUFFIX}"

    def _make_room(self) -> bool:
        """Remove files until what the folder holds, the claimed included, is within the budget."""
        files, used, unwritten = [], 0, 0
        for path in self.folder.iterdir():
            # Another process may remove it meanwhile.
            with contextlib.suppress(OSError):
                if path.suffix in (SUFFIX, PARTIAL_SUFFIX):
                    stat = path.stat()
                    used += stat.st_size
                    if path.suffix == SUFFIX:
                        files.append((stat, path))
                    else:
                        unwritten += max(0, stat.st_size - BLOCK_BYTES * getattr(stat, "st_blocks", 0))
        for stat, path in sorted(files, key=lambda file: file[0].st_mtime):
            if used <= self.budget_bytes:
                break
            if path.stem not in self.wanted and not self._is_of_others(path.stem, stat.st_mtime):
                self._mapped.pop(path.stem, None)
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
                    used -= stat.st_size
                    log.debug("%s: %s goes, %d bytes", self.name, path.stem, stat.st_size)
        return used <= self.budget_bytes and unwritten <= shutil.disk_usage(self.folder).free

    def _is_of_others(self, key: str, used_at: float) -> bool:
        """Return whether a file seems to be in use by another process, whose plan is another."""
        return key not in self._used and time.time() - used_at < IN_USE_SECONDS


class Filling:
    """A tensor on its way into memory, into files, or both."""

    def __init__(self, item: Item, memories: Sequence[Memory], places: Sequence[Files]) -> None:
        self.item = item
        self.memory: Memory | None = None
        self.rows: torch.Tensor | None = None
        for memory in memories:
            if self.rows is None:
                self.memory, self.rows = memory, memory.allocate(item)
        begun = ((files, files.begin(item)) for files in places)
        self.writers = {files: writer for files, writer in begun if writer is not None}
        self.n_done = 0

    @property
    def has_place(self) -> bool:
        """Whether there is room for it anywhere."""
        return self.rows is not None or bool(self.writers)

    def add(self, value: torch.Tensor) -> None:
        """Add the values of the next images ``(b, ...)``."""
        self.add_rows(self.item.layout.to_rows(value))

    def add_rows(self, rows: torch.Tensor) -> None:
        """Add the rows of the next images ``(b, *shape)``."""
        if rows.dtype != self.item.layout.dtype or rows.shape[1:] != self.item.layout.shape:
            raise RuntimeError(f"{self.item} is {rows.dtype} {tuple(rows.shape)}, not {self.item.layout}")
        if self.rows is not None:
            self.rows[self.n_done : self.n_done + len(rows)].copy_(rows)
        written = rows.cpu() if self.writers else rows
        for files, writer in list(self.writers.items()):
            try:
                writer.write(written)
            except OSError as error:
                self._stop_writing(files, error)
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
        for files, writer in list(self.writers.items()):
            try:
                files.end(self.item, writer, words)
            except OSError as error:
                self._stop_writing(files, error)
        return self.item.n_bytes if self.has_place else 0

    def abandon(self, reason: BaseException) -> None:
        """Keep nothing."""
        if self.memory is not None:
            self.memory.forget(self.item)
        for writer in self.writers.values():
            writer.abandon(reason)

    def _stop_writing(self, files: Files, error: OSError) -> None:
        files.give_up(error)
        self.writers.pop(files).abandon(error)
