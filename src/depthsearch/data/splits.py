"""Which sample trains, which chooses, which tests."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from depthsearch.data.listing import SPLITS, Listing
from depthsearch.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """How images are divided into those to train on, to validate on and to test on.

    Attributes:
        val_share: Share of the training images to validate on where the source has no such split, in (0, 1).
        test_share: Share of the training images to test on where the source has no such split, in (0, 1).
        subset: Share of the samples of each class in each split to keep, in (0, 1]; at least one.
        seed: Decides which images these are.

    Raises:
        DataError: If a share is out of its range, or nothing is left to train on.
    """

    val_share: float = 0.2
    test_share: float = 0.2
    subset: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse shares that leave a split without images."""
        if not 0 < self.subset <= 1:
            raise DataError(f"subset {self.subset} is not a share of the images. Give one in (0, 1].")
        for name, share in (("val", self.val_share), ("test", self.test_share)):
            if not 0 < share < 1:
                raise DataError(f"{name} share {share} is not a share of the images. Give one in (0, 1).")
        if self.val_share + self.test_share >= 1:
            raise DataError(
                f"val share {self.val_share} and test share {self.test_share} leave no image to train on. "
                "Give shares that add up to less than 1."
            )


def divide(listing: Listing, division: Division) -> tuple[Listing, NDArray[np.str_]]:
    """Assign each image to a split; those that the source lacks are taken from its training images.

    Stratified by class. Of ``n`` training samples, test takes ``ceil(test_share * n)`` as
    scikit-learn rounds it, and val ``round(val_share * n)``. Which ones depends on the order of
    the paths, the labels and the seed only. The images of a sample stay together.

    Args:
        listing: The ``n`` images.
        division: The shares, and the seed.

    Returns:
        The listing, or of a subset that of its samples; and ``(n,)``, ``"train"``, ``"val"`` or ``"test"`` of
        each of its images.

    Raises:
        DataError: If a class is too small to be in each split.
    """
    splits = _assigned(listing, division)
    return (listing, splits) if division.subset == 1 else _drawn(listing, splits, division)


def _assigned(listing: Listing, division: Division) -> NDArray[np.str_]:
    shares = {"test": division.test_share, "val": division.val_share}
    missing = [split for split in shares if split not in listing.splits]
    if not missing:
        return listing.splits
    # Imported here because a folder with its own splits does not need it.
    from sklearn.model_selection import train_test_split

    each = listing.columns.images_each
    labels, splits = listing.labels[::each], listing.splits[::each].astype("<U5")
    pool = splits == "train"
    for split in missing:
        exact = shares[split] * pool.sum()
        n_taken = math.ceil(exact) if split == "test" else round(exact)
        rest = np.flatnonzero(splits == "train")
        try:
            _, taken = train_test_split(
                rest, test_size=n_taken, stratify=labels[rest], random_state=division.seed
            )
        except ValueError as error:
            rarest = int(np.bincount(labels[pool], minlength=len(listing.classes)).argmin())
            raise _too_small(listing, labels[pool], rarest, missing) from error
        splits[taken] = split
    for split in ("train", *missing):
        absent = set(range(len(listing.classes))) - set(labels[splits == split])
        if absent:
            raise _too_small(listing, labels[pool], min(absent), missing)
    return np.repeat(splits, each)


def _drawn(
    listing: Listing, splits: NDArray[np.str_], division: Division
) -> tuple[Listing, NDArray[np.str_]]:
    """Draw a share of the samples of each class in each split; a larger one keeps what a smaller one has."""
    each = listing.columns.images_each
    labels, of_samples = listing.labels[::each], splits[::each]
    # A generator whose numbers numpy keeps between versions.
    order = np.random.RandomState(division.seed).permutation(len(labels))
    kept: list[NDArray[np.int64]] = []
    for split in SPLITS:
        for label in range(len(listing.classes)):
            alike = order[(of_samples[order] == split) & (labels[order] == label)]
            kept.append(alike[: max(1, round(division.subset * len(alike)))])
    samples = np.sort(np.concatenate(kept))
    return listing.only(samples), splits[listing.rows_of(samples)]


def require_every_class(listing: Listing, splits: NDArray[np.str_], readable: NDArray[np.bool_]) -> None:
    """Refuse to go on where leaving out unreadable images has emptied a class.

    Args:
        listing: The images.
        splits: ``(n,)``, as assigned.
        readable: ``(n,)``, whether each image could be read, and the others of its sample.

    Raises:
        DataError: If a class has no image left in some split.
    """
    for split in SPLITS:
        present = set(listing.labels[(splits == split) & readable])
        for label, name in enumerate(listing.classes):
            if label not in present:
                raise DataError(
                    f"Class {name!r} of {listing.source} has no readable {listing.columns.noun} in {split}. "
                    "Mend its images or add others."
                )


def _too_small(listing: Listing, labels: NDArray[np.int64], label: int, missing: list[str]) -> DataError:
    name, noun = listing.classes[label], listing.columns.noun
    counts = [
        f"{n} {noun}{'s' * (n != 1)}" for n in np.bincount(labels, minlength=len(listing.classes)).tolist()
    ]
    by_form = {each.casefold().strip(): each for each in listing.classes if each != name}
    near = difflib.get_close_matches(name.casefold().strip(), by_form, n=1, cutoff=0.8)
    hint = ""
    if near:
        other = by_form[near[0]]
        hint = f"Near: {other!r} ({counts[listing.classes.index(other)]}): write both alike if they are one. "
    splits = f"{', '.join(('train', *missing[:-1]))} and {missing[-1]}"
    shares = " and ".join(f"--{split}-share" for split in missing)
    return DataError(
        f"Class {name!r} of {listing.source} has {counts[label]}, too few to be in each of {splits} "
        f"at this {shares}. {hint}Add {noun}s to it, change {shares}, or divide the images into such folders "
        "yourself."
    )
