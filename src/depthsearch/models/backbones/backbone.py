"""A backbone, its weights and its preprocessing, whichever library it comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

import torch
from torch import nn

from depthsearch.data.decode import Geometry
from depthsearch.data.ranges import ValueRange
from depthsearch.hashing import digest_of
from depthsearch.models.backbones.usercode import UserCode
from depthsearch.models.tracing.nodes import is_within
from depthsearch.options.words import HeadWord


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

    @property
    def geometry(self) -> Geometry:
        """How an image becomes a square of pixels."""
        return Geometry(
            image_size=self.image_size,
            crop_share=self.crop_share,
            interpolation=self.interpolation,
            channels=len(self.mean),
        )


class PreprocessingOptions(TypedDict, total=False):
    """Preprocessing to use instead of what a backbone's weights were trained to see; None: that."""

    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    interpolation: str | None
    crop_share: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsOrigin:
    """Where weights come from.

    Attributes:
        kind: ``pretrained`` by the backbone's library; ``shipped`` with this package for the demo; from a
            ``file``; of a ``function`` that returned the model; ``random`` in place of pretrained ones;
            ``scratch``, random as nobody has pretrained that backbone.
        where: The repository, package, file or function, with its digest where it has one; empty where the
            weights are random.
        seed: Of random weights.
    """

    kind: Literal["pretrained", "shipped", "file", "function", "random", "scratch"]
    where: str = ""
    seed: int | None = None

    def __str__(self) -> str:
        """Name the origin in a word or two, as reports do."""
        if self.seed is not None:
            return f"{'from scratch' if self.kind == 'scratch' else 'random'} (seed {self.seed})"
        return self.where if self.kind == "pretrained" else f"{self.kind} {self.where}"

    @property
    def has_classifier(self) -> bool:
        """Whether the backbone's own classifier was trained with these weights."""
        return self.kind in ("pretrained", "function")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A backbone that its source is asked for.

    Attributes:
        name: Within the source, see `options.backbones.BackboneName`.
        entry: Of torchvision the weights that are named, of a file the function; else empty.
        in_chans: 3 for colours, 1 for grey.
        image_size: Side of the images in pixels; None: what the model says itself.
        seed: Of random weights, and of what a function in a file draws.
        demo: Whether the weights shipped with this package may stand in for missing ones.
    """

    name: str
    entry: str = ""
    in_chans: int = 3
    image_size: int | None = None
    seed: int = 0
    demo: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A model as its source builds it from a backbone's name.

    Attributes:
        model: On the CPU, described in timm's terms, see `description.describe`.
        weights: Where its weights come from.
        built_from: What its name alone does not say of how it is built, as JSON: a configuration, or the
            digest of a file.
        code: The file that its classes come from, where it is somebody's own.
        library: Whose code it is, with the version, where it is not timm's.
        assumes: Whether nobody has said which images its weights were trained to see.
        notes: What its user should know, a line each.
    """

    model: nn.Module
    weights: WeightsOrigin
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
        weights: Where the weights come from.
        digest: Hash of every tensor before the classifier that the weights came with.
        preprocessing: What the weights were trained to see.
        head: What its classifier takes: ``pool``, what its library puts behind the last feature map, or
            ``flatten``, that map itself.
        built_from: See `Network`.
        code: See `Network`.
        library: See `Network`.
        notes: See `Network`.
    """

    # First, so that it is unpickled, and run, before the model whose classes it has.
    code: UserCode | None = None
    name: str
    model: nn.Module
    classifier: str
    weights: WeightsOrigin
    digest: str
    preprocessing: Preprocessing
    head: HeadWord = "pool"
    built_from: Mapping[str, Any] = field(default_factory=dict, hash=False)
    library: str = ""
    notes: tuple[str, ...] = ()

    @property
    def from_scratch(self) -> bool:
        """Whether nobody has trained it on anything, as with ``cnn``: to freeze any of it makes no sense."""
        return self.weights.kind == "scratch"

    @property
    def build_digest(self) -> str:
        """Hash of what it is built from; empty where its name says it all."""
        if not self.built_from:
            return ""
        return digest_of(json.dumps(self.built_from, sort_keys=True, default=str))


def state_digest(model: nn.Module, *, leave_out: str | None = None) -> str:
    """Hash a model's parameters and buffers, names included; leave one module out."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in model.state_dict().items():
        if leave_out is not None and is_within(name, leave_out):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
