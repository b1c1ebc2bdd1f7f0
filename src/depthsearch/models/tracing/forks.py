"""Find the modules whose code takes another branch in training than in eval mode."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import fx, nn

from depthsearch.models.tracing.nodes import is_within, module_around
from depthsearch.models.tracing.tracer import Given, Mode, Tracer

# How torch.fx calls a tensor that it finds in the code and not on the model.
CONSTANT = "_tensor_constant"


def find_forks(
    model: nn.Module, given: Given, whole: Mapping[str, str], tracer: Tracer, graph: fx.Graph
) -> dict[str, list[fx.Node]]:
    """Find the entered modules that take another branch in training.

    Returns:
        By the module's path (empty: the model itself) the operations that are others in training, as far as
        they are known: those of the model itself.
    """
    if not tracer.branches:
        return {}
    training = Tracer(given, whole, tracer.branches.keys())
    try:
        other = training.follow(model)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - code that is followed may raise anything; in eval mode it did not
        differing = {training.failed_at or ""}
        affected = list(graph.nodes)[max(tracer.branches.get("", 0) - 1, 0) :]
    else:
        here, there = _operations(model, graph), _operations(model, other)
        differing = {path for path in here.keys() | there.keys() if here.get(path) != there.get(path)}
        affected = _forks(graph, _values(model, graph), set(_values(model, other).values()))
    # The branch may stand in one module and what differs in another that is called by it.
    forked = {path for path in differing if path in tracer.branches} or {
        owner for owner in tracer.branches if any(is_within(path, owner) for path in differing)
    }
    kinds = {type(model.get_submodule(path)) for path in forked if path}
    forked |= {path for path in tracer.branches if path and type(model.get_submodule(path)) in kinds}
    return {path: [] if path else affected for path in forked}


def _forks(graph: fx.Graph, values: Mapping[fx.Node, int], known: Collection[int]) -> list[fx.Node]:
    """Find the operations after which both ways part: the last ones before what the other way lacks."""
    nodes = list(graph.nodes)
    return [
        nodes[max(place - 1, 0)]
        for place, node in enumerate(nodes)
        if values[node] not in known and all(values[source] in known for source in node.all_input_nodes)
    ]


def _operations(model: nn.Module, graph: fx.Graph) -> dict[str, list[str]]:
    """List what each module's own code does, by the module's path."""
    by_module: dict[str, list[str]] = {}
    for node in graph.nodes:
        if node.op != "placeholder":
            settings = fx.node.map_arg(_without_modes((node.args, node.kwargs)), lambda _: "")
            by_module.setdefault(module_around(node), []).append(
                f"{node.op} {_named(model, node)} {settings}"
            )
    return by_module


def _values(model: nn.Module, graph: fx.Graph) -> dict[fx.Node, int]:
    """Hash how each operation's value is computed, from the image on."""
    values: dict[fx.Node, int] = {}
    for node in graph.nodes:
        made_of = fx.node.map_arg(_without_modes((node.args, node.kwargs)), values.__getitem__)
        values[node] = hash((node.op, _named(model, node), repr(made_of)))
    return values


def _named(model: nn.Module, node: fx.Node) -> str:
    """Name what an operation calls or gets: a constant that tracing has added by its content."""
    value = getattr(model, str(node.target), None) if node.op == "get_attr" else None
    if not isinstance(value, torch.Tensor) or not str(node.target).startswith(CONSTANT):
        return str(node.target)
    content = b"" if value.is_meta else value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes()
    return f"{value.dtype} {tuple(value.shape)} {hash(content)}"


def _without_modes(arguments: Any) -> Any:
    """Replace every mode by one word, and whole numbers by the same floating-point ones."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mode):
            return "mode"
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    return fx.node.map_aggregate(arguments, plain)
