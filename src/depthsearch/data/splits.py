"""Which sample trains, which chooses, which tests."""

import difflib
import math

import numpy as np
from numpy.typing import NDArray

from depthsearch.data.listing import SPLITS, Listing
from depthsearch.errors import DataError


def check_subset(subset: float) -> None:
    """Refuse a share of the images that leaves none.

    Raises:
        DataError: If it is not in (0, 1].
    """
    if not 0 < subset <= 1:
        raise DataError(f"subset {subset} is not a share of the images. Give one in (0, 1].")


def check_shares(*, val_share: float, test_share: float) -> None:
    """Refuse shares that leave a split without images.

    Raises:
        DataError: If a share is not in (0, 1), or nothing is left to train on.
    """
    for name, share in (("val", val_share), ("test", test_share)):
        if not 0 < share < 1:
            raise DataError(f"{name} share {share} is not a share of the images. Give one in (0, 1).")
    if val_share + test_share >= 1:
        raise DataError(
            f"val share {val_share} and test share {test_share} leave no image to train on. "
            "Give shares that add up to less than 1."
        )


def assign_splits(listing: Listing, *, val_share: float, test_share: float, seed: int) -> NDArray[np.str_]:
    """Assign each image to a split; those that the source lacks are taken from its training images.

    Stratified by class. Of ``n`` training samples, test takes ``ceil(test_share * n)`` as
    scikit-learn rounds it, and val ``round(val_share * n)``. Which ones depends on the order of
    the paths, the labels and the seed only. The images of a sample stay together.

    Returns:
        ``(n,)``: ``"train"``, ``"val"`` or ``"test"`` of each image of the listing.

    Raises:
        DataError: If a class is too small to be in each split.
    """
    shares = {"test": test_share, "val": val_share}
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
            _, taken = train_test_split(rest, test_size=n_taken, stratify=labels[rest], random_state=seed)
        except ValueError as error:
            rarest = int(np.bincount(labels[pool], minlength=len(listing.classes)).argmin())
            raise _too_small(listing, labels[pool], rarest, missing) from error
        splits[taken] = split
    for split in ("train", *missing):
        absent = set(range(len(listing.classes))) - set(labels[splits == split])
        if absent:
            raise _too_small(listing, labels[pool], min(absent), missing)
    return np.repeat(splits, each)


def drawn(
    listing: Listing, splits: NDArray[np.str_], *, share: float, seed: int
) -> tuple[Listing, NDArray[np.str_]]:
    """Draw a share of the samples of each class in each split, rounded, at least one.

    A larger share keeps what a smaller one has.

    Args:
        listing: The images.
        splits: ``(n,)``, as assigned to them.
        share: In (0, 1].
        seed: Decides which.

    Returns:
        The listing of these samples, in their order, and their splits.
    """
    each = listing.columns.images_each
    labels, of_samples = listing.labels[::each], splits[::each]
    # A generator whose numbers numpy keeps between versions.
    order = np.random.RandomState(seed).permutation(len(labels))
    kept: list[NDArray[np.int64]] = []
    for split in SPLITS:
        for label in range(len(listing.classes)):
            alike = order[(of_samples[order] == split) & (labels[order] == label)]
            kept.append(alike[: max(1, round(share * len(alike)))])
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
