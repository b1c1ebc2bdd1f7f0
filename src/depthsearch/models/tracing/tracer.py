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

import contextlib
import sys
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import timm.layers
import torch
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from depthsearch.errors import TraceError
from depthsearch.models.tracing.inputs import logits_of
from depthsearch.models.tracing.restoring import kept_tensors
from depthsearch.text import first_line

__all__ = [
    "Followed",
    "Given",
    "ModeRead",
    "follow",
    "is_own",
    "is_weighted",
    "module_path",
    "refuse_wrapped",
]

BEFORE_FORWARD, AFTER_FORWARD = "hooks_before_forward", "hooks_after_forward"
# How torch.fx calls a tensor that it finds in the code and not on the model.
CONSTANT = "_tensor_constant"
TRACE = fx.Tracer.trace.__code__
LONGEST_REASON = 100
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """How a model is given its images.

    Attributes:
        dtype: Of the images.
        name: Of the parameter that takes them; None: the first.
    """

    dtype: torch.dtype
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeRead:
    """An operation that does something else in training, or behind which another way is gone then.

    Attributes:
        module: Path of the module whose mode the code around it asks for.
        node: The operation.
    """

    module: str
    node: fx.Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """What came of following a model.

    Attributes:
        traced: The model as operations; it shares the model's modules.
        whole: Paths of modules with layers inside that were kept whole, and why.
        mode_reads: What depends on the mode in code that was followed.
        forks: Whether the model's own forward goes another way in training. What is written down is the way
            it goes in eval mode.
    """

    traced: fx.GraphModule
    whole: Mapping[str, str]
    mode_reads: tuple[ModeRead, ...]
    forks: bool


class _LostError(Exception):
    """Something that torch.fx would leave out in silence."""


class _Mode(int):
    """What a module's ``training`` is while it is followed: a truth value that notes who asks for it."""

    owner: str
    asked: Callable[[str], None]

    @classmethod
    def of(cls, training: bool, owner: str, asked: Callable[[str], None]) -> _Mode:
        mode = cls(training)
        mode.owner, mode.asked = owner, asked
        return mode

    def __bool__(self) -> bool:
        self.asked(self.owner)
        return int.__bool__(self)

    def __eq__(self, other: object) -> bool:
        return bool(self) == other

    def __hash__(self) -> int:
        return int.__hash__(self)


class _Image(fx.Proxy):
    """Stands for the images: their number and size are open, what is the same of all is known."""

    ndim = 4

    def __init__(self, node: fx.Node, tracer: fx.Tracer, dtype: torch.dtype) -> None:
        super().__init__(node, tracer)
        self.dtype = dtype

    def dim(self) -> int:
        return self.ndim


class _Parameter(fx.Proxy):
    """Stands for a parameter, whose shape and kind are known."""

    def __init__(self, node: fx.Node, tracer: fx.Tracer, parameter: nn.Parameter) -> None:
        super().__init__(node, tracer)
        self.shape, self.ndim, self.dtype = parameter.shape, parameter.ndim, parameter.dtype

    def size(self, *dim: int) -> Any:
        return self.shape[dim[0]] if dim else self.shape

    def dim(self) -> int:
        return self.ndim

    def numel(self) -> int:
        return self.shape.numel()


class _Hooks(nn.Module):
    """Runs the forward hooks of a whole model, which torch.fx leaves out."""

    def __init__(self, model: nn.Module, *, after: bool) -> None:
        super().__init__()
        # In a tuple: it is not one of this module's own.
        self.model = (model,)
        self.after = after
        named = model._forward_hooks if after else model._forward_pre_hooks
        keyed = model._forward_hooks_with_kwargs if after else model._forward_pre_hooks_with_kwargs
        self.hooks = tuple((hook, number in keyed) for number, hook in named.items() if not is_own(hook))

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hooks:
        """Keep the model whose hooks they are."""
        return self

    def forward(self, value: Any) -> Any:
        """Call hook after hook, as torch does; those behind forward are not given its input."""
        for hook, with_kwargs in self.hooks:
            named: tuple[dict[str, Any], ...] = ({},) if with_kwargs else ()
            if self.after:
                result = hook(self.model[0], (), *named, value)
                value = value if result is None else result
            else:
                result = hook(self.model[0], (value,), *named)
                args = result[0] if with_kwargs and result is not None else result
                value = value if args is None else args[0] if isinstance(args, tuple) else args
        return value


class _Tracer(fx.Tracer):
    """Follows a model into its modules, except those that have to stay whole."""

    def __init__(self, given: Given, whole: Collection[str], in_training: Collection[str]) -> None:
        super().__init__(autowrap_functions=tuple(timm.layers.get_notrace_functions()))
        self.given = given
        self.whole = whole
        self.in_training = in_training
        self.leaf_types = tuple(timm.layers.get_notrace_modules())
        self.failed_at: str | None = None
        self.entered: list[str] = []
        self.autocasts = 0
        self.functions = _autograd_functions()
        self.branches: dict[str, int] = {}

    def follow(self, model: nn.Module) -> fx.Graph:
        """Trace a model, its modules' modes taken for numbers that are noted."""
        for path, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                mode = _Mode.of(path in self.in_training, path, self.branched)
                vars(module)["training"] = mode
        with torch.enable_grad(), self._counting_autocasts(), _without_global_hooks():
            return self.trace(model)

    def branched(self, owner: str) -> None:
        """Note that code asks for a mode and goes on by the answer, and after how many operations first."""
        self.branches.setdefault(owner, len(self.graph.nodes))

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Call the whole model as its caller does: one image, hooks, the instance's own forward."""
        image = _Image(self.create_node("placeholder", "image", (), {}), self, self.given.dtype)

        def call(model: nn.Module, value: Any) -> Any:
            if hasattr(model, BEFORE_FORWARD):
                value = self.create_proxy("call_module", BEFORE_FORWARD, (value,), {})
            name = self.given.name
            result = model.forward(value) if name is None else model.forward(**{name: value})
            if hasattr(model, AFTER_FORWARD):
                result = self.create_proxy("call_module", AFTER_FORWARD, (result,), {})
            return logits_of(result)

        return call, [self.root, image]

    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> fx.Node:
        """Write an operation down, unless something around it would be lost."""
        if kind.startswith("call"):
            function = self._autograd_function()
            if function is not None:
                raise _LostError(f"it calls {function}, a torch.autograd.Function")
            if self.autocasts:
                raise _LostError("it switches torch.autocast inside forward()")
            if not torch.is_grad_enabled():
                raise _LostError("it switches gradients off inside forward()")
        return super().create_node(kind, *args, **kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Let a parameter tell its shape."""
        value = super().getattr(attr, attr_val, parameter_proxy_cache)
        if isinstance(attr_val, nn.Parameter) and isinstance(value, fx.Proxy):
            return _Parameter(value.node, self, attr_val)
        return value

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Keep whole: torch's modules, weighted layers, what timm cannot trace, mode switches without layers.

        A block with layers inside is entered even if timm does not trace it: should that fail, it is kept
        whole the next time. So is a module of torch's whose forward was replaced.
        """
        if module_qualified_name in self.whole or isinstance(m, torch.jit.ScriptModule | _Hooks):
            return True
        if "forward" in vars(m):
            return False
        if is_weighted(m) or super().is_leaf_module(m, module_qualified_name):
            return True
        has_layers = any(is_weighted(child) for child in m.modules())
        return not has_layers and (isinstance(m, self.leaf_types) or _asks_for_mode(m))

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Note the innermost module whose own code stops."""
        path = self.path_of_module(m)
        is_entered = not self.is_leaf_module(m, path)
        if is_entered:
            self.entered.append(path)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            if self.failed_at is None:
                self.failed_at = self.entered[-1] if self.entered else ""
            raise
        finally:
            if is_entered:
                self.entered.pop()

    def _autograd_function(self) -> str | None:
        """Name the custom autograd function in whose forward an operation is being written down."""
        frame = sys._getframe(2)
        while frame is not None and frame.f_code is not TRACE:
            if frame.f_code in self.functions:
                return self.functions[frame.f_code]
            frame = frame.f_back  # type: ignore[assignment]
        return None

    @contextlib.contextmanager
    def _counting_autocasts(self) -> Iterator[None]:
        kind = torch.autocast
        enter, leave = kind.__enter__, kind.__exit__

        def entering(context: Any) -> Any:
            self.autocasts += 1
            return enter(context)

        def leaving(context: Any, *error: Any) -> Any:
            self.autocasts -= 1
            return leave(context, *error)

        kind.__enter__, kind.__exit__ = entering, leaving  # type: ignore[method-assign]
        try:
            yield
        finally:
            kind.__enter__, kind.__exit__ = enter, leave  # type: ignore[method-assign]


def follow(model: nn.Module, given: Given) -> Followed:
    """Follow a model in eval mode; what cannot be entered is kept whole.

    Args:
        model: Left as it was.
        given: How it is given its images.

    Raises:
        TraceError: If the model's own forward stops, or the only module that runs.
    """
    refuse_wrapped(model)
    whole = {path: "it has hooks" for path, module in model.named_modules() if path and _has_hooks(module)}
    with kept_tensors(model):
        for name, after in ((BEFORE_FORWARD, False), (AFTER_FORWARD, True)):
            hooks = _Hooks(model, after=after)
            if hooks.hooks:
                model.add_module(name, hooks)
        while True:
            tracer, graph = _entering(model, given, whole)
            forked = _forked(model, given, whole, tracer, graph)
            if not forked.keys() - {""}:
                break
            whole.update(dict.fromkeys(forked.keys() - {""}, "it does something else in training"))
        reads = [ModeRead(module="", node=node) for node in forked.get("", ())]
        reads += _follow_modes(graph)
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


def _entering(model: nn.Module, given: Given, whole: dict[str, str]) -> tuple[_Tracer, fx.Graph]:
    """Trace a model, and again with each module in which that fails kept whole."""
    while True:
        tracer = _Tracer(given, whole, ())
        try:
            return tracer, tracer.follow(model)
        except MemoryError:
            raise
        except Exception as error:
            stopped_at, reason = tracer.failed_at, _reason(error)
            if not stopped_at or stopped_at in whole:
                where = f"its module '{stopped_at}'" if stopped_at else "its own forward()"
                raise TraceError(
                    f"{type(model).__name__} cannot be traced: {where} stops torch.fx ({reason}). "
                    "Move what stops it into a module of its own, or take another backbone."
                ) from error
            whole[stopped_at] = reason


def _reason(error: Exception) -> str:
    """Say in a few words what stopped torch.fx."""
    if isinstance(error, _LostError):
        return str(error)
    line = first_line(error)
    if isinstance(error, fx.proxy.TraceError):
        return (
            "it branches on a tensor" if "control flow" in line else "it iterates over a tensor or its shape"
        )
    return line if len(line) <= LONGEST_REASON else f"{line[: LONGEST_REASON - 3]}..."


def _forked(
    model: nn.Module, given: Given, whole: Mapping[str, str], tracer: _Tracer, graph: fx.Graph
) -> dict[str, list[fx.Node]]:
    """Find the modules that were entered and go another way in training.

    Returns:
        By the module's path (empty: the model itself) the operations that are others in training, as far as
        they are known: those of the model itself.
    """
    if not tracer.branches:
        return {}
    training = _Tracer(given, whole, tracer.branches.keys())
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
        owner for owner in tracer.branches if any(_is_within(path, owner) for path in differing)
    }
    kinds = {type(model.get_submodule(path)) for path in forked if path}
    forked |= {path for path in tracer.branches if path and type(model.get_submodule(path)) in kinds}
    return {path: [] if path else affected for path in forked}


def _forks(graph: fx.Graph, values: Mapping[fx.Node, int], known: Collection[int]) -> list[fx.Node]:
    """Find the operations behind which another way is gone: the last ones before what has no like there."""
    nodes = list(graph.nodes)
    return [
        nodes[max(place - 1, 0)]
        for place, node in enumerate(nodes)
        if values[node] not in known and all(values[source] in known for source in node.all_input_nodes)
    ]


def _operations(model: nn.Module, graph: fx.Graph) -> dict[str, list[str]]:
    """List what each module's own code does, by the module's path."""
    found: dict[str, list[str]] = {}
    for node in graph.nodes:
        if node.op != "placeholder":
            settings = fx.node.map_arg(_without_modes((node.args, node.kwargs)), lambda _: "")
            found.setdefault(_around(node), []).append(f"{node.op} {_named(model, node)} {settings}")
    return found


def _values(model: nn.Module, graph: fx.Graph) -> dict[fx.Node, int]:
    """Tell the value of each operation by how it is computed, from the image on."""
    found: dict[fx.Node, int] = {}
    for node in graph.nodes:
        made_of = fx.node.map_arg(_without_modes((node.args, node.kwargs)), found.__getitem__)
        found[node] = hash((node.op, _named(model, node), repr(made_of)))
    return found


def _named(model: nn.Module, node: fx.Node) -> str:
    """Name what an operation calls or gets: a constant that tracing has added by its content."""
    value = getattr(model, str(node.target), None) if node.op == "get_attr" else None
    if not isinstance(value, torch.Tensor) or not str(node.target).startswith(CONSTANT):
        return str(node.target)
    content = b"" if value.is_meta else value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes()
    return f"{value.dtype} {tuple(value.shape)} {hash(content)}"


def _without_modes(arguments: Any) -> Any:
    """Take modes for one word, and numbers of one value for one number."""

    def plain(value: Any) -> Any:
        if isinstance(value, _Mode):
            return "mode"
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    return fx.node.map_aggregate(arguments, plain)


def _around(node: fx.Node) -> str:
    """Path of the module in whose forward an operation stands."""
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    if node.op == "call_module":
        stack = stack[:-1]
    return str(stack[-1]) if stack else ""


def module_path(node: fx.Node) -> str:
    """Path of the leaf module that a node calls, or of the module in whose forward() it stands."""
    return str(node.target) if node.op == "call_module" else _around(node)


def _is_within(module: str, path: str) -> bool:
    return not path or module == path or module.startswith(path + ".")


def _follow_modes(graph: fx.Graph) -> Iterator[ModeRead]:
    """Let the modes handed to operations follow the mode of the module that runs the graph."""
    for node in graph.nodes:
        read: list[_Mode] = []

        def note(value: Any, read: list[_Mode] = read) -> Any:
            if isinstance(value, _Mode):
                read.append(value)
            return value

        fx.node.map_aggregate((node.args, node.kwargs), note)
        if not read:
            continue
        with graph.inserting_before(node):
            mode = graph.create_node("get_attr", "training")
        mode.meta = dict(node.meta)

        def as_node(value: Any, mode: fx.Node = mode) -> Any:
            return mode if isinstance(value, _Mode) else value

        node.args = fx.node.map_aggregate(node.args, as_node)
        node.kwargs = fx.node.map_aggregate(node.kwargs, as_node)
        yield from (ModeRead(module=each.owner, node=node) for each in read)


def _autograd_functions() -> dict[types.CodeType, str]:
    """List the custom autograd functions that there are, by the code of their forward."""
    found: dict[types.CodeType, str] = {}
    waiting = [torch.autograd.Function]
    while waiting:
        kind = waiting.pop()
        waiting.extend(kind.__subclasses__())
        code = getattr(kind.forward, "__code__", None)
        if code is not None:
            found[code] = kind.__name__
    return found


def _asks_for_mode(module: nn.Module) -> bool:
    """Whether the module computes something else in training (its trace would be fixed to one mode)."""
    code = getattr(type(module).forward, "__code__", None)
    return code is not None and "training" in code.co_names


def is_weighted(module: nn.Module) -> bool:
    """Return whether a module is a convolution or a linear layer."""
    return isinstance(module, _ConvNd | nn.Linear)


def is_own(hook: object) -> bool:
    """Return whether a hook is one of ours, which changes nothing that a model computes."""
    return type(hook).__module__.split(".")[0] == __name__.split(".")[0]


def _has_hooks(module: nn.Module) -> bool:
    return any(not is_own(hook) for name in HOOKS for hook in getattr(module, name, {}).values())


@contextlib.contextmanager
def _without_global_hooks() -> Iterator[None]:
    """Let no hook on all modules see what stands for a tensor."""
    registries = [getattr(nn.modules.module, f"_global{name}") for name in HOOKS]
    before = [dict(registry) for registry in registries]
    for registry in registries:
        registry.clear()
    try:
        yield
    finally:
        for registry, hooks in zip(registries, before, strict=True):
            registry.update(hooks)


def refuse_wrapped(model: nn.Module) -> None:
    """Refuse what is not a plain module, and say what to give instead.

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
