"""A data set as the rest of the program sees it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from depthsearch.data.ownsize import SmallImages


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageSet:
    """The ``n`` images of one split: rows of the store that all splits share.

    Attributes:
        images: ``(n_stored, c, s, s)``, uint8, memory-mapped; not this split alone. Or small ones
            that become such squares when they are gathered.
        rows: ``(n,)``, int64, where each image of this split stands in ``images``.
        labels: ``(n,)``, int64.
        digests: Hash of the bytes of each stored image; None for one that could not be read.
    """

    images: Tensor | SmallImages
    rows: Tensor
    labels: Tensor
    digests: tuple[str | None, ...]

    @property
    def fingerprint(self) -> str:
        """Hash of which images these are, in their order; of labels and paths it says nothing."""
        content = ",".join(str(self.digests[row]) for row in self.rows.tolist())
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    def __len__(self) -> int:
        """Count the images."""
        return len(self.rows)

    def joined(self, other: ImageSet) -> ImageSet:
        """Put the images of another split of the same store behind these."""
        return replace(
            self, rows=torch.cat([self.rows, other.rows]), labels=torch.cat([self.labels, other.labels])
        )

    def gather(self, index: Tensor, move: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Tensor:
        """Copy some images out of the store.

        Args:
            index: ``(b,)``, int64, places in this split in [0, n).
            move: Brings a tensor to the device where the images are wanted.

        Returns:
            ``(b, c, s, s)``, uint8, on that device; the same pixels on any.
        """
        rows = self.rows[index]
        if isinstance(self.images, SmallImages):
            return self.images.squares(rows, move)
        return move(self.images.index_select(0, rows))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DataSet:
    """Labelled images in three splits.

    Attributes:
        name: What to call it: the name of the folder or table, or ``"digits"``.
        source: The full path of the folder or table, or ``"digits"``.
        classes: Names of the classes, sorted; a label is a place in it.
        train: What the suffix learns from.
        val: What prunes and chooses.
        test: What is read once, at the end.
        fingerprint: Hash of the files' bytes, their paths in a folder or labels in a table, their
            splits and the classes. The same for a copy elsewhere, whatever its times; it says
            nothing of image size, crop and interpolation.
        skipped: Paths of the images left out because they cannot be read.
        duplicates: Groups of paths whose files are the same to the byte and lie in different
            splits.
        paths: Where each stored image stands in the source.
        layout: How the source was read, where that is not plain from its name.
        notes: What the user should know of it, a line each.
        image_size: Side of the images in pixels.
        crop_share: Share of the shorter side that the images keep, in (0, 1].
        interpolation: Filter that they were resized with.
    """

    name: str
    source: str
    classes: tuple[str, ...]
    train: ImageSet
    val: ImageSet
    test: ImageSet
    fingerprint: str
    skipped: tuple[str, ...]
    duplicates: tuple[tuple[str, ...], ...]
    paths: tuple[str, ...]
    layout: str
    notes: tuple[str, ...]
    image_size: int
    crop_share: float
    interpolation: str

    @property
    def num_classes(self) -> int:
        """Count the classes."""
        return len(self.classes)
