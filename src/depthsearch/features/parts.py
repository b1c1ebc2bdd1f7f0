"""The frozen backbone, of which any part can be run: from tensors at hand to other ones.

Notation: ``n`` images in a set, ``b`` of them in a batch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import fx

from depthsearch.devices import Device
from depthsearch.features.digests import value_digests
from depthsearch.features.rule import Starts
from depthsearch.models.backbones.backbone import Preprocessing
from depthsearch.models.pixels import Normalisation
from depthsearch.models.rounding import filled_up, gates_of
from depthsearch.models.tracing.graph import LayerGraph
from depthsearch.models.tracing.nodes import Watching


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a node's value is laid out in memory, image by image.

    Attributes:
        dtype: As computed, 16 bits where autocast computes in 16 bits.
        shape: Of one image's row, its dimensions from the slowest to the fastest in memory.
        order: The tensor's dimensions from the slowest to the fastest in memory; 0 is the batch.
        strides: Of the dimensions behind the batch; those of one element count for how torch goes on.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    order: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, value: torch.Tensor) -> Layout:
        """Return the layout of a value ``(b, ...)``."""
        strides = value.stride()
        order = tuple(sorted(range(value.ndim), key=lambda d: (-strides[d], d)))
        shape = tuple(value.shape[d] for d in order if d)
        return cls(dtype=value.dtype, shape=shape, order=order, strides=strides[1:])

    @property
    def row_bytes(self) -> int:
        """Bytes of one image's row."""
        return self.dtype.itemsize * math.prod(self.shape)

    def to_rows(self, value: torch.Tensor) -> torch.Tensor:
        """Bring a value ``(b, ...)`` into rows ``(b, *shape)``, contiguous."""
        return value.permute(0, *(d for d in self.order if d)).contiguous()

    def from_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Bring rows ``(b, *shape)`` back into the value ``(b, ...)``, strides as computed."""
        dims = [0, *(d for d in self.order if d)]
        value = rows.permute(_inverse(dims))
        if self.order[0] == 0:
            return value.as_strided(value.shape, (rows[0].numel(), *self.strides)) if len(rows) else value
        return value.permute(self.order).contiguous().permute(_inverse(self.order))


def _inverse(dims: Sequence[int]) -> list[int]:
    return sorted(range(len(dims)), key=dims.__getitem__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A piece of the frozen backbone.

    Attributes:
        inputs: Nodes whose values it starts from; the image's own node where it needs pixels.
        computed: Nodes that it computes.
        macs: MACs for one image.
        module: Maps the inputs' values to the tuple of those wanted.
    """

    inputs: tuple[fx.Node, ...]
    computed: frozenset[fx.Node] = field(repr=False)
    macs: int
    module: fx.GraphModule = field(repr=False)


class FrozenBackbone:
    """A backbone on its device, in eval mode, without gradients.

    Attributes:
        graph: The traced backbone.
        device: Where it computes, and in which precision.
        preprocessing: What it expects of images.
        image: The node that stands for the image.
        module: The whole backbone on the device.
        normalise: Turns pixels into the backbone's input.
    """

    def __init__(self, graph: LayerGraph, preprocessing: Preprocessing, device: Device) -> None:
        """Copy the backbone to the device."""
        self.graph = graph
        self.device = device
        self.preprocessing = preprocessing
        self.image = next(node for node in graph.nodes if node.op == "placeholder")
        self._position = {node: i for i, node in enumerate(graph.nodes)}
        self._macs = {layer.position: layer.macs for layer in graph.layers}
        self.module = device.place(copy.deepcopy(graph.traced).requires_grad_(False).eval())
        self.normalise = Normalisation(preprocessing, device)

    @cached_property
    def digests(self) -> dict[fx.Node, str]:
        """What determines each node's value, the image apart; see `digests.value_digests`."""
        return value_digests(self.graph, self.module)

    @cached_property
    def layouts(self) -> dict[fx.Node, Layout]:
        """How the value of each node that can be kept lies in memory, found by running two images.

        A value that is changed in place before a later use cannot be kept: it is not what was computed.
        """
        layouts: dict[fx.Node, Layout] = {}

        def look(node: fx.Node, value: torch.Tensor) -> None:
            layouts[node] = Layout.of(value)

        watched = {n for n, carried in self.graph.carried.items() if carried} - self.graph.changed
        watched -= {self.image}
        images = torch.zeros(2, *self.graph.image_shape, dtype=torch.uint8)
        nodes = self.graph.nodes
        whole = self.part((), [n for n in nodes[-1].all_input_nodes if self.graph.carried[n]], len(nodes) - 1)
        self.run(whole, {self.image: self.normalise(self.device.move(images))}, watched, look)
        return layouts

    @cached_property
    def starts(self) -> tuple[Starts, list[fx.Node]]:
        """The places where a pass may start, and the nodes that the columns of their needs stand for."""
        nodes = list(self.layouts)
        column = {node: i for i, node in enumerate(nodes)}
        work, starts = 0, []
        for position, alive in enumerate(self.graph.boundaries()):
            if alive and all(node in column for node in alive):
                starts.append((position, work, [column[node] for node in alive]))
            work += self._macs.get(position, 0)
        needs = np.zeros((len(starts), len(nodes)), dtype=bool)
        for row, (_, _, columns) in enumerate(starts):
            needs[row, columns] = True
        return Starts(
            positions=np.array([position for position, _, _ in starts], dtype=np.int64),
            work=np.array([before for _, before, _ in starts], dtype=np.float64),
            needs=needs,
            tensor_bytes=np.array([self.layouts[node].row_bytes for node in nodes], dtype=np.float64),
        ), nodes

    def filled_up(self, index: torch.Tensor) -> torch.Tensor:
        """Repeat the last image of a batch ``(b,)`` until each is rounded as in any other batch."""
        return filled_up(index, self.device, self._gates)

    @cached_property
    def _gates(self) -> set[int]:
        """For how many elements of an image there are operations whose rounding depends on the batch."""
        sizes = self.graph.bytes_per_image
        return {sizes[node] // 4 for node in gates_of(self.module, self.graph.nodes) if node in sizes}

    def position(self, node: fx.Node) -> int:
        """Return a node's place in the order of execution."""
        return self._position[node]

    def macs_before(self, position: int) -> int:
        """Sum up the MACs of everything before a position, for one image."""
        return sum(macs for at, macs in self._macs.items() if at < position)

    def part(self, known: Collection[fx.Node], targets: Sequence[fx.Node], position: int) -> Part:
        """Find the least that has to run: from the wanted values back to known ones, or to the image.

        From the first value on that something else changes in place, everything before the position runs, in
        its order: only so is each value what it was when it was used.

        Args:
            known: Nodes whose values are at hand.
            targets: Nodes whose values to compute; known ones are handed through.
            position: Place in the graph at which they are wanted, behind all of them.
        """
        first = position
        while True:
            behind = [node for node in self.graph.nodes[first:position] if node is not self.image]
            usable = {node for node in known if self._position[node] < first}
            inputs, computed = self._closure(usable, [*targets, *behind])
            changed = [self._position[n] for n in self.graph.changed & (inputs | computed)]
            if min(changed, default=first) >= first:
                break
            first = min(changed)
        piece = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        ordered = sorted(inputs, key=self._position.__getitem__)
        for node in ordered:
            copies[node] = piece.placeholder(node.name)
        for node in sorted(computed, key=self._position.__getitem__):
            copies[node] = piece.node_copy(node, copies.__getitem__)
        piece.output(tuple(copies[node] for node in targets))
        return Part(
            inputs=tuple(ordered),
            computed=frozenset(computed),
            macs=sum(self._macs.get(self._position[node], 0) for node in computed),
            module=fx.GraphModule(self.module, piece),
        )

    def _closure(
        self, known: Collection[fx.Node], targets: Sequence[fx.Node]
    ) -> tuple[set[fx.Node], set[fx.Node]]:
        """Follow wanted values back: the nodes to start from, and those to compute."""
        inputs: set[fx.Node] = set()
        computed: set[fx.Node] = set()
        waiting = list(targets)
        while waiting:
            node = waiting.pop()
            if node in known or node is self.image:
                inputs.add(node)
            elif node not in computed:
                computed.add(node)
                waiting.extend(node.all_input_nodes)
        return inputs, computed

    def run(
        self,
        part: Part,
        values: dict[fx.Node, torch.Tensor],
        watched: Collection[fx.Node],
        look: Callable[[fx.Node, torch.Tensor], None],
    ) -> None:
        """Run a part and show some values at the moment they are computed.

        Later operations may change a value in place, so that whoever looks has to copy what it keeps.

        Args:
            part: What to run.
            values: Of the part's inputs.
            watched: Nodes to show, those among them that the part computes.
            look: Called with each of them and its value.
        """
        by_name = {node.name: node for node in watched}

        def show(node: fx.Node, value: Any) -> None:
            if node.op not in ("placeholder", "output") and node.name in by_name:
                look(by_name[node.name], value)

        with torch.no_grad(), self.device.autocast():
            Watching(part.module, show).run(*(values[node] for node in part.inputs))
