"""The new classifier on top of a backbone."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypedDict, Unpack

import torch
from torch import nn

from depthsearch.errors import SettingsError
from depthsearch.models.flattening import MapClassifier


class HeadOptions(TypedDict, total=False):
    """Options of a head beside its classifier; see `make_head`."""

    width: int
    depth: int
    dropout: float
    images_each: int
    n_numbers: int


class SampleJoin(nn.Module):
    """Joins what belongs to a sample: the features of its images, then its numbers, standardised.

    Attributes:
        images_each: Images of a sample, ``k``.
        n_numbers: Numbers of it, ``d``.
        mean: ``(d,)``, of the numbers that the head learns from, kept with its weights.
        deviation: ``(d,)``, likewise; 1 where all numbers of a column are the same.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, images_each: int, n_numbers: int) -> None:
        """Start with a mean of 0 and a deviation of 1; `standardise` sets others."""
        super().__init__()
        self.images_each, self.n_numbers = images_each, n_numbers
        if n_numbers:
            self.register_buffer("mean", torch.zeros(n_numbers))
            self.register_buffer("deviation", torch.ones(n_numbers))

    def forward(self, features: torch.Tensor, numbers: torch.Tensor | None = None) -> torch.Tensor:
        """Join features ``(n * k, f)`` and numbers ``(n, d)`` to ``(n, k * f + d)``."""
        joined = features.reshape(-1, self.images_each * features.shape[1])
        if not self.n_numbers:
            return joined
        if numbers is None:
            raise ValueError(f"This head takes {self.n_numbers} numbers of each sample, and got none.")
        return torch.cat([joined, (numbers - self.mean) / self.deviation], 1)


class SampleHead(nn.Sequential):
    """A head for samples of several images, or with numbers: layers one after the other.

    Attributes:
        join: The layer that makes a row of a sample; those before it see images.
        takes_numbers: Whether it is called with numbers behind the features.
    """

    join: SampleJoin

    @property
    def takes_numbers(self) -> bool:
        """Whether samples have numbers."""
        return self.join.n_numbers > 0

    def forward(self, features: torch.Tensor, numbers: torch.Tensor | None = None) -> torch.Tensor:
        """Map features of ``n * k`` images, and numbers ``(n, d)``, to logits ``(n, num_classes)``."""
        for layer in self:
            features = layer(features, numbers) if layer is self.join else layer(features)
        return features


def standardise(head: nn.Module, numbers: torch.Tensor) -> None:
    """Set a `SampleHead`'s mean and deviation to those of the numbers ``(n, d)`` that it is to learn from."""
    assert isinstance(head, SampleHead)
    values = numbers.double()
    # Of equal values, rounding can leave a deviation that is not quite 0.
    varies = values.amax(0) > values.amin(0)
    deviation = torch.where(varies, values.std(0, correction=0), torch.ones(()).double()).float()
    head.join.mean.copy_(values.mean(0))
    head.join.deviation.copy_(torch.where(deviation > 0, deviation, torch.ones(())))


@contextmanager
def giving_numbers(model: nn.Module, numbers: torch.Tensor | None) -> Iterator[None]:
    """Pass the numbers ``(n, d)`` of samples to the head of a model, whose own forward takes images only."""
    heads = [m for m in model.modules() if isinstance(m, SampleHead) and m.takes_numbers]
    hooks = [head.register_forward_pre_hook(lambda _, features: (*features, numbers)) for head in heads]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def make_head(
    in_features: int,
    num_classes: int,
    *,
    width: int = 0,
    depth: int = 1,
    dropout: float = 0.0,
    pooled: bool = True,
    flat: bool = False,
    images_each: int = 1,
    n_numbers: int = 0,
) -> nn.Module:
    """Make a head: global pooling where the backbone has none, hidden layers, the classifier.

    Args:
        in_features: Channels of the backbone's output; with ``flat`` all numbers of it for one image.
        num_classes: How many logits.
        width: Width of the hidden layers; 0: none, a linear classifier.
        depth: Number of hidden layers, where there are any.
        dropout: Probability of dropping a feature before each linear layer but the first hidden one.
        pooled: Whether the input is ``(n, in_features)`` already, not ``(n, in_features, h, w)``.
        flat: Whether the input ``(n, c, h, w)`` is flattened, not pooled; its hidden layers are then plain
            ones without normalisation, as in Keras's "Flatten, Dense 256".
        images_each: Images of a sample: the input is of so many in a row for each.
        n_numbers: Numbers of a sample, see `standardise`.

    Returns:
        A module from features to logits ``(n, num_classes)``; a plain ``nn.Linear`` if nothing else is asked
        for, so that its tensors keep the names that timm gives them; a `SampleHead` where a sample is more
        than an image.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if flat:
        layers["flatten"] = nn.Flatten(1)
    elif not pooled:
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten(1)
    of_samples = images_each > 1 or n_numbers > 0
    if of_samples:
        layers["join"] = SampleJoin(images_each, n_numbers)
    features = images_each * in_features + n_numbers
    for i in range(1, depth + 1 if width else 1):
        layers[f"hidden{i}"] = nn.Linear(features, width)
        if not flat:
            layers[f"norm{i}"] = nn.LayerNorm(width)
        layers[f"activation{i}"] = nn.ReLU()
        features = width
        if dropout and i < depth:
            layers[f"dropout{i}"] = nn.Dropout(dropout)
    if dropout:
        layers["dropout"] = nn.Dropout(dropout)
    classifier = nn.Linear(features, num_classes)
    if not layers:
        return classifier
    layers["classifier"] = classifier
    return SampleHead(layers) if of_samples else nn.Sequential(layers)


def with_head(
    model: nn.Module,
    classifier: str,
    num_classes: int,
    *,
    seed: int = 0,
    shares: bool = False,
    **options: Unpack[HeadOptions],
) -> nn.Module:
    """Copy a model with a new, seeded head in the place of its classifier.

    Args:
        model: Backbone with its old classifier. Left unchanged.
        classifier: Module path of that classifier: a linear layer, a 1 x 1 convolution, or what
            `flattening.flattened` has put there.
        num_classes: Logits of the new one.
        seed: Seeds the head's initial weights.
        shares: Whether the copy shares the backbone's own modules, to copy less where only a part of it is
            wanted (`split.suffix_of` copies that): it must not be trained itself.
        **options: See `make_head`.

    Raises:
        SettingsError: If the classifier is something else.
    """
    head = head_for(model, classifier, num_classes, seed=seed, **options)
    parent, _, name = classifier.rpartition(".")
    copied = _with_own_path(model, parent) if shares else copy.deepcopy(model)
    setattr(copied.get_submodule(parent), name, head)
    return copied


def _with_own_path(model: nn.Module, path: str) -> nn.Module:
    """Copy a module and those on the way to one inside it; all others are shared."""
    copied = copy.copy(model)
    copied._modules = dict(model._modules)
    if path:
        name, _, rest = path.partition(".")
        setattr(copied, name, _with_own_path(model.get_submodule(name), rest))
    return copied


def head_for(
    model: nn.Module, classifier: str, num_classes: int, *, seed: int = 0, **options: Unpack[HeadOptions]
) -> nn.Module:
    """Make the seeded head that fits in the place of a model's classifier; arguments as of `with_head`.

    Raises:
        SettingsError: If the width of the classifier's input is unknown.
    """
    old = model.get_submodule(classifier)
    features = getattr(old, "in_features", None) or getattr(old, "in_channels", None)
    if features is None:
        raise SettingsError(
            f"The classifier '{classifier}' of {type(model).__name__} is a {type(old).__name__}, neither "
            "linear nor a convolution: its input's width is unknown. Take another backbone."
        )
    pooled, flat = hasattr(old, "in_features"), isinstance(old, MapClassifier)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make_head(features, num_classes, pooled=pooled, flat=flat, **options)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSize:
    """The cost of a head.

    Attributes:
        macs: Of one sample, forward: each weight is used once.
        tensors: That hold its weights and biases.
        parameters: In them.
    """

    macs: int
    tensors: int
    parameters: int


def head_size(
    model: nn.Module, classifier: str, num_classes: int, **options: Unpack[HeadOptions]
) -> HeadSize:
    """Count what a head would have, without making any of it; arguments as of `with_head`.

    Raises:
        SettingsError: If the width of the classifier's input is unknown.
    """
    with torch.device("meta"):
        made = head_for(model, classifier, num_classes, **options)
    weights = list(made.parameters())
    return HeadSize(
        macs=head_macs(made), tensors=len(weights), parameters=sum(weight.numel() for weight in weights)
    )


def without_dropout(head: nn.Module) -> nn.Module:
    """Return a head of `make_head` without dropout, for prediction: a linear one as a plain layer."""
    kept = OrderedDict((n, layer) for n, layer in head.named_children() if not isinstance(layer, nn.Dropout))
    if isinstance(head, nn.Linear) or len(kept) == 1:
        return kept.get("classifier", head)
    return SampleHead(kept) if isinstance(head, SampleHead) else nn.Sequential(kept)


def head_macs(head: nn.Module) -> int:
    """Count the MACs of a head of `make_head` for one sample: each of its weights is used once."""
    return sum(m.in_features * m.out_features for m in head.modules() if isinstance(m, nn.Linear))
