"""Train one point of the search space, probe a backbone, and the Optuna objective made of it."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
from torch import nn

from depthsearch.data.views import view_of
from depthsearch.devices import is_out_of_memory, release_memory
from depthsearch.errors import DivergedError
from depthsearch.features.images import ViewedImages
from depthsearch.features.rule import Asks
from depthsearch.features.sources import Boundaries
from depthsearch.features.store import Spent
from depthsearch.models.cuts import Cut
from depthsearch.models.heads import HeadSize, standardise, with_head
from depthsearch.models.split import Suffix, suffix_of
from depthsearch.search.planning.moves import passes_each
from depthsearch.search.space import Point, SearchSpace
from depthsearch.seeds import seed_from
from depthsearch.training.costs import head_size_of, note_cost, suffix_macs
from depthsearch.training.exact import only_linear_layer, solve
from depthsearch.training.loop import train
from depthsearch.training.outcomes import EpochResult, ProbePoint, TransferCurve
from depthsearch.training.probe import linear_probe
from depthsearch.training.task import Task, tasks_of

# Expected of a foreign study, which does not say how many it will run.
TRIALS_TO_COME = 20
# More make a probe slow and hardly better.
PROBED_SAMPLES = 4000


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
