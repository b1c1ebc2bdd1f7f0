"""Train one point of the search space, and the Optuna objective made of it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
from torch import nn

from depthsearch.backbones import Backbone
from depthsearch.data import DataSet, ImageSet
from depthsearch.devices import Device
from depthsearch.errors import DivergedError
from depthsearch.features import BoundarySource, RecomputedBoundary
from depthsearch.graph import trace
from depthsearch.heads import with_head
from depthsearch.space import Point, SearchSpace
from depthsearch.split import Split, split_at
from depthsearch.training import EpochResult, Recipe, seed_from, train

__all__ = ["Objective", "Task", "full_fine_tune_macs", "train_point"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What stays the same from trial to trial.

    Attributes:
        backbone: Pretrained model.
        data: Images and labels.
        recipe: How to train; each point brings its own learning rate, weight decay and optimizer.
        device: Where.
    """

    backbone: Backbone
    data: DataSet
    recipe: Recipe
    device: Device

    @property
    def num_classes(self) -> int:
        """Classes to tell apart."""
        return len(self.data.classes)


def train_point(
    task: Task, point: Point, *, seed: int, checkpoint: Path | None = None
) -> Generator[EpochResult, None, None]:
    """Train one point and yield a result after each epoch; close the generator to stop.

    Args:
        task: Backbone, images, recipe and device.
        point: Cut, learning rate, head.
        seed: Of the head's weights, batch order and dropout.
        checkpoint: See `training.train`.

    Raises:
        DivergedError: If the loss is not finite.
    """
    split = split_at(model_for(task, point, seed), point.cut, image_size=_image_size(task))
    recipe = replace(
        task.recipe,
        learning_rate=point.learning_rate,
        weight_decay=point.weight_decay,
        optimizer=point.optimizer,
        seed=seed,
    )
    yield from train(
        split.suffix,
        boundary_source(task, split, task.data.train),
        boundary_source(task, split, task.data.val),
        recipe,
        task.device,
        suffix_macs=split.suffix_macs,
        checkpoint=checkpoint,
    )


def boundary_source(task: Task, split: Split, images: ImageSet) -> BoundarySource:
    """Give a cut's boundary tensors for some images."""
    return RecomputedBoundary(images, split, task.backbone.preprocessing, task.device)


def model_for(task: Task, point: Point, seed: int) -> nn.Module:
    """Copy the backbone with the point's new head."""
    return with_head(
        task.backbone.model,
        task.backbone.classifier,
        task.num_classes,
        width=point.head_width,
        depth=point.head_depth,
        dropout=point.dropout,
        seed=seed,
    )


def full_fine_tune_macs(task: Task) -> int:
    """MACs of training everything once with a linear head: the unit that costs are given in."""
    model = with_head(task.backbone.model, task.backbone.classifier, task.num_classes)
    macs = sum(layer.macs for layer in trace(model, image_size=_image_size(task)).layers)
    return task.recipe.epochs * macs * (3 * len(task.data.train) + len(task.data.val))


def _image_size(task: Task) -> int:
    return task.backbone.preprocessing.image_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """An Optuna objective: suggest, train, report, prune. For a study of one's own.

    Attributes:
        task: What to train.
        space: Where to search.
    """

    task: Task
    space: SearchSpace

    def __call__(self, trial: optuna.Trial) -> float:
        """Train the trial's point; return the last epoch's score.

        Raises:
            optuna.TrialPruned: If the study's pruner says so, or the training diverges.
        """
        point = self.space.suggest(trial)
        score = float("nan")
        try:
            for result in train_point(self.task, point, seed=seed_from(self.task.recipe.seed, trial.number)):
                score = result.score
                trial.report(score, step=result.epoch)
                if result.epoch < self.task.recipe.epochs and trial.should_prune():
                    raise optuna.TrialPruned(f"pruned after epoch {result.epoch}")
        except DivergedError as error:
            raise optuna.TrialPruned(str(error)) from error
        return score
