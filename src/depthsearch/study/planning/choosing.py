"""Sensible values of a study's options for images and a machine, each with its reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from depthsearch.data.listing import SPLITS
from depthsearch.data.surveying import Survey
from depthsearch.options.words import TOLERANCE

# Of the training samples, for a split that the source lacks.
SHARE = 0.2
# Samples to train on: an epoch of fewer teaches little, and one of more is worth several.
FEW, MANY = 1000, 20_000
# An epoch is to have so many steps at least.
STEPS = 10
# Times the samples of the smallest class from which on the largest one would decide the accuracy.
UNEVEN = 3.0
# Of the side that weights were trained on: smaller images gain little from being enlarged to all of it.
SMALL = 0.5
HOUR = 3600.0
# Full fine-tunes of a first study.
BUDGET = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """An option of a study file.

    Attributes:
        key: The long option.
        value: A number, a text, a flag or a list.
        reason: Why, in a line.
        table: ``train``, ``search`` or ``run``; empty: at the top.
        is_set: Whether it is taken; else it is written as a comment, for the reader to take.
    """

    key: str
    value: Any
    reason: str
    table: str = ""
    is_set: bool = True


def spread(ascending: Sequence[int]) -> str:
    """Write the ends of ascending numbers, or the one that all are."""
    first, last = f"{ascending[0]:,}", f"{ascending[-1]:,}"
    return first if first == last else f"{first} to {last}"


def choose_size(survey: Survey, own_size: int, device: str) -> int | None:
    """Choose a smaller image size than the weights were trained on; None: that one.

    On a CPU images of at most half that side are enlarged to half of it only: that takes a quarter of the
    time.
    """
    if device != "cpu" or not survey.shorter_sides or survey.shorter_sides[-1] > SMALL * own_size:
        return None
    return max(32, int(SMALL * own_size))


def settings_for(survey: Survey, *, own_size: int, size: int | None, n_cuts: int) -> list[Setting]:
    """Choose the options of a first study.

    Args:
        survey: Of the images.
        own_size: That the weights were trained on, in pixels.
        size: The one to use; None: that.
        n_cuts: Candidates of all backbones.
    """
    return [
        *_of_images(survey, own_size, size),
        *_of_training(survey),
        Setting(
            key="budget",
            value=BUDGET,
            reason=f"full fine-tunes that all may cost, for {n_cuts} candidates; it may end before by itself",
            table="run",
        ),
        Setting(
            key="tolerance",
            value=TOLERANCE,
            reason="points that the answer may lose against the best, to freeze more",
            table="run",
        ),
    ]


def _of_images(survey: Survey, own_size: int, size: int | None) -> Iterator[Setting]:
    sides = survey.shorter_sides
    seen = f"images of {spread(sides)} px" if sides else "images"
    if size is None:
        reason = f"what the weights were trained on; {seen} are resized to it"
        yield Setting(key="image-size", value=own_size, reason=reason, table="train", is_set=False)
    else:
        factor = (own_size / size) ** 2
        reason = (
            f"{seen}: enlarged to the {own_size} px of the weights they would take {factor:.0f} times as long"
        )
        yield Setting(key="image-size", value=size, reason=reason, table="train")
    if survey.unreadable:
        some = f"{len(survey.unreadable)} of {len(survey.unreadable) + len(sides)} images looked at"
        reason = f"{some} cannot be read, such as {survey.unreadable[0]}"
        yield Setting(key="skip-unreadable", value=True, reason=reason, table="train")
    for split, job in zip(SPLITS[1:], ("chooses between cuts", "is read once, at the end"), strict=True):
        if split not in survey.own_splits:
            reason = f"the images have no such split: a fifth, drawn from each class, {job}"
            yield Setting(key=f"{split}-share", value=SHARE, reason=reason, table="train")


def _of_training(survey: Survey) -> Iterator[Setting]:
    n_train = survey.splits["train"]
    epochs = 20 if n_train < FEW else 10 if n_train <= MANY else 5
    what = f"{n_train:,} {survey.columns.noun}s to train on"
    amount = "few" if n_train < FEW else "many" if n_train > MANY else "enough"
    yield Setting(key="epochs", value=epochs, reason=f"{what} are {amount}", table="train")
    batch_size = next((size for size in (64, 32, 16) if n_train >= STEPS * size), 8)
    steps = -(-n_train // batch_size)
    yield Setting(key="batch-size", value=batch_size, reason=f"{steps:,} steps an epoch", table="train")
    if survey.imbalance >= UNEVEN:
        largest, smallest = (pick(survey.classes, key=survey.classes.__getitem__) for pick in (max, min))
        reason = (
            f"uneven classes: {survey.classes[largest]:,} of {largest}, {survey.classes[smallest]:,} of "
            f"{smallest}; each counts as much"
        )
        yield Setting(key="metric", value="balanced_accuracy", reason=reason, table="train")
        reason = "the loss weighs classes alike, too"
        yield Setting(key="balance", value="weights", reason=reason, table="train")
    reason = "augmentation (crop and flip): helps with few images, unless left and right mean something"
    yield Setting(key="views", value=8, reason=reason, table="train", is_set=False)


def settings_to_save_time(survey: Survey, seconds: float) -> Iterator[Setting]:
    """Offer what makes a long study shorter."""
    if seconds < 2 * HOUR:
        return
    yield Setting(
        key="timeout", value="2h", reason="answers with what is known by then", table="run", is_set=False
    )
    share = HOUR / seconds
    if survey.splits["train"] * share >= FEW:
        reason = "searches on a part of the images, about an hour; depthsearch fit --subset 1 trains on all"
        yield Setting(key="subset", value=float(f"{share:.1g}"), reason=reason, table="train", is_set=False)
