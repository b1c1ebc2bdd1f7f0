"""What a backbone is, wherever it comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypedDict

import torch
from torch import nn

from depthsearch.data.ranges import ValueRange
from depthsearch.models.backbones.usercode import UserCode

__all__ = ["Backbone", "Network", "Preprocessing", "PreprocessingOptions", "state_digest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How images become the backbone's input.

    Attributes:
        image_size: Height and width in pixels.
        mean: Per channel, of pixel values in [0, 1].
        std: Per channel, of pixel values in [0, 1].
        interpolation: ``bilinear``, ``bicubic`` or another of Pillow's filters.
        crop_share: Share of the resized shorter side that the centre crop keeps.
        ranges: Which numbers are black and white in images of more than 8 bits, as the set says that a model
            was trained on; empty where it had none.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_share: float
    ranges: tuple[ValueRange, ...] = ()


class PreprocessingOptions(TypedDict, total=False):
    """What may be asked for instead of what a backbone's weights were trained to see; None: nothing."""

    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    interpolation: str | None
    crop_share: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What a source makes of a backbone's name.

    Attributes:
        model: On the CPU, described in timm's terms, see `description.describe`.
        weights: Where its weights come from.
        built_from: What its name alone does not say of how it is built, as JSON: a configuration, or the
            digest of a file.
        code: The file that its classes come from, where it is somebody's own.
        library: Whose code it is, with the version, where it is not timm's.
        assumes: Whether nobody has said which images its weights were trained to see.
        notes: What somebody who uses it has to be told, a line each.
    """

    model: nn.Module
    weights: str
    built_from: Mapping[str, Any] = field(default_factory=dict, hash=False)
    code: UserCode | None = None
    library: str = ""
    assumes: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """A pretrained model, its classifier still the one it was trained with.

    Attributes:
        name: As ``--backbone`` takes it, such as timm's name.
        model: The model on the CPU, in eval mode.
        classifier: Module path of its classifier.
        weights: Where the weights come from, in a word or two that the report shows.
        digest: Hash of every tensor before the classifier that the weights came with.
        preprocessing: What the weights were trained to see.
        head: What its classifier is made for: ``pool``, what its library puts behind the last feature map, or
            ``flatten``, that map itself.
        from_scratch: Whether nobody has trained it on anything, as with ``cnn``: to freeze any of it makes no
            sense.
        built_from: See `Network`.
        code: See `Network`.
        library: See `Network`.
        notes: See `Network`.
    """

    name: str
    model: nn.Module
    classifier: str
    weights: str
    digest: str
    preprocessing: Preprocessing
    head: str = "pool"
    from_scratch: bool = False
    built_from: Mapping[str, Any] = field(default_factory=dict, hash=False)
    code: UserCode | None = None
    library: str = ""
    notes: tuple[str, ...] = ()

    @property
    def build_digest(self) -> str:
        """Hash of what it is built from; empty where its name says it all."""
        if not self.built_from:
            return ""
        text = json.dumps(self.built_from, sort_keys=True, default=str)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the code of its classes before what needs it, for a process that has not run it."""
        return _unpickled, (self.code, {each.name: getattr(self, each.name) for each in fields(self)})


def _unpickled(code: UserCode | None, values: Mapping[str, Any]) -> Backbone:
    """Make a backbone again; its code is there by now."""
    return Backbone(**values)


def state_digest(model: nn.Module, *, leave_out: str | None = None) -> str:
    """Hash a model's parameters and buffers, names included; leave one module out."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in model.state_dict().items():
        if leave_out is not None and (name + ".").startswith(leave_out + "."):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
