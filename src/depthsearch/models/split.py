"""Split a model at a cut into two modules: the frozen prefix and the trainable suffix.

Freezing means gradients off *and* eval mode: only then is the prefix a fixed function of one image (batch
normalisation uses its running statistics, dropout and stochastic depth are off), so that its output is
worth keeping.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import fx, nn

from depthsearch.errors import CutError, TraceError
from depthsearch.models.checking import check_split, check_trace
from depthsearch.models.cuts import Cut
from depthsearch.models.fixed import check_fixed
from depthsearch.models.headplace import find_head
from depthsearch.models.tracing.graph import LayerGraph
from depthsearch.models.tracing.hooks import is_own
from depthsearch.models.tracing.inputs import ExampleInputs, has_lazy_layers
from depthsearch.models.tracing.nodes import is_within
from depthsearch.models.tracing.restoring import unchanged
from depthsearch.models.tracing.trace import trace


class Prefix(nn.Module):
    """The frozen part: images ``(n, c, h, w)`` to the boundary, a tuple of tensors ``(n, ...)``.

    It stays in eval mode whatever is asked of it, and none of its parameters takes a gradient.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        self.graph = graph.requires_grad_(False).eval()
        self.training = False

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode."""
        return self

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute the boundary."""
        boundary: tuple[torch.Tensor, ...] = self.graph(images)
        return boundary


class Suffix(nn.Module):
    """The trainable part, the head included: the boundary to logits ``(n, num_classes)``.

    Where samples have numbers, these come behind the boundary, ``(n, d)``.

    Modules and parameters that the prefix uses as well (a kernel used twice) are frozen here too. Parameters
    that took no gradient before do not take any here; modules that the model itself holds in eval mode
    (a ``train()`` of its own) stay in it.
    """

    def __init__(self, graph: fx.GraphModule, shared: Sequence[str], frozen: Collection[str]) -> None:
        super().__init__()
        self.graph = graph
        self.shared = tuple(shared)
        for name, parameter in graph.named_parameters(remove_duplicate=False):
            if name in frozen:
                parameter.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Switch mode, but for the modules shared with the prefix."""
        super().train(mode)
        for path in self.shared:
            self.graph.get_submodule(path).eval()
        return self

    def forward(self, boundary: Sequence[torch.Tensor]) -> torch.Tensor:
        """Compute the logits."""
        logits: torch.Tensor = self.graph(*boundary)
        return logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A model in two parts: ``suffix(prefix(images))`` is what the model computes.

    Attributes:
        cut: Where it was split.
        prefix: The frozen part.
        suffix: The trainable part.
        prefix_macs: MACs of the prefix for one image, forward.
        suffix_macs: MACs of the suffix for one image, forward, the head included.
        boundary_bytes: Bytes of the boundary for one image, as computed.
    """

    cut: Cut
    prefix: Prefix
    suffix: Suffix
    prefix_macs: int
    suffix_macs: int
    boundary_bytes: int


def split_at(
    model: nn.Module,
    cut: Cut,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    example_inputs: ExampleInputs | None = None,
    head: str | None = None,
) -> Split:
    """Split a model into the frozen prefix and the trainable suffix.

    Both are copies: training the suffix leaves the model as it was. Parameter names stay those of the
    model (see `joined_state`).

    Args:
        model: Backbone with its head. Left unchanged.
        cut: One of ``list_cuts(model)``; another head since then does not matter.
        image_size: Height and width for which MACs are given, in pixels; default: the cut's own.
        channels: Of the images; default: the cut's own.
        example_inputs: A batch of images instead of a size; see `trace.trace`.
        head: Module path of the head, where the cut freezes the whole backbone and does not say.

    Raises:
        TraceError: If the model cannot be followed, or computes or trains otherwise than what was followed.
        CutError: If ``cut`` is not a cut of this model, or lies behind something that is no fixed function of
            an image.
    """
    if has_lazy_layers(model):
        raise TraceError(
            f"{type(model).__name__} has lazy layers that have no weights yet: call it once on a batch of "
            "images of your size, then split it."
        )
    graph, _ = trace_to(
        model, cut, head, image_size=image_size, channels=channels, example_inputs=example_inputs
    )
    split = split_traced(graph, model, cut, head=head)
    if check_traced(graph, model):
        check_split(graph, model, split.prefix, split.suffix)
    return split


def trace_to(model: nn.Module, cut: Cut, head: str | None, **images: Any) -> tuple[LayerGraph, int]:
    """Trace a model, see `trace.trace`, that is to be frozen before a cut; return also the cut's position.

    Raises:
        TraceError: If the model cannot be followed.
        CutError: If ``cut`` is none of this model, or lies behind something that is no fixed function.
    """
    if not isinstance(cut, Cut):
        raise CutError(f"{cut!r} is no cut: give one of list_cuts(model), such as find_cut(cuts, {cut!r}).")
    graph = trace(model, likely=cut.image_shape, **images)
    position = position_of(graph, model, cut, head=head)
    check_fixed(graph, model, position)
    return graph, position


def check_traced(graph: LayerGraph, model: nn.Module) -> bool:
    """Compare a traced model with the model itself, the first time in a process; see `checking.check_trace`.

    Raises:
        TraceError: If they compute or train otherwise.
    """
    return check_trace(graph, model, lambda: suffix_from(graph, model, 1))


def split_traced(graph: LayerGraph, model: nn.Module, cut: Cut, *, head: str | None = None) -> Split:
    """Split a model that is traced already; see `split_at`."""
    position = position_of(graph, model, cut, head=head)
    layers = graph.layers
    return Split(
        cut=cut,
        prefix=Prefix(copy.deepcopy(_prefix_graph(graph, position))),
        suffix=suffix_from(graph, model, position),
        prefix_macs=sum(layer.macs for layer in layers if layer.position < position),
        suffix_macs=sum(layer.macs for layer in layers if layer.position >= position),
        boundary_bytes=sum(graph.bytes_per_image[node] for node in graph.boundary(position)),
    )


def suffix_of(graph: LayerGraph, model: nn.Module, cut: Cut) -> Suffix:
    """Copy the trainable part of a model that is traced already.

    The model may have another head than the traced one, where that is a single module under the same path.
    One that takes numbers of samples (``takes_numbers``) is given them from the end of the boundary.
    """
    return suffix_from(graph, model, position_of(graph, model, cut))


def suffix_from(graph: LayerGraph, model: nn.Module, position: int) -> Suffix:
    """Copy all that a traced model runs from a position on; see `suffix_of`."""
    in_eval = _held_in_eval(model)
    before = {str(node.target) for node in graph.nodes[:position] if node.op == "call_module"}
    piece = _suffix_graph(graph, position)
    owned = {
        str(node.target): _attribute(model, str(node.target), graph.traced)
        for node in piece.nodes
        if node.op in ("call_module", "get_attr")
    }
    _give_numbers(piece, [path for path, own in owned.items() if getattr(own, "takes_numbers", False)])
    run = {str(node.target) for node in piece.nodes if node.op == "call_module"}
    within = {path for path in in_eval if any(is_within(path, target) for target in run)}
    copied = copy.deepcopy(fx.GraphModule(owned, piece, type(model).__name__))
    for module in copied.modules():
        # The copy is frozen where the suffix says so, and nowhere else.
        if is_own(vars(module).get("train")):
            del vars(module)["train"]
    return Suffix(copied, sorted((before & run) | within), frozen_parameters(graph, model, position))


def _held_in_eval(model: nn.Module) -> list[str]:
    """List the modules that stay in eval mode when a model is put into training mode, by code of its own."""
    if all(type(module).train is nn.Module.train for module in model.modules()):
        return []
    with unchanged(model):
        for module in model.modules():
            if is_own(vars(module).get("train")):
                del vars(module)["train"]
        model.train()
        return [path for path, module in model.named_modules() if path and not module.training]


def joined_state(model: nn.Module, split: Split) -> dict[str, torch.Tensor]:
    """Join both parts' tensors into a state dict for ``model``, in its own order.

    Tensors that the traced model never uses (an auxiliary head) are the model's own.
    """
    parts = {**split.suffix.graph.state_dict(), **split.prefix.graph.state_dict()}
    return {name: parts.get(name, tensor) for name, tensor in model.state_dict().items()}


def position_of(graph: LayerGraph, model: nn.Module, cut: Cut, *, head: str | None = None) -> int:
    """Find the position of a cut in a model's graph.

    The head's module path is needed where the cut freezes the whole backbone and does not say it.

    Raises:
        CutError: If it is not a cut of this model.
    """
    if cut.kind == "head":
        return find_head(graph, model, head or cut.name)[0]
    for layer in graph.layers:
        if layer.name == cut.first_layer:
            return layer.start
    raise CutError(
        f"{type(model).__name__} has no layer '{cut.first_layer}': this cut is another model's. "
        "Take one of list_cuts(model)."
    )


def frozen_parameters(graph: LayerGraph, model: nn.Module, position: int) -> list[str]:
    """List the parameters first used before a position, each by all the names that it has."""
    named = list(model.named_parameters(remove_duplicate=False))
    frozen = {parameter for name, parameter in named if graph.first_uses.get(name, position) < position}
    return [name for name, parameter in named if parameter in frozen]


def _prefix_graph(graph: LayerGraph, position: int) -> fx.GraphModule:
    prefix = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes[:position]:
        copies[node] = prefix.node_copy(node, copies.__getitem__)
    prefix.output(tuple(copies[node] for node in graph.boundary(position)))
    # A parameter, or a view of one, that only the suffix needs is the suffix's own.
    for node in reversed(graph.nodes[:position]):
        if node.op != "placeholder" and not graph.carried[node] and not copies[node].users:
            prefix.erase_node(copies[node])
    return fx.GraphModule(graph.traced, prefix)


def _suffix_graph(graph: LayerGraph, position: int) -> fx.Graph:
    suffix = fx.Graph()
    copies: dict[fx.Node, Any] = {}
    needed = graph.needed(position)
    for node in needed:
        if graph.carried[node]:
            copies[node] = suffix.placeholder(node.name)
    for node in [n for n in needed if not graph.carried[n]]:
        # What is recomputed is frozen: a mode that it asks for is that of prediction.
        if node.op == "get_attr" and node.target == "training":
            copies[node] = False
        elif node in graph.constants:
            copies[node] = graph.constants[node]
        else:
            copies[node] = suffix.node_copy(node, copies.__getitem__)
    for node in graph.nodes[position:]:
        copies[node] = suffix.node_copy(node, copies.__getitem__)
    return suffix


def _give_numbers(piece: fx.Graph, heads: Collection[str]) -> None:
    """Add an input behind the others, with which some modules of a graph are called."""
    if not heads:
        return
    with piece.inserting_after([node for node in piece.nodes if node.op == "placeholder"][-1]):
        numbers = piece.placeholder("numbers")
    for node in piece.nodes:
        if node.op == "call_module" and node.target in heads:
            node.args = (*node.args, numbers)


def _attribute(model: nn.Module, path: str, traced: fx.GraphModule) -> Any:
    """Get a module or tensor of the model, or what tracing has added to it."""
    for owner in (model, traced):
        value: Any = owner
        for name in path.split("."):
            value = getattr(value, name, None)
        if value is not None:
            return value
    raise CutError(f"{type(model).__name__} has no '{path}': it is not the model that was traced.")
