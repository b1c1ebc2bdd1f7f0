"""A plain convolutional network, trained from scratch: what a pretrained backbone has to beat.

Four blocks of a 3 x 3 convolution, a ReLU and 2 x 2 max-pooling, 32, 64, 128 and 128 channels wide, global
average pooling and a linear classifier: 240,832 parameters before the classifier, 0.62 G MACs at 224 px. It
is registered with timm, so that ``timm.create_model("cnn")`` makes one once this module is imported, and all
that works for timm's models works for it. There are no pretrained weights of it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from timm.layers import SelectAdaptivePool2d
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

WIDTHS = (32, 64, 128, 128)
# Images as VGG takes them, so that one decoding of them serves both.
default_cfgs = generate_default_cfgs(
    {
        "cnn": {
            "url": "",
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (14, 14),
            "crop_pct": 0.875,
            "interpolation": "bilinear",
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "first_conv": "features.conv1",
            "classifier": "fc",
        }
    }
)


class PlainCnn(nn.Module):
    """Maps images ``(n, c, h, w)`` of at least 16 x 16 pixels to logits ``(n, num_classes)``."""

    def __init__(self, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (before, width) in enumerate(zip((in_chans, *WIDTHS), WIDTHS, strict=False), start=1):
            layers[f"conv{i}"] = nn.Conv2d(before, width, kernel_size=3, padding=1)
            layers[f"relu{i}"] = nn.ReLU()
            layers[f"pool{i}"] = nn.MaxPool2d(2)
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = WIDTHS[-1]
        self.features = nn.Sequential(layers)
        self.global_pool = SelectAdaptivePool2d(pool_type="avg", flatten=True)
        self.fc = nn.Linear(self.num_features, num_classes)
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def get_classifier(self) -> nn.Module:
        """Return the classifier."""
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        """Put a new classifier in the place of the old one."""
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the last feature map ``(n, 128, h // 16, w // 16)``."""
        features: torch.Tensor = self.features(x)
        return features

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Compute logits of a feature map, or what goes into the classifier."""
        x = self.global_pool(x)
        return x if pre_logits else self.fc(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute logits."""
        return self.forward_head(self.forward_features(x))


@register_model
def cnn(pretrained: bool = False, **kwargs: Any) -> PlainCnn:
    """Make the plain network, as timm makes its models."""
    made: PlainCnn = build_model_with_cfg(PlainCnn, "cnn", pretrained, **kwargs)
    return made
