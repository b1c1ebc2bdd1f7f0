"""Tables of recorded trainings: every cut with every learning rate and seed, epoch by epoch, image by image.

`record.py` writes them, `replay.py` runs studies on them. A table is one ``.npz`` file: arrays, and all else
as JSON in the entry ``about``. In shapes: s seeds, c cuts by depth, r learning rates by size, e epochs,
v validation images of a seed's split, n images of training and validation together.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from depthsearch import Cut
from depthsearch.files import written_whole

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]

# What a table has of each learning rate, behind seeds and cuts.
BY_RATE = ("done", "score", "train_loss", "val_loss", "seconds", "log_probability", "right")
# A log probability is kept as one byte, at even steps of its root: they are finest where it is near zero.
LOWEST_LOG_PROBABILITY = -16.0


def packed(log_probability: NDArray[np.floating[Any]]) -> Bytes:
    """Round log probabilities to bytes; the error is at most 0.032 at -1, and 0.0002 at 0."""
    share = np.clip(log_probability, LOWEST_LOG_PROBABILITY, 0) / LOWEST_LOG_PROBABILITY
    return np.round(255 * np.sqrt(share)).astype(np.uint8)


def unpacked(log_probability: Bytes) -> NDArray[np.float32]:
    """Return the log probabilities that bytes stand for."""
    return np.float32(LOWEST_LOG_PROBABILITY) * (log_probability.astype(np.float32) / 255) ** 2


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What the trainings of a table have in common.

    Attributes:
        name: Of the table.
        backbone: Its name.
        weights: Where they come from, and their digest.
        data: Name of the set.
        fingerprint: Of its files.
        classes: Names.
        n_train: Training images of each split.
        n_val: Validation images of each split.
        image_size: In pixels.
        batch_size: Images a step.
        epochs: Passes over the training images.
        precision: ``float32`` or ``bf16``.
        learning_rates: By size.
        seeds: How many.
        n_candidates: Cuts that the backbone has; the table holds some of them.
        prefix_macs: Forward MACs of the frozen layers for one image, by cut.
        suffix_macs: Forward MACs of the others and the head, by cut.
        n_features: Pooled features that a probe sees, by cut.
        machine: Where it was recorded.
        versions: Of Python, torch and timm.
    """

    name: str
    backbone: str
    weights: str
    data: str
    fingerprint: str
    classes: tuple[str, ...]
    n_train: int
    n_val: int
    image_size: int
    batch_size: int
    epochs: int
    precision: str
    learning_rates: tuple[float, ...]
    seeds: int
    n_candidates: int
    prefix_macs: tuple[int, ...]
    suffix_macs: tuple[int, ...]
    n_features: tuple[int, ...]
    machine: str
    versions: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """Recorded trainings. Those that are missing, and epochs after a training diverged, are NaN or 0.

    So are the epochs before the last of a head alone, which is solved.

    Seed s trains on the s-th split of the same images, and starts from the s-th head.

    Attributes:
        about: What they have in common.
        cuts: By depth, counted from 0; the first freezes nothing, the last the whole backbone.
        images: ``(n,)``, where each image stands in the source.
        labels: ``(n,)``, places in the classes.
        validation: ``(s, v)``, which images validate, in the order of what is said of each.
        done: ``(s, c, r)``, whether the training is there.
        score: ``(s, c, r, e)``, validation accuracy.
        train_loss: ``(s, c, r, e)``.
        val_loss: ``(s, c, r, e)``.
        seconds: ``(s, c, r, e)``, with kept features, on one core that others may have used as well.
        log_probability: ``(s, c, r, e, v)``, of the true class, `packed`.
        right: ``(s, c, r, e, ceil(v / 8))``, bits: whether the true class was the likeliest.
        probe: ``(s, c)``, score of a linear probe on the pooled features in front of the cut; NaN at the
            first.
    """

    about: About
    cuts: tuple[Cut, ...]
    images: NDArray[np.str_]
    labels: NDArray[np.int64]
    validation: NDArray[np.int64]
    done: NDArray[np.bool_]
    score: Floats
    train_loss: Floats
    val_loss: Floats
    seconds: Floats
    log_probability: Bytes
    right: Bytes
    probe: Floats

    @classmethod
    def empty(
        cls,
        about: About,
        cuts: tuple[Cut, ...],
        *,
        images: NDArray[np.str_],
        labels: NDArray[np.int64],
        validation: NDArray[np.int64],
    ) -> Self:
        """Make a table without trainings, to be filled in."""
        trainings = about.seeds, len(cuts), len(about.learning_rates)
        epochs = *trainings, about.epochs
        return cls(
            about=about,
            cuts=cuts,
            images=images,
            labels=labels,
            validation=validation,
            done=np.zeros(trainings, dtype=np.bool_),
            score=np.full(epochs, np.nan),
            train_loss=np.full(epochs, np.nan),
            val_loss=np.full(epochs, np.nan),
            seconds=np.full(epochs, np.nan),
            log_probability=np.zeros((*epochs, about.n_val), dtype=np.uint8),
            right=np.zeros((*epochs, -(-about.n_val // 8)), dtype=np.uint8),
            probe=np.full(trainings[:2], np.nan),
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a table from its file."""
        with np.load(path, allow_pickle=False) as file:
            described = json.loads(bytes(file["about"]))
            arrays = {name: file[name] for name in file.files if name != "about"}
        for name in ("score", "train_loss", "val_loss", "seconds", "probe"):
            arrays[name] = arrays[name].astype(np.float64)
        about = {name: _as_tuple(value) for name, value in described["about"].items()}
        cuts = tuple(
            Cut(**{name: _as_tuple(value) for name, value in cut.items()}) for cut in described["cuts"]
        )
        return cls(about=About(**about), cuts=cuts, **arrays)

    def write(self, path: Path) -> None:
        """Write the table to a file, or leave the file as it was."""
        described = {"about": asdict(self.about), "cuts": [asdict(cut) for cut in self.cuts]}
        arrays = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("about", "cuts")
        }
        # Losses and seconds are not worth more digits; scores are counted in images.
        for name in ("train_loss", "val_loss", "seconds"):
            arrays[name] = arrays[name].astype(np.float32)
        text = np.frombuffer(json.dumps(described).encode(), dtype=np.uint8)
        with written_whole(path, durable=False) as file:
            np.savez_compressed(file, about=text, **arrays)

    @property
    def is_whole(self) -> bool:
        """Whether every training is there."""
        return bool(self.done.all())

    @property
    def diverged(self) -> NDArray[np.bool_]:
        """``(s, c, r)``: whether a training is there that did not reach its last epoch."""
        return self.done & np.isnan(self.score[..., -1])

    @property
    def whole_seeds(self) -> tuple[int, ...]:
        """Seeds of which every training is there."""
        return tuple(np.flatnonzero(self.done.all((1, 2))).tolist())

    def first_seeds(self, n: int) -> Self:
        """Return the table of the first n seeds."""
        by_seed = {
            field.name: getattr(self, field.name)[:n]
            for field in fields(self)
            if field.name not in ("about", "cuts", "images", "labels")
        }
        return replace(self, about=replace(self.about, seeds=n), **by_seed)

    def with_rates(self, low: float, high: float) -> Self:
        """Return the table of the learning rates from one to another, both ends included.

        Raises:
            ValueError: If there are none.
        """
        rates = self.about.learning_rates
        chosen = [place for place, rate in enumerate(rates) if low <= rate <= high]
        if not chosen:
            raise ValueError(
                f"Learning rates {low:g} to {high:g}: the table has {rates[0]:g} to {rates[-1]:g}."
            )
        about = replace(self.about, learning_rates=tuple(rates[place] for place in chosen))
        return replace(self, about=about, **{name: getattr(self, name)[:, :, chosen] for name in BY_RATE})

    def mean_score(self) -> Floats:
        """Average the score over the seeds that are there: ``(c, r, e)``; NaN where none is.

        A seed that diverged counts as if it told nothing: one class guessed, by chance.
        """
        scores = np.where(np.isnan(self.score), 1 / len(self.about.classes), self.score)
        weights = np.broadcast_to(self.done[..., None], scores.shape)
        n = weights.sum(0)
        with np.errstate(invalid="ignore"):
            return np.where(n > 0, (scores * weights).sum(0) / n, np.nan)

    def log_probabilities(self, seed: int, cut: int, rate: int, epoch: int) -> NDArray[np.float32]:
        """Return the log probability of the true class of each validation image ``(v,)``; epochs from 1."""
        return unpacked(self.log_probability[seed, cut, rate, epoch - 1])

    def outcomes(self, seed: int, cut: int, rate: int, epoch: int) -> NDArray[np.bool_]:
        """Return whether each validation image ``(v,)`` was classified rightly; epochs from 1."""
        return np.unpackbits(self.right[seed, cut, rate, epoch - 1], count=self.about.n_val).astype(np.bool_)

    def learning_macs(self, cut: int) -> int:
        """MACs of one epoch at a cut with kept features, validation included; the frozen layers left out."""
        about = self.about
        return about.suffix_macs[cut] * (3 * about.n_train + about.n_val)

    def frozen_macs(self, cut: int) -> int:
        """MACs of computing once what the frozen layers of a cut make of all images."""
        return self.about.prefix_macs[cut] * (self.about.n_train + self.about.n_val)

    @property
    def full_fine_tune_macs(self) -> int:
        """MACs of training everything for all epochs: the unit of costs."""
        return self.about.epochs * self.learning_macs(0)

    def epoch_cost(self, cut: int) -> float:
        """Cost of one epoch at a cut with kept features, in full fine-tunes."""
        return self.learning_macs(cut) / self.full_fine_tune_macs


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
