"""An image set as one view shows it."""

from __future__ import annotations

import torch

from depthsearch.data.dataset import ImageSet
from depthsearch.data.views import View
from depthsearch.devices import Device
from depthsearch.hashing import digest_of
from depthsearch.options.augmentation import USUAL, read_augmentation, written


class ViewedImages:
    """The images of one set in one view: a fixed augmentation of each; view 0 is the plain image.

    Attributes:
        samples: The set, which says which images are of one sample, and what its class and numbers are.
        number: Of the view.
        fingerprint: Hash of all that determines the pixels that the backbone is shown.
    """

    def __init__(self, images: ImageSet, number: int = 0, *, seed: int = 0, augment: str = USUAL) -> None:
        """Look at a set.

        Args:
            images: The decoded images.
            number: Of the view.
            seed: Of the views but the plain one.
            augment: What these do, see `augmentation`.

        Raises:
            SettingsError: If ``augment`` cannot be read.
        """
        self.samples = images
        self.number = number
        self._view = View(number, seed=seed, n_images=len(images.rows), ranges=read_augmentation(augment))
        seen = [images.fingerprint, *([number, seed] if number else [])]
        # What is usual says nothing, so that features kept before there was a choice are found.
        if number and written(augment) != USUAL:
            seen.append(written(augment))
        self.fingerprint = digest_of(repr(seen))

    def __len__(self) -> int:
        """Count the images, several to a sample."""
        return len(self.samples.rows)

    def pixels(self, index: torch.Tensor, device: Device) -> torch.Tensor:
        """Return the images at ``index`` ``(b,)``: ``(b, c, s, s)`` float32 in [0, 255] on the device."""
        return self._view(self.samples.gather(index, device.move), index)
