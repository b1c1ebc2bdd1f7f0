"""Kept against plain on the grid of Nautilus's CNN workload: 24 trainings of a ResNet50, no pruning.

    python -m benchmarks.speed.grid24 --data photos/ --image-size 224 --json grid24.json

Frozen up to and including conv4_block5, conv4_block6, conv5_block1 and conv5_block2 (Keras's names), batches
of 16 and 32, three learning rates, 5 epochs each. Kept is depthsearch; plain is `plain.train_plain`. Both run
in this process, trial by trial in turn, the side that goes first changing each time, so that what else
happens on the machine meets both. Each side pays for all it needs: plain decodes every file in every epoch,
kept decodes once into an empty cache and fills its store. Not timed on either side: building the backbone, a
warm-up of the device's kernels, and finding out which modules plain has to freeze, which a user would write
down.

The trials are the same to the row, the batch and the initial weight, so their metrics are compared with
``==``.

Source: Nakandala and Kumar, "Nautilus: An Optimized System for Deep Transfer Learning over Evolving Training
Datasets", SIGMOD 2022.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.shared.images import load_images
from benchmarks.shared.machine import machine_facts, print_facts
from benchmarks.speed.plain import (
    Loaders,
    PlainEpoch,
    add_arguments,
    frozen_backbone,
    make_loaders,
    plain_model,
    print_data,
    train_plain,
)
from depthsearch import Cut, Point, Recipe, Task, choose_device, find_cut, list_cuts, load_backbone, split_at
from depthsearch.data import Division, ImageSet
from depthsearch.features import choose_budget
from depthsearch.models.backbones import Backbone
from depthsearch.training.objective import model_for, train_point
from depthsearch.training.outcomes import EpochResult

STEM = ("conv1", "bn1")
BLOCKS = (
    *(f"layer1.{i}" for i in range(3)),
    *(f"layer2.{i}" for i in range(4)),
    *(f"layer3.{i}" for i in range(6)),
    *(f"layer4.{i}" for i in range(3)),
)
LAST_FROZEN = ("layer3.4", "layer3.5", "layer4.0", "layer4.1")
BATCH_SIZES = (16, 32)
LEARNING_RATES = (1e-4, 3e-4, 1e-3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One training of the grid.

    Attributes:
        task: Backbone, images, recipe (with the batch size) and device.
        point: Cut and learning rate.
        seed: Of the head's weights and batch order.
    """

    task: Task
    point: Point
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """MACs of one cut for one image, forward.

    Attributes:
        prefix: Of the frozen part.
        suffix: Of the trainable part.
    """

    prefix: int
    suffix: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One trial on both sides.

    Attributes:
        trial: What was trained.
        plain: Its epochs.
        plain_seconds: From the copy of the model to the last validation.
        kept: Its epochs.
        kept_seconds: The same span.
    """

    trial: Trial
    plain: list[PlainEpoch]
    plain_seconds: float
    kept: list[EpochResult]
    kept_seconds: float

    @property
    def difference(self) -> float:
        """Largest absolute difference of a score or validation loss; 0 where all are equal."""
        pairs = zip(self.plain, self.kept, strict=True)
        return max(max(abs(p.score - k.score), abs(p.val_loss - k.val_loss)) for p, k in pairs)


def kept_trials(trials: Sequence[Trial]) -> Iterator[list[EpochResult]]:
    """Train the trials with depthsearch, each when it is asked for; what is kept is shared by all of them."""
    first = trials[0].task
    for number, trial in enumerate(trials):
        upcoming = Counter(later.point.cut for later in trials[number + 1 :])
        task = first.with_recipe(trial.task.recipe)
        yield list(train_point(task, trial.point, seed=trial.seed, upcoming=upcoming))


def grid_cuts(backbone: Backbone) -> list[Cut]:
    """Find the four cuts, and check that each freezes the blocks that it should."""
    cuts = list_cuts(backbone.model, image_size=backbone.preprocessing.image_size)
    found = []
    for last in LAST_FROZEN:
        first_trainable = BLOCKS[BLOCKS.index(last) + 1]
        cut = find_cut(cuts, f"{first_trainable}.conv1")
        check_frozen(backbone, cut, last)
        found.append(cut)
    return found


def check_frozen(backbone: Backbone, cut: Cut, last_frozen: str) -> None:
    """Hold the frozen parameters against the blocks that should be frozen.

    Raises:
        ValueError: If they differ.
    """
    blocks = (*STEM, *BLOCKS[: BLOCKS.index(last_frozen) + 1])
    parameters = dict(frozen_backbone(backbone, cut).named_parameters())
    frozen = {name for name, parameter in parameters.items() if not parameter.requires_grad}
    wanted = {name for name in parameters if name.startswith(tuple(f"{block}." for block in blocks))}
    if frozen != wanted:
        raise ValueError(f"{cut} does not freeze up to {last_frozen}: {sorted(frozen ^ wanted)[:4]} differ.")


def grid(task: Task, cuts: Sequence[Cut]) -> list[Trial]:
    """List the 24 trials, those of one cut together."""
    return [
        Trial(
            task=replace(task, recipe=replace(task.recipe, batch_size=batch_size)),
            point=Point(cut=cut, learning_rate=learning_rate),
            seed=task.recipe.seed,
        )
        for cut, batch_size, learning_rate in itertools.product(cuts, BATCH_SIZES, LEARNING_RATES)
    ]


def run_in_turn(trials: Sequence[Trial], loaders: Loaders) -> Iterator[Run]:
    """Train each trial on both sides, one side after the other."""
    kept_side = kept_trials(trials)
    for number, trial in enumerate(trials):
        if number % 2:
            kept, kept_seconds = _timed_kept(kept_side)
            plain, plain_seconds = _timed_plain(trial, loaders)
        else:
            plain, plain_seconds = _timed_plain(trial, loaders)
            kept, kept_seconds = _timed_kept(kept_side)
        yield Run(trial=trial, plain=plain, plain_seconds=plain_seconds, kept=kept, kept_seconds=kept_seconds)


def _timed_plain(trial: Trial, loaders: Loaders) -> tuple[list[PlainEpoch], float]:
    started = time.perf_counter()
    epochs = train_plain(trial.task, trial.point, seed=trial.seed, loaders=loaders)
    return epochs, time.perf_counter() - started


def _timed_kept(trials: Iterator[list[EpochResult]]) -> tuple[list[EpochResult], float]:
    started = time.perf_counter()
    epochs = next(trials)
    return epochs, time.perf_counter() - started


def warm_up(trials: Sequence[Trial]) -> None:
    """Run a step of each batch size, so that neither side pays for loading the device's kernels."""
    for trial in {trial.task.recipe.batch_size: trial for trial in trials}.values():
        device, side = trial.task.device, trial.task.backbone.preprocessing.image_size
        model = device.place(plain_model(trial.task, trial.point, trial.seed)).train()
        shape = (trial.task.recipe.batch_size, 3, side, side)
        images = device.layout(torch.zeros(shape, device=device.torch_device))
        with device.autocast():
            logits = model(images)
        F.cross_entropy(
            logits.float(), torch.zeros(shape[0], dtype=torch.int64, device=logits.device)
        ).backward()


def costs(task: Task, cuts: Sequence[Cut]) -> list[Cost]:
    """Count the MACs before and behind each cut."""
    image_size = task.backbone.preprocessing.image_size
    model = model_for(task, Point(cut=cuts[0], learning_rate=LEARNING_RATES[0]), task.recipe.seed)
    splits = (split_at(model, cut, image_size=image_size) for cut in cuts)
    return [Cost(prefix=split.prefix_macs, suffix=split.suffix_macs) for split in splits]


def macs(task: Task, cost: Cost, *, n_trials: int, filled_from: int) -> tuple[int, int]:
    """Count the MACs of one cut's trials, plain and kept.

    A training step costs p + 3 (1 - p) of a forward pass, p being the prefix's share: a forward pass of the
    prefix and of the suffix, and a backward pass of the suffix that costs two. Kept, it costs 3 (1 - p), and
    the prefix runs once over all images, from the boundary of the cut before (``filled_from`` MACs deep).
    """
    n_train, n_val = len(task.data.train), len(task.data.val)
    suffix = n_trials * task.recipe.epochs * cost.suffix * (3 * n_train + n_val)
    prefix = n_trials * task.recipe.epochs * cost.prefix * (n_train + n_val)
    return prefix + suffix, (cost.prefix - filled_from) * (n_train + n_val) + suffix


def limited(images: ImageSet, n_images: int | None) -> ImageSet:
    """Take some images of a split, of all classes."""
    if n_images is None or n_images >= len(images):
        return images
    shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    chosen = shuffled[:n_images].sort().values
    return replace(images, rows=images.rows[chosen], labels=images.labels[chosen])


def summary(task: Task, cuts: Sequence[Cut], runs: Sequence[Run], decode_seconds: float) -> dict[str, Any]:
    """Add the seconds and MACs up, by cut and in total."""
    by_cut = []
    plain_macs = kept_macs = filled = 0
    for cut, cost in zip(cuts, costs(task, cuts), strict=True):
        own = [run for run in runs if run.trial.point.cut == cut]
        plain_of_cut, kept_of_cut = macs(task, cost, n_trials=len(own), filled_from=filled)
        plain_macs, kept_macs, filled = plain_macs + plain_of_cut, kept_macs + kept_of_cut, cost.prefix
        by_cut.append(
            {
                "cut": str(cut),
                "prefix_share": cost.prefix / (cost.prefix + cost.suffix),
                "n_trials": len(own),
                "plain_seconds": sum(run.plain_seconds for run in own),
                "kept_seconds": sum(run.kept_seconds for run in own),
                "mac_ratio": plain_of_cut / kept_of_cut,
            }
        )
    plain_seconds = sum(run.plain_seconds for run in runs)
    kept_seconds = sum(run.kept_seconds for run in runs) + decode_seconds
    return {
        "by_cut": by_cut,
        "decode_seconds": decode_seconds,
        "plain_seconds": plain_seconds,
        "kept_seconds": kept_seconds,
        "ratio": plain_seconds / kept_seconds,
        "mac_ratio": plain_macs / kept_macs,
        "n_trials": len(runs),
        "n_equal": sum(run.difference == 0 for run in runs),
        "largest_difference": max(run.difference for run in runs),
    }


def print_summary(found: dict[str, Any]) -> None:
    """Print the table and the two last lines."""
    heading = f"{'first trainable':<48} {'p':>6} {'plain s':>9} {'kept s':>9} {'ratio':>6} {'by MACs':>8}"
    print(heading)
    for row in found["by_cut"]:
        ratio = row["plain_seconds"] / row["kept_seconds"]
        print(
            f"{row['cut']:<48} {row['prefix_share']:>6.3f} {row['plain_seconds']:>9.1f} "
            f"{row['kept_seconds']:>9.1f} {ratio:>6.2f} {row['mac_ratio']:>8.2f}"
        )
    print(f"{'decoding once':<48} {'':>6} {'':>9} {found['decode_seconds']:>9.1f}")
    print(
        f"{'total':<48} {'':>6} {found['plain_seconds']:>9.1f} {found['kept_seconds']:>9.1f} "
        f"{found['ratio']:>6.2f} {found['mac_ratio']:>8.2f}"
    )
    print(
        f"Equal     {found['n_equal']} of {found['n_trials']} trials in every score and validation loss; "
        f"largest difference {found['largest_difference']:.2g}"
    )
    print(
        f"Seconds   one run of each trial (n = 1). The ratio by MACs, {found['mac_ratio']:.2f}, is what\n"
        "          keeping the prefix's output gives if arithmetic is all; not decoding again adds to it."
    )


def line(run: Run) -> str:
    """Say in a line what was trained and what it took."""
    point, recipe = run.trial.point, run.trial.task.recipe
    equal = "equal" if run.difference == 0 else f"apart by {run.difference:.2g}"
    return (
        f"{point.cut}, batch {recipe.batch_size}, lr {point.learning_rate:g}: "
        f"plain {run.plain_seconds:.2f} s, kept {run.kept_seconds:.2f} s; "
        f"score {run.kept[-1].score:.4f}, {equal}"
    )


def as_json(run: Run) -> dict[str, Any]:
    """Give one trial as plain values."""
    return {
        "cut": str(run.trial.point.cut),
        "batch_size": run.trial.task.recipe.batch_size,
        "learning_rate": run.trial.point.learning_rate,
        "plain_seconds": run.plain_seconds,
        "kept_seconds": run.kept_seconds,
        "plain": [asdict(epoch) for epoch in run.plain],
        "kept": [asdict(epoch) for epoch in run.kept],
        "difference": run.difference,
    }


def measure(task: Task, loaders: Loaders, decode_seconds: float) -> tuple[dict[str, Any], list[Run]]:
    """Run the grid and print each trial as it ends."""
    cuts = grid_cuts(task.backbone)
    trials = grid(task, cuts)
    warm_up(trials)
    runs = []
    for run in run_in_turn(trials, loaders):
        runs.append(run)
        print(f"trial {len(runs):>2}/{len(trials)}  {line(run)}", flush=True)
    return summary(task, cuts, runs, decode_seconds), runs


def main() -> None:
    """Run the grid on both sides."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, image_size=224, epochs=5)
    parser.add_argument(
        "--limit-images", type=int, help="images a split, to try the script out (default: all)"
    )
    parser.add_argument("--json", type=Path, help="file to write every trial to")
    arguments = parser.parse_args()
    device = choose_device(arguments.device, arguments.precision)
    backbone = load_backbone(
        "resnet50", arguments.weights, image_size=arguments.image_size, seed=arguments.seed
    )
    facts = machine_facts(device)
    print_facts(facts)
    print(f"Backbone  {backbone.name}, weights: {backbone.weights}; {arguments.epochs} epochs a trial")
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        data = load_images(arguments.data, backbone, Division(seed=arguments.seed), cache=Path(cache))
        decode_seconds = time.perf_counter() - started
        n = arguments.limit_images
        data = replace(data, train=limited(data.train, n), val=limited(data.val, n))
        print_data(data)
        recipe = Recipe(epochs=arguments.epochs, seed=arguments.seed)
        budget = choose_budget(device, Path(cache) / "features")
        task = Task(backbone=backbone, data=data, recipe=recipe, device=device, budget=budget)
        loaders = make_loaders(task, num_workers=arguments.workers)
        found, runs = measure(task, loaders, decode_seconds)
    print_summary(found)
    if arguments.json is not None:
        images = {"train": len(data.train), "val": len(data.val), "image_size": data.image_size}
        content = {
            "machine": facts,
            "weights": str(backbone.weights),
            "epochs": arguments.epochs,
            "workers": arguments.workers,
            "images": images,
            **found,
            "trials": [as_json(run) for run in runs],
        }
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
