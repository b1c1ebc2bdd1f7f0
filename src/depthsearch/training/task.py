"""What stays the same from trial to trial: a backbone, its images, how to train, and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import torch

from depthsearch.data.dataset import DataSet, ImageSet, divided
from depthsearch.devices import Device
from depthsearch.features.budget import Budget
from depthsearch.features.images import ViewedImages
from depthsearch.features.parts import FrozenBackbone
from depthsearch.features.store import FeatureStore
from depthsearch.models.backbones.backbone import Backbone
from depthsearch.models.cuts import Cut
from depthsearch.models.fixed import check_fixed
from depthsearch.models.headplace import find_head
from depthsearch.models.split import check_traced, position_of
from depthsearch.models.tracing.graph import LayerGraph
from depthsearch.models.tracing.trace import trace
from depthsearch.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Task:
    """What stays the same from trial to trial.

    Attributes:
        backbone: Pretrained model.
        data: Images and labels.
        recipe: How to train; each point brings its own learning rate, weight decay and optimizer.
        device: Where.
        budget: How much of what the frozen layers compute may be kept; None: nothing.
        split_seed: Divides training and validation images anew; None: they are as the data set says.
        origin: The task that this one differs from in recipe or split alone, and shares what is computed once
            with. Not taken over by `dataclasses.replace`.
    """

    backbone: Backbone
    data: DataSet
    recipe: Recipe
    device: Device
    budget: Budget | None = None
    split_seed: int | None = None
    origin: Task | None = field(default=None, init=False, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without what is computed once: another process computes it for itself."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def num_classes(self) -> int:
        """Classes to tell apart."""
        return len(self.data.classes)

    @property
    def images_each(self) -> int:
        """Images of a sample."""
        return self.data.train.images_each

    @property
    def n_numbers(self) -> int:
        """Numbers of a sample."""
        return self.data.train.n_numbers

    @property
    def train_numbers(self) -> torch.Tensor | None:
        """Numbers of the samples that train, ``(n, d)``; None where samples have none."""
        numbers = self._pool(self.data.train).numbers
        return numbers if numbers is None or self.train_rows is None else numbers[self.train_rows]

    @cached_property
    def graph(self) -> LayerGraph:
        """The backbone, traced once for all trials, and compared with what was traced.

        Raises:
            TraceError: If it cannot be traced, or computes or trains otherwise than what was traced.
            CutError: If what lies before its head is no fixed function of an image.
        """
        if self.origin is not None:
            return self.origin.graph
        model, preprocessing = self.backbone.model, self.backbone.preprocessing
        graph = trace(model, image_size=preprocessing.image_size, channels=len(preprocessing.mean))
        check_traced(graph, model)
        check_fixed(graph, model, find_head(graph, model, self.backbone.classifier)[0])
        return graph

    @cached_property
    def features(self) -> FeatureStore:
        """What the frozen layers have computed, shared by all trials."""
        if self.origin is not None:
            return self.origin.features
        frozen = FrozenBackbone(self.graph, self.backbone.preprocessing, self.device)
        built = f"{self.backbone.build_digest} {self.backbone.library}".strip()
        return FeatureStore(frozen, self.budget, name=self.backbone.name, built=built)

    @cached_property
    def train_views(self) -> list[ViewedImages]:
        """The images that train are among, in each view; every cut sees the same."""
        recipe, images = self.recipe, self._pool(self.data.train)
        return [
            ViewedImages(images, v, seed=recipe.seed, augment=recipe.augment) for v in range(recipe.views)
        ]

    @cached_property
    def val_views(self) -> list[ViewedImages]:
        """The images that validate are among, as they are; no view where there is no validation."""
        return [ViewedImages(self._pool(self.data.val))] if len(self.data.val) else []

    def _pool(self, images: ImageSet) -> ImageSet:
        return images if self.split_seed is None else self.data.train.joined(self.data.val)

    @cached_property
    def train_rows(self) -> torch.Tensor | None:
        """Which samples of `train_views` train, int64 ``(n,)``; None: all."""
        return None if self.split_seed is None else self._divided[0]

    @cached_property
    def val_rows(self) -> torch.Tensor | None:
        """Which samples of `val_views` validate, int64 ``(n,)``; None: all."""
        return None if self.split_seed is None else self._divided[1]

    @cached_property
    def _divided(self) -> tuple[torch.Tensor, torch.Tensor]:
        return divided(self.data.train, self.data.val, seed=self.split_seed or 0)

    def resampled(self, seed: int) -> Task:
        """Divide training and validation samples anew: as many of each, stratified by class.

        What is kept is kept of both together, so that it serves every division.
        """
        return self._variant(split_seed=seed)

    def with_recipe(self, recipe: Recipe) -> Task:
        """Train otherwise: another task on the same images, with the same kept features."""
        return self._variant(recipe=recipe)

    def _variant(self, **changes: Any) -> Task:
        variant = replace(self, **changes)
        object.__setattr__(variant, "origin", self)
        return variant

    def give_back_device(self) -> bool:
        """Let go of what is kept in the memory of a GPU; return whether there was anything."""
        if self.origin is not None:
            return self.origin.give_back_device()
        # Where cached_property puts it: nothing has been kept before the first use.
        return "features" in self.__dict__ and self.features.give_back_device()

    def position(self, cut: Cut) -> int:
        """Find a cut's place in the graph."""
        return position_of(self.graph, self.backbone.model, cut)


def tasks_of(task: Task | Mapping[str, Task]) -> Mapping[str, Task]:
    """Return the task of each backbone, by the names that the space's cuts have for them."""
    return {"": task} if isinstance(task, Task) else task


def any_of(tasks: Mapping[str, Task]) -> Task:
    """Return one of the tasks, for what is the same in all."""
    return next(iter(tasks.values()))
