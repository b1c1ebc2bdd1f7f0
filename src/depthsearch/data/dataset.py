"""Labelled images in splits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from depthsearch.data.ranges import ValueRange
from depthsearch.data.samples import Columns
from depthsearch.data.store.mapping import carried_pixels
from depthsearch.data.store.ownsize import SmallImages
from depthsearch.errors import DataError
from depthsearch.hashing import digest_of


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageSet:
    """The ``n`` samples of one split: rows of the store that all splits share.

    A sample is one image, or ``k`` images and ``d`` numbers.

    Attributes:
        images: ``(n_stored, c, s, s)``, uint8, memory-mapped; not this split alone. Or small ones
            that become such squares when they are gathered.
        rows: ``(n * k,)``, int64, where each image of this split stands in ``images``; those of a sample
            are next to each other.
        labels: ``(n,)``, int64.
        digests: Hash of the bytes of each stored image; None for one that could not be read.
        images_each: Images of a sample, ``k``.
        numbers: ``(n, d)``, float32, as the source has them; None where samples have none.
    """

    images: Tensor | SmallImages
    rows: Tensor
    labels: Tensor
    digests: tuple[str | None, ...]
    images_each: int = 1
    numbers: Tensor | None = None

    @property
    def fingerprint(self) -> str:
        """Hash of which images these are, in their order; it says nothing of labels, paths and numbers."""
        return digest_of(",".join(str(self.digests[row]) for row in self.rows.tolist()))

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.labels)

    @property
    def n_numbers(self) -> int:
        """Count the numbers of a sample, ``d``."""
        return 0 if self.numbers is None else self.numbers.shape[1]

    def joined(self, other: ImageSet) -> ImageSet:
        """Put the samples of another split of the same store behind these."""
        numbers = [each.numbers for each in (self, other) if each.numbers is not None]
        return replace(
            self,
            rows=torch.cat([self.rows, other.rows]),
            labels=torch.cat([self.labels, other.labels]),
            numbers=torch.cat(numbers) if numbers else None,
        )

    def chosen(self, index: Tensor) -> ImageSet:
        """Leave only some samples, ``(b,)``, int64, in that order."""
        return replace(
            self,
            rows=self.rows[self.places_of(index)],
            labels=self.labels[index],
            numbers=None if self.numbers is None else self.numbers[index],
        )

    def places_of(self, index: Tensor) -> Tensor:
        """Return the places of the images of samples ``(b,)`` for `gather`: ``(b * k,)``."""
        if self.images_each == 1:
            return index
        return (index[:, None] * self.images_each + torch.arange(self.images_each)).flatten()

    def gather(self, index: Tensor, move: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Tensor:
        """Copy some images out of the store.

        Args:
            index: ``(b,)``, int64, places of images in this split in [0, n * k).
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

    A pickle of it is small: it names the file that the images are mapped from, see `carried`.

    Attributes:
        name: What to call it: the name of the folder or table, or ``"digits"``.
        source: The full path of the folder or table, or ``"digits"``.
        classes: Names of the classes, sorted; a label is a place in it.
        train: What the suffix learns from.
        val: What prunes and chooses.
        test: What is read once, at the end.
        fingerprint: Hash of the files' bytes, their paths in a folder or labels in a table, their
            splits and the classes. The same for a copy elsewhere, whatever its times; it says
            nothing of image size, crop and interpolation. Of samples also their columns and numbers.
        skipped: Paths of the images left out because they cannot be read, their samples with them.
        duplicates: Groups of paths whose files are the same to the byte and lie in different
            splits.
        paths: Where each stored image stands in the source.
        layout: How the source was read, where that is not plain from its name.
        notes: What the user should know of it, a line each.
        image_size: Side of the images in pixels.
        crop_share: Share of the shorter side that the images keep, in (0, 1].
        interpolation: Filter that they were resized with.
        columns: What a sample is made of.
        ranges: Which numbers are black and white in images of more than 8 bits, by kind; empty without such.
        val_is_drawn: Whether the validation images were drawn from those to train on; else the source says
            which they are.
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
    columns: Columns = field(default_factory=Columns)
    ranges: tuple[ValueRange, ...] = ()
    val_is_drawn: bool = False

    @property
    def num_classes(self) -> int:
        """Count the classes."""
        return len(self.classes)

    def carried(self) -> DataSet:
        """Return the same data set with its images in its pickle, for machines without this one's files.

        With protocol 5 they can be handed over without copying them, each once.
        """
        # All splits share their images, also when they are unpickled.
        images = {id(split.images): _carried(split.images) for split in (self.train, self.val, self.test)}
        return replace(
            self,
            train=replace(self.train, images=images[id(self.train.images)]),
            val=replace(self.val, images=images[id(self.val.images)]),
            test=replace(self.test, images=images[id(self.test.images)]),
        )


def _carried(images: Tensor | SmallImages) -> Tensor | SmallImages:
    if isinstance(images, SmallImages):
        return replace(images, pixels=carried_pixels(images.pixels))
    return carried_pixels(images)


def divided(train: ImageSet, val: ImageSet, *, seed: int) -> tuple[Tensor, Tensor]:
    """Divide two splits anew, as many samples in each as before, stratified by class.

    Returns:
        Places in ``train.joined(val)`` that train, ``(n_train,)``, and that validate, ``(n_val,)``, int64.

    Raises:
        DataError: If a class has a single image in both together.
    """
    from sklearn.model_selection import train_test_split

    labels = torch.cat([train.labels, val.labels])
    try:
        parts = train_test_split(
            np.arange(len(labels)), test_size=len(val), stratify=labels.numpy(), random_state=seed
        )
    except ValueError as error:
        raise DataError(
            f"The {len(labels)} samples to train and validate on cannot be divided anew: {error}. "
            "Add some of the rarest classes, or leave --resample out."
        ) from error
    first, second = (torch.from_numpy(np.sort(part)) for part in parts)
    return first, second
