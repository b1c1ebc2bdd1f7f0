"""Is features only trained to its end? The head alone: solved, probed, and trained for some epochs.

    python -m benchmarks.search.heads --data photos/ --backbone tf_efficientnet_lite0 --image-size 96

On each of some divisions of the same images, from the same frozen features: logistic regression as a study
solves it (`training.exact`), the ridge regression of the transfer curve (`training.probe`), and what a plain
loop makes of the head: AdamW with a cosine schedule over the epochs, at two learning rates.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

from torch import nn

from benchmarks.shared.machine import machine_facts, print_facts
from benchmarks.shared.printing import print_table
from depthsearch import Cut, Point, Recipe, Task, choose_device, list_cuts, load_backbone, load_data
from depthsearch.data import Division
from depthsearch.features import Boundaries, Budget, Spent
from depthsearch.models.split import suffix_of
from depthsearch.training.costs import suffix_macs
from depthsearch.training.loop import train
from depthsearch.training.objective import model_for, train_point
from depthsearch.training.probe import linear_probe

RATES = (1e-3, 3e-3)


def solved(task: Task, cut: Cut, seed: int) -> float:
    """Score the head as a study makes it."""
    (result,) = train_point(task, Point(cut=cut, learning_rate=1e-3), seed=seed)
    return result.score


def probed(task: Task, cut: Cut) -> float:
    """Score a ridge regression on the same features."""
    (features,), labels = task.features.pooled(
        task.train_views[0], [task.position(cut)], Spent(), n_most=10**6
    )
    train_rows, val_rows = task.train_rows, task.val_rows
    return linear_probe(
        features[train_rows], labels[train_rows], features[val_rows], labels[val_rows], task.num_classes
    )


def trained(
    task: Task, cut: Cut, seed: int, rate: float, *, start: Callable[[nn.Module], None] = lambda model: None
) -> float:
    """Score what is behind a cut after epochs of training; `start` may change the model before them."""
    point, position = Point(cut=cut, learning_rate=rate), task.position(cut)
    model = model_for(task, point, seed)
    start(model)
    suffix = suffix_of(task.graph, model, cut)
    recipe = replace(task.recipe, learning_rate=rate, seed=seed)
    shown = Boundaries(task.features, task.train_views, position, rows=task.train_rows)
    judged = Boundaries(task.features, task.val_views, position, rows=task.val_rows)
    macs = suffix_macs(task, suffix, position)
    return list(train(suffix, shown, judged, recipe, task.device, suffix_macs=macs))[-1].score


def add_arguments(parser: argparse.ArgumentParser, *, splits: int, epochs: int) -> None:
    """Add the options that both benchmarks of heads have."""
    parser.add_argument("--data", required=True)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--splits", type=int, default=splits)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--subset", type=float, default=1.0)


@contextmanager
def loaded(arguments: argparse.Namespace, *, disk_bytes: int) -> Iterator[Task]:
    """Load what the options name, with room to keep features meanwhile."""
    device = choose_device("auto", "float32")
    backbone = load_backbone(
        arguments.backbone,
        arguments.weights,
        image_size=arguments.image_size,
        demo=arguments.data == "digits",
    )
    data = load_data(arguments.data, Division(subset=arguments.subset), image_size=arguments.image_size)
    recipe = Recipe(epochs=arguments.epochs, batch_size=arguments.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        budget = Budget(memory_bytes=2**30, device_bytes=0, disk_bytes=disk_bytes, folder=Path(folder))
        yield Task(backbone=backbone, data=data, recipe=recipe, device=device, budget=budget)


def main() -> None:
    """Print a row for each way."""
    parser = argparse.ArgumentParser(description="The head alone, made in several ways.")
    add_arguments(parser, splits=5, epochs=10)
    arguments = parser.parse_args()
    with loaded(arguments, disk_bytes=0) as task:
        cut = list_cuts(task.backbone.model, image_size=arguments.image_size)[-1]
        scores: dict[str, list[float]] = {}
        for seed in range(1, arguments.splits + 1):
            split = task.resampled(seed)
            scores.setdefault("solved", []).append(solved(split, cut, seed))
            scores.setdefault("ridge probe", []).append(probed(split, cut))
            for rate in RATES:
                name = f"{arguments.epochs} epochs at {rate:g}"
                scores.setdefault(name, []).append(trained(split, cut, seed, rate))
    print_facts(machine_facts(task.device))
    sizes = f"{len(task.data.train)} training, {len(task.data.val)} validation images"
    print(f"{sizes}; n = {arguments.splits} divisions\n")
    lines = [("head", "accuracy, mean ± sd", "solved is ahead by")]
    for name, each in scores.items():
        ahead = [ours - theirs for ours, theirs in zip(scores["solved"], each, strict=True)]
        shown = f"{fmean(each):.3f} ± {stdev(each):.3f}", f"{fmean(ahead):+.3f} ± {stdev(ahead):.3f}"
        lines.append((name, *shown))
    print_table(lines)


if __name__ == "__main__":
    main()
