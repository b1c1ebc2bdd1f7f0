"""Train the suffix on boundary tensors, one result an epoch.

Everything random is seeded by (seed, epoch), so a training that goes on from a checkpoint ends in the same
weights as one that was never stopped.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from depthsearch.devices import Device
from depthsearch.errors import DivergedError
from depthsearch.features.sources import BoundarySource
from depthsearch.features.store import Spent
from depthsearch.files import written_whole
from depthsearch.seeds import seed_from
from depthsearch.text import first_line
from depthsearch.training.gradients import quick_gradients
from depthsearch.training.outcomes import EpochResult
from depthsearch.training.recipe import Recipe

log = logging.getLogger(__name__)


def train(
    suffix: nn.Module,
    train_source: BoundarySource,
    val_source: BoundarySource | None,
    recipe: Recipe,
    device: Device,
    *,
    suffix_macs: int,
    passes: int = 1,
    checkpoint: Path | None = None,
) -> Generator[EpochResult, None, None]:
    """Train a suffix in place and yield a result after each epoch; close the generator to stop.

    Args:
        suffix: Maps boundary tensors of b samples, see `BoundarySource`, to logits ``(b, num_classes)``.
        train_source: Boundaries to learn from.
        val_source: Boundaries to score on; None: there is no validation.
        recipe: How to train.
        device: Where, and in which precision.
        suffix_macs: Forward MACs of the suffix for one sample.
        passes: Over the training images in each epoch.
        checkpoint: File to go on from if it is there, and to write after each epoch; removed by nobody here.
            Results of epochs trained before are yielded again.

    Yields:
        One result for each epoch, the first for epoch 1.

    Raises:
        DivergedError: If the loss is not finite.
    """
    suffix = device.place(suffix)
    optimizer = _optimizer(suffix, recipe, device)
    done = _load_checkpoint(checkpoint, suffix, optimizer)
    yield from done
    if device.compiled:
        # In place: parameters and checkpoints keep their names.
        suffix.compile()
    for epoch in range(len(done) + 1, recipe.epochs + 1):
        started = time.perf_counter()
        sources = [source for source in (train_source, val_source) if source is not None]
        before = [replace(source.spent) for source in sources]
        train_source.prepare(epoch)
        with device.own_randomness():
            train_loss = train_epoch(suffix, train_source, optimizer, recipe, device, epoch, passes)
        trained = time.perf_counter() - started
        val_loss, score = validate(suffix, val_source, recipe, device, epoch)
        result = EpochResult(
            epoch=epoch,
            train_loss=train_loss,
            val_loss=val_loss,
            score=score,
            seconds=time.perf_counter() - started,
            images_per_second=passes * len(train_source.labels) / trained,
            **costs_of(sources, before, suffix_macs, passes),
        )
        done = [*done, result]
        if checkpoint is not None and epoch < recipe.epochs:
            save_checkpoint(checkpoint, suffix, optimizer, done)
        yield result


def costs_of(
    sources: Sequence[BoundarySource], before: Sequence[Spent], suffix_macs: int, passes: int = 1
) -> dict[str, int]:
    """Add up what an epoch cost, and what it would have cost without a feature store.

    Args:
        sources: To learn from, then, if there is one, to score on.
        before: What each had spent before the epoch.
        suffix_macs: Forward MACs of the suffix for one sample.
        passes: Over the images to learn from.
    """
    shown = [passes * len(sources[0].labels), *(len(source.labels) for source in sources[1:])]
    forward = suffix_macs * sum(shown)
    backward = 2 * suffix_macs * shown[0]
    whole_prefix = sum(source.macs_per_sample * n for source, n in zip(sources, shown, strict=True))
    spent = [(source.spent, old) for source, old in zip(sources, before, strict=True)]
    return {
        "prefix_macs": sum(now.macs - old.macs for now, old in spent),
        "forward_macs": forward,
        "backward_macs": backward,
        "plain_macs": whole_prefix + forward + backward,
        "kept_bytes": sum(now.kept_bytes - old.kept_bytes for now, old in spent),
        "read_bytes": sum(now.read_bytes - old.read_bytes for now, old in spent),
    }


def train_epoch(
    suffix: nn.Module,
    source: BoundarySource,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    device: Device,
    epoch: int,
    passes: int = 1,
) -> float:
    """Run one epoch of steps; return the mean loss."""
    suffix.train()
    n = len(source.labels)
    torch.manual_seed(seed_from(recipe.seed, epoch))
    # Batches of almost one size: one of a single image would stop batch normalisation.
    n_batches = max(1, min(math.ceil(n / recipe.batch_size), n // 2))
    batches = [
        batch
        for order in _orders(source.labels, recipe, epoch, passes)
        for batch in order.tensor_split(n_batches)
    ]
    total = torch.zeros((), device=device.torch_device)
    weights = None
    for step, index in enumerate(batches):
        done = (epoch - 1 + step / len(batches)) / recipe.epochs
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(recipe, done)
        labels = device.move(source.labels[index])
        boundary = source.batch(index)
        with device.autocast(), quick_gradients(device):
            logits = suffix(boundary)
        if recipe.balance == "weights" and weights is None:
            weights = class_weights(source.labels, logits.shape[1]).to(logits.device)
        loss = F.cross_entropy(logits.float(), labels, weight=weights, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(index)
    mean = float(total) / (passes * n)
    if not math.isfinite(mean):
        raise DivergedError(f"training loss {mean} in epoch {epoch}")
    return mean


def _orders(labels: torch.Tensor, recipe: Recipe, epoch: int, passes: int) -> Iterator[torch.Tensor]:
    """Draw the images ``(n,)`` of each pass of an epoch in the order that they are shown in."""
    generator = torch.Generator().manual_seed(seed_from(recipe.seed, epoch))
    for _ in range(passes):
        if recipe.balance == "sampling":
            chances = 1 / torch.bincount(labels)[labels].double()
            yield torch.multinomial(chances, len(labels), replacement=True, generator=generator)
        else:
            yield torch.randperm(len(labels), generator=generator)


def class_weights(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Weigh classes ``(num_classes,)`` by the inverse of their share; the mean over the images is 1."""
    counts = torch.bincount(labels, minlength=num_classes)
    n_present = int((counts > 0).sum())
    return (len(labels) / (n_present * counts.clamp(min=1))).float()


def _learning_rate(recipe: Recipe, done: float) -> float:
    """Learning rate after a share of the training, in [0, 1)."""
    if recipe.schedule == "constant":
        return recipe.learning_rate
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def validate(
    suffix: nn.Module, source: BoundarySource | None, recipe: Recipe, device: Device, epoch: int
) -> tuple[float, float]:
    """Compute loss and score on validation, NaN where there is none."""
    if source is None:
        return math.nan, math.nan
    source.prepare(epoch)
    logits = predict_logits(suffix, source, recipe, device)
    loss = F.cross_entropy(logits, source.labels).item()
    if not math.isfinite(loss):
        raise DivergedError(f"validation loss {loss} in epoch {epoch}")
    return loss, _score(recipe.metric, logits, source.labels, loss)


@torch.no_grad()
def predict_logits(suffix: nn.Module, source: BoundarySource, recipe: Recipe, device: Device) -> torch.Tensor:
    """Logits ``(n, num_classes)`` of all images, float32 on the CPU."""
    suffix.eval()
    logits = []
    for index in torch.arange(len(source.labels)).split(2 * recipe.batch_size):
        boundary = source.batch(index)
        with device.autocast():
            logits.append(suffix(boundary).float().cpu())
    return torch.cat(logits)


def _score(metric: str, logits: torch.Tensor, labels: torch.Tensor, loss: float) -> float:
    if metric == "loss":
        return loss
    predicted = logits.argmax(1)
    if metric == "accuracy":
        return (predicted == labels).double().mean().item()
    # Imported here because it takes a second, of each worker too, and most studies do without it.
    from sklearn.metrics import f1_score, recall_score

    score = recall_score if metric == "balanced_accuracy" else f1_score
    return float(score(labels, predicted, average="macro", zero_division=0.0))


def _optimizer(suffix: nn.Module, recipe: Recipe, device: Device) -> torch.optim.Optimizer:
    trainable = [p for p in suffix.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = device.kind in ("cpu", "cuda")
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            groups,
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
            fused=fused,
        )
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=fused)


def save_checkpoint(
    path: Path, suffix: nn.Module, optimizer: torch.optim.Optimizer, done: list[EpochResult]
) -> None:
    """Write a checkpoint; where that fails the earlier one stays."""
    state = {
        "suffix": suffix.state_dict(),
        "optimizer": optimizer.state_dict(),
        "done": [asdict(result) for result in done],
    }
    try:
        # Another process may write the same, if it took this one for dead.
        with written_whole(path, durable=False) as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:
        # A full disk costs the checkpoint and not the training. torch has an error of its own for it, or one
        # of the file that it could not end.
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        if not isinstance(reason, OSError) and "StreamWriter" not in str(error):
            raise
        log.warning("No checkpoint of epoch %d: %s", len(done), first_line(reason))


def _load_checkpoint(
    path: Path | None, suffix: nn.Module, optimizer: torch.optim.Optimizer
) -> list[EpochResult]:
    """Go on from a checkpoint; one that cannot be read, or is another version's, counts as none."""
    if path is None or not path.exists():
        return []
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        done = [EpochResult(**result) for result in state["done"]]
        kept = {name: tensor.shape for name, tensor in state["suffix"].items()}
    except Exception:  # noqa: BLE001 (a torn file fails in many ways; the trial starts over)
        return []
    if kept != {name: tensor.shape for name, tensor in suffix.state_dict().items()}:
        return []
    suffix.load_state_dict(state["suffix"])
    optimizer.load_state_dict(state["optimizer"])
    return done
