"""The images that a source holds, before any is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from depthsearch.data.decode import Decoded, Geometry
from depthsearch.data.ranges import ValueRange
from depthsearch.data.samples import Columns
from depthsearch.hashing import digest_of

SPLITS = ("train", "val", "test")
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
"""What sources call their splits: the words that Hugging Face's ``datasets`` knows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Listing:
    """The ``n`` images of a source in the order of their paths.

    Where a sample is several images, these are next to each other, in the order of their columns.

    Attributes:
        name: What to call the source.
        source: Where it is: a folder's or file's full path, or the name of a set that a library
            carries.
        classes: Names of the classes, sorted; a label is a place in it.
        paths: Where each image stands in the source, with ``/`` between the parts.
        labels: ``(n,)``, int64.
        splits: ``(n,)``, ``"train"``, ``"val"`` or ``"test"`` as the source says; all ``"train"``
            where it says nothing.
        stamp: What differs when an image has changed, without reading any; goes into JSON.
        decode: Reads the image at one place of the listing, whole where no geometry is given; with the ranges
            that the set's numbers of more than 8 bits have.
        known_by: What goes into the fingerprint with each image's content and split.
        range_at: Reads the range of the image at one place; None where 8 bits hold its numbers.
        layout: How the source was read, where that is not plain from its name.
        notes: What the user should know of it, a line each.
        keeps_whole: Whether decoding keeps an image whole, whatever the crop share.
        columns: What a sample is made of.
        numbers: ``(n / columns.images_each, d)``, float32, of each sample; None where it has none.
        skip_unreadable: Whether to leave out samples of which an image cannot be read.
    """

    name: str
    source: str
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    splits: NDArray[np.str_]
    stamp: object
    decode: Callable[[int, Geometry | None, Sequence[ValueRange]], Decoded]
    known_by: tuple[str, ...]
    range_at: Callable[[int], ValueRange | None] = lambda _: None
    layout: str = ""
    notes: tuple[str, ...] = ()
    keeps_whole: bool = False
    columns: Columns = field(default_factory=Columns)
    numbers: NDArray[np.float32] | None = None
    skip_unreadable: bool = False

    def rows_of(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the places of the images of some samples ``(m,)``, in order."""
        each = self.columns.images_each
        rows: NDArray[np.int64] = (samples[:, None] * each + np.arange(each)).ravel()
        return rows

    def only(self, samples: NDArray[np.int64]) -> Listing:
        """Keep some samples, given by their places ``(m,)``, in order."""
        rows = self.rows_of(samples)
        places = rows.tolist()

        return replace(
            self,
            paths=tuple(self.paths[place] for place in places),
            labels=self.labels[rows],
            splits=self.splits[rows],
            stamp=[self.stamp, digest_of(rows.tobytes())],
            decode=lambda index, *how: self.decode(places[index], *how),
            range_at=lambda index: self.range_at(places[index]),
            known_by=tuple(self.known_by[place] for place in places),
            numbers=None if self.numbers is None else self.numbers[samples],
        )
