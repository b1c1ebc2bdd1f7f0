"""From pixels to a backbone's input, the same wherever a backbone runs.

Shapes: ``b`` images in a batch, ``c`` channels, ``s`` the side of an image in pixels.
"""

from __future__ import annotations

import torch
from torch import nn

from depthsearch.devices import Device
from depthsearch.models.backbones.backbone import Preprocessing


class Normalisation(nn.Module):
    """Turns pixels into a backbone's input: ``(pixel / 255 - mean) / std``."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, preprocessing: Preprocessing, device: Device | None = None) -> None:
        """Prepare one multiplication and one addition.

        Args:
            preprocessing: Names mean and deviation.
            device: Where to compute, and in which memory layout; None: on the CPU, as the pixels lie.
        """
        super().__init__()
        mean = torch.tensor(preprocessing.mean).view(-1, 1, 1)
        std = torch.tensor(preprocessing.std).view(-1, 1, 1)
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", mean / std)
        self._device = device
        if device is not None:
            self.to(device.torch_device)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalise pixels ``(b, c, s, s)`` in [0, 255] on the device; the result is float32."""
        inputs = pixels.float().mul(self.scale).sub_(self.shift)
        return inputs if self._device is None else self._device.layout(inputs)
