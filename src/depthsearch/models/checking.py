"""Compare what was traced with the model itself: a split is checked, not believed.

Tracing writes down what a model's code does. Should something escape it, training would go another way than
the model, in silence. So the first time that a network is split in a process, a small random batch goes
through both: in eval mode the outputs have to be equal, and in training mode the gradients of all parameters.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import fx, nn

from depthsearch.errors import TraceError
from depthsearch.hashing import digest_of
from depthsearch.models.tracing.graph import LayerGraph
from depthsearch.models.tracing.hooks import is_own
from depthsearch.models.tracing.inputs import logits_of
from depthsearch.models.tracing.nodes import Watching, is_weighted
from depthsearch.models.tracing.restoring import evaluating, kept_random_state, unchanged
from depthsearch.text import first_few, first_line

N_IMAGES = 2
# Relative, of float32: more than another order of a sum makes, less than a step in 16 bits.
TOLERANCE = 1e-3
PLAIN = (bool, int, float, str, type(None))
# Networks that were compared in this process, by the class of the model.
_checked: WeakKeyDictionary[type, set[str]] = WeakKeyDictionary()


def check_trace(graph: LayerGraph, model: nn.Module, copied: Callable[[], nn.Module]) -> bool:
    """Compare a traced model with the model, unless one of the same structure was in this process.

    Args:
        graph: What came of tracing the model.
        model: Left as it was; so are the states of random number generators.
        copied: Makes a copy of the traced model, from ``(images,)`` to logits, its tensors in ``graph``.

    Returns:
        Whether they were compared now.

    Raises:
        TraceError: If an output in eval mode or a gradient in training mode differs, with the cause where it
            can be found; or the model does not run on two images.
    """
    structure = structure_of(graph, model)
    done = _checked.setdefault(type(model), set())
    if structure in done or any(parameter.is_meta for parameter in model.parameters()):
        return False
    with unchanged(model), kept_random_state():
        _release(model)
        suffix = copied()
        images = small_batch(graph, model)
        _compare_outputs(graph, model, suffix, images)
        _compare_gradients(graph, model, suffix, images)
    done.add(structure)
    return True


def check_split(graph: LayerGraph, model: nn.Module, prefix: nn.Module, suffix: nn.Module) -> None:
    """Compare both parts of a model, one behind the other, with the model in eval mode.

    Raises:
        TraceError: If the outputs differ.
    """
    images = small_batch(graph, model)
    with unchanged(model), kept_random_state(), evaluating(model), evaluating(suffix), torch.no_grad():
        _seed()
        expected = called(graph, model, images)
        _seed()
        outputs = suffix(prefix(images))
    if not _are_close(outputs, expected):
        raise TraceError(
            f"Both parts of {type(model).__name__} together are not the model: its outputs differ."
        )


def _release(model: nn.Module) -> None:
    """Remove our own hooks, which hold a part of the model in eval mode."""
    for number, hook in list(model._forward_pre_hooks.items()):
        if is_own(hook):
            del model._forward_pre_hooks[number]


def structure_of(graph: LayerGraph, model: nn.Module) -> str:
    """Name all that a comparison depends on but the weights."""
    parts = [graph.traced.code, str(graph.image_shape)]
    for path, module in model.named_modules():
        own = vars(module)
        plain = {k: v for k, v in own.items() if isinstance(v, PLAIN) and k != "training"}
        parts.append(f"{path} {type(module).__module__}.{type(module).__qualname__} {plain}")
        hooks = [hook for name, hooks in own.items() if name.endswith("_hooks") for hook in hooks or ()]
        if hooks or "forward" in own:
            # What hangs on one model says nothing of the next.
            parts.append(f"{id(model)} {hooks} {id(own.get('forward'))}")
    return digest_of("\n".join(parts))


def small_batch(graph: LayerGraph, model: nn.Module) -> torch.Tensor:
    """Draw a few images of noise, the same ones each time, as a traced model takes them."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    images = torch.randn(N_IMAGES, *graph.image_shape, generator=torch.Generator().manual_seed(0))
    return images.to(dtype=like.dtype, device=like.device)


def _compare_outputs(graph: LayerGraph, model: nn.Module, suffix: nn.Module, images: torch.Tensor) -> None:
    name = type(model).__name__
    outputs = []
    with torch.no_grad():
        for part in (model, model, suffix):
            _seed()
            _switch(part, training=False)
            outputs.append(_ran(graph, part, images, name, "eval"))
    first, again, traced = outputs
    if not _are_close(again, first):
        raise TraceError(
            f"{name} gives two outputs for the same images in eval mode: no part of it is a fixed function."
        )
    if not _are_close(traced, first):
        raise TraceError(
            f"{name} computes something else than what tracing wrote down: its outputs differ in eval mode, "
            f"{_cause(graph, model, suffix, images)}."
        )


def _compare_gradients(graph: LayerGraph, model: nn.Module, suffix: nn.Module, images: torch.Tensor) -> None:
    """Compare the gradients of all parameters, all of them in training mode.

    Where they differ, what only draws random numbers is switched off: a part that is used in training alone,
    such as an auxiliary head, may have drawn some before.
    """
    differing = _differing(graph, model, suffix, images, random_layers=True)
    if differing:
        differing = _differing(graph, model, suffix, images, random_layers=False)
    if differing:
        raise TraceError(
            f"{type(model).__name__} trains otherwise than what tracing wrote down: gradients differ "
            f"({first_few(differing, 3)}), {_training_cause(graph, model)}."
        )


def _differing(
    graph: LayerGraph, model: nn.Module, suffix: nn.Module, images: torch.Tensor, *, random_layers: bool
) -> list[str]:
    name = type(model).__name__
    expected = _gradients(graph, model, images, name, random_layers=random_layers)
    traced = _gradients(graph, suffix, images, name, random_layers=random_layers)
    largest = max((float(g.abs().max()) for g in expected.values() if g.numel()), default=0.0)
    return [
        name
        for name, gradient in expected.items()
        if not _are_close(traced.get(f"graph.{name}", torch.zeros_like(gradient)), gradient, floor=largest)
    ]


def _gradients(
    graph: LayerGraph, part: nn.Module, images: torch.Tensor, name: str, *, random_layers: bool
) -> dict[str, torch.Tensor]:
    _seed()
    _switch(part, training=True)
    if not random_layers:
        for module in part.modules():
            # What holds nothing and does something else in training draws random numbers then.
            if not [*module.parameters(), *module.buffers(), *module.children()]:
                module.training = False
    parameters = {n: p for n, p in part.named_parameters() if p.is_floating_point()}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    with torch.enable_grad():
        logits = _ran(graph, part, images, name, "training")
        if not logits.requires_grad:
            return {}
        weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).to(logits)
        try:
            gradients = torch.autograd.grad(
                (logits * weights).sum(), [*parameters.values()], allow_unused=True
            )
        except RuntimeError as error:
            raise TraceError(f"{name} cannot be trained: {first_line(error).rstrip('.')}.") from error
    return {n: g for n, g in zip(parameters, gradients, strict=True) if g is not None}


def _ran(graph: LayerGraph, part: nn.Module, images: torch.Tensor, name: str, mode: str) -> Any:
    """Run a model, or the copy of what was traced, on images; return the logits."""
    try:
        return part((images,)) if hasattr(part, "graph") else called(graph, part, images)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the model's own code may raise anything
        raise TraceError(
            f"{name} does not run on {N_IMAGES} images in {mode} mode: {first_line(error).rstrip('.')}."
        ) from error


def _are_close(value: torch.Tensor, expected: torch.Tensor, *, floor: float = 0.0) -> bool:
    """Return whether two tensors are equal but for rounding, relative to their size or to a floor."""
    if value.shape != expected.shape:
        return False
    if not expected.isfinite().all():
        return torch.equal(value.isfinite(), expected.isfinite())
    scale = max(float(expected.abs().max()) if expected.numel() else 0.0, TOLERANCE * floor)
    return bool(((value - expected).abs() <= TOLERANCE * scale).all())


def _cause(graph: LayerGraph, model: nn.Module, suffix: nn.Module, images: torch.Tensor) -> str:
    """Name the first module whose output differs."""
    values: dict[str, torch.Tensor | None] = {}

    def note(node: fx.Node, result: Any) -> None:
        if node.op == "call_module":
            values.setdefault(str(node.target), _copied(result))

    seen: dict[str, torch.Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _, __, out, path=path: seen.setdefault(path, _copied(out)))
        for path, module in model.named_modules()
        if path in {str(node.target) for node in graph.nodes if node.op == "call_module"}
    ]
    try:
        with torch.no_grad():
            _seed()
            called(graph, model, images)
            _seed()
            traced = suffix.get_submodule("graph")
            assert isinstance(traced, fx.GraphModule)
            Watching(traced, note).run(images)
    finally:
        for handle in handles:
            handle.remove()
    for path, value in values.items():
        if path not in seen:
            return f"first because of '{path}', which the model does not call"
        if seen[path] is not None and value is not None and not _are_close(value, seen[path]):
            return f"first at or before its module '{path}'"
    return "behind its last module"


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else None


def _training_cause(graph: LayerGraph, model: nn.Module) -> str:
    if graph.forks:
        return (
            f"as forward() of {type(model).__name__} does something else in training (if self.training): "
            "move that into a module of its own, which is then run as it is"
        )
    patched = [path for path, module in model.named_modules() if path and "forward" in vars(module)]
    if patched:
        return f"perhaps as forward was replaced on {', '.join(map(repr, patched[:3]))}"
    leaves = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    own = [
        path
        for path, module in model.named_modules()
        if path in leaves and not is_weighted(module) and not type(module).__module__.startswith("torch.nn")
    ]
    where = f" The modules kept whole are {', '.join(own[:3])}." if own else ""
    return f"and the cause was not found.{where} Move what is not plain PyTorch into a module of its own"


def _switch(part: nn.Module, *, training: bool) -> None:
    for module in part.modules():
        module.training = training


def _seed() -> None:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)


def called(graph: LayerGraph, model: nn.Module, images: torch.Tensor) -> Any:
    """Call a model on images as it was traced; return its logits."""
    result = model(images) if graph.input_name is None else model(**{graph.input_name: images})
    return logits_of(result)
