"""The baseline: a freeze-depth study as one writes it by hand with Optuna, timm and a DataLoader.

    python -m benchmarks.speed.plain --data photos/ --backbone resnet50 --image-size 224 --trials 8 --epochs 5

No corner is cut at its expense: persistent workers that live as long as the study, pinned memory, images
moved as bytes and normalised on the device, channels_last, bfloat16 where the hardware has it, a fused
optimizer, no gradients in the frozen part. What it does not do is keep anything: each epoch decodes and
resizes every file again and runs the whole network.

Rows, pixels, batches, initial weights and arithmetic are those of
``depthsearch.training.objective.train_point``, so that the metrics of a trial can be
compared with ``==``. On the CPU in float32 the weights agree to the bit.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import optuna
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import transforms

from benchmarks.shared.images import load_images
from benchmarks.shared.machine import machine_facts, print_facts
from depthsearch import (
    Cut,
    DataSet,
    Point,
    Recipe,
    Task,
    choose_device,
    freeze_before,
    list_cuts,
    load_backbone,
)
from depthsearch.data import Division, ImageSet
from depthsearch.devices import Device
from depthsearch.models.backbones import Backbone, Preprocessing
from depthsearch.models.heads import with_head
from depthsearch.options.words import LEARNING_RATES
from depthsearch.seeds import seed_from


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainEpoch:
    """What one epoch gave.

    Attributes:
        epoch: Counted from 1.
        train_loss: Mean over the epoch's steps.
        val_loss: Cross entropy on validation.
        score: Validation accuracy, in [0, 1].
        seconds: Training and validation together.
    """

    epoch: int
    train_loss: float
    val_loss: float
    score: float
    seconds: float


class Photos(Dataset[tuple[Tensor, int]]):
    """Image files with labels, as torchvision's ``ImageFolder``: decoded each time they are asked for."""

    def __init__(self, data: DataSet, images: ImageSet, preprocessing: Preprocessing) -> None:
        """Find the files of one split.

        Args:
            data: A data set read from a folder.
            images: One of its splits.
            preprocessing: How the backbone wants its images.
        """
        root = Path(data.source)
        self.paths = [str(root / data.paths[row]) for row in images.rows.tolist()]
        self.labels = images.labels.tolist()
        # timm's evaluation transform, but for the normalisation: bytes are cheaper to move.
        self.transform = transforms.Compose(
            [
                transforms.Resize(
                    math.floor(preprocessing.image_size / preprocessing.crop_share),
                    transforms.InterpolationMode(preprocessing.interpolation),
                ),
                transforms.CenterCrop(preprocessing.image_size),
                transforms.PILToTensor(),
            ]
        )

    def __len__(self) -> int:
        """Count the images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Decode one image: ``(3, s, s)``, uint8, and its label."""
        with Image.open(self.paths[index]) as image:
            rgb = ImageOps.exif_transpose(image).convert("RGB")
        return self.transform(rgb), self.labels[index]


class EpochBatches(Sampler[list[int]]):
    """Yields the batches that it was given for the coming epoch.

    A loader that keeps its sampler keeps its workers: they are started once a study, not once an epoch.
    """

    def __init__(self) -> None:
        self.batches: Sequence[Tensor] = ()

    def __iter__(self) -> Iterator[list[int]]:
        """Give the places of one batch after the other."""
        return (index.tolist() for index in self.batches)

    def __len__(self) -> int:
        """Count the batches."""
        return len(self.batches)


class Loader:
    """A DataLoader over one split, its workers alive until the end of the process."""

    def __init__(self, photos: Photos, device: Device, *, num_workers: int) -> None:
        """Start no worker yet: the first epoch does.

        Args:
            photos: The files.
            device: Where the batches go.
            num_workers: Processes that decode; 0: this one.
        """
        self.n_images = len(photos)
        self.sampler = EpochBatches()
        self.loader = DataLoader(
            photos,
            batch_sampler=self.sampler,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=device.kind == "cuda",
            # Without its own, each epoch would draw from the generator that dropout draws from.
            generator=torch.Generator(),
        )

    def epoch(self, batches: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Decode the batches of one epoch: images ``(b, 3, s, s)``, uint8, and labels ``(b,)``."""
        self.sampler.batches = batches
        return iter(self.loader)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaders:
    """What all trials of a study read from.

    Attributes:
        train: What is learned from.
        val: What is scored on.
    """

    train: Loader
    val: Loader


def make_loaders(task: Task, *, num_workers: int) -> Loaders:
    """Make the loaders of a study, after a look whether they give the pixels that depthsearch trains on."""

    def loader(images: ImageSet) -> Loader:
        photos = Photos(task.data, images, task.backbone.preprocessing)
        check_pixels(photos, images)
        return Loader(photos, task.device, num_workers=num_workers)

    return Loaders(train=loader(task.data.train), val=loader(task.data.val))


def check_pixels(photos: Photos, images: ImageSet, n_images: int = 12) -> None:
    """Hold some decoded files against the stored pixels.

    Raises:
        ValueError: If one differs.
    """
    for index in torch.linspace(0, len(photos) - 1, min(n_images, len(photos))).long().tolist():
        pixels, label = photos[index]
        stored = images.gather(torch.tensor([index]))[0]
        if not torch.equal(pixels, stored) or label != int(images.labels[index]):
            raise ValueError(f"{photos.paths[index]} is decoded to other pixels than depthsearch's.")


@lru_cache(maxsize=4)
def frozen_backbone(backbone: Backbone, cut: Cut) -> nn.Module:
    """Copy the backbone, frozen before the cut; once for all trials that share it."""
    model = with_head(backbone.model, backbone.classifier, 2)
    freeze_before(model, cut)
    return model


def plain_model(task: Task, point: Point, seed: int) -> nn.Module:
    """Copy the pretrained backbone with a new head, frozen before the point's cut."""
    return with_head(
        frozen_backbone(task.backbone, point.cut),
        task.backbone.classifier,
        task.num_classes,
        width=point.head_width,
        depth=point.head_depth,
        dropout=point.dropout,
        seed=seed,
    )


def train_plain(task: Task, point: Point, *, seed: int, loaders: Loaders) -> list[PlainEpoch]:
    """Train one point the plain way.

    Args:
        task: Backbone, images, recipe and device.
        point: Cut, learning rate, head.
        seed: Of the head's weights, batch order and dropout.
        loaders: Those of the task's images; used trial after trial.

    Returns:
        A result for each epoch.

    Raises:
        ValueError: If the recipe asks for what this loop does not do.
    """
    return list(train_model(plain_model(task, point, seed), task, point, seed=seed, loaders=loaders))


def train_model(
    model: nn.Module, task: Task, point: Point, *, seed: int, loaders: Loaders
) -> Iterator[PlainEpoch]:
    """Train a model in place; see `train_plain`.

    Yields:
        One result for each epoch.
    """
    recipe, device = task.recipe, task.device
    asked = (recipe.metric, recipe.schedule, recipe.label_smoothing, point.optimizer)
    if asked != ("accuracy", "cosine", 0.0, "adamw"):
        raise ValueError(f"The plain loop knows accuracy, cosine, no smoothing and adamw, not {asked}.")
    model = device.place(model)
    learned = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learned if p.ndim > 1], "weight_decay": point.weight_decay},
        {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = device.kind in ("cpu", "cuda")
    optimizer = torch.optim.AdamW(groups, lr=point.learning_rate, fused=fused)
    normalise = Normalisation(task.backbone.preprocessing, device)
    for epoch in range(1, recipe.epochs + 1):
        started = time.perf_counter()
        with device.own_randomness():
            train_loss = _train_epoch(model, loaders.train, optimizer, normalise, task, point, seed, epoch)
        val_loss, score = _validate(model, loaders.val, normalise, task)
        yield PlainEpoch(
            epoch=epoch,
            train_loss=train_loss,
            val_loss=val_loss,
            score=score,
            seconds=time.perf_counter() - started,
        )


class Normalisation:
    """Turns bytes into the backbone's input, on the device."""

    def __init__(self, preprocessing: Preprocessing, device: Device) -> None:
        """Prepare one multiplication and one subtraction, as depthsearch does, so that the bits agree."""
        mean = torch.tensor(preprocessing.mean, device=device.torch_device).view(-1, 1, 1)
        std = torch.tensor(preprocessing.std, device=device.torch_device).view(-1, 1, 1)
        self.device = device
        self.scale = 1 / (255 * std)
        self.shift = mean / std

    def __call__(self, images: Tensor) -> Tensor:
        """Map uint8 ``(b, c, h, w)`` to float32 ``(b, c, h, w)``."""
        images = images.to(self.device.torch_device, non_blocking=True)
        return self.device.layout(images.float().mul_(self.scale).sub_(self.shift))


def _train_epoch(
    model: nn.Module,
    loader: Loader,
    optimizer: torch.optim.Optimizer,
    normalise: Normalisation,
    task: Task,
    point: Point,
    seed: int,
    epoch: int,
) -> float:
    """Run one epoch of steps; return the mean loss."""
    recipe, device = task.recipe, task.device
    n = loader.n_images
    model.train()  # but for the frozen modules, which stay in eval mode
    torch.manual_seed(seed_from(seed, epoch))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed_from(seed, epoch)))
    batches = order.tensor_split(max(1, min(math.ceil(n / recipe.batch_size), n // 2)))
    total = torch.zeros((), device=device.torch_device)
    for step, (images, labels) in enumerate(loader.epoch(batches)):
        done = (epoch - 1 + step / len(batches)) / recipe.epochs
        for group in optimizer.param_groups:
            group["lr"] = point.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
        labels = labels.to(device.torch_device, non_blocking=True)
        with device.autocast():
            logits = model(normalise(images))
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(labels)
    return float(total) / n


@torch.no_grad()
def _validate(model: nn.Module, loader: Loader, normalise: Normalisation, task: Task) -> tuple[float, float]:
    """Cross entropy and accuracy on all images."""
    model.eval()
    logits, labels = [], []
    for images, answers in loader.epoch(torch.arange(loader.n_images).split(2 * task.recipe.batch_size)):
        with task.device.autocast():
            logits.append(model(normalise(images)).float().cpu())
        labels.append(answers)
    predicted, right = torch.cat(logits), torch.cat(labels)
    score = (predicted.argmax(1) == right).double().mean().item()
    return F.cross_entropy(predicted, right).item(), score


def print_data(data: DataSet) -> None:
    """Print what is trained on, in a line."""
    print(
        f"Data      {data.name}: {data.num_classes} classes, {len(data.train)} train and {len(data.val)} "
        f"validation images of {data.image_size} px",
        flush=True,
    )


def add_arguments(parser: argparse.ArgumentParser, *, image_size: int, epochs: int) -> None:
    """Add the options that both benchmarks have."""
    parser.add_argument("--data", required=True, help="folder with train/<class>/ and test/<class>/")
    parser.add_argument("--weights", default="random", help="auto, random or a file (default: %(default)s)")
    parser.add_argument("--image-size", type=int, default=image_size, help="pixels (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=epochs, help="a trial (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: %(default)s)")
    parser.add_argument("--precision", default="auto", help="auto, bf16 or float32 (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="decoding processes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of split, heads and batches (default: 0)")


def search(task: Task, *, n_trials: int, num_workers: int) -> None:
    """Run a study over the cut and the learning rate and print what each trial took."""
    cuts = list_cuts(task.backbone.model, image_size=task.backbone.preprocessing.image_size)
    loaders = make_loaders(task, num_workers=num_workers)

    def objective(trial: optuna.Trial) -> float:
        cut = cuts[trial.suggest_int("cut", 0, len(cuts) - 1)]
        point = Point(cut=cut, learning_rate=trial.suggest_float("learning_rate", *LEARNING_RATES, log=True))
        started = time.perf_counter()
        epochs = train_plain(task, point, seed=seed_from(task.recipe.seed, trial.number), loaders=loaders)
        seconds = time.perf_counter() - started
        print(
            f"trial {trial.number}   {cut}, lr {point.learning_rate:.2g}: score {epochs[-1].score:.4f}, "
            f"validation loss {epochs[-1].val_loss:.4f}, {seconds:.2f} s",
            flush=True,
        )
        return epochs[-1].score

    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=task.recipe.seed)
    )
    started = time.perf_counter()
    study.optimize(objective, n_trials=n_trials)
    seconds = time.perf_counter() - started
    print(f"Total     {seconds:.1f} s, {seconds / n_trials:.2f} s a trial (n = {n_trials} trials)")


def main() -> None:
    """Run a plain study."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, image_size=224, epochs=5)
    parser.add_argument("--backbone", default="resnet50", help="timm's name (default: %(default)s)")
    parser.add_argument("--trials", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="images a step (default: %(default)s)")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    device = choose_device(arguments.device, arguments.precision)
    backbone = load_backbone(
        arguments.backbone, arguments.weights, image_size=arguments.image_size, seed=arguments.seed
    )
    data = load_images(arguments.data, backbone, Division(seed=arguments.seed))
    recipe = Recipe(epochs=arguments.epochs, batch_size=arguments.batch_size, seed=arguments.seed)
    print_facts(machine_facts(device))
    print(f"Backbone  {backbone.name}, weights: {backbone.weights}")
    print_data(data)
    task = Task(backbone=backbone, data=data, recipe=recipe, device=device)
    search(task, n_trials=arguments.trials, num_workers=arguments.workers)


if __name__ == "__main__":
    main()
