"""The tracer of ``torch.fx`` that writes down what a model does, or raises where something would be lost."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import timm.layers
import torch
from torch import fx, nn

from depthsearch.models.tracing.hooks import ModelHooks, without_global_hooks
from depthsearch.models.tracing.inputs import logits_of
from depthsearch.models.tracing.nodes import is_weighted

BEFORE_FORWARD, AFTER_FORWARD = "hooks_before_forward", "hooks_after_forward"
TRACE = fx.Tracer.trace.__code__


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """How a model takes its images.

    Attributes:
        dtype: Of the images.
        name: Of the parameter that takes them; None: the first.
    """

    dtype: torch.dtype
    name: str | None = None


class LostError(Exception):
    """Something that torch.fx would leave out in silence."""


class Mode(int):
    """What a module's ``training`` is while it is followed: a truth value that notes who asks for it."""

    owner: str
    asked: Callable[[str], None]

    @classmethod
    def of(cls, training: bool, owner: str, asked: Callable[[str], None]) -> Mode:
        """Make the mode of the module at a path; ``asked`` is called with that path."""
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


class Tracer(fx.Tracer):
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
        """Trace a model, noting which modules ask for their mode."""
        for path, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                mode = Mode.of(path in self.in_training, path, self.branched)
                vars(module)["training"] = mode
        with torch.enable_grad(), self._counting_autocasts(), without_global_hooks():
            return self.trace(model)

    def branched(self, owner: str) -> None:
        """Note that code branches on a mode, and after how many operations it does so first."""
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
                raise LostError(f"it calls {function}, a torch.autograd.Function")
            if self.autocasts:
                raise LostError("it switches torch.autocast inside forward()")
            if not torch.is_grad_enabled():
                raise LostError("it switches gradients off inside forward()")
        return super().create_node(kind, *args, **kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Return a stand-in that knows its shape where the attribute is a parameter."""
        value = super().getattr(attr, attr_val, parameter_proxy_cache)
        if isinstance(attr_val, nn.Parameter) and isinstance(value, fx.Proxy):
            return _Parameter(value.node, self, attr_val)
        return value

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Keep whole: torch's modules, weighted layers, what timm cannot trace, mode switches without layers.

        A block with layers inside is entered even if timm does not trace it: should that fail, it is kept
        whole the next time. So is a module of torch's whose forward was replaced.
        """
        if module_qualified_name in self.whole or isinstance(m, torch.jit.ScriptModule | ModelHooks):
            return True
        if "forward" in vars(m):
            return False
        if is_weighted(m) or super().is_leaf_module(m, module_qualified_name):
            return True
        has_layers = any(is_weighted(child) for child in m.modules())
        return not has_layers and (isinstance(m, self.leaf_types) or _asks_for_mode(m))

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Trace a module; where that fails, note the innermost one whose own code stops."""
        path = self.path_of_module(m)
        is_entered = not self.is_leaf_module(m, path)
        if is_entered:
            self.entered.append(path)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:  # the module's own code may raise anything; it is raised again
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


def _autograd_functions() -> dict[types.CodeType, str]:
    """List the custom autograd functions that there are, by the code of their forward."""
    functions: dict[types.CodeType, str] = {}
    waiting = [torch.autograd.Function]
    while waiting:
        kind = waiting.pop()
        waiting.extend(kind.__subclasses__())
        code = getattr(kind.forward, "__code__", None)
        if code is not None:
            functions[code] = kind.__name__
    return functions


def _asks_for_mode(module: nn.Module) -> bool:
    """Return whether a module computes something else in training: a trace would fix one mode."""
    code = getattr(type(module).forward, "__code__", None)
    return code is not None and "training" in code.co_names
