"""Put a head straight behind the last feature map, without global pooling in between.

Where that map is, timm's models say themselves: it is what their ``forward_features`` gives. What they put
behind it (pooling, the fully connected layers of VGG, the widening convolution of MobileNetV3) is left out.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from depthsearch.errors import SettingsError
from depthsearch.models.tracing.inputs import input_size
from depthsearch.models.tracing.nodes import is_within
from depthsearch.models.tracing.restoring import evaluating
from depthsearch.models.tracing.trace import trace
from depthsearch.text import first_line

# Module path of the head.
FLAT_HEAD = "flat_head"


class MapClassifier(nn.Conv2d):
    """Stands for the head to come: a linear classifier of whole feature maps, flattened.

    It has a single output, so that its weights stay small; its kernel is as large as the map.
    """

    @property
    def in_features(self) -> int:
        """Features of a flattened map."""
        return self.weight[0].numel()


class _BehindFeatures:
    """The forward of a model whose head comes behind its last feature map."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the head's output."""
        model: Any = self
        logits: torch.Tensor = model.flat_head(model.forward_features(x))
        return logits

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by the model's own class, as its name stands for that."""
        return _new, (type(self).__mro__[2],), self.__getstate__()


def _class_of(cls: type) -> Any:
    """Make a class of its own, as torch's parametrizations do: the modules stay where they were."""
    return type(cls.__name__, (_BehindFeatures, cls), {"__module__": cls.__module__})


def _new(cls: type) -> Any:
    flat = _class_of(cls)
    return flat.__new__(flat)


def flattened(model: nn.Module, *, image_size: int) -> nn.Module:
    """Copy a timm model with `MapClassifier` in the place of all that follows its last feature map.

    Modules keep their paths, tensors their names; what is not used any more has become an identity.

    Args:
        model: A CNN of timm's. Left as it was.
        image_size: Height and width of the images, in pixels: on them depends how large the map is.

    Raises:
        SettingsError: If the model has no last feature map, or images are too small for it.
    """
    flat = copy.deepcopy(model)
    shape = _map_shape(flat, image_size)
    flat.__class__ = _class_of(type(flat))
    like = next(flat.parameters())
    kernel = (shape[2], shape[3])
    flat.add_module(FLAT_HEAD, MapClassifier(shape[1], 1, kernel, device=like.device, dtype=like.dtype))
    # Only such images fit the head: whoever traces the model without asking for a size has to take these.
    size = (input_size(model)[0], image_size, image_size)
    vars(flat)["pretrained_cfg"] = {
        **vars(flat)["pretrained_cfg"],
        "classifier": FLAT_HEAD,
        "input_size": size,
        "pool_size": tuple(shape[2:]),
        "fixed_input_size": True,
    }
    _drop_unused(flat, image_size)
    return flat.train(model.training)


def _map_shape(model: Any, image_size: int) -> torch.Size:
    like = next(model.parameters())
    image = torch.zeros(1, input_size(model)[0], image_size, image_size, device=like.device, dtype=like.dtype)
    name = type(model).__name__
    try:
        with evaluating(model), torch.no_grad():
            features = model.forward_features(image)
    except (AttributeError, RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingsError(
            f"--head flatten finds no last feature map in {name} at {image_size} px: {first_line(error)}. "
            "Give another --image-size or --backbone, or --head pool."
        ) from error
    if not isinstance(features, torch.Tensor) or features.ndim != 4:
        is_tensor = isinstance(features, torch.Tensor)
        kind = f"a tensor {tuple(features.shape)}" if is_tensor else type(features).__name__
        raise SettingsError(
            f"--head flatten needs a last feature map, and {name} gives {kind}. "
            "Take a CNN as --backbone, or --head pool."
        )
    return features.shape


def _drop_unused(model: nn.Module, image_size: int) -> None:
    """Make an identity of each of the model's own modules that nothing of is run."""
    graph = trace(model, image_size=image_size)
    used = [str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")]
    for name, _ in list(model.named_children()):
        if not any(is_within(path, name) for path in used):
            setattr(model, name, nn.Identity())
