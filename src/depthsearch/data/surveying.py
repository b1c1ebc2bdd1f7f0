"""A first look at images, before any study: counts, classes, splits, and the sizes of a few."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs

from depthsearch.data.decode import UnreadableError, pillow_quiet
from depthsearch.data.listing import SPLITS, Listing
from depthsearch.data.ranges import pool_ranges
from depthsearch.data.samples import Columns
from depthsearch.data.sources.opening import Source, list_source
from depthsearch.data.splits import Division, divide

# Read for their sizes, spread over the set: a photo takes a tenth of a second.
N_LOOKED_AT = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What images are like.

    Attributes:
        name: What to call the source.
        layout: How it was read, where that is not plain from its name.
        classes: Samples of each class by its name.
        splits: Samples of ``train``, ``val`` and ``test``, as a study would divide them.
        own_splits: Those of the splits that the source has itself.
        columns: What a sample is made of.
        shorter_sides: In pixels, of the images looked at, ascending.
        unreadable: Paths of those looked at that cannot be read.
    """

    name: str
    layout: str
    classes: Mapping[str, int]
    splits: Mapping[str, int]
    own_splits: tuple[str, ...]
    columns: Columns
    shorter_sides: tuple[int, ...]
    unreadable: tuple[str, ...]

    @property
    def n_samples(self) -> int:
        """Count the samples of all splits."""
        return sum(self.splits.values())

    @property
    def imbalance(self) -> float:
        """How many times the samples of the smallest class the largest has."""
        return max(self.classes.values()) / max(1, min(self.classes.values()))


def survey(source: str | Path | Source | Listing, division: Division = Division()) -> Survey:
    """Look at images as `load_data` would read them, without decoding more than a few.

    Args:
        source: The images, see `load_data`.
        division: How they are to be divided.

    Raises:
        DataError: If there is no such source, or it cannot be used.
    """
    downloads = Path(platformdirs.user_cache_dir("depthsearch")) / "torchvision"
    listing, splits = divide(list_source(source, downloads), division)
    with pillow_quiet():
        sides, unreadable = _looked_at(listing)
    each = listing.columns.images_each
    counts = np.bincount(listing.labels[::each], minlength=len(listing.classes)).tolist()
    return Survey(
        name=listing.name,
        layout=listing.layout,
        classes=dict(zip(listing.classes, counts, strict=True)),
        splits={split: int((splits[::each] == split).sum()) for split in SPLITS},
        own_splits=tuple(split for split in SPLITS if (listing.splits == split).any()),
        columns=listing.columns,
        shorter_sides=tuple(sorted(sides)),
        unreadable=tuple(unreadable),
    )


def _looked_at(listing: Listing) -> tuple[list[int], list[str]]:
    """Read some images whole: their shorter sides, and which cannot be read."""
    n_images = len(listing.paths)
    places = {round(i * (n_images - 1) / (N_LOOKED_AT - 1)) for i in range(N_LOOKED_AT)}
    sides, unreadable = [], []
    for place in sorted(places):
        try:
            pixels = listing.decode(place, None, pool_ranges([listing.range_at(place)])).pixels
        except UnreadableError:
            unreadable.append(listing.paths[place])
        else:
            sides.append(min(pixels.shape[1:]))
    return sides, unreadable
