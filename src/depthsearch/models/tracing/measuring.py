"""Run a traced model once on one image: every operation's shape, work, and the tensors that it uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from depthsearch.errors import TraceError
from depthsearch.models.tracing.inputs import logits_of, other_shapes
from depthsearch.text import first_line


def measure(model: nn.Module, traced: fx.GraphModule, images: Iterable[torch.Tensor]) -> Run:
    """Run a traced model on the first of some images that it takes."""
    failures: list[tuple[torch.Tensor, Exception]] = []
    for image in images:
        try:
            run = Run(model, traced, image)
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
        return Run(model, traced, image)
    image, failure = failures[0]
    other = next((other for other in other_shapes(model, image) if _takes(traced, other)), None)
    raise does_not_run(model, image, failure, hint=_hint(image, other)) from failure


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
    """Return which images the model takes instead."""
    if other is None:
        return "It takes none of the usual sizes: give example_inputs, a batch of images that it takes."
    taken = f"It takes {' x '.join(map(str, other.shape[1:]))}."
    if other.shape[1] != image.shape[1]:
        return f"{taken} Give images of as many channels."
    return f"{taken} Give another image size."


def does_not_run(model: nn.Module, image: torch.Tensor, error: Exception, *, hint: str) -> TraceError:
    """Return the error of a model that fails on an image."""
    return TraceError(
        f"{type(model).__name__} does not run on one image of {' x '.join(map(str, image.shape[1:]))}: "
        f"{first_line(error).rstrip('.')}. {hint}"
    )


class Run(fx.Interpreter):
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
        """Run an operation and note what it makes."""
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
        """Return whether a value is what a module has returned beside a tensor, or made of that."""
        is_module = source.op == "call_module" and source not in self.shapes
        return is_module or source in self.constants


def _is_size(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return bool(value) and all(map(_is_size, value))
    return isinstance(value, int)


class _Watch(TorchDispatchMode):
    """Notes at which positions each parameter and buffer takes part in an operation, and counts MACs.

    It sees what the code does with a tensor, whoever owns it: also within functions and modules that are
    kept whole, and through views that share a tensor's memory.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        named = list(named_state(model))
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
    """Return the address of the memory that holds a tensor; 0: it has none."""
    if tensor.is_meta or tensor.layout is not torch.strided:
        return 0
    return tensor.untyped_storage().data_ptr()


def named_state(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a module's parameters and buffers by all their names."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
