"""The feature store: boundaries that were computed once, in memory and on disk, each tier within its budget.

What is kept is a tensor: one node's values for all images of a set in one view. Its key says everything that
determines it and nothing else, so that other trials, studies and processes find it. Which tensors are worth
their bytes is decided in `rule`; what is not in the plan goes when its place is needed. Of processes that
want the same, one computes it and the others wait, see `locks`.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import timm
import torch
from torch import fx

from depthsearch.features.budget import Budget
from depthsearch.features.images import ViewedImages
from depthsearch.features.parts import FrozenBackbone, Part
from depthsearch.features.passes import PassSize
from depthsearch.features.rule import Asks, choose
from depthsearch.features.tiers.locks import Timeout, locked
from depthsearch.features.tiers.tiers import Files, Filling, Item, Memory, Rows
from depthsearch.hashing import digest_of

FORMAT = 1
READ_BATCH = 1024
# MACs that a device computes while it reads a byte: what a kept byte has to save to be worth reading. On a
# CPU 3 to 8 were measured (benchmarks/RESULTS.md); faster ones compute more, and a file may not be cached. On
# GPUs reckoned from 15 T MACs/s and 2 TB/s (its own memory), 5 GB/s (the host's), 2 GB/s (a disk).
MACS_PER_BYTE = {
    "cpu": {"memory": 20.0, "disk": 80.0},
    "cuda": {"device": 10.0, "memory": 4e3, "disk": 1e4},
    "mps": {"memory": 100.0, "disk": 2e3},
}

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Spent:
    """What boundaries have cost so far.

    Attributes:
        macs: Computed, of the frozen prefix.
        kept_bytes: Written to the store.
        read_bytes: Read from the store.
    """

    macs: int = 0
    kept_bytes: int = 0
    read_bytes: int = 0


class FeatureStore:
    """Keeps what the frozen backbone makes of images, and finds where a pass over them may start."""

    def __init__(
        self, frozen: FrozenBackbone, budget: Budget | None, *, name: str = "", built: str = ""
    ) -> None:
        """Open a store.

        Args:
            frozen: The backbone whose values are kept.
            budget: How much may be kept, and where; None: nothing.
            name: Of the backbone, for people who look at the files.
            built: What else says how it computes, where it is not timm's: whose code it is, and which.
        """
        device = frozen.device
        budget = budget or Budget(memory_bytes=0, device_bytes=0, disk_bytes=0, folder=Path())
        self.frozen = frozen
        self._name = name
        self._built = built
        self.pass_size = PassSize(frozen.graph, device)
        self._costs = MACS_PER_BYTE[device.kind]
        # Of this process alone, and of all; the fastest first.
        self._memories: list[Memory] = []
        self._files = [Files("disk", budget.folder, budget.disk_bytes)]
        if "device" in self._costs:
            self._memories.append(Memory("device", device.torch_device, budget.device_bytes))
        if budget.shared_folder is None:
            self._memories.append(Memory("memory", torch.device("cpu"), budget.memory_bytes))
        else:
            self._files.insert(0, Files("memory", budget.shared_folder, budget.memory_bytes))
        self._n_stores = budget.n_stores
        self._tiers: list[Memory | Files] = [*self._memories, *self._files]
        self._keeps = any(tier.budget_bytes for tier in self._tiers)
        # On the disk first, where other studies look too.
        self._lockable = [files.folder for files in reversed(self._files) if files.budget_bytes]
        self._items: dict[str, dict[fx.Node, Item]] = {}

    def expect(self, asks: Sequence[Asks[ViewedImages]]) -> None:
        """Plan what to keep for the passes that may still come; see `rule`.

        Nothing is computed or removed yet.
        """
        if not self._keeps:
            return
        starts, nodes = self.frozen.starts
        in_memory: dict[ViewedImages, set[int]] = {asked.group: set() for asked in asks}
        for memory in self._memories:
            chosen = choose(
                starts,
                asks,
                budget_bytes=memory.budget_bytes,
                macs_per_byte=self._costs[memory.name],
                given=in_memory,
            )
            memory.wanted = self._keys(chosen, nodes)
            in_memory = {group: in_memory[group] | columns for group, columns in chosen.items()}
        # What is in memory is written as well where that pays: other processes and the next study read it.
        for files in self._files:
            budget, cost = files.budget_bytes // self._n_stores, self._costs[files.name]
            chosen = choose(starts, asks, budget_bytes=budget, macs_per_byte=cost)
            files.expect(self._keys(chosen, nodes))

    def give_back_device(self) -> bool:
        """Keep nothing in the memory of a GPU any more; return whether anything was, or was about to be."""
        on_device = [
            memory for memory in self._memories if memory.name == "device" and (memory.rows or memory.wanted)
        ]
        for memory in on_device:
            log.debug("device: all goes, as the memory is needed")
            memory.budget_bytes = 0
            memory.wanted = frozenset()
            memory.rows.clear()
        # Also where others have given some back.
        self.pass_size.choose_again()
        return bool(on_device)

    def open(
        self, viewed: ViewedImages, targets: Sequence[fx.Node], position: int, spent: Spent
    ) -> tuple[Part, list[Rows | None]]:
        """Prepare for batches of some values, computing first what is worth keeping on the way.

        Args:
            viewed: The images.
            targets: Nodes whose values are wanted.
            position: Place in the graph at which they are wanted.
            spent: Counts what it costs.

        Returns:
            What is left to run for a batch, and the rows of each of its inputs (None for the images).
        """
        with self._begun(viewed, targets, position) as (part, rows, missing):
            if missing:
                self.pass_size.fit(lambda: self._fill(viewed, missing, spent))
        if missing:
            part, rows = self._start(viewed, targets, position)
        return part, rows

    def pooled(
        self, viewed: ViewedImages, positions: Sequence[int], spent: Spent, *, n_most: int
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Average the boundaries at several positions over height and width, in one pass over the images.

        The averages of a sample's images are joined, its numbers put behind them. What is worth keeping of
        what the pass computes is kept.

        Args:
            viewed: The images.
            positions: Places in the graph.
            spent: Counts what it costs.
            n_most: Of how many samples, spread evenly over the set, to give features.

        Returns:
            Features ``(m, k * c + d)`` at each position, float32 on the CPU, of samples of k images and d
            numbers, and these samples' labels ``(m,)``.
        """
        return self.pass_size.fit(lambda: self._pooled(viewed, positions, spent, n_most))

    def _pooled(
        self, viewed: ViewedImages, positions: Sequence[int], spent: Spent, n_most: int
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        boundaries = [self.frozen.graph.boundary(position) for position in positions]
        targets = list(dict.fromkeys(node for boundary in boundaries for node in boundary))
        samples = viewed.samples
        shown_samples = torch.linspace(0, len(samples) - 1, min(n_most, len(samples))).long()
        spread = samples.places_of(shown_samples)
        chosen = torch.zeros(len(viewed), dtype=torch.bool)
        chosen[spread] = True
        averages: dict[fx.Node, list[torch.Tensor]] = {node: [] for node in targets}
        with (
            self._begun(viewed, targets, max(positions, default=0)) as (part, rows, missing),
            self._filling(self._places(missing), spent) as fillings,
        ):
            shown = torch.arange(len(viewed)) if fillings else spread
            for places_shown in self.pass_size.batches(len(shown)):
                index = shown[places_shown]
                values = self.values(viewed, part, rows, index, spent)
                places = chosen[index]

                def look(node: fx.Node, value: torch.Tensor, places: torch.Tensor = places) -> None:
                    value = value[: len(places)]
                    if node in averages:
                        averages[node].append(_average(value).cpu()[places])
                    if node in fillings:
                        fillings[node].add(value)

                for node in values.keys() & averages:
                    look(node, values[node])
                self.frozen.run(part, values, [*averages, *fillings], look)
        seen = samples.chosen(shown_samples)
        numbers = [] if seen.numbers is None else [seen.numbers]
        features = [torch.cat([torch.cat(averages[n]) for n in boundary], 1) for boundary in boundaries]
        return [torch.cat([rows.reshape(len(seen), -1), *numbers], 1) for rows in features], seen.labels

    @contextlib.contextmanager
    def _begun(
        self, viewed: ViewedImages, targets: Sequence[fx.Node], position: int
    ) -> Iterator[tuple[Part, list[Rows | None], list[Item]]]:
        """Find where to start and what is missing; while this goes on no other process fills that."""
        while True:
            named = self._named(viewed)
            part, rows = self._start(viewed, targets, position)
            missing = self._missing(viewed, part)
            with contextlib.ExitStack() as stack:
                if any(item.key in files.wanted for files in self._files for item in missing):
                    stack.enter_context(self._locked(viewed))
                    # What another has kept meanwhile is looked at without the lock, as its bytes are checked.
                    if self._named(viewed) != named:
                        continue
                yield part, rows, missing
                return

    @contextlib.contextmanager
    def _locked(self, viewed: ViewedImages, *, waits: bool = True) -> Iterator[None]:
        """Keep other processes from filling anything of a set in a view; see `locks.locked`."""
        items = self.items(viewed)
        # All that share a value with this backbone share its first.
        with locked(self._lockable, next(iter(items.values())).key, waits=waits) as is_new:
            if is_new:
                for files in self._files:
                    files.remove_unfinished({item.key for item in items.values()})
            yield

    def _missing(self, viewed: ViewedImages, part: Part) -> list[Item]:
        """List what is wanted of that which a part computes, in the order of execution."""
        items = self.items(viewed)
        missing = [items[node] for node in part.computed if node in items and self._wants(items[node])]
        return sorted(missing, key=lambda item: self.frozen.position(item.node))

    def items(self, viewed: ViewedImages) -> dict[fx.Node, Item]:
        """List all that could be kept of a set in a view."""
        if not self._keeps:
            return {}
        items = self._items.get(viewed.fingerprint)
        if items is None:
            items = self._items[viewed.fingerprint] = {
                node: Item(self._key(node, viewed), node, layout, viewed)
                for node, layout in self.frozen.layouts.items()
            }
        return items

    def _key(self, node: fx.Node, viewed: ViewedImages) -> str:
        """Name everything that determines a kept tensor."""
        parts = [
            FORMAT,
            self.frozen.digests[node],
            viewed.fingerprint,
            asdict(self.frozen.preprocessing),
            self.frozen.device.fingerprint,
            timm.__version__,
            *([self._built] if self._built else []),
        ]
        return digest_of(json.dumps(parts))

    def _keys(self, chosen: Mapping[ViewedImages, set[int]], nodes: Sequence[fx.Node]) -> frozenset[str]:
        return frozenset(
            self.items(viewed)[nodes[column]].key for viewed, columns in chosen.items() for column in columns
        )

    def _wants(self, item: Item) -> bool:
        return any(item.key in tier.wanted for tier in self._tiers)

    def _start(
        self,
        viewed: ViewedImages,
        targets: Sequence[fx.Node],
        position: int,
        *,
        but: Collection[fx.Node] = (),
    ) -> tuple[Part, list[Rows | None]]:
        """Find the least that is left to run, from what is kept and whole; leave out some nodes."""
        items = self.items(viewed)
        known = self._named(viewed).difference(but)
        while True:
            part = self.frozen.part(known, targets, position)
            rows = {node: self._find(items[node]) for node in part.inputs if node is not self.frozen.image}
            damaged = {node for node, found in rows.items() if found is None}
            if not damaged:
                return part, [rows.get(node) for node in part.inputs]
            known -= damaged

    def _named(self, viewed: ViewedImages) -> set[fx.Node]:
        """List what is kept of a set in a view by its name; what is in a file may be damaged."""
        keys = {key for memory in self._memories for key in memory.rows}
        keys = keys.union(*(files.keys() for files in self._files))
        return {node for node, item in self.items(viewed).items() if item.key in keys}

    def _find(self, item: Item) -> Rows | None:
        """Find a tensor in the fastest memory; one that belongs there and lies in a slower one is read in."""
        for memory in self._memories:
            resident = memory.find(item.key)
            if resident is not None:
                return resident
        for place, files in enumerate(self._files):
            mapped = files.find(item)
            if mapped is not None:
                return (
                    self._read_in(item, mapped) or self._copied(item, mapped, self._files[:place]) or mapped
                )
        return None

    def _read_in(self, item: Item, mapped: Rows) -> Rows | None:
        """Read a tensor from a file into the memory where it belongs, if there is room."""
        for memory in self._memories:
            rows = memory.allocate(item)
            if rows is not None:
                try:
                    for index in torch.arange(len(rows)).split(READ_BATCH):
                        rows[index[0] : index[-1] + 1] = mapped[index].to(rows.device)
                except BaseException:
                    memory.forget(item)
                    raise
                return memory.keep(item, rows)
        return None

    def _copied(self, item: Item, mapped: Rows, faster: Sequence[Files]) -> Rows | None:
        """Copy a file to where it is read faster, if it belongs there and no other process is busy now."""
        for files in faster:
            if item.key in files.wanted:
                with contextlib.suppress(Timeout), self._locked(item.viewed, waits=False):
                    if files.find(item) is None:
                        with self._filling([Filling(item, (), [files])], Spent()) as fillings:
                            for filling in fillings.values():
                                for index in torch.arange(len(item.viewed)).split(READ_BATCH):
                                    filling.add_rows(mapped[index])
                    return files.find(item)
        return None

    def _places(self, missing: Sequence[Item]) -> list[Filling]:
        """Make places for tensors, wherever there is room."""
        return [Filling(item, self._memories, self._files) for item in missing]

    def _fill(self, viewed: ViewedImages, missing: Sequence[Item], spent: Spent) -> None:
        """Compute tensors in one pass over the images and keep them, where there is room."""
        with self._filling(self._places(missing), spent) as fillings:
            if fillings:
                position = 1 + max(self.frozen.position(node) for node in fillings)
                # What another process has kept meanwhile is computed all the same: its place is made already.
                part, inputs = self._start(viewed, list(fillings), position, but=fillings)
                for index in self.pass_size.batches(len(viewed)):

                    def look(node: fx.Node, value: torch.Tensor, n: int = len(index)) -> None:
                        fillings[node].add(value[:n])

                    values = self.values(viewed, part, inputs, index, spent)
                    self.frozen.run(part, values, fillings, look)

    @contextlib.contextmanager
    def _filling(self, fillings: Sequence[Filling], spent: Spent) -> Iterator[dict[fx.Node, Filling]]:
        """Yield the fillings that have a place; keep them at the end, and nothing of them after an error."""
        try:
            yield {filling.item.node: filling for filling in fillings if filling.has_place}
            for filling in fillings:
                item = filling.item
                words = {"backbone": self._name, "layer": item.node.name, "view": item.viewed.number}
                spent.kept_bytes += filling.end(words)
        except BaseException as error:
            for filling in fillings:
                filling.abandon(error)
            raise

    def values(
        self, viewed: ViewedImages, part: Part, rows: Sequence[Rows | None], index: torch.Tensor, spent: Spent
    ) -> dict[fx.Node, torch.Tensor]:
        """Read a part's inputs for the images at ``index`` ``(b,)``, on the device, and count what it costs.

        Where it computes anything, the last image is repeated until each is rounded as in any other batch.
        """
        if part.computed:
            index = self.frozen.filled_up(index)
        spent.macs += part.macs * len(index)
        values = {}
        for node, kept in zip(part.inputs, rows, strict=True):
            if kept is None:
                values[node] = self.frozen.normalise(viewed.pixels(index, self.frozen.device))
            else:
                read = kept[index]
                spent.read_bytes += read.nbytes
                values[node] = self.frozen.layouts[node].from_rows(self.frozen.device.move(read))
        return values


def _average(value: torch.Tensor) -> torch.Tensor:
    """Average a value ``(b, c, h, w)``, ``(b, h, w, c)``, ``(b, t, c)`` or ``(b, c)`` to ``(b, c)``."""
    value = value.float()
    if value.ndim == 4:
        last = value.shape[1] == value.shape[2] != value.shape[3]
        return value.mean((1, 2) if last else (2, 3))
    return value.mean(1) if value.ndim == 3 else value.flatten(1)
