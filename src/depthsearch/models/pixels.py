"""From pixels to a backbone's input, the same wherever a backbone runs.

Shapes: ``b`` images in a batch, ``c`` channels, ``s`` the side of an image in pixels.
"""

from __future__ import annotations

import torch

from depthsearch.devices import Device
from depthsearch.models.backbones import Preprocessing

__all__ = ["Normalisation"]


class Normalisation:
    """Makes a backbone's input of pixels: ``(pixel / 255 - mean) / std`` in the device's layout."""

    def __init__(self, preprocessing: Preprocessing, device: Device) -> None:
        """Put the numbers on the device."""
        self._device = device
        # One multiply and add on bytes.
        mean = torch.tensor(preprocessing.mean, device=device.torch_device).view(-1, 1, 1)
        std = torch.tensor(preprocessing.std, device=device.torch_device).view(-1, 1, 1)
        self._scale = 1 / (255 * std)
        self._shift = mean / std

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalise pixels ``(b, c, s, s)`` in [0, 255] on the device; the result is float32."""
        return self._device.layout(pixels.float().mul(self._scale).sub_(self._shift))
