"""What a model takes and returns: images of a size that it can see, and logits.

Shapes: ``n`` images, ``c`` channels, ``h x w`` pixels.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, TypeAlias

import torch
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from depthsearch.errors import TraceError
from depthsearch.models.tracing.restoring import is_lazy

DEFAULT_IMAGE_SIZE = 224
# One batch of images: itself, alone in a tuple, or under the name of the model's parameter.
ExampleInputs: TypeAlias = torch.Tensor | tuple[torch.Tensor, ...] | Mapping[str, torch.Tensor]
# Sizes at which a model is tried that does not run at its own: usual ones, in pixels.
USUAL_SIZES = (32, 64, 28, 96, 128, 160, 192, 224, 256, 299, 384, 48, 16, 8)
POSITIONAL = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
SIZE_NAMES = ("image_size", "img_size")
PATCH_EMBEDDINGS = ("patch_embed", "patch_embeddings", "patch_embedding", "embeddings")


def configuration(model: nn.Module) -> Mapping[str, Any]:
    """Read timm's configuration of a model; empty where it has none."""
    config: Any = getattr(model, "pretrained_cfg", None)
    if hasattr(config, "to_dict"):
        config = config.to_dict()
    return config if isinstance(config, Mapping) else {}


def input_size(model: nn.Module) -> tuple[int, int, int]:
    """Return the channels, height and width of the images that a model says it wants.

    They are what the model declares (a fixed ``img_size``, a Hugging Face or timm configuration), else
    ``(3, 224, 224)``.
    """
    return next(_shapes(model, image_size=None, channels=None))


def candidate_images(
    model: nn.Module,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    example_inputs: ExampleInputs | None = None,
    likely: tuple[int, ...] = (),
) -> Iterator[torch.Tensor]:
    """Yield images ``(1, c, h, w)`` that a model may take, the most likely first.

    Args:
        model: Says by its configuration and layers what it wants.
        image_size: Height and width in pixels, where they are known.
        channels: Of an image, where they are known.
        example_inputs: A batch of images; its first image is the only one then.
        likely: Channels, height and width to try first where none are given.

    Raises:
        TraceError: If ``example_inputs`` are something else, or given beside a size.
    """
    for name, number in (("image_size", image_size), ("channels", channels)):
        if number is not None and (not isinstance(number, int) or number < 1):
            raise TraceError(f"{name} {number!r}: give a whole number of at least 1.")
    if example_inputs is not None:
        if image_size is not None or channels is not None:
            raise TraceError("example_inputs have a size of their own: leave out image_size and channels.")
        yield _only_images(example_inputs)
        return
    shapes: list[tuple[int, ...]] = list(_shapes(model, image_size=image_size, channels=channels))
    if likely and image_size is None and channels is None:
        shapes.insert(0, likely)
    for shape in dict.fromkeys(shapes):
        yield _blank(model, shape)


def other_shapes(model: nn.Module, tried: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield images of usual sizes other than one that a model does not take."""
    for channels, size in product(_channels(model), USUAL_SIZES):
        if (channels, size, size) != tuple(tried.shape[1:]):
            yield _blank(model, (channels, size, size))


def input_name(model: nn.Module, example_inputs: ExampleInputs | None) -> str | None:
    """Name the parameter of forward that takes the images; None: the first, by position."""
    if isinstance(example_inputs, Mapping):
        return next(iter(example_inputs))
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return None
    kinds = {parameter.kind for parameter in parameters}
    if kinds & {inspect.Parameter.POSITIONAL_ONLY, *POSITIONAL}:
        return None
    named = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    return named[0] if named else None


def has_lazy_layers(model: nn.Module) -> bool:
    """Return whether the sizes of some of a model's layers wait for its first image."""
    return any(map(is_lazy, (*model.parameters(), *model.buffers())))


def logits_of(output: Any) -> Any:
    """Return the logits of what a model has returned.

    A tensor is the logits; of a mapping or an object they are what is called ``logits`` (Hugging Face), of a
    tuple or list its first member (GoogLeNet in training). Anything else is returned as it is.
    """
    if isinstance(output, torch.Tensor | fx.Proxy):
        return output
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    if hasattr(output, "logits"):
        return output.logits
    if isinstance(output, tuple | list) and output:
        return output[0]
    return output


def _only_images(given: ExampleInputs) -> torch.Tensor:
    inputs = list(given.values()) if isinstance(given, Mapping) else given
    if isinstance(inputs, list | tuple) and len(inputs) == 1:
        inputs = inputs[0]
    if not isinstance(inputs, torch.Tensor) or inputs.ndim != 4 or not len(inputs):
        kind = tuple(inputs.shape) if isinstance(inputs, torch.Tensor) else type(given).__name__
        raise TraceError(
            f"example_inputs {kind}: give one batch of images (n, c, h, w); other inputs keep their defaults."
        )
    return inputs[:1].detach()


def _blank(model: nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.zeros(1, *shape, dtype=like.dtype, device=like.device)


def _shapes(
    model: nn.Module, *, image_size: int | None, channels: int | None
) -> Iterator[tuple[int, int, int]]:
    sizes = [(image_size, image_size)] if image_size else list(dict.fromkeys(_sizes(model)))
    for size, depth in product(sizes, [channels] if channels else _channels(model)):
        yield depth, *size


def _sizes(model: nn.Module) -> Iterator[tuple[int, int]]:
    """Yield the heights and widths that a model declares, then the usual one."""
    named = (m for path, m in model.named_modules() if path.rpartition(".")[2] in PATCH_EMBEDDINGS)
    config = getattr(model, "config", None)
    for holder in (model, config, getattr(config, "vision_config", None), *named):
        for name in SIZE_NAMES:
            size = _pair(getattr(holder, name, None))
            if size is not None:
                yield size
    configured = _timm_size(model)
    if configured is not None:
        yield configured[1:]
    yield DEFAULT_IMAGE_SIZE, DEFAULT_IMAGE_SIZE


def _channels(model: nn.Module) -> list[int]:
    """List the channels that a model may want: as it declares, as its first convolution takes, colours."""
    declared = getattr(getattr(model, "config", None), "num_channels", None)
    first = next((m.in_channels for m in model.modules() if isinstance(m, _ConvNd)), None)
    configured = _timm_size(model)
    candidates = [declared, configured[0] if configured else None, first, 3]
    return list(dict.fromkeys(c for c in candidates if isinstance(c, int) and c > 0))


def _timm_size(model: nn.Module) -> tuple[int, int, int] | None:
    size = configuration(model).get("input_size")
    return tuple(size) if size else None


def _pair(size: Any) -> tuple[int, int] | None:
    pair = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        return None
    return pair
