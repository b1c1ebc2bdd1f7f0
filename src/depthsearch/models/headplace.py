"""Find where a model's own head begins, which turns features into logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from depthsearch.errors import CutError
from depthsearch.models.tracing.graph import Layer, LayerGraph
from depthsearch.models.tracing.inputs import configuration
from depthsearch.models.tracing.layers import NORMS
from depthsearch.models.tracing.nodes import is_weighted, is_within, module_path

# Name of the end of a model without a head.
NO_HEAD = "output"


def find_head(graph: LayerGraph, model: nn.Module, head: str | None = None) -> tuple[int, str]:
    """Find where the head begins: the position of its first operation and the path of its first module.

    That is the given module; or what timm's configuration names; or the last layers on the way to the
    logits, where they are linear or 1 x 1 convolutions. A head of several layers is found by one of them: it
    is the container around it that holds nothing but such layers behind pooling. A model without a head
    ends in its output.

    Raises:
        CutError: If the given module is not one of the model's, or never runs.
    """
    if head == NO_HEAD and NO_HEAD not in dict(model.named_modules()):
        return len(graph.nodes) - 1, NO_HEAD
    if head is not None:
        return _beginning(graph, model, [head])
    named = _classifier_paths(model)
    if len(named) == 1:
        container = _container(graph, model, named[0])
        # A norm or a pooling alone does not make more of a head than what timm names.
        while container != named[0] and _adds_nothing(graph, container, named[0]):
            container = _inner(container, named[0])
        return _beginning(graph, model, [container])
    paths = list(named) or list(dict.fromkeys(map(module_path, _last_layers(graph, model))))
    around = list(dict.fromkeys(_container(graph, model, path) for path in paths))
    # Those that run earliest may belong to the backbone: behind a head nothing else is used first.
    around.sort(key=lambda path: _start(graph, path))
    while around and not _is_all(graph, around):
        around = around[1:]
    return _beginning(graph, model, around) if around else (len(graph.nodes) - 1, NO_HEAD)


def _classifier_paths(model: nn.Module) -> tuple[str, ...]:
    """List the modules that a timm model's configuration names as its classifiers, and that it has."""
    named = configuration(model).get("classifier") or ()
    paths = (named,) if isinstance(named, str) else tuple(named)
    has = dict(model.named_modules())
    return tuple(path for path in paths if path in has)


def _beginning(graph: LayerGraph, model: nn.Module, paths: Sequence[str]) -> tuple[int, str]:
    starts = {path: _start(graph, path) for path in paths}
    first = min(starts, key=starts.__getitem__)
    if starts[first] == len(graph.nodes):
        raise CutError(
            f"No module '{first}' runs in {type(model).__name__}. Its last layers: "
            f"{', '.join(layer.name for layer in graph.layers[-3:])}."
        )
    return starts[first], first


def _start(graph: LayerGraph, path: str) -> int:
    """Return the position at which a module begins to run; behind everything if it does not."""
    return min((layer.start for layer in _layers_in(graph, path)), default=len(graph.nodes))


def _layers_in(graph: LayerGraph, path: str) -> Iterator[Layer]:
    return (layer for layer in graph.layers if is_within(layer.module, path))


def _is_all(graph: LayerGraph, paths: Sequence[str]) -> bool:
    """Return whether some modules hold every layer with weights from their first one to the logits."""
    start = min(_start(graph, path) for path in paths)
    needed = _needed(graph)
    late = (
        layer.module
        for layer in graph.layers
        if layer.position >= start and layer.position in needed and _has_weights(graph, layer)
    )
    return all(any(is_within(module, path) for path in paths) for module in late)


def _needed(graph: LayerGraph) -> set[int]:
    """Positions of the operations on which the logits depend."""
    places = {node: place for place, node in enumerate(graph.nodes)}
    needed = {len(graph.nodes) - 1}
    for node in reversed(graph.nodes):
        if places[node] in needed:
            needed.update(places[source] for source in node.all_input_nodes)
    return needed


def _has_weights(graph: LayerGraph, layer: Layer) -> bool:
    """Return whether an operation is a weighted layer, or a module run whole that holds one."""
    if layer.name != layer.module:
        return layer.kind == "conv"
    return any(map(is_weighted, graph.traced.get_submodule(layer.module).modules()))


def _adds_nothing(graph: LayerGraph, around: str, path: str) -> bool:
    """Return whether a module holds no more weighted layers than the next one inside it towards a path."""
    outer, inner = (
        sum(len(layer.weight_shape) >= 2 for layer in _layers_in(graph, module))
        for module in (around, _inner(around, path))
    )
    return outer == inner


def _inner(around: str, path: str) -> str:
    """Go one step down, from a module around another towards that."""
    n_names = around.count(".") + 2
    return ".".join(path.split(".")[:n_names])


def _last_layers(graph: LayerGraph, model: nn.Module) -> list[fx.Node]:
    """Find the layers with weights from which only operations without any lead to the logits.

    Empty where they are no classifiers: one feeds another (the sum at a block's end), or a convolution sees
    more than one pixel or is normalised.
    """
    modules = dict(model.named_modules())
    last: dict[fx.Node, bool] = {}
    waiting = [(node, False) for node in graph.nodes[-1].all_input_nodes]
    seen: set[tuple[fx.Node, bool]] = set()
    while waiting:
        node, is_normalised = waiting.pop()
        if (node, is_normalised) in seen or node not in graph.from_pixels:
            continue
        seen.add((node, is_normalised))
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if node.target is F.linear or (module is not None and any(map(is_weighted, module.modules()))):
            last[node] = last.get(node, False) or is_normalised
            continue
        if module is not None and any(True for _ in module.parameters()) and not isinstance(module, NORMS):
            return []
        is_normalised = is_normalised or isinstance(module, NORMS)
        waiting.extend((source, is_normalised) for source in node.all_input_nodes)
    plain = all(_classifies(graph, modules, node, normed) for node, normed in last.items())
    return [] if not plain or _feeds_another(last) else list(last)


def _classifies(graph: LayerGraph, modules: dict[str, nn.Module], node: fx.Node, is_normalised: bool) -> bool:
    if node.op == "call_function":
        return bool(module_path(node))
    module = modules[str(node.target)]
    if isinstance(module, _ConvNd):
        sees_one = set(module.kernel_size) == {1} or set(graph.shapes[node][2:]) == {1}
        return sees_one and not is_normalised
    return isinstance(module, nn.Linear)


def _feeds_another(nodes: dict[fx.Node, bool]) -> bool:
    """Return whether the output of one of some nodes is needed for that of another."""
    waiting = [source for node in nodes for source in node.all_input_nodes]
    seen: set[fx.Node] = set()
    while waiting:
        node = waiting.pop()
        if node in nodes:
            return True
        if node not in seen:
            seen.add(node)
            waiting.extend(node.all_input_nodes)
    return False


def _container(graph: LayerGraph, model: nn.Module, path: str) -> str:
    """Climb from a classifier to the outermost module around it that is a head as a whole.

    Such a module holds no convolution, and its linear layers work on ``(n, features)``.
    """
    while "." in path:
        parent = path.rpartition(".")[0]
        layers = list(_layers_in(graph, parent))
        inside = [model.get_submodule(layer.module) for layer in layers]
        is_head = not any(isinstance(m, _ConvNd) for m in model.get_submodule(parent).modules()) and all(
            len(layer.output_shape) == 2
            for layer, module in zip(layers, inside, strict=True)
            if any(map(is_weighted, module.modules())) and layer.module != parent
        )
        if not is_head:
            return path
        path = parent
    return path
