"""Train one point of the search space, and the Optuna objective made of it."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
import torch
from torch import nn

from depthsearch.data.dataset import DataSet, ImageSet, divided
from depthsearch.data.views import view_of
from depthsearch.devices import Device, is_out_of_memory, release_memory
from depthsearch.errors import DivergedError
from depthsearch.features.budget import Budget
from depthsearch.features.images import ViewedImages
from depthsearch.features.parts import FrozenBackbone
from depthsearch.features.rule import Asks
from depthsearch.features.sources import Boundaries
from depthsearch.features.store import FeatureStore, Spent
from depthsearch.models.backbones.backbone import Backbone
from depthsearch.models.cuts import Cut
from depthsearch.models.fixed import check_fixed
from depthsearch.models.headplace import find_head
from depthsearch.models.heads import HeadSize, head_macs, head_size, standardise, with_head
from depthsearch.models.split import Suffix, check_traced, position_of, suffix_of
from depthsearch.models.tracing.graph import LayerGraph
from depthsearch.models.tracing.trace import trace
from depthsearch.options.attributes import TrialKey
from depthsearch.search.planning.moves import passes_each
from depthsearch.search.space import Point, SearchSpace
from depthsearch.seeds import seed_from
from depthsearch.training.exact import only_linear_layer, solve
from depthsearch.training.loop import train
from depthsearch.training.outcomes import EpochResult, ProbePoint, TransferCurve
from depthsearch.training.probe import linear_probe
from depthsearch.training.recipe import Recipe

# Expected of a foreign study, which does not say how many it will run.
TRIALS_TO_COME = 20
# More make a probe slow and hardly better.
PROBED_SAMPLES = 4000


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


def train_point(
    task: Task,
    point: Point,
    *,
    seed: int,
    checkpoint: Path | None = None,
    upcoming: Mapping[Cut, float] | None = None,
    others: Sequence[Task] = (),
) -> Generator[EpochResult, None, Suffix]:
    """Train one point and yield a result after each epoch; close the generator to stop.

    Args:
        task: Backbone, images, recipe and device.
        point: Cut, learning rate, head.
        seed: Of the head's weights, batch order and dropout.
        checkpoint: See `training.train`.
        upcoming: How many more trials may come at each cut: what is worth keeping for them is kept.
        others: Tasks that may keep something in this GPU's memory as well.

    Returns:
        The trained suffix.

    Raises:
        DivergedError: If the loss is not finite.
    """
    n_done = 0
    while True:
        suffix: Suffix | None = None
        results: Iterator[EpochResult] = iter(())
        try:
            suffix, results = _train_point(task, point, seed, checkpoint, upcoming or {})
            for result in results:
                if result.epoch > n_done:
                    n_done = result.epoch
                    yield result
            return suffix
        except RuntimeError as error:
            # What is kept on a GPU is worth less than a trial: once it is gone, try again.
            if not is_out_of_memory(error) or not _give_back_device(task, *others):
                raise
        # Nothing is to hold the weights and gradients of the failed try beside those of the next.
        del suffix, results
        release_memory()


def _give_back_device(*tasks: Task) -> bool:
    """Let several tasks do so; return whether there was anything."""
    # A list: each of them is asked.
    return any([task.give_back_device() for task in tasks])


def _train_point(
    task: Task, point: Point, seed: int, checkpoint: Path | None, upcoming: Mapping[Cut, float]
) -> tuple[Suffix, Iterator[EpochResult]]:
    """Make a suffix, and the training of it."""
    suffix = suffix_of(task.graph, model_for(task, point, seed, shares=True), point.cut)
    position = task.position(point.cut)
    recipe = replace(
        task.recipe,
        learning_rate=point.learning_rate,
        weight_decay=point.weight_decay,
        optimizer=point.optimizer,
        seed=seed,
    )
    passes = _passes_each(task, point.cut, head_size_of(task, width=point.head_width, depth=point.head_depth))
    task.features.expect(_asks(task, point.cut, passes, upcoming))
    shown = Boundaries(task.features, task.train_views, position, rows=task.train_rows)
    judged = None
    if task.val_views:
        judged = Boundaries(task.features, task.val_views, position, rows=task.val_rows)
    macs = suffix_macs(task, suffix, position)
    linear = only_linear_layer(suffix, task.backbone.classifier)
    if linear is not None:
        return suffix, solve(suffix, linear, shown, judged, recipe, task.device, suffix_macs=macs)
    results = train(
        suffix, shown, judged, recipe, task.device, suffix_macs=macs, passes=passes, checkpoint=checkpoint
    )
    return suffix, results


def transfer_curve(
    task: Task,
    cuts: Sequence[Cut],
    *,
    upcoming: Mapping[Cut, float] | None = None,
    n_depths: int = 12,
    others: Sequence[Task] = (),
) -> TransferCurve:
    """Fit a linear probe to the pooled frozen features at several depths, in one pass over the images.

    It sees what a head would: the features of all images of a sample, and its numbers.

    Args:
        task: Backbone, images and device.
        cuts: Candidates by depth, from the first layer to the head.
        upcoming: Trials to come at each cut, see `train_point`: what they will need is kept on the way.
        n_depths: How many depths, spread evenly over the candidates; the last one is the head's input. Where
            there is one candidate only, nothing is frozen and there is nothing to probe.
        others: Tasks that may keep something in this GPU's memory as well.
    """
    if len(cuts) < 2:
        return TransferCurve(points=(), macs=0, seconds=0.0, kept_bytes=0)
    while True:
        try:
            return _transfer_curve(task, cuts, upcoming or {}, n_depths)
        except RuntimeError as error:
            if not is_out_of_memory(error) or not _give_back_device(task, *others):
                raise
        release_memory()


def _transfer_curve(
    task: Task, cuts: Sequence[Cut], upcoming: Mapping[Cut, float], n_depths: int
) -> TransferCurve:
    """Fit the probes with the memory that there is."""
    started = time.perf_counter()
    n_depths = min(n_depths, len(cuts) - 1)
    picked = [cuts[round((i + 1) / n_depths * (len(cuts) - 1))] for i in range(n_depths)]
    positions = [task.position(cut) for cut in picked]
    task.features.expect(_asks(task, cuts[-1], _passes_each(task, cuts[-1]), upcoming))
    spent = Spent()
    train_features, train_labels = task.features.pooled(
        task.train_views[0], positions, spent, n_most=PROBED_SAMPLES
    )
    val_features, val_labels = task.features.pooled(
        task.val_views[0], positions, spent, n_most=PROBED_SAMPLES
    )
    points = tuple(
        ProbePoint(
            cut=cut.index,
            layer=cut.layer,
            name=cut.name,
            n_features=train_rows.shape[1],
            score=linear_probe(train_rows, train_labels, val_rows, val_labels, task.num_classes),
            n_val=len(val_labels),
        )
        for cut, train_rows, val_rows in zip(picked, train_features, val_features, strict=True)
    )
    seconds = time.perf_counter() - started
    return TransferCurve(points=points, macs=spent.macs, seconds=seconds, kept_bytes=spent.kept_bytes)


def _asks(task: Task, cut: Cut, passes_here: int, upcoming: Mapping[Cut, float]) -> list[Asks[ViewedImages]]:
    """Count the passes over each view that may still come: of this trial but its first, and of others."""
    epochs, n_views = task.recipe.epochs, len(task.train_views)
    trained = {
        viewed.fingerprint: sum(view_of(epoch, n_views) == viewed.number for epoch in range(1, epochs + 1))
        for viewed in task.train_views
    }
    judged = {viewed.fingerprint: epochs for viewed in task.val_views}
    asks = []
    for fingerprint, viewed in {v.fingerprint: v for v in (*task.train_views, *task.val_views)}.items():
        in_training, in_judging = trained.get(fingerprint, 0), judged.get(fingerprint, 0)
        if not in_training + in_judging:
            continue
        # Which head another trial will have is unknown: a linear one passes most often.
        passes = {
            task.position(c): n_trials * (in_training * _passes_each(task, c) + in_judging)
            for c, n_trials in upcoming.items()
        }
        here = task.position(cut)
        passes[here] = passes.get(here, 0.0) + in_training * passes_here + in_judging - 1
        asks.append(Asks(group=viewed, n_images=len(viewed), passes=passes))
    return asks


def _passes_each(task: Task, cut: Cut, head: HeadSize | None = None) -> int:
    head_macs = 0.0 if head is None else head.macs / task.images_each
    return passes_each(cut, task.recipe.epochs, task.recipe.late_passes, head_macs=head_macs)


def model_for(task: Task, point: Point, seed: int, *, shares: bool = False) -> nn.Module:
    """Copy the backbone with the point's new head; `shares` as of `with_head`."""
    classifier = task.backbone.classifier
    model = with_head(
        task.backbone.model,
        classifier,
        task.num_classes,
        width=point.head_width,
        depth=point.head_depth,
        dropout=point.dropout,
        images_each=task.images_each,
        n_numbers=task.n_numbers,
        seed=seed,
        shares=shares,
    )
    numbers = task.train_numbers
    if numbers is not None:
        standardise(model.get_submodule(classifier), numbers)
    return model


def head_size_of(task: Task, *, width: int = 0, depth: int = 1) -> HeadSize:
    """Count MACs of one sample, weight tensors and parameters of a head; a linear one by default."""
    return head_size(
        task.backbone.model,
        task.backbone.classifier,
        task.num_classes,
        width=width,
        depth=depth,
        images_each=task.images_each,
        n_numbers=task.n_numbers,
    )


def suffix_macs(task: Task, suffix: Suffix, position: int) -> int:
    """Forward MACs of a suffix for one sample: of each of its images, and once of its own head."""
    classifier = task.backbone.classifier
    before_head = (
        layer.macs for layer in task.graph.layers if layer.position >= position and layer.module != classifier
    )
    return task.images_each * sum(before_head) + head_macs(suffix.graph.get_submodule(classifier))


def note_cost(trial: optuna.Trial, task: Task, point: Point) -> None:
    """Keep in a trial's user attributes what its setting costs, see `cost_attributes`."""
    for key, value in cost_attributes(task, point).items():
        trial.set_user_attr(key, value)


def cost_attributes(task: Task, point: Point) -> dict[str, Any]:
    """Return what a trial's user attributes say of its setting's cost, which is known before any training.

    ``training_macs`` are those of one sample: frozen layers forward, all others and the head forward and
    backward. ``trainable_parameters`` are those of the backbone that learn, and the head's;
    ``head_weights`` the tensors of the head, and the parameters in them.
    """
    head = head_size_of(task, width=point.head_width, depth=point.head_depth)
    return {
        TrialKey.TRAINING_MACS: task.images_each * point.cut.training_macs + 3 * head.macs,
        TrialKey.TRAINABLE_PARAMETERS: point.cut.trainable_parameters + head.parameters,
        TrialKey.HEAD_WEIGHTS: (head.tensors, head.parameters),
    }


def full_fine_tune_macs(task: Task) -> int:
    """MACs of training everything once with a linear head: the unit that costs are given in."""
    macs = sum(layer.macs for layer in task.graph.layers if layer.module != task.backbone.classifier)
    macs = task.images_each * macs + head_size_of(task).macs
    return task.recipe.epochs * macs * (3 * len(task.data.train) + len(task.data.val))


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """An Optuna objective: suggest, train, report, prune. For a study of one's own.

    Attributes:
        task: What to train; with several backbones one for each, by the space's names for them.
        space: Where to search.
    """

    task: Task | Mapping[str, Task]
    space: SearchSpace

    def __call__(self, trial: optuna.Trial) -> float:
        """Train the trial's point; return the last epoch's score.

        Raises:
            optuna.TrialPruned: If the study's pruner says so, or the training diverges.
        """
        point = self.space.suggest(trial)
        task = tasks_of(self.task)[point.cut.backbone]
        note_cost(trial, task, point)
        seed = seed_from(task.recipe.seed, trial.number)
        score = float("nan")
        try:
            for result in train_point(task, point, seed=seed, upcoming=self._upcoming(point)):
                score = result.score
                trial.report(score, step=result.epoch)
                if result.epoch < task.recipe.epochs and trial.should_prune():
                    raise optuna.TrialPruned(f"pruned after epoch {result.epoch}")
        except DivergedError as error:
            raise optuna.TrialPruned(str(error)) from error
        return score

    def _upcoming(self, point: Point) -> dict[Cut, float]:
        """Expect any cut: how many trials a foreign study will have is not known."""
        cuts = self.space.cuts_of(point.cut.backbone)
        return dict.fromkeys(cuts, TRIALS_TO_COME / len(self.space.cuts))
