"""Depthwise convolutions under bfloat16: the output is PyTorch's to the bit, the gradients are better."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from depthsearch.devices import Device
from depthsearch.training.gradients import quick_gradients

BF16 = Device(kind="cpu", bf16=True, channels_last=True)

Gradients = list[torch.Tensor]


def gradients(module: nn.Module, images: torch.Tensor, device: Device) -> tuple[torch.Tensor, Gradients]:
    """Return the output, and the gradients of input and parameters."""
    images = images.clone().requires_grad_()
    with device.autocast(), quick_gradients(device):
        output = module(images)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    # Some of the parameters may have no part in it.
    found = torch.autograd.grad(output, [images, *module.parameters()], weights, allow_unused=True)
    return output, [each for each in found if each is not None]


def plain(module: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, Gradients]:
    """Return the same of PyTorch alone."""
    images = images.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        output = module(images)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    found = torch.autograd.grad(output, [images, *module.parameters()], weights, allow_unused=True)
    return output, [each for each in found if each is not None]


def doubled(module: nn.Module, images: torch.Tensor) -> Gradients:
    """Return the gradients of what bfloat16 makes of images and parameters, in double precision."""
    rounded = images.bfloat16().double().requires_grad_()
    twin = module.double()
    for parameter in twin.parameters():
        parameter.data = parameter.data.bfloat16().double()
    output = twin(rounded)
    weights = torch.linspace(-1, 1, output.numel(), dtype=torch.bfloat16).double().reshape(output.shape)
    return list(torch.autograd.grad(output, [rounded, *twin.parameters()], weights))


class Keywords(nn.Module):
    """A convolution called by the names of its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 1, 3, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return F.conv2d(images, weight=self.weight, groups=6, padding=(1, 2), stride=2)


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "plain": (lambda: nn.Conv2d(6, 6, 3, padding=1, groups=6), (4, 6, 9, 9)),
    "no bias": (lambda: nn.Conv2d(6, 6, 5, stride=2, groups=6, bias=False), (4, 6, 12, 9)),
    "two each": (lambda: nn.Conv2d(6, 12, 3, dilation=2, groups=6), (4, 6, 9, 9)),
    "keywords": (Keywords, (4, 6, 9, 9)),
    "1d": (lambda: nn.Conv1d(6, 6, 3, padding=1, groups=6), (4, 6, 20)),
    "3d": (lambda: nn.Conv3d(6, 6, 3, padding=1, groups=6), (4, 6, 5, 6, 7)),
    "shared": (lambda: (lambda conv: nn.Sequential(conv, conv))(nn.Conv2d(6, 6, 3, groups=6)), (4, 6, 9, 9)),
    "reflected": (lambda: nn.Conv2d(6, 6, 3, padding=1, groups=6, padding_mode="reflect"), (4, 6, 9, 9)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_output_is_pytorchs_to_the_bit_and_the_gradients_are_nearer_to_the_truth(case: str) -> None:
    make, shape = CASES[case]
    torch.manual_seed(0)
    module, images = make(), torch.randn(shape)
    output, ours = gradients(module, images, BF16)
    expected, theirs = plain(module, images)
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, expected)
    assert [each.dtype for each in ours] == [each.dtype for each in theirs]
    truth = doubled(module, images)
    for our, their, true in zip(ours, theirs, truth, strict=True):
        scale = float(true.abs().max())
        assert float((our.double() - true).abs().max()) <= 2e-2 * scale
        assert (
            float((our.double() - true).norm()) <= 1.05 * float((their.double() - true).norm()) + 1e-6 * scale
        )


class Otherwise(nn.Module):
    """A network that computes a part of itself in another precision."""

    def __init__(self, dtype: torch.dtype, *, bias: bool = True) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(6, 6, 3, groups=6, bias=bias)
        self.dtype = dtype

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.float16, enabled=self.dtype == torch.float16):
            return self.convolution(images)


class Twice(nn.Module):
    """A network that needs a gradient of its own in its forward pass, and then a gradient of that."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(6, 6, 3, groups=6)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        energy = self.convolution(images).float().square().sum()
        return torch.autograd.grad(energy, images, create_graph=True)[0]


class Each(nn.Module):
    """A network that convolves each image with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(4, 6, 1, 3, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.vmap(lambda image, weight: F.conv2d(image[None], weight, groups=6)[0])(
            images, self.weights
        )


@pytest.mark.parametrize(
    "module",
    [
        Otherwise(torch.float32),
        Otherwise(torch.float32, bias=False),
        Otherwise(torch.float16),
        nn.Conv2d(6, 6, 3, padding=1),
        nn.Conv2d(6, 6, 3, padding=1, groups=3),
        # PyTorch resolves what *same* means.
        nn.Conv2d(6, 6, 3, padding="same", groups=6),
    ],
    ids=["float32", "float32 without bias", "float16", "full", "grouped", "same"],
)
def test_other_convolutions_are_left_to_pytorch(module: nn.Module) -> None:
    images = torch.randn(4, 6, 9, 9)
    output, ours = gradients(module, images, BF16)
    expected, theirs = plain(module, images)
    assert torch.equal(output, expected)
    assert all(torch.equal(our, their) for our, their in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("module", [Twice(), Each()], ids=["gradient of a gradient", "vmap"])
def test_what_a_network_may_do_with_a_convolution_it_still_may(module: nn.Module) -> None:
    images = torch.randn(4, 6, 9, 9)
    output, ours = gradients(module, images, BF16)
    expected, theirs = plain(module, images)
    assert F.cosine_similarity(output.flatten().float(), expected.flatten().float(), dim=0) > 0.999
    for our, their in zip(ours, theirs, strict=True):
        assert F.cosine_similarity(our.flatten().float(), their.flatten().float(), dim=0) > 0.99


def test_one_image_without_a_batch_is_left_to_pytorch() -> None:
    module, image = nn.Conv2d(6, 6, 3, groups=6), torch.randn(6, 9, 9)
    output, ours = gradients(module, image, BF16)
    expected, theirs = plain(module, image)
    assert torch.equal(output, expected)
    assert all(torch.equal(our, their) for our, their in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    "device",
    [
        Device(kind="cpu", bf16=False, channels_last=True),
        Device(kind="cuda", bf16=True, channels_last=True),
        Device(kind="cpu", bf16=True, channels_last=True, compiled=True),
    ],
    ids=["float32", "cuda", "compiled"],
)
def test_elsewhere_nothing_changes(device: Device) -> None:
    module = nn.Conv2d(6, 6, 3, groups=6)
    with quick_gradients(device):
        output = module(torch.randn(2, 6, 9, 9))
    assert "Depthwise" not in type(output.grad_fn).__name__


def test_a_frozen_input_or_weight_needs_no_gradient() -> None:
    module = nn.Conv2d(6, 6, 3, groups=6)
    module.weight.requires_grad_(requires_grad=False)
    with BF16.autocast(), quick_gradients(BF16):
        output = module(torch.randn(2, 6, 9, 9))
    output.float().sum().backward()
    assert module.weight.grad is None
    assert module.bias is not None
    assert module.bias.grad is not None


def test_a_network_whose_padding_is_its_own_takes_part() -> None:
    # TensorFlow's padding: timm pads and calls the convolution itself.
    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0", num_classes=3).eval()
    images = torch.randn(2, 3, 64, 64)
    output, ours = gradients(model, images, BF16)
    expected, theirs = plain(model, images)
    assert torch.equal(output, expected)
    assert not all(torch.equal(our, their) for our, their in zip(ours, theirs, strict=True))
    for our, their in zip(ours, theirs, strict=True):
        assert F.cosine_similarity(our.flatten().float(), their.flatten().float(), dim=0) > 0.9
