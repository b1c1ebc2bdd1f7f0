"""Backbones of torchvision, of transformers and of a file, made small.

Loaded before caches are pointed elsewhere, and by the process that only hands out tests: PyTorch and what
reads those places are imported only once they are used.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch

TINY = "torchvision:shufflenet_v2_x0_5"


NET = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.conv = nn.Conv2d(a, b, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(b)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)))

class Net(nn.Module):
    def __init__(self, in_chans=3, num_classes=10):
        super().__init__()
        self.body = nn.Sequential(Block(in_chans, 8), Block(8, 16), Block(16, 16))
        self.out = nn.Linear(16, num_classes)

    def forward(self, x):
        return self.out(self.body(x).mean((2, 3)))

def make():
    return Net()
"""


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A torch hub cache of its own; nothing is to be downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    from depthsearch.models.backbones import hub

    monkeypatch.setattr(hub, "answers", lambda ask: False)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def put_weights(folder: Path, name: str, entry: str = "DEFAULT") -> dict[str, torch.Tensor]:
    """Put random weights where torchvision's are kept once they are downloaded."""
    import torch
    import torchvision

    from depthsearch.models.backbones import torchvision_source

    chosen = torchvision.models.get_model_weights(name)[entry]
    torch.manual_seed(5)
    options = {"init_weights": False} if name in torchvision_source.AUXILIARY else {}
    state = torchvision.models.get_model(name, weights=None, **options).state_dict()
    torch.save(state, folder / chosen.url.rpartition("/")[2])
    return state


@pytest.fixture(scope="module")
def tiny_resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ResNet of transformers' with its processor, as save_pretrained writes them."""
    transformers = pytest.importorskip("transformers")
    import torch

    folder = tmp_path_factory.mktemp("hf") / "tiny"
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
    )
    torch.manual_seed(7)
    transformers.AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    processor = transformers.ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6], resample=3
    )
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small vision transformer of transformers', which says itself which images it takes."""
    transformers = pytest.importorskip("transformers")
    import torch

    folder = tmp_path_factory.mktemp("hf") / "vit"
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
    )
    torch.manual_seed(7)
    transformers.AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    return folder
