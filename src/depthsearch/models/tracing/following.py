"""Follow a model operation by operation with ``torch.fx``, so that what is written down is what it computes.

Symbolic tracing alone loses much of what a model's code does: a forward replaced on the instance, hooks,
custom autograd functions, ``torch.autocast`` and ``torch.no_grad`` inside forward, branches on
``self.training``. Here each of these is kept, or else the module in which it happens is kept whole: that
module then runs as it is, as one operation.

- The whole model's hooks run as operations of their own; any other module with hooks is kept whole.
- While a model is followed, ``training`` of each module is a number that notes who asks for it. Handed to an
  operation (``F.dropout(..., training=self.training)``) it follows the mode of whoever runs the graph. A
  module that branches on it is followed in both modes, and kept whole if these differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from depthsearch.errors import TraceError
from depthsearch.models.tracing.forks import find_forks
from depthsearch.models.tracing.hooks import ModelHooks, has_hooks
from depthsearch.models.tracing.nodes import is_weighted
from depthsearch.models.tracing.restoring import unchanged
from depthsearch.models.tracing.tracer import AFTER_FORWARD, BEFORE_FORWARD, Given, LostError, Mode, Tracer
from depthsearch.text import first_line

LONGEST_REASON = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """A model that was followed.

    Attributes:
        traced: The model as operations; it shares the model's modules.
        whole: Paths of modules with layers inside that were kept whole, and why.
        mode_reads: Operations that do something else in training, or behind which another way is gone then:
            the path of the module whose mode the code around them asks for, and their nodes.
        forks: Whether the model's own forward goes another way in training. What is written down is the way
            it goes in eval mode.
    """

    traced: fx.GraphModule
    whole: Mapping[str, str]
    mode_reads: tuple[tuple[str, fx.Node], ...]
    forks: bool


def follow(model: nn.Module, given: Given) -> Followed:
    """Follow a model in eval mode; what cannot be entered is kept whole. The model is left as it was.

    Raises:
        TraceError: If the model's own forward stops, or the only module that runs.
    """
    refuse_wrapped(model)
    whole = {path: "it has hooks" for path, module in model.named_modules() if path and has_hooks(module)}
    with unchanged(model):
        for name, after in ((BEFORE_FORWARD, False), (AFTER_FORWARD, True)):
            hooks = ModelHooks(model, after=after)
            if hooks.hooks:
                model.add_module(name, hooks)
        while True:
            tracer, graph = _entering(model, given, whole)
            forked = find_forks(model, given, whole, tracer, graph)
            if not forked.keys() - {""}:
                break
            whole.update(dict.fromkeys(forked.keys() - {""}, "it does something else in training"))
        reads = [*(("", node) for node in forked.get("", ())), *_follow_modes(graph)]
        traced = fx.GraphModule(model, graph)
        entered = dict(model.named_modules())
        # Its mode is that of no model.
        traced.training = False
    called = {str(n.target) for n in graph.nodes if n.op == "call_module"}
    opaque = sorted(p for p in called & entered.keys() if sum(map(is_weighted, entered[p].modules())) > 1)
    return Followed(
        traced=traced,
        whole={path: whole.get(path, "torch.fx does not enter it") for path in opaque},
        mode_reads=tuple(reads),
        forks=bool(forked),
    )


def _entering(model: nn.Module, given: Given, whole: dict[str, str]) -> tuple[Tracer, fx.Graph]:
    """Trace a model, and again with each module in which that fails kept whole."""
    while True:
        tracer = Tracer(given, whole, ())
        try:
            return tracer, tracer.follow(model)
        except MemoryError:
            raise
        except Exception as error:  # the model's own code may raise anything
            stopped_at, reason = tracer.failed_at, _reason(error)
            if not stopped_at or stopped_at in whole:
                where = f"its module '{stopped_at}'" if stopped_at else "its own forward()"
                raise TraceError(
                    f"{type(model).__name__} cannot be traced: {where} stops torch.fx ({reason}). "
                    "Move what stops it into a module of its own, or take another backbone."
                ) from error
            whole[stopped_at] = reason


def _reason(error: Exception) -> str:
    """Return in a few words what stopped torch.fx."""
    if isinstance(error, LostError):
        return str(error)
    line = first_line(error)
    if isinstance(error, fx.proxy.TraceError):
        return (
            "it branches on a tensor" if "control flow" in line else "it iterates over a tensor or its shape"
        )
    return line if len(line) <= LONGEST_REASON else f"{line[: LONGEST_REASON - 3]}..."


def _follow_modes(graph: fx.Graph) -> Iterator[tuple[str, fx.Node]]:
    """Make the modes handed to operations follow the mode of the module that runs the graph."""
    for node in graph.nodes:
        read: list[Mode] = []

        def note(value: Any, read: list[Mode] = read) -> Any:
            if isinstance(value, Mode):
                read.append(value)
            return value

        fx.node.map_aggregate((node.args, node.kwargs), note)
        if not read:
            continue
        with graph.inserting_before(node):
            mode = graph.create_node("get_attr", "training")
        mode.meta = dict(node.meta)

        def as_node(value: Any, mode: fx.Node = mode) -> Any:
            return mode if isinstance(value, Mode) else value

        node.args = fx.node.map_aggregate(node.args, as_node)
        node.kwargs = fx.node.map_aggregate(node.kwargs, as_node)
        yield from ((each.owner, node) for each in read)


def refuse_wrapped(model: nn.Module) -> None:
    """Refuse what is not a plain module, naming what to give instead.

    Raises:
        TraceError: If the model is wrapped, compiled, scripted or exported.
    """
    kind = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule | torch.jit.ScriptFunction):
        raise TraceError(f"{kind} is a scripted model, whose layers are hidden: give the one it was made of.")
    if isinstance(model, torch.export.ExportedProgram) or hasattr(model, "_guards_fn"):
        raise TraceError(f"{kind} is an exported model, whose layers are gone: give the one it was made of.")
    if not isinstance(model, nn.Module):
        raise TraceError(f"{kind} is no model: give a torch.nn.Module that maps images to logits.")
    taken = [
        name for name in ("graph", "code") if name in {*model._modules, *model._parameters, *model._buffers}
    ]
    if taken:
        raise TraceError(f"{kind} has a '{taken[0]}', a name that torch.fx keeps for itself: rename it.")
    if "_orig_mod" in model._modules:
        raise TraceError(f"{kind} is a compiled model: give model._orig_mod, and compile it afterwards.")
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise TraceError(f"{kind} is a wrapper around the model: give model.module, and wrap it afterwards.")
