"""Split a model at a cut, or freeze it there in place.

Freezing means gradients off *and* eval mode: only then is the prefix a fixed function of one image (batch
normalisation uses its running statistics, dropout and stochastic depth are off), so that its output is
worth keeping.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import fx, nn

from depthsearch.cuts import Cut, find_head
from depthsearch.errors import CutError
from depthsearch.graph import LayerGraph, trace

__all__ = [
    "Frozen",
    "Prefix",
    "Split",
    "Suffix",
    "freeze_before",
    "joined_state",
    "position_of",
    "split_at",
    "split_traced",
    "suffix_of",
]


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

    Modules and parameters that the prefix uses as well (a kernel used twice) are frozen here too.
    """

    def __init__(self, graph: fx.GraphModule, shared: Sequence[str], frozen: Collection[str]) -> None:
        super().__init__()
        self.graph = graph
        self.shared = tuple(shared)
        for name, parameter in graph.named_parameters(remove_duplicate=False):
            parameter.requires_grad_(name not in frozen)
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


def split_at(model: nn.Module, cut: Cut, *, image_size: int | None = None) -> Split:
    """Split a model into the frozen prefix and the trainable suffix.

    Both are copies: training the suffix leaves the model as it was. Parameter names stay those of the
    model (see `joined_state`).

    Args:
        model: Backbone with its head. Left unchanged.
        cut: One of ``list_cuts(model)``; another head since then does not matter.
        image_size: Height and width for which MACs are given, in pixels; default: the model's own.

    Raises:
        TraceError: If the model cannot be followed.
        CutError: If ``cut`` is not a cut of this model.
    """
    return split_traced(trace(model, image_size=image_size), model, cut)


def split_traced(graph: LayerGraph, model: nn.Module, cut: Cut) -> Split:
    """Split a model that is traced already; see `split_at`."""
    position = position_of(graph, model, cut)
    layers = graph.layers
    return Split(
        cut=cut,
        prefix=Prefix(copy.deepcopy(_prefix_graph(graph, position))),
        suffix=suffix_of(graph, model, cut),
        prefix_macs=sum(layer.macs for layer in layers if layer.position < position),
        suffix_macs=sum(layer.macs for layer in layers if layer.position >= position),
        boundary_bytes=sum(graph.bytes_per_image[node] for node in graph.boundary(position)),
    )


def suffix_of(graph: LayerGraph, model: nn.Module, cut: Cut) -> Suffix:
    """Copy the trainable part of a model that is traced already.

    The model may have another head than the traced one, where that is a single module under the same path.
    One that takes numbers of samples (``takes_numbers``) is given them from the end of the boundary.
    """
    position = position_of(graph, model, cut)
    before, behind = _module_paths(graph, position)
    piece = _suffix_graph(graph, position)
    owned = {
        str(node.target): _attribute(model, str(node.target), graph.traced)
        for node in piece.nodes
        if node.op in ("call_module", "get_attr")
    }
    _give_numbers(piece, [path for path, own in owned.items() if getattr(own, "takes_numbers", False)])
    return Suffix(
        copy.deepcopy(fx.GraphModule(owned, piece, type(model).__name__)),
        sorted(before & behind),
        _frozen_parameters(graph, model, position),
    )


def joined_state(model: nn.Module, split: Split) -> dict[str, torch.Tensor]:
    """Join both parts' tensors into a state dict for ``model``, in its own order.

    Tensors that the traced model never uses (an auxiliary head) are the model's own.
    """
    parts = {**split.suffix.graph.state_dict(), **split.prefix.graph.state_dict()}
    return {name: parts.get(name, tensor) for name, tensor in model.state_dict().items()}


class Frozen:
    """What `freeze_before` did to a model, and how to undo it. Use it as a context manager or call `undo`."""

    def __init__(self, parameters: Mapping[nn.Parameter, bool], modules: Mapping[nn.Module, bool]) -> None:
        self._parameters = parameters
        self._modules = modules

    def undo(self) -> None:
        """Give every parameter its requires_grad and every module its mode of before back."""
        for parameter, requires_grad in self._parameters.items():
            parameter.requires_grad_(requires_grad)
        for module, training in self._modules.items():
            module.__dict__.pop("train", None)
            module.training = training

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace_: TracebackType | None,
    ) -> None:
        self.undo()


def freeze_before(model: nn.Module, cut: Cut) -> Frozen:
    """Freeze everything executed before a cut, in place, for a training loop of one's own.

    Frozen parameters take no gradient; frozen modules stay in eval mode, also after ``model.train()``. The
    keys of the state dict are unchanged.

    Args:
        model: Backbone with its head; parameters behind the cut keep their requires_grad.
        cut: One of ``list_cuts(model)``.

    Returns:
        A handle whose ``undo()`` brings the model back to what it was.

    Raises:
        TraceError: If the model cannot be followed.
        CutError: If ``cut`` is not a cut of this model.
    """
    graph = trace(model)
    position = position_of(graph, model, cut)
    names = _frozen_parameters(graph, model, position)
    parameters = {model.get_parameter(name): model.get_parameter(name).requires_grad for name in names}
    modules = {m: m.training for m in _frozen_modules(graph, model, position)}
    for parameter in parameters:
        parameter.requires_grad_(False)
    for module in modules:
        module.eval()
    for module in modules:
        module.__dict__["train"] = _StaysInEvalMode(module)
    return Frozen(parameters, modules)


@dataclass(frozen=True)
class _StaysInEvalMode:
    """Stands in for ``module.train``; a plain object, so that the model can be copied and pickled."""

    module: nn.Module

    def __call__(self, mode: bool = True) -> nn.Module:
        return self.module


def position_of(graph: LayerGraph, model: nn.Module, cut: Cut) -> int:
    """Find the place of a cut in a model's graph.

    Raises:
        CutError: If it is not a cut of this model.
    """
    if cut.kind == "head":
        return find_head(graph, model, cut.name if cut.name != "output" else None)[0]
    for layer in graph.layers:
        if layer.name == cut.first_layer:
            return layer.position
    raise CutError(
        f"{type(model).__name__} has no layer '{cut.first_layer}': this cut is another model's. "
        "Take one of list_cuts(model)."
    )


def _module_paths(graph: LayerGraph, position: int) -> tuple[set[str], set[str]]:
    """Paths of the modules called before and behind a position."""
    called = [(i, str(n.target)) for i, n in enumerate(graph.nodes) if n.op == "call_module"]
    return {p for i, p in called if i < position}, {p for i, p in called if i >= position}


def _frozen_parameters(graph: LayerGraph, model: nn.Module, position: int) -> list[str]:
    """List the parameters first used before a position, each by all the names that it has."""
    first = {t for layer in graph.layers if layer.position < position for t in layer.tensors}
    named = list(model.named_parameters(remove_duplicate=False))
    frozen = {parameter for name, parameter in named if name in first}
    return [name for name, parameter in named if parameter in frozen]


def _frozen_modules(graph: LayerGraph, model: nn.Module, position: int) -> list[nn.Module]:
    """List the modules that run before a position, and those around them that run nothing behind it."""
    before, behind = _module_paths(graph, position)
    # What runs on both sides is owned, and so frozen, by the prefix.
    behind -= before
    behind |= {layer.module for layer in graph.layers if layer.position >= position} - before

    def touches(path: str, called: set[str]) -> bool:
        return any(p == path or p.startswith(path + ".") or path == "" for p in called)

    leaves = {m for path in before for m in model.get_submodule(path).modules()}
    around = (m for path, m in model.named_modules() if touches(path, before) and not touches(path, behind))
    return list(dict.fromkeys([*leaves, *around]))


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
    copies: dict[fx.Node, fx.Node] = {}
    needed = graph.needed(position)
    for node in needed:
        if graph.carried[node]:
            copies[node] = suffix.placeholder(node.name)
    for node in [n for n in needed if not graph.carried[n]] + graph.nodes[position:]:
        copies[node] = suffix.node_copy(node, copies.__getitem__)
    return suffix


def _give_numbers(piece: fx.Graph, heads: Collection[str]) -> None:
    """Give a graph one more input, behind the others, that some of its modules are called with."""
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
        found: Any = owner
        for name in path.split("."):
            found = getattr(found, name, None)
        if found is not None:
            return found
    raise CutError(f"{type(model).__name__} has no '{path}': it is not the model that was traced.")
