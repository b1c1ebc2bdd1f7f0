"""Name and order the operations of a traced model as layers, each with the tensors that are its own."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping

import torch
import torch.nn.functional as F
from timm.layers.norm_act import BatchNormAct2d, GroupNormAct, LayerNormAct
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _LPPoolNd, _MaxPoolNd

from depthsearch.models.tracing.graph import Layer, LayerKind
from depthsearch.models.tracing.measuring import Run, named_state
from depthsearch.models.tracing.nodes import module_path

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
# Properties of a tensor that do not depend on its values.
SIZES = {"shape", "ndim", "dtype", "device", "layout", "size", "dim", "numel", "stride", "is_cuda"}


def pixel_nodes(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """Find the nodes whose values depend on the pixels of the image."""
    pixels: set[fx.Node] = set()
    for node in nodes:
        is_size = (node.op == "call_method" and node.target in SIZES) or (
            node.op == "call_function" and node.target is getattr and node.args[1] in SIZES
        )
        if node.op == "placeholder" or not (is_size or pixels.isdisjoint(node.all_input_nodes)):
            pixels.add(node)
    return pixels


def list_layers(
    model: nn.Module, nodes: list[fx.Node], pixels: set[fx.Node], first_uses: Mapping[str, int], run: Run
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


def _is_layer(node: fx.Node, run: Run) -> bool:
    """Return whether a node is to be listed: not a slice, nor a part taken from a module's tuple."""
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


def own_unused(model: nn.Module, nodes: Iterable[fx.Node], run: Run) -> None:
    """Count what nobody uses in eval mode as used by the operation whose module owns it."""
    used = dict(run.watch.all)
    modules = dict(model.named_modules())
    for node in nodes:
        if node.op == "call_module" and str(node.target) in modules:
            for _, tensor in named_state(modules[str(node.target)]):
                # A buffer that forward has replaced is no one's that is known.
                name = run.watch.names.get(id(tensor))
                if name is not None and name not in used:
                    run.watch.all.setdefault(name, []).append(run.order[node])


def first_effects(nodes: list[fx.Node], pixels: set[fx.Node], run: Run) -> dict[str, int]:
    """Find the position of the first operation on the image that uses each parameter and buffer.

    For most that is the first use. What is made of parameters alone meets the image later: a table of
    positions, a kernel that is standardised.
    """
    meets: dict[fx.Node, int] = {}
    for node in reversed(nodes):
        users = [meets[user] for user in node.users]
        meets[node] = run.order[node] if node in pixels else min(users, default=len(nodes))
    return {name: min(meets[nodes[at]] for at in places) for name, places in run.watch.all.items()}


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


def _kind(node: fx.Node, modules: dict[str, nn.Module], run: Run) -> LayerKind:
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


def _module_kind(module: nn.Module) -> LayerKind:
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


def _reduces_image(node: fx.Node, run: Run) -> bool:
    """Return whether a mean or maximum runs over height and width (of NCHW or NHWC) and not over channels."""
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
