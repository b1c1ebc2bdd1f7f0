"""The layers of a model in execution order, with what each computes, costs and owns.

A model is followed (see `tracing`) and run once on one image, which gives every operation its output's shape,
its multiply-accumulates (MACs), and the parameters and buffers that are first used there. Everything about
cuts comes from this one list.

Notation: ``n`` images, ``c`` channels, ``h x w`` pixels. A *position* is an index into the operations: the
border before that operation; what is executed before it is frozen.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

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
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from depthsearch.errors import TraceError
from depthsearch.models.tracing.inputs import (
    ExampleInputs,
    candidate_images,
    has_lazy_layers,
    input_name,
    logits_of,
    other_shapes,
)
from depthsearch.models.tracing.restoring import evaluating, kept_tensors
from depthsearch.models.tracing.tracer import Followed, Given, follow, module_path, refuse_wrapped
from depthsearch.text import first_line

__all__ = ["Layer", "LayerGraph", "trace"]

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
REDUCTIONS = {torch.mean, torch.amax, "mean", "amax"}
POOLING_MODULES = (_AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _LPPoolNd, _MaxPoolNd)
NORM_ACTIVATIONS = (BatchNormAct2d, GroupNormAct, LayerNormAct)
NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm, *NORM_ACTIVATIONS)
# What tells of a tensor and does not depend on its values.
SIZES = {"shape", "ndim", "dtype", "device", "layout", "size", "dim", "numel", "stride", "is_cuda"}


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
    kind: str
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
        opaque: Paths of modules with layers inside that tracing kept whole.
        reasons: Why, by their paths.
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
    opaque: tuple[str, ...]
    reasons: Mapping[str, str]
    image_shape: tuple[int, int, int]
    input_name: str | None = None

    @property
    def image_size(self) -> int:
        """Height of the image it was run on, in pixels."""
        return self.image_shape[1]

    @property
    def channels(self) -> int:
        """Channels of the image it was run on."""
        return self.image_shape[0]

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
            if not self._is_known(node):
                if self._is_lost(node):
                    raise TraceError(f"the output of '{node.target}' is no tensor to be kept")
                waiting.extend(node.all_input_nodes)
        return sorted(found, key=order.__getitem__)

    def _is_known(self, node: fx.Node) -> bool:
        """Whether a value is at hand behind a cut without being recomputed."""
        return self.carried[node] or node in self.constants

    def _is_lost(self, node: fx.Node) -> bool:
        """Whether a value that is not at hand behind a cut cannot be recomputed there either."""
        return node.op == "call_module" and node in self.from_pixels


def trace(
    model: nn.Module,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    example_inputs: ExampleInputs | None = None,
    likely: tuple[int, ...] = (),
) -> LayerGraph:
    """Trace a model and run it once on one image.

    A module that cannot be entered is kept whole (see ``LayerGraph.opaque``); a model of which nothing can
    be entered is an error.

    Args:
        model: Maps images ``(n, c, h, w)`` to logits; other parameters of its forward keep their defaults.
            It may return the logits as they are, under the name ``logits``, or first in a tuple. Left as it
            was.
        image_size: Height and width in pixels; default: what the model declares, else 224.
        channels: Of the images; default: what the model declares or its first convolution takes.
        example_inputs: A batch of images instead of a size: a tensor ``(n, c, h, w)``, alone in a tuple, or
            by the name of the parameter that takes it.
        likely: Channels, height and width to try first where none are given.

    Raises:
        TraceError: If the model cannot be followed or not be run, naming what stopped it.
    """
    refuse_wrapped(model)
    images = list(
        candidate_images(
            model,
            image_size=image_size,
            channels=channels,
            example_inputs=example_inputs,
            likely=likely,
        )
    )
    if has_lazy_layers(model):
        if image_size is None and example_inputs is None and not likely:
            raise TraceError(
                f"{type(model).__name__} has lazy layers, whose sizes depend on the image: give image_size."
            )
        model = _made(model, images)
    given = Given(dtype=images[0].dtype, name=input_name(model, example_inputs))
    followed = follow(model, given)
    with kept_tensors(model), evaluating(model), evaluating(followed.traced), torch.no_grad():
        run = _run(model, followed.traced, images)
        return _describe(model, followed, run, given.name)


def _made(model: nn.Module, images: Iterable[torch.Tensor]) -> nn.Module:
    """Copy a model with lazy layers and make these for an image."""
    try:
        model = copy.deepcopy(model)
    except (ValueError, RuntimeError) as error:
        raise TraceError(
            f"{type(model).__name__} has lazy layers and cannot be copied: call it once on a batch of images "
            f"of your size first ({first_line(error).rstrip('.')})."
        ) from error
    image = next(iter(images))
    with evaluating(model), torch.no_grad():
        try:
            model(image)
        except Exception as error:
            raise _does_not_run(model, image, error, hint="Give another image size.") from error
    return model


class _Watch(TorchDispatchMode):
    """Notes at which positions each parameter and buffer takes part in an operation, and counts MACs.

    It sees what the code does with a tensor, whoever owns it: also within functions and modules that are
    kept whole, and through views that share a tensor's memory.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        named = list(_named_state(model))
        self.names = {id(tensor): name for name, tensor in reversed(named)}
        self.memory: dict[int, list[tuple[int, int, str]]] = {}
        for _, tensor in named:
            extent = (tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes) if _memory(tensor) else (0, 0)
            self.memory.setdefault(_memory(tensor), []).append((*extent, self.names[id(tensor)]))
        self.position = 0
        self.is_on = True
        self.all: dict[str, list[int]] = {}
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Look at the arguments of an operation, and run it."""
        for value in tree_leaves((args, kwargs)) if self.is_on else ():
            if isinstance(value, torch.Tensor):
                name = self.names.get(id(value)) or self._owner(value)
                if name is not None:
                    self.all.setdefault(name, []).append(self.position)
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=result)
        return result

    def _owner(self, value: torch.Tensor) -> str | None:
        """Name the parameter or buffer in whose memory a tensor begins, such as a view of it."""
        memory = _memory(value)
        places = self.memory.get(memory, ()) if memory else ()
        return next((name for begin, end, name in places if begin <= value.data_ptr() < end), None)


def _memory(tensor: torch.Tensor) -> int:
    """Address of the memory that holds a tensor; 0: it has none."""
    if tensor.is_meta or tensor.layout is not torch.strided:
        return 0
    return tensor.untyped_storage().data_ptr()


class _Run(fx.Interpreter):
    """Runs a traced model and notes each node's MACs, and shape and size where it makes one tensor."""

    def __init__(self, model: nn.Module, traced: fx.GraphModule, image: torch.Tensor) -> None:
        super().__init__(traced)
        self.image_shape: tuple[int, int, int] = tuple(image.shape[1:])  # type: ignore[assignment]
        self.order = {node: i for i, node in enumerate(traced.graph.nodes)}
        self.watch = _Watch(model)
        self.macs: dict[fx.Node, int] = {}
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.bytes: dict[fx.Node, int] = {}
        self.partial: set[fx.Node] = set()
        self.constants: dict[fx.Node, Any] = {}
        self.versions: dict[fx.Node, int] = {}
        self.changed: set[fx.Node] = set()
        with self.watch:
            self.result = self.run(image)

    def run_node(self, n: fx.Node) -> Any:
        self.watch.position = self.order[n]
        for source in n.all_input_nodes:
            if source in self.versions and self.env[source]._version != self.versions[source]:
                self.changed.add(source)
        before = self.watch.flops
        result = super().run_node(n)
        self.macs[n] = (self.watch.flops - before) // 2
        if isinstance(result, torch.Tensor):
            self.shapes[n] = tuple(result.shape)
            self.versions[n] = result._version
            self.bytes[n] = result.numel() * result.element_size()
            # A slice of another tensor: a copy of it has other strides, and may be summed in another order.
            self.watch.is_on = False
            if n.op != "call_module" and torch.empty_like(result).stride() != result.stride():
                self.partial.add(n)
            self.watch.is_on = True
        elif _is_size(result) and any(self._is_packed(source) for source in n.all_input_nodes):
            self.constants[n] = result
        return result

    def _is_packed(self, source: fx.Node) -> bool:
        """Whether a value is what a module has returned beside a tensor, or made of that."""
        is_module = source.op == "call_module" and source not in self.shapes
        return is_module or source in self.constants


def _is_size(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return bool(value) and all(map(_is_size, value))
    return isinstance(value, int)


def _run(model: nn.Module, traced: fx.GraphModule, images: Iterable[torch.Tensor]) -> _Run:
    """Run a traced model on the first of some images that it takes."""
    failures: list[tuple[torch.Tensor, Exception]] = []
    for image in images:
        try:
            run = _Run(model, traced, image)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - the model's own code may raise anything
            failures.append((image, error))
            continue
        if isinstance(run.result, torch.Tensor):
            return run
        if not isinstance(logits_of(run.result), torch.Tensor):
            kind = "dict" if isinstance(run.result, Mapping) else type(run.result).__name__
            raise TraceError(
                f"{type(model).__name__} returns {kind}, in which there are no logits: "
                "a tensor, a tuple that begins with it, or one called logits. Wrap it in a module that "
                "returns one."
            )
        _take_logits(traced)
        return _Run(model, traced, image)
    image, failure = failures[0]
    other = next((other for other in other_shapes(model, image) if _takes(traced, other)), None)
    raise _does_not_run(model, image, failure, hint=_hint(image, other)) from failure


def _take_logits(traced: fx.GraphModule) -> None:
    output = next(iter(reversed(traced.graph.nodes)))
    with traced.graph.inserting_before(output):
        output.args = (traced.graph.call_function(logits_of, output.args),)
    traced.recompile()


def _takes(traced: fx.GraphModule, image: torch.Tensor) -> bool:
    try:
        fx.Interpreter(traced).run(image)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - the model's own code may raise anything
        return False
    return True


def _hint(image: torch.Tensor, other: torch.Tensor | None) -> str:
    """Say what the model takes instead of an image."""
    if other is None:
        return "It takes none of the usual sizes: give example_inputs, a batch of images that it takes."
    taken = f"It takes {' x '.join(map(str, other.shape[1:]))}."
    if other.shape[1] != image.shape[1]:
        return f"{taken} Give images of as many channels."
    return f"{taken} Give another image size."


def _does_not_run(model: nn.Module, image: torch.Tensor, error: Exception, *, hint: str) -> TraceError:
    return TraceError(
        f"{type(model).__name__} does not run on one image of {' x '.join(map(str, image.shape[1:]))}: "
        f"{first_line(error).rstrip('.')}. {hint}"
    )


def _describe(model: nn.Module, followed: Followed, run: _Run, name: str | None) -> LayerGraph:
    nodes = list(followed.traced.graph.nodes)
    pixels = _from_pixels(nodes)
    carried = {n: n in pixels and n not in run.partial and run.shapes.get(n, ())[:1] == (1,) for n in nodes}
    _own_unused(model, nodes, run)
    first_uses = dict(sorted(((n, min(at)) for n, at in run.watch.all.items()), key=lambda use: use[1]))
    return LayerGraph(
        traced=followed.traced,
        layers=tuple(_layers(model, nodes, pixels, first_uses, run)),
        from_pixels=frozenset(pixels),
        carried=carried,
        constants=run.constants,
        shapes=run.shapes,
        bytes_per_image={n: run.bytes[n] for n in nodes if carried[n]},
        changed=frozenset(run.changed),
        first_uses=first_uses,
        first_effects=_first_effects(nodes, pixels, run),
        mode_reads=tuple((read.module, run.order[read.node]) for read in followed.mode_reads),
        forks=followed.forks,
        opaque=tuple(followed.whole),
        reasons=followed.whole,
        image_shape=run.image_shape,
        input_name=name,
    )


def _from_pixels(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """Find the nodes whose values depend on the pixels of the image."""
    found: set[fx.Node] = set()
    for node in nodes:
        is_size = (node.op == "call_method" and node.target in SIZES) or (
            node.op == "call_function" and node.target is getattr and node.args[1] in SIZES
        )
        if node.op == "placeholder" or not (is_size or found.isdisjoint(node.all_input_nodes)):
            found.add(node)
    return found


def _layers(
    model: nn.Module, nodes: list[fx.Node], pixels: set[fx.Node], first_uses: Mapping[str, int], run: _Run
) -> Iterator[Layer]:
    """List the operations on the image, each with what is first used from its start to the next one's."""
    modules = {**dict(run.module.named_modules()), **dict(model.named_modules())}
    tensors = dict(model.named_parameters(remove_duplicate=False))
    names: dict[str, int] = {}
    listed = [n for n in nodes if n in pixels and n.op not in ("placeholder", "output") and _is_layer(n, run)]
    starts = _starts(nodes, pixels)
    earliest = min(first_uses.values(), default=len(nodes))
    first = next((node for node in listed if run.order[node] >= earliest), None)
    if first is not None:
        # Nothing is used before the first layer that has something.
        starts[first] = min(starts[first], earliest)
    ends = [starts[node] for node in listed[1:]] + [len(nodes)]
    begin = 0
    for node, end in zip(listed, ends, strict=True):
        owned = tuple(name for name, at in first_uses.items() if begin <= at < end)
        begin = end
        path = module_path(node)
        yield Layer(
            position=run.order[node],
            start=starts[node],
            name=_unique_name(node, path, names),
            kind=_kind(node, modules, run),
            module=path,
            weight_shape=_weight_shape(node, modules),
            output_shape=run.shapes.get(node, ()),
            macs=run.macs[node],
            tensors=owned,
            parameters=sum(tensors[t].numel() for t in owned if t in tensors),
            weight_tensors=sum(t in tensors for t in owned),
        )


def _is_layer(node: fx.Node, run: _Run) -> bool:
    """Whether a node is an operation to be listed: not a slice, nor what takes a module's tuple apart."""
    return node not in run.partial and (node in run.shapes or node.op == "call_module")


def _starts(nodes: list[fx.Node], pixels: set[fx.Node]) -> dict[fx.Node, int]:
    """Find where a cut before each operation lies.

    What is made of parameters alone directly before an operation belongs to it if it is made in the same
    call of a module: of the outermost one that begins with the operation, else of the one in whose forward
    the operation stands.
    """
    starts: dict[fx.Node, int] = {}
    begun: set[str] = set()
    start = 1
    for position, node in enumerate(nodes):
        if node not in pixels:
            continue
        calls = _calls(node)
        around = next((call for call in calls if call not in begun), None)
        if around is None and node.op != "call_module":
            around = calls[-1] if calls else ""
        starts[node] = position
        while (
            starts[node] > start
            and around is not None
            and (not around or around in _calls(nodes[starts[node] - 1]))
        ):
            starts[node] -= 1
        begun.update(calls)
        start = position + 1
    return starts


def _calls(node: fx.Node) -> list[str]:
    """List the calls of modules in which a node stands, the outermost first."""
    return [str(key) for key in node.meta.get("nn_module_stack") or {}]


def _own_unused(model: nn.Module, nodes: Iterable[fx.Node], run: _Run) -> None:
    """Count what nobody uses in eval mode as used by the operation whose module owns it."""
    used = dict(run.watch.all)
    modules = dict(model.named_modules())
    for node in nodes:
        if node.op == "call_module" and str(node.target) in modules:
            for _, tensor in _named_state(modules[str(node.target)]):
                # A buffer that forward has replaced is no one's that is known.
                name = run.watch.names.get(id(tensor))
                if name is not None and name not in used:
                    run.watch.all.setdefault(name, []).append(run.order[node])


def _first_effects(nodes: list[fx.Node], pixels: set[fx.Node], run: _Run) -> dict[str, int]:
    """Give the position of the first operation on the image that takes part of each parameter and buffer.

    For most that is the first use. What is made of parameters alone meets the image later: a table of
    positions, a kernel that is standardised.
    """
    meets: dict[fx.Node, int] = {}
    for node in reversed(nodes):
        users = [meets[user] for user in node.users]
        meets[node] = run.order[node] if node in pixels else min(users, default=len(nodes))
    first: dict[str, int] = {}
    for name, positions in run.watch.all.items():
        first[name] = min(meets[nodes[position]] for position in positions)
    return first


def _named_state(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


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
