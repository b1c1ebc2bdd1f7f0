"""Gradients of depthwise convolutions in float32 where a CPU computes in bfloat16: there that is quicker.

oneDNN has quick kernels in bfloat16 for the forward pass of a depthwise convolution and none for its
gradients: a step of an EfficientNet or a MobileNet takes longer in bfloat16 than in float32. So the gradients
of these convolutions are computed in float32 (benchmarks/speed/depthwise.py). The forward pass is the same to
the bit, and with it all that is kept and predicted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from depthsearch.devices import Device

# Spatial dimensions of each convolution.
CONVOLUTIONS: Mapping[Callable[..., Any], int] = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}

Sizes = int | Sequence[int]


def quick_gradients(device: Device) -> contextlib.AbstractContextManager[object]:
    """Prepare, for forward passes inside this context, gradients that are computed in the quickest precision.

    What is compiled has kernels of its own.
    """
    if device.kind == "cpu" and device.bf16 and not device.compiled:
        return _DepthwiseInFloat32()
    return contextlib.nullcontext()


class _DepthwiseInFloat32(TorchFunctionMode):
    """Lets each depthwise convolution compute its gradients in float32."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in CONVOLUTIONS and torch.is_grad_enabled() and _computes_in_bf16():
            call = _Call(CONVOLUTIONS[func], *args, **(kwargs or {}))
            if call.is_depthwise:
                return _Depthwise.apply(call.input, call.weight, call.bias, func, call.sizes, call.groups)
        return func(*args, **(kwargs or {}))


def _computes_in_bf16() -> bool:
    """Return whether autocast is as it was begun: parts of a network may have another precision."""
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16


class _Call:
    """The arguments of one call of a convolution, by PyTorch's names."""

    def __init__(
        self,
        n_dims: int,
        input: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
    ) -> None:
        self.input, self.weight, self.bias, self.groups = input, weight, bias, groups
        self.sizes: list[list[int]] = []
        is_batch = input.ndim == n_dims + 2
        is_rounded = {input.dtype, weight.dtype} <= {torch.float32, torch.bfloat16}
        self.is_depthwise = groups > 1 and weight.shape[1] == 1 and is_batch and is_rounded
        # What *same* and *valid* mean is for PyTorch to say: such a convolution is left to it.
        if isinstance(padding, str):
            self.is_depthwise = False
        else:
            self.sizes = [_per_dimension(size, n_dims) for size in (stride, padding, dilation)]


def _per_dimension(size: Sizes, n_dims: int) -> list[int]:
    sizes = [size] if isinstance(size, int) else list(size)
    return sizes * n_dims if len(sizes) == 1 else sizes


class _Depthwise(torch.autograd.Function):
    """A convolution whose gradients are computed in float32."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        images: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        convolve: Callable[..., torch.Tensor],
        sizes: Sequence[list[int]],
        groups: int,
    ) -> torch.Tensor:
        return convolve(images, weight, bias, *sizes, groups)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        images, weight, bias, _, ctx.sizes, ctx.groups = inputs
        ctx.save_for_backward(images, weight)
        ctx.types = images.dtype, weight.dtype, None if bias is None else bias.dtype

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.sizes
        found = torch.ops.aten.convolution_backward(
            gradient.float(),
            # As they were in the forward pass.
            images.bfloat16().float(),
            weight.bfloat16().float(),
            None if ctx.types[2] is None else [len(weight)],
            stride,
            padding,
            dilation,
            False,
            [0] * len(stride),
            ctx.groups,
            ctx.needs_input_grad[:3],
        )
        ours = [each if each is None else each.to(kind) for each, kind in zip(found, ctx.types, strict=True)]
        return (*ours, None, None, None)
