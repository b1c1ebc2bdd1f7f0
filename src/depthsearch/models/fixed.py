"""Refuse to freeze operations that are not a fixed function of one image.

What frozen layers make of an image is worth keeping only if it is the same each time, whatever else is in the
batch. Eval mode takes care of that, but not of dropout that never asks for it, of noise, nor of batch
normalisation that always uses the batch. So a few images go through the traced model, twice, and one alone.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import fx, nn

from depthsearch.errors import CutError
from depthsearch.models.checking import called, small_batch, structure_of
from depthsearch.models.tracing.graph import LayerGraph
from depthsearch.models.tracing.inputs import has_lazy_layers
from depthsearch.models.tracing.restoring import (
    evaluating,
    kept_random_state,
    random_states,
    torch_states,
    unchanged,
)

# Of sums over a value: more than the size of a batch makes, less than another value.
SAME_SUM = 1e-3
# Of outputs for the same batch: more than the order of sums on a GPU makes.
SAME_OUTPUT = 1e-5
# Of networks that were looked at in this process, the first operation that is no fixed function, and why.
_unfixed: WeakKeyDictionary[type, dict[str, tuple[int, str]]] = WeakKeyDictionary()


def check_fixed(graph: LayerGraph, model: nn.Module, position: int) -> None:
    """Refuse a cut behind an operation that is not a fixed function of one image even in eval mode.

    Such is what draws random numbers always, and batch normalisation that never uses its statistics. The
    model is left as it was.

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
    """Find the first operation that is not a fixed function of one image; the end if there is none."""
    images = small_batch(graph, model)
    buffers: dict[str, torch.Tensor] = {}
    traced = graph.traced
    with unchanged(model), kept_random_state(), evaluating(model), evaluating(traced), torch.no_grad():
        runs = []
        for seed, batch in ((0, images), (1, images), (2, images[:1])):
            torch.manual_seed(seed)
            runs.append(_Summed(traced, batch))
            # What the first run alone sets is a cache.
            buffers = buffers or {name: buffer.clone() for name, buffer in model.named_buffers()}
        changed = [name for name, buffer in model.named_buffers() if not torch.equal(buffer, buffers[name])]
        drawn = random_states()
        once, twice = called(graph, model, images), called(graph, model, images)
        has_drawn = random_states() != drawn
    causes = [
        (graph.first_uses[name], f"it changes '{name}'") for name in changed if name in graph.first_uses
    ]
    order = runs[0].order
    causes += [(order[node], "it draws random numbers in eval mode too") for node in runs[0].drawn]
    if causes:
        return min(causes, key=lambda place: place[0])
    for node in sorted(set.intersection(*(set(run.sums) for run in runs)), key=order.__getitem__):
        first, again, alone = (run.sums[node] for run in runs)
        if not _is_same(again, first):
            return order[node], "it is another each time in eval mode too"
        if not _is_same(alone, first):
            return order[node], "it depends on the other images of a batch in eval mode too"
    if has_drawn or not torch.allclose(once, twice, rtol=SAME_OUTPUT, atol=SAME_OUTPUT, equal_nan=True):
        return 0, "the model gives two outputs for the same images in eval mode"
    return len(graph.nodes), ""


def _is_same(sums: torch.Tensor, others: torch.Tensor) -> bool:
    return torch.allclose(sums, others, rtol=SAME_SUM, atol=SAME_SUM * float(others[0]), equal_nan=True)


def _sums(row: torch.Tensor) -> torch.Tensor:
    """Sum up a value: its magnitude, and a weighted sum."""
    row = row.flatten().double()
    weights = torch.linspace(0.5, 1.5, len(row), dtype=row.dtype, device=row.device)
    return torch.stack([row.abs().mean(), (row * weights).mean()])


def _name_at(graph: LayerGraph, position: int) -> str:
    """Name the operation at a position, or the next one."""
    return next((layer.name for layer in graph.layers if layer.position >= position), "output")


class _Summed(fx.Interpreter):
    """Runs a traced model, sums up each value of its first image, and notes who draws random numbers."""

    def __init__(self, traced: fx.GraphModule, images: torch.Tensor) -> None:
        super().__init__(traced)
        self.n_images = len(images)
        self.order = {node: place for place, node in enumerate(traced.graph.nodes)}
        self.sums: dict[fx.Node, torch.Tensor] = {}
        self.drawn: list[fx.Node] = []
        self.run(images)

    def run_node(self, n: fx.Node) -> Any:
        before = torch_states()
        result = super().run_node(n)
        if torch_states() != before:
            self.drawn.append(n)
        is_tensor = isinstance(result, torch.Tensor) and result.is_floating_point() and result.numel() > 0
        if is_tensor and result.ndim > 1 and len(result) == self.n_images:
            self.sums[n] = _sums(result[0])
        return result
