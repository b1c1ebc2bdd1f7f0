"""The layers of a model in execution order, with what each computes, costs and owns.

Everything about cuts comes from this one list; `trace.trace` makes it.

Notation: ``n`` images, ``c`` channels, ``h x w`` pixels. A *position* is an index into the operations: the
border before that operation; what is executed before it is frozen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from depthsearch.errors import TraceError

if TYPE_CHECKING:
    from torch import fx

LayerKind = Literal["conv", "pool", "concat", "norm", "norm_act", "identity", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One operation of the traced model.

    Attributes:
        position: Index of its node in the traced graph.
        start: Where a cut before it lies: before what is made of parameters alone for it (a kernel that is
            standardised first), else at its position.
        name: Module path, or the path of the module around it plus the operation; unique in the model.
        kind: ``conv``, ``pool``, ``concat``, ``norm``, ``norm_act``, ``identity`` or ``other``.
        module: Path of the module that runs it, or around it (empty for the model itself).
        weight_shape: Shape of its kernel or scale, or empty.
        output_shape: Of its output for one image; empty where that is not one tensor.
        macs: Multiply-accumulates for one image.
        tensors: Names of the parameters and buffers first used from its start to that of the next layer.
        parameters: How many numbers the parameters among them hold.
        weight_tensors: How many parameters there are among them.
    """

    position: int
    start: int
    name: str
    kind: LayerKind
    module: str
    weight_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    macs: int
    tensors: tuple[str, ...]
    parameters: int
    weight_tensors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGraph:
    """A traced model.

    Attributes:
        traced: The traced model; it shares the model's modules.
        layers: Its operations on the image in execution order.
        from_pixels: Nodes whose value depends on the pixels of the image, not only on its size.
        carried: Per node: whether its value is a tensor ``(n, ...)`` made from the image, so that a boundary
            carries it. Sizes, parameters and slices of tensors are recomputed behind a cut instead.
        constants: Sizes that a module has returned beside a tensor, which depend on the image's size alone.
        shapes: Per node that makes one tensor: its shape for one image.
        bytes_per_image: Per carried node: size of its value for one image, in bytes.
        changed: Nodes whose value is changed in place before a later use: it is not what was computed.
        first_uses: Position at which each parameter and buffer is first used, by its first name.
        first_effects: Position at which the image first meets it, or what was made of it.
        mode_reads: Operations that do something else in training: the path of the module whose mode they
            depend on, and their positions.
        forks: Whether the model's own forward goes another way in training.
        opaque: Paths of modules with layers inside that tracing kept whole, and why.
        image_shape: Channels, height and width of the image it was run on.
        input_name: Name of the parameter of forward that takes the image; None: the first.
    """

    traced: fx.GraphModule
    layers: tuple[Layer, ...]
    from_pixels: frozenset[fx.Node]
    carried: dict[fx.Node, bool]
    constants: dict[fx.Node, Any]
    shapes: dict[fx.Node, tuple[int, ...]]
    bytes_per_image: dict[fx.Node, int]
    changed: frozenset[fx.Node]
    first_uses: dict[str, int]
    first_effects: dict[str, int]
    mode_reads: tuple[tuple[str, int], ...]
    forks: bool
    opaque: Mapping[str, str]
    image_shape: tuple[int, int, int]
    input_name: str | None = None

    @property
    def image_size(self) -> int:
        """Height of the image it was run on, in pixels."""
        return self.image_shape[1]

    @property
    def nodes(self) -> list[fx.Node]:
        """All nodes in execution order, the image's placeholder first and the output last."""
        return list(self.traced.graph.nodes)

    def boundary(self, position: int) -> list[fx.Node]:
        """List the tensors alive across a position: made before it and needed after it.

        Raises:
            TraceError: If something other than a tensor would have to be carried.
        """
        return [n for n in self.needed(position) if self.carried[n]]

    def boundaries(self) -> list[list[fx.Node]]:
        """List the boundary at every position; empty where none can be carried."""
        nodes = self.nodes
        order = {node: i for i, node in enumerate(nodes)}
        last: dict[fx.Node, int] = {}
        for node in reversed(nodes):
            # What is recomputed behind a cut needs its inputs there for as long as it is needed itself.
            uses = (order[u] if self._is_known(u) else max(order[u], last[u]) for u in node.users)
            last[node] = max(uses, default=-1)
        alive: list[list[fx.Node]] = [[] for _ in nodes]
        impossible: set[int] = set()
        for node in nodes:
            positions = range(order[node] + 1, last[node] + 1)
            if self.carried[node]:
                for position in positions:
                    alive[position].append(node)
            elif node not in self.constants and self._is_lost(node):
                impossible.update(positions)
        return [[] if position in impossible else nodes_alive for position, nodes_alive in enumerate(alive)]

    def needed(self, position: int) -> list[fx.Node]:
        """List the nodes before a position whose values the rest needs, in execution order.

        Those that are carried form the boundary; the others are to be recomputed from it.
        """
        nodes = self.nodes
        order = {node: i for i, node in enumerate(nodes)}
        waiting = [a for n in nodes[position:] for a in n.all_input_nodes if order[a] < position]
        needed: set[fx.Node] = set()
        while waiting:
            node = waiting.pop()
            if node in needed:
                continue
            needed.add(node)
            if not self._is_known(node):
                if self._is_lost(node):
                    raise TraceError(f"the output of '{node.target}' is no tensor to be kept")
                waiting.extend(node.all_input_nodes)
        return sorted(needed, key=order.__getitem__)

    def _is_known(self, node: fx.Node) -> bool:
        """Return whether a value is at hand behind a cut without being recomputed."""
        return self.carried[node] or node in self.constants

    def _is_lost(self, node: fx.Node) -> bool:
        """Return whether a value that is not at hand behind a cut cannot be recomputed there either."""
        return node.op == "call_module" and node in self.from_pixels
