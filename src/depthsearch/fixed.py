"""Refuse to freeze what is no fixed function of one image, whatever the mode.

What frozen layers make of an image is worth keeping only if it is the same each time, whatever else is in the
batch. Eval mode takes care of that, but not of dropout that never asks for it, of noise, nor of batch
normalisation that always uses the batch. So a few images go through the traced model, twice, and one alone.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import fx, nn

from depthsearch.checking import kept_random_state, kept_state, small_batch, structure_of
from depthsearch.errors import CutError
from depthsearch.graph import LayerGraph
from depthsearch.inputs import has_lazy_layers
from depthsearch.tracing import evaluating, unchanged

__all__ = ["check_fixed"]

# Of sums over a value: more than the size of a batch makes, less than another value.
SAME_SUM = 1e-3
# Of networks that were looked at in this process, the first operation that is no fixed function, and why.
_unfixed: WeakKeyDictionary[type, dict[str, tuple[int, str]]] = WeakKeyDictionary()


def check_fixed(graph: LayerGraph, model: nn.Module, position: int) -> None:
    """Refuse a cut behind something that is no fixed function of one image in eval mode either.

    Such is what draws random numbers always, and batch normalisation that never uses its statistics.

    Args:
        graph: The traced model.
        model: What was traced. Left as it was.
        position: Of the cut.

    Raises:
        CutError: If there is such an operation before the position.
    """
    if any(parameter.is_meta for parameter in model.parameters()) or has_lazy_layers(model):
        return
    structure = structure_of(graph, model)
    known = _unfixed.setdefault(type(model), {})
    if structure not in known:
        known[structure] = _first_unfixed(graph, model)
    place, reason = known[structure]
    if place < position:
        raise CutError(
            f"{type(model).__name__} cannot be frozen behind '{_name_at(graph, place)}': {reason}, so what "
            "comes of it is no fixed function of an image. Let it follow self.training, or cut before it."
        )


def _first_unfixed(graph: LayerGraph, model: nn.Module) -> tuple[int, str]:
    """Find the first operation that is no fixed function of one image; behind all of them: there is none."""
    images = small_batch(graph, model)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with (
        unchanged(model),
        kept_state(model),
        kept_random_state(),
        evaluating(graph.traced),
        torch.no_grad(),
    ):
        runs = []
        for seed, batch in ((0, images), (1, images), (2, images[:1])):
            torch.manual_seed(seed)
            runs.append(_Summed(graph.traced, batch))
        changed = [name for name, buffer in model.named_buffers() if not torch.equal(buffer, buffers[name])]
    found = [(graph.first_uses[name], f"it changes '{name}'") for name in changed if name in graph.first_uses]
    reasons = ("it draws random numbers", "it depends on the other images of a batch")
    for node, first in runs[0].sums.items():
        for run, reason in zip(runs[1:], reasons, strict=True):
            if not torch.allclose(run.sums[node], first, rtol=SAME_SUM, atol=SAME_SUM * float(first[0])):
                found.append((runs[0].order[node], f"{reason} in eval mode too"))
    return min(found, default=(len(graph.nodes), ""))


def _name_at(graph: LayerGraph, position: int) -> str:
    return next((layer.name for layer in graph.layers if layer.position >= position), "output")


class _Summed(fx.Interpreter):
    """Runs a traced model and sums up each value of its first image: magnitude and a weighted sum."""

    def __init__(self, traced: fx.GraphModule, images: torch.Tensor) -> None:
        super().__init__(traced)
        self.n_images = len(images)
        self.order = {node: place for place, node in enumerate(traced.graph.nodes)}
        self.sums: dict[fx.Node, torch.Tensor] = {}
        self.run(images)

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        is_tensor = isinstance(result, torch.Tensor) and result.is_floating_point() and result.numel() > 0
        if is_tensor and result.ndim > 1 and len(result) == self.n_images:
            row = result[0].flatten().double()
            weights = torch.linspace(0.5, 1.5, len(row), dtype=row.dtype, device=row.device)
            self.sums[n] = torch.stack([row.abs().mean(), (row * weights).mean()])
        return result
