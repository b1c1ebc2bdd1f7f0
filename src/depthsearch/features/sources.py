"""Boundary tensors for training: what the frozen prefix makes of the images.

Training asks for the boundary of some images and does not see whether it is computed or read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from depthsearch.data.views import view_of
from depthsearch.features.images import ViewedImages
from depthsearch.features.store import FeatureStore, Spent


class BoundarySource(Protocol):
    """The boundary tensors of one image set, by index of its samples, of ``k`` images each.

    Attributes:
        labels: Class of each sample, int64 ``(n,)``, on the CPU.
        macs_per_sample: MACs of the whole frozen prefix, for all images of a sample.
        spent: What making the boundaries has cost so far.
    """

    labels: torch.Tensor
    macs_per_sample: int
    spent: Spent

    def prepare(self, epoch: int) -> None:
        """Prepare an epoch, counted from 1: choose its view, compute what is worth keeping."""

    def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the boundary of the samples at ``index`` ``(b,)``: tensors ``(b * k, ...)`` on the device.

        Where samples have numbers, these are the last one, ``(b, d)``.
        """


class Boundaries:
    """Boundary tensors from a feature store, what is not kept there recomputed without gradients."""

    def __init__(
        self,
        store: FeatureStore,
        views: Sequence[ViewedImages],
        position: int,
        *,
        rows: torch.Tensor | None = None,
    ) -> None:
        """Stand at a position of the graph.

        Args:
            store: Where to read and to keep; one without a budget recomputes everything.
            views: The set in each of its views; epoch e sees view e mod V.
            position: Of the cut, see `graph.LayerGraph`.
            rows: Which of the set's samples these are, int64 ``(n,)``; None: all.
        """
        samples = views[0].samples
        self.labels = samples.labels if rows is None else samples.labels[rows]
        self._of_set = rows
        self.macs_per_sample = samples.images_each * store.frozen.macs_before(position)
        self.spent = Spent()
        self._store = store
        self._views = views
        self._position = position
        self._boundary = store.frozen.graph.boundary(position)

    def prepare(self, epoch: int) -> None:
        """Choose the epoch's view and where its batches start; compute first what is worth keeping."""
        self._viewed = self._views[view_of(epoch, len(self._views))]
        self._part, self._rows = self._store.open(self._viewed, self._boundary, self._position, self.spent)

    def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the boundary of the samples at ``index`` ``(b,)``; `prepare` comes first."""
        frozen, samples = self._store.frozen, self._viewed.samples
        if self._of_set is not None:
            index = self._of_set[index]
        numbers = () if samples.numbers is None else (frozen.device.move(samples.numbers[index]),)
        index = samples.places_of(index)
        inputs = self._store.values(self._viewed, self._part, self._rows, index, self.spent)
        with torch.no_grad(), frozen.device.autocast():
            boundary = self._part.module(*inputs.values())
        return (*(tensor[: len(index)] for tensor in boundary), *numbers)
