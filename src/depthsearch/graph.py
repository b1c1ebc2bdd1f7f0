"""The layers of a model in execution order, with what each computes, costs and owns.

A model is traced with ``torch.fx`` and run once on one image, which gives every operation its output's
shape and its multiply-accumulates (MACs). Everything about cuts follows from this one list.

Notation: ``n`` images, ``c`` channels, ``h x w`` pixels. A *position* is an index into the traced nodes: the
border before node ``position``; what is executed before it is frozen.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import timm.layers
import torch
import torch.nn.functional as F
from timm.layers.norm_act import BatchNormAct2d, GroupNormAct, LayerNormAct
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import (
    _AdaptiveAvgPoolNd,
    _AdaptiveMaxPoolNd,
    _AvgPoolNd,
    _LPPoolNd,
    _MaxPoolNd,
)
from torch.utils.flop_counter import FlopCounterMode

from depthsearch.errors import TraceError
from depthsearch.passwords import first_line

__all__ = ["DEFAULT_IMAGE_SIZE", "Layer", "LayerGraph", "evaluating", "input_size", "trace"]

DEFAULT_IMAGE_SIZE = 224

CONVOLUTIONS = {F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d}
POOLINGS = {
    F.avg_pool2d,
    F.max_pool2d,
    F.adaptive_avg_pool2d,
    F.adaptive_max_pool2d,
    F.lp_pool2d,
    torch.adaptive_avg_pool1d,
    torch.max_pool2d,
}
CONCATENATIONS = {torch.cat, torch.concat, torch.concatenate}
DROPOUTS = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout}
REDUCTIONS = {torch.mean, torch.amax, "mean", "amax"}
POOLING_MODULES = (_AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _LPPoolNd, _MaxPoolNd)
NORM_ACTIVATIONS = (BatchNormAct2d, GroupNormAct, LayerNormAct)
NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm, *NORM_ACTIVATIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One operation of the traced model.

    Attributes:
        position: Index of its node in the traced graph.
        name: Module path, or the path of the module around it plus the operation; unique in the model.
        kind: ``conv``, ``pool``, ``concat``, ``norm``, ``norm_act``, ``identity`` or ``other``.
        module: Path of the module that runs it, or around it (empty for the model itself).
        weight_shape: Shape of its kernel or scale, or empty.
        macs: Multiply-accumulates for one image.
        tensors: Names of the parameters and buffers first used here.
        parameters: How many numbers the parameters among them hold.
        weight_tensors: How many parameters there are among them.
    """

    position: int
    name: str
    kind: str
    module: str
    weight_shape: tuple[int, ...]
    macs: int
    tensors: tuple[str, ...]
    parameters: int
    weight_tensors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGraph:
    """A traced model.

    Attributes:
        traced: The traced model; it shares the model's modules.
        layers: Its operations in execution order.
        carried: Per node: whether its value is a tensor made from the image, so that a boundary carries
            it. Sizes, parameters and slices of tensors are recomputed behind a cut instead.
        bytes_per_image: Per node: size of such a tensor for one image, in bytes.
        changed: Nodes whose value is changed in place before a later use: it is not what was computed.
        opaque: Paths of modules with layers inside that tracing could not enter.
        image_size: Height and width of the image it was run on, in pixels.
        channels: Of that image.
    """

    traced: fx.GraphModule
    layers: tuple[Layer, ...]
    carried: dict[fx.Node, bool]
    bytes_per_image: dict[fx.Node, int]
    changed: frozenset[fx.Node]
    opaque: tuple[str, ...]
    image_size: int
    channels: int = 3

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
            uses = (order[u] if self.carried[u] else max(order[u], last[u]) for u in node.users)
            last[node] = max(uses, default=-1)
        alive: list[list[fx.Node]] = [[] for _ in nodes]
        impossible: set[int] = set()
        for node in nodes:
            positions = range(order[node] + 1, last[node] + 1)
            if self.carried[node]:
                for position in positions:
                    alive[position].append(node)
            elif node.op == "call_module":
                impossible.update(positions)
        return [[] if position in impossible else found for position, found in enumerate(alive)]

    def needed(self, position: int) -> list[fx.Node]:
        """List the nodes before a position whose values the rest needs, in execution order.

        Those that are carried form the boundary; the others are to be recomputed from it.
        """
        nodes = self.nodes
        order = {node: i for i, node in enumerate(nodes)}
        waiting = [a for n in nodes[position:] for a in n.all_input_nodes if order[a] < position]
        found: set[fx.Node] = set()
        while waiting:
            node = waiting.pop()
            if node in found:
                continue
            found.add(node)
            if not self.carried[node]:
                if node.op == "call_module":
                    raise TraceError(f"the output of '{node.target}' is no tensor to be kept")
                waiting.extend(node.all_input_nodes)
        return sorted(found, key=order.__getitem__)


class _Tracer(fx.Tracer):
    """Follows a model into its modules, except those that have to stay whole."""

    def __init__(self, whole: set[str]) -> None:
        super().__init__(autowrap_functions=tuple(timm.layers.get_notrace_functions()))
        self.whole = whole
        self.leaf_types = tuple(timm.layers.get_notrace_modules())
        self.failed_at: str | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Keep whole: torch's modules, weighted layers, what timm cannot trace, mode switches without layers.

        A block with layers inside is entered even if timm does not trace it: should that fail, it is kept
        whole the next time.
        """
        if module_qualified_name in self.whole or _is_weighted(m):
            return True
        if super().is_leaf_module(m, module_qualified_name):
            return True
        has_layers = any(_is_weighted(child) for child in m.modules())
        return not has_layers and (isinstance(m, self.leaf_types) or _asks_for_mode(m))

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Note the innermost module in which tracing fails."""
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed_at = self.failed_at or self.path_of_module(m)
            raise


def _asks_for_mode(module: nn.Module) -> bool:
    """Whether the module computes something else in training (its trace would be fixed to one mode)."""
    return "training" in type(module).forward.__code__.co_names


def _is_weighted(module: nn.Module) -> bool:
    return isinstance(module, _ConvNd | nn.Linear)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode and every module of it back afterwards, also after an error."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def trace(model: nn.Module, *, image_size: int | None = None) -> LayerGraph:
    """Trace a model and run it once on one image.

    A module that cannot be entered is kept whole (see ``LayerGraph.opaque``); a model of which nothing can
    be entered is an error.

    Args:
        model: Any CNN mapping images ``(n, c, h, w)`` to one tensor. Left as it was.
        image_size: Height and width in pixels; default: that of the model's timm configuration, else 224.

    Raises:
        TraceError: If the model cannot be followed or not be run, naming what stopped it.
    """
    size = input_size(model)
    image_size = image_size or size[-1]
    with evaluating(model), torch.no_grad():
        graph, opaque = _follow(model)
        traced = fx.GraphModule(model, graph)
        values = _run(model, traced, (size[0], image_size, image_size))
    return _describe(model, traced, values, opaque, (size[0], image_size))


def input_size(model: nn.Module) -> tuple[int, int, int]:
    """Channels, height and width of the images a model wants: timm's configuration or ``(3, 224, 224)``."""
    config = getattr(model, "pretrained_cfg", None) or {}
    size: tuple[int, int, int] = config.get("input_size") or (
        3,
        DEFAULT_IMAGE_SIZE,
        DEFAULT_IMAGE_SIZE,
    )
    return size


def _follow(model: nn.Module) -> tuple[fx.Graph, tuple[str, ...]]:
    whole: set[str] = set()
    while True:
        tracer = _Tracer(whole)
        try:
            graph = tracer.trace(model)
        except Exception as error:
            stopped_at = tracer.failed_at
            if not stopped_at or stopped_at in whole:
                where = f"its module '{stopped_at}'" if stopped_at else "its own forward()"
                raise TraceError(
                    f"{type(model).__name__} cannot be traced: {where} stops torch.fx "
                    f"({first_line(error)}). Rewrite that module without control flow on tensors, "
                    "or take another backbone."
                ) from error
            whole.add(stopped_at)
            continue
        _unfreeze_modes(graph)
        called = {str(n.target) for n in graph.nodes if n.op == "call_module"}
        entered = dict(model.named_modules())
        opaque = (p for p in called if sum(map(_is_weighted, entered[p].modules())) > 1)
        return graph, tuple(sorted(opaque))


def _unfreeze_modes(graph: fx.Graph) -> None:
    """Let a traced ``training=False`` follow the mode of the module that runs the graph."""
    for node in graph.nodes:
        if node.target in DROPOUTS and len(node.args) > 2:
            node.kwargs = {**node.kwargs, "training": node.args[2]}
            node.args = node.args[:2]
        # A literal training=True (weight standardisation by batch norm) has nothing to do with the mode.
        if node.op == "call_function" and node.kwargs.get("training") is False:
            with graph.inserting_before(node):
                mode = graph.create_node("get_attr", "training")
            node.kwargs = {**node.kwargs, "training": mode}


class _Run(fx.Interpreter):
    """Runs a traced model and notes each node's MACs, and shape and size where it makes one tensor."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.counter = FlopCounterMode(display=False)
        self.macs: dict[fx.Node, int] = {}
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.bytes: dict[fx.Node, int] = {}
        self.partial: set[fx.Node] = set()
        self.versions: dict[fx.Node, int] = {}
        self.changed: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        for source in n.all_input_nodes:
            if source in self.versions and self.env[source]._version != self.versions[source]:
                self.changed.add(source)
        before = self.counter.get_total_flops()
        result = super().run_node(n)
        self.macs[n] = (self.counter.get_total_flops() - before) // 2
        if isinstance(result, torch.Tensor):
            self.shapes[n] = tuple(result.shape)
            self.versions[n] = result._version
            self.bytes[n] = result.numel() * result.element_size()
            # A slice of another tensor: a copy of it has other strides, and may be summed in another order.
            if n.op != "call_module" and torch.empty_like(result).stride() != result.stride():
                self.partial.add(n)
        return result


def _run(model: nn.Module, traced: fx.GraphModule, size: tuple[int, int, int]) -> _Run:
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    image = torch.zeros(1, *size, dtype=like.dtype, device=like.device)
    run = _Run(traced)
    try:
        with run.counter:
            output = run.run(image)
    except Exception as error:
        raise TraceError(
            f"{type(model).__name__} does not run on one image of {' x '.join(map(str, size))}: "
            f"{first_line(error).rstrip('.')}. Give another image size."
        ) from error
    if not isinstance(output, torch.Tensor):
        raise TraceError(
            f"{type(model).__name__} returns {type(output).__name__}, not one tensor of logits. "
            "Wrap it in a module that returns one."
        )
    return run


def _describe(
    model: nn.Module,
    traced: fx.GraphModule,
    run: _Run,
    opaque: tuple[str, ...],
    image: tuple[int, int],
) -> LayerGraph:
    nodes = list(traced.graph.nodes)
    from_image: set[fx.Node] = set()
    for node in nodes:
        if node.op == "placeholder" or not from_image.isdisjoint(node.all_input_nodes):
            from_image.add(node)
    carried = {node: node in from_image and node in run.shapes and node not in run.partial for node in nodes}
    modules = dict(model.named_modules())
    owned = _first_uses(model, nodes, carried)
    names: dict[str, int] = {}
    tensors = dict(model.named_parameters(remove_duplicate=False))
    layers = []
    for position, node in enumerate(nodes):
        if not carried[node] or node.op in ("placeholder", "output"):
            continue
        path = _module_path(node)
        layers.append(
            Layer(
                position=position,
                name=_unique_name(node, path, names),
                kind=_kind(node, modules, run),
                module=path,
                weight_shape=_weight_shape(node, modules),
                macs=run.macs[node],
                tensors=owned.get(node, ()),
                parameters=sum(tensors[t].numel() for t in owned.get(node, ()) if t in tensors),
                weight_tensors=sum(t in tensors for t in owned.get(node, ())),
            )
        )
    return LayerGraph(
        traced=traced,
        layers=tuple(layers),
        carried=carried,
        bytes_per_image={n: run.bytes[n] for n in nodes if carried[n]},
        changed=frozenset(run.changed),
        opaque=opaque,
        image_size=image[1],
        channels=image[0],
    )


def _first_uses(
    model: nn.Module, nodes: list[fx.Node], carried: dict[fx.Node, bool]
) -> dict[fx.Node, tuple[str, ...]]:
    """Give every parameter and buffer to the first operation that uses it."""
    state = {id(t): name for name, t in reversed(list(_named_state(model)))}
    paths = dict(model.named_modules())
    attributes = dict(_named_state(model))
    used: set[str] = set()
    first: dict[fx.Node, tuple[str, ...]] = {}
    for node in nodes:
        if not carried[node] or node.op == "placeholder":
            continue
        found: list[str] = []
        if node.op == "call_module":
            found += [state[id(t)] for _, t in _named_state(paths[str(node.target)])]
        for source in _uncarried_sources(node, carried):
            if source.op == "get_attr" and str(source.target) in attributes:
                found.append(state[id(attributes[str(source.target)])])
        mine = tuple(dict.fromkeys(name for name in found if name not in used))
        used.update(mine)
        if mine:
            first[node] = mine
    return first


def _named_state(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _uncarried_sources(node: fx.Node, carried: dict[fx.Node, bool]) -> Iterator[fx.Node]:
    waiting = [a for a in node.all_input_nodes if not carried[a]]
    while waiting:
        source = waiting.pop()
        yield source
        waiting.extend(a for a in source.all_input_nodes if not carried[a])


def _module_path(node: fx.Node) -> str:
    """Path of the leaf module that a node calls, or of the module in whose forward() it stands."""
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def _unique_name(node: fx.Node, path: str, names: dict[str, int]) -> str:
    if node.op == "call_module":
        base = path
    else:
        target = node.target if isinstance(node.target, str) else node.target.__name__
        base = f"{path}.{target}" if path else target
    times = names[base] = names.get(base, -1) + 1
    name = f"{base}_{times}" if times else base
    if times:
        names.setdefault(name, 0)
    return name


def _kind(node: fx.Node, modules: dict[str, nn.Module], run: _Run) -> str:
    if node.op == "call_module":
        return _module_kind(modules[str(node.target)])
    if node.target in CONVOLUTIONS:
        weight = node.args[1] if len(node.args) > 1 else node.kwargs.get("weight")
        # A kernel that is no parameter (a fixed blur) is a way of pooling.
        fixed = isinstance(weight, fx.Node) and _is_buffer(weight, modules)
        return "pool" if fixed else "conv"
    if node.target in POOLINGS:
        return "pool"
    if node.target in CONCATENATIONS:
        parts = node.args[0] if node.args else node.kwargs.get("tensors", ())
        return "concat" if isinstance(parts, list | tuple) and len(parts) > 1 else "identity"
    if node.target in REDUCTIONS and _reduces_image(node, run):
        return "pool"
    if node.target in (operator.getitem, "contiguous"):
        return "identity"
    return "other"


def _module_kind(module: nn.Module) -> str:
    if isinstance(module, _ConvNd):
        return "conv"
    if isinstance(module, POOLING_MODULES):
        return "pool"
    if isinstance(module, NORM_ACTIVATIONS):
        return "norm" if isinstance(module.act, nn.Identity) else "norm_act"
    if isinstance(module, NORMS):
        return "norm"
    return "identity" if isinstance(module, nn.Identity) else "other"


def _is_buffer(weight: fx.Node, modules: dict[str, nn.Module]) -> bool:
    while weight.op != "get_attr":
        if not weight.all_input_nodes:
            return False
        weight = weight.all_input_nodes[0]
    owner, _, name = str(weight.target).rpartition(".")
    return name in modules[owner]._buffers


def _reduces_image(node: fx.Node, run: _Run) -> bool:
    """Whether a mean or maximum runs over height and width (of NCHW or NHWC) and not over channels."""
    source = run.shapes.get(node.all_input_nodes[0], ())
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if len(source) != 4 or not isinstance(dims, list | tuple):
        return False
    return {int(d) % 4 for d in dims} in ({2, 3}, {1, 2})


def _weight_shape(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[int, ...]:
    if node.op != "call_module":
        return ()
    weight = getattr(modules[str(node.target)], "weight", None)
    return tuple(weight.shape) if isinstance(weight, torch.Tensor) else ()
