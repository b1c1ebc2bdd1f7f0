"""Boundary tensors for training: what the frozen prefix makes of the images.

Training asks for the boundary of some images and does not see whether it is computed or read.
"""

from __future__ import annotations

from typing import Protocol

import torch

from depthsearch.backbones import Preprocessing
from depthsearch.data import ImageSet
from depthsearch.devices import Device
from depthsearch.split import Split

__all__ = ["BoundarySource", "RecomputedBoundary"]


class BoundarySource(Protocol):
    """The boundary tensors of one image set, by index.

    Attributes:
        labels: Class of each image, int64 ``(n,)``, on the CPU.
        macs_spent: MACs that making the boundaries has cost so far.
    """

    labels: torch.Tensor
    macs_spent: int

    def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Give the boundary of the images at ``index`` ``(b,)``: tensors ``(b, ...)`` on the device."""


class RecomputedBoundary:
    """Runs the frozen prefix each time it is asked."""

    def __init__(self, images: ImageSet, split: Split, preprocessing: Preprocessing, device: Device) -> None:
        """Prepare the prefix for the device.

        Args:
            images: Decoded images, uint8.
            split: Its prefix is moved to the device.
            preprocessing: Mean and deviation that the backbone expects.
            device: Where to compute, and in which precision.
        """
        self.images = images
        self.labels = images.labels
        self.prefix = device.place(split.prefix)
        self.macs_per_image = split.prefix_macs
        self.macs_spent = 0
        self.device = device
        # One multiply and add on bytes: (pixel / 255 - mean) / std.
        mean = torch.tensor(preprocessing.mean, device=device.torch_device).view(-1, 1, 1)
        std = torch.tensor(preprocessing.std, device=device.torch_device).view(-1, 1, 1)
        self.scale = 1 / (255 * std)
        self.shift = mean / std

    def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Give the boundary of the images at ``index`` ``(b,)``."""
        images = self.device.move(self.images.gather(index))
        with torch.no_grad(), self.device.autocast():
            x = self.device.layout(images.float().mul_(self.scale).sub_(self.shift))
            boundary: tuple[torch.Tensor, ...] = self.prefix(x)
        self.macs_spent += self.macs_per_image * len(index)
        return boundary
