"""Record a grid of real trainings: every cut with every learning rate and seed, epoch by epoch.

    python -m benchmarks.search.record --data photos/ --backbone tf_efficientnet_lite0 --out photos.npz
    python -m benchmarks.search.record --data photos/ --backbone tf_efficientnet_lite0 --out photos.npz \
        --image-size 96 --epochs 8 --cuts 12 --seeds 3 --max-train 500 --max-val 1000

Trains with a linear head on kept features, as a study does. Seed s has a head of its own and its own split of
training and validation images, as with ``--resample``: which image of the source validates is in the table,
with the log probability of its true class after every epoch, so that settings can be compared image by image.
The test images are not used.

The file is written every half minute and after each seed. An interrupted recording goes on when the same
command is given again, also with more ``--seeds`` or further ``--learning-rates``; seeds are recorded one
after the other, so that a table that is not yet whole is of use.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from benchmarks.search.tables import BY_RATE, About, Table, packed
from benchmarks.shared.images import load_images
from depthsearch import Cut, list_cuts
from depthsearch.data import DataSet, Division, Source
from depthsearch.devices import choose_device, processor_name
from depthsearch.errors import DivergedError, SettingsError
from depthsearch.features import Asks, Boundaries, Spent, ViewedImages, choose_budget
from depthsearch.models.backbones import load_backbone
from depthsearch.models.split import Suffix, suffix_of
from depthsearch.search.space import Point
from depthsearch.seeds import seed_from
from depthsearch.training import EpochResult, Recipe, Task, linear_probe, train
from depthsearch.training.costs import suffix_macs
from depthsearch.training.exact import only_linear_layer, solve
from depthsearch.training.objective import model_for

WRITE_EVERY_SECONDS = 30.0
# From here on cuts lie ever closer, up to this share of the MACs.
EVEN_TO, CLOSE_TO = 0.75, 0.99
ALL_SAMPLES = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One epoch of a training, and what it said of each validation image.

    Attributes:
        result: As a study gets it.
        log_probability: Of the true class ``(v,)``.
        right: Whether it was the likeliest ``(v,)``.
    """

    result: EpochResult
    log_probability: NDArray[np.float32]
    right: NDArray[np.bool_]


def spread_cuts(cuts: Sequence[Cut], n: int) -> list[Cut]:
    """Choose cuts over depth, both ends among them, evenly by MACs at first and ever closer late.

    Half of them freeze up to three quarters of the MACs; of the others each leaves a constant share of what
    the one before it trains: that is where a training costs little and much changes from cut to cut.
    """
    if n >= len(cuts):
        return list(cuts)
    n_early = n // 2
    early = np.linspace(0, EVEN_TO, n_early)
    late = 1 - np.geomspace(1 - EVEN_TO, 1 - CLOSE_TO, n - n_early)[1:]
    chosen = {0, len(cuts) - 1}
    for share in (*early[1:], *late):
        left = [i for i in range(len(cuts)) if i not in chosen]
        chosen.add(min(left, key=lambda i: abs(cuts[i].frozen_mac_share - share)))
    return [cuts[i] for i in sorted(chosen)]


def limited(data: DataSet, max_train: int | None, max_val: int | None) -> DataSet:
    """Leave so many images to train and validate on, of each class its share, and divide them likewise."""
    from sklearn.model_selection import train_test_split

    n_val = max_val or len(data.val)
    n_train = max_train or min(len(data.train), len(data.train) + len(data.val) - n_val)
    pool = data.train.joined(data.val)
    if n_train + n_val > len(pool):
        raise SettingsError(
            f"{n_train} training and {n_val} validation images: {data.name} has {len(pool)} for both. "
            "Give a smaller --max-train or --max-val."
        )
    if (n_train, n_val) == (len(data.train), len(data.val)):
        return data
    labels, places = pool.labels.numpy(), np.arange(len(pool))
    if n_train + n_val < len(pool):
        places, _ = train_test_split(places, train_size=n_train + n_val, stratify=labels, random_state=0)
    train_, val = train_test_split(
        np.sort(places), test_size=n_val, stratify=labels[np.sort(places)], random_state=0
    )
    chosen = (torch.from_numpy(np.sort(part)) for part in (train_, val))
    return replace(data, **dict(zip(("train", "val"), (pool.chosen(part) for part in chosen), strict=True)))


def load_task(options: argparse.Namespace) -> Task:
    """Load backbone and images, with a budget that keeps what frozen layers compute in memory."""
    device = choose_device("cpu", options.precision)
    backbone = load_backbone(
        options.backbone, options.weights, image_size=options.image_size, demo=options.data == "digits"
    )
    source = Source(options.data, classes_map=options.classes_map)
    data = load_images(source, backbone, Division(val_share=options.val_share))
    return Task(
        backbone=backbone,
        data=limited(data, options.max_train, options.max_val),
        recipe=Recipe(epochs=options.epochs, batch_size=options.batch_size),
        device=device,
        budget=choose_budget(
            device, options.out.parent, memory_bytes=options.memory_mb * 2**20, disk_bytes=0
        ),
    )


def begin(task: Task, options: argparse.Namespace) -> Table:
    """Make an empty table for a task, or go on with the one in the file.

    Raises:
        SettingsError: If that was recorded with other settings.
    """
    if not options.out.exists():
        return empty_table(task, options, options.learning_rates)
    before = Table.read(options.out)
    table = empty_table(task, options, sorted({*options.learning_rates, *before.about.learning_rates}))
    ours, theirs = (_settings(about) for about in (table.about, before.about))
    other = [name for name in ours if ours[name] != theirs[name]]
    if len(table.cuts) != len(before.cuts):
        other.append("cuts")
    if other:
        raise SettingsError(
            f"{options.out} was recorded with other settings ({', '.join(other)}). Give another --out."
        )
    n = min(table.about.seeds, before.about.seeds)
    rates = [table.about.learning_rates.index(rate) for rate in before.about.learning_rates]
    table.probe[:n] = before.probe[:n]
    for name in BY_RATE:
        getattr(table, name)[:n, :, rates] = getattr(before, name)[:n]
    return table


def _settings(about: About) -> dict[str, object]:
    """Return what must be the same for one table to hold both."""
    may_differ = ("seeds", "learning_rates", "machine", "versions")
    return {name: value for name, value in asdict(about).items() if name not in may_differ}


def empty_table(task: Task, options: argparse.Namespace, learning_rates: Sequence[float]) -> Table:
    """Make a table without trainings."""
    backbone, data = task.backbone, task.data
    candidates = list_cuts(backbone.model, image_size=backbone.preprocessing.image_size)
    cuts = [replace(cut, index=i) for i, cut in enumerate(spread_cuts(candidates, options.cuts))]
    pool = data.train.joined(data.val)
    splits = [task.resampled(seed_of(seed)).val_rows for seed in range(options.seeds)]
    about = About(
        name=f"{options.name or data.name}, {backbone.name}",
        backbone=backbone.name,
        weights=f"{backbone.weights} [{backbone.digest}]",
        data=data.name,
        fingerprint=data.fingerprint,
        classes=data.classes,
        n_train=len(data.train),
        n_val=len(data.val),
        image_size=backbone.preprocessing.image_size,
        batch_size=task.recipe.batch_size,
        epochs=task.recipe.epochs,
        precision=task.device.precision,
        learning_rates=tuple(learning_rates),
        seeds=options.seeds,
        n_candidates=len(candidates),
        prefix_macs=tuple(task.features.frozen.macs_before(task.position(cut)) for cut in cuts),
        suffix_macs=tuple(_suffix_macs(task, cut) for cut in cuts),
        n_features=tuple(_n_features(task, cut) for cut in cuts),
        machine=f"{processor_name(task.device)}, {torch.get_num_threads()} torch threads",
        versions={"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__},
    )
    return Table.empty(
        about,
        tuple(cuts),
        images=np.array([data.paths[row] for row in pool.rows.tolist()]),
        labels=pool.labels.numpy(),
        validation=np.array([rows.numpy() for rows in splits if rows is not None]),
    )


def seed_of(seed: int) -> int:
    """Return the seed of a training, and of its split, from its place in the table."""
    return seed_from(seed)


def _suffix_macs(task: Task, cut: Cut) -> int:
    suffix = suffix_of(task.graph, model_for(task, Point(cut=cut, learning_rate=1.0), 0), cut)
    return suffix_macs(task, suffix, task.position(cut))


def _n_features(task: Task, cut: Cut) -> int:
    """Count the channels in front of a cut."""
    few = ViewedImages(task.data.train.chosen(torch.arange(2)))
    pooled, _ = task.features.pooled(few, [task.position(cut)], Spent(), n_most=2)
    return pooled[0].shape[1]


def record_training(task: Task, point: Point, seed: int, n_to_come: int) -> Iterator[Epoch]:
    """Train one setting as `training.train_point` does, and keep what each epoch says of each image.

    A head that is solved has one result, that of the last epoch.

    Args:
        task: With the split to train on.
        point: Cut and learning rate.
        seed: Of the head and of the order of images.
        n_to_come: Trainings at this cut: what the frozen layers compute is worth keeping for them.
    """
    suffix = suffix_of(task.graph, model_for(task, point, seed), point.cut)
    position = task.position(point.cut)
    passes = {position: float(n_to_come * 2 * task.recipe.epochs)}
    viewed = task.train_views[0]
    task.features.expect([Asks(group=viewed, n_images=len(viewed), passes=passes)])
    train_source, val_source = (
        Boundaries(task.features, views, position, rows=rows)
        for views, rows in ((task.train_views, task.train_rows), (task.val_views, task.val_rows))
    )
    seen: list[torch.Tensor] = []

    def keep(module: Suffix, _: object, logits: torch.Tensor) -> None:
        if not module.training:
            seen.append(logits.detach().float())

    suffix.register_forward_hook(keep)
    recipe = replace(task.recipe, learning_rate=point.learning_rate, seed=seed)
    linear = only_linear_layer(suffix, task.backbone.classifier)
    macs = suffix_macs(task, suffix, position)
    if linear is not None:
        results = solve(suffix, linear, train_source, val_source, recipe, task.device, suffix_macs=macs)
    else:
        results = train(suffix, train_source, val_source, recipe, task.device, suffix_macs=macs)
    for result in results:
        labels = val_source.labels
        # What is solved looks at the training images in evaluation too, before.
        logits = torch.cat(seen)[-len(labels) :]
        seen.clear()
        own = F.log_softmax(logits, 1).gather(1, labels[:, None])[:, 0]
        yield Epoch(result=result, log_probability=own.numpy(), right=(logits.argmax(1) == labels).numpy())


def probe(task: Task, cuts: Sequence[Cut]) -> list[float]:
    """Score linear probes on the features in front of the cuts; NaN where nothing is frozen."""
    assert task.train_rows is not None
    assert task.val_rows is not None
    positions = [task.position(cut) for cut in cuts[1:]]
    pooled, labels = task.features.pooled(task.train_views[0], positions, Spent(), n_most=ALL_SAMPLES)
    train_, val = task.train_rows, task.val_rows
    return [
        float("nan"),
        *(
            linear_probe(each[train_], labels[train_], each[val], labels[val], task.num_classes)
            for each in pooled
        ),
    ]


def fill(table: Table, seed: int, cut: int, rate: int, epochs: Iterator[Epoch]) -> None:
    """Put a training into its place in a table; one that diverges is there as far as it went."""
    at = seed, cut, rate
    try:
        for epoch in epochs:
            result = epoch.result
            here = *at, result.epoch - 1
            table.score[here], table.seconds[here] = result.score, result.seconds
            table.train_loss[here], table.val_loss[here] = result.train_loss, result.val_loss
            table.log_probability[here] = packed(epoch.log_probability)
            table.right[here] = np.packbits(epoch.right)
    except DivergedError:
        pass
    table.done[at] = True


def record(task: Task, table: Table, path: Path, learning_rates: Sequence[float]) -> None:
    """Train what a table lacks, seed by seed and cut by cut from the last, and write it now and then.

    Args:
        task: Backbone, images and recipe.
        table: What is there.
        path: Where it is written.
        learning_rates: Those to train with; the table may have others.
    """
    rates, written = table.about.learning_rates, time.monotonic()
    for seed in range(table.about.seeds):
        of_seed = task.resampled(seed_of(seed))
        if np.isnan(table.probe[seed, 1:]).any():
            table.probe[seed] = probe(of_seed, table.cuts)
        for cut, rate in product(reversed(range(len(table.cuts))), range(len(rates))):
            if rates[rate] not in learning_rates or table.done[seed, cut, rate]:
                continue
            point = Point(cut=table.cuts[cut], learning_rate=rates[rate])
            to_come = int((~table.done[:, cut]).sum())
            fill(table, seed, cut, rate, record_training(of_seed, point, seed_of(seed), to_come))
            print(_line(table, seed, cut, rate), flush=True)
            if time.monotonic() - written > WRITE_EVERY_SECONDS:
                table.write(path)
                written = time.monotonic()
        table.write(path)


def _line(table: Table, seed: int, cut: int, rate: int) -> str:
    scores = " ".join(f"{score:.4f}" for score in table.score[seed, cut, rate])
    seconds = np.nansum(table.seconds[seed, cut, rate])
    share = table.cuts[cut].frozen_mac_share
    return (
        f"{time.strftime('%H:%M:%S')} {int(table.done.sum())}/{table.done.size} seed {seed}, "
        f"{table.cuts[cut]}, frozen {share:.3f}, lr {table.about.learning_rates[rate]:g}: {scores} "
        f"({seconds:.1f} s)"
    )


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of images, or digits")
    parser.add_argument("--name", help="of the table; default: the data set's")
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--out", type=Path, required=True, help=".npz file, gone on with if it is there")
    parser.add_argument("--image-size", type=int, help="default: what the weights were trained with")
    parser.add_argument("--classes-map", type=Path, help="JSON file, from class to superclass")
    parser.add_argument("--val-share", type=float, default=0.2, help="of train, if there is no val")
    parser.add_argument("--max-train", type=int, help="training images; default: all")
    parser.add_argument("--max-val", type=int, help="validation images; default: all")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--cuts", type=int, default=12)
    parser.add_argument(
        "--learning-rates", type=float, nargs="+", default=[1e-4, 3.16e-4, 1e-3, 3.16e-3, 1e-2]
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--memory-mb", type=int, default=2048, help="for kept features")
    options = parser.parse_args(arguments)
    options.learning_rates = sorted(options.learning_rates)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Record a table."""
    options = read_options(arguments)
    task = load_task(options)
    table = begin(task, options)
    record(task, table, options.out, options.learning_rates)


if __name__ == "__main__":
    main()
