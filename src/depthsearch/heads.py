"""The new classifier on top of a backbone."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from depthsearch.errors import SettingsError
from depthsearch.flattening import MapClassifier

__all__ = [
    "head_for",
    "head_macs",
    "head_size",
    "head_weights",
    "make_head",
    "with_head",
    "without_dropout",
]


def make_head(
    in_features: int,
    num_classes: int,
    *,
    width: int = 0,
    depth: int = 1,
    dropout: float = 0.0,
    pooled: bool = True,
    flat: bool = False,
) -> nn.Module:
    """Make a head: global pooling where the backbone has none, hidden layers, the classifier.

    Args:
        in_features: Channels of the backbone's output; with ``flat`` all numbers of it for one image.
        num_classes: Logits to give.
        width: Width of the hidden layers; 0: none, a linear classifier.
        depth: Number of hidden layers, where there are any.
        dropout: Probability of dropping a feature before each linear layer but the first hidden one.
        pooled: Whether the input is ``(n, in_features)`` already, not ``(n, in_features, h, w)``.
        flat: Whether the input ``(n, c, h, w)`` is flattened, not pooled; its hidden layers are then plain
            ones without normalisation, as in Keras's "Flatten, Dense 256".

    Returns:
        A module from features to logits ``(n, num_classes)``; a plain ``nn.Linear`` if nothing else is asked
        for, so that its tensors keep the names that timm gives them.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if flat:
        layers["flatten"] = nn.Flatten(1)
    elif not pooled:
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten(1)
    features = in_features
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
    return nn.Sequential(layers)


def with_head(
    model: nn.Module,
    classifier: str,
    num_classes: int,
    *,
    width: int = 0,
    depth: int = 1,
    dropout: float = 0.0,
    seed: int = 0,
) -> nn.Module:
    """Copy a model with a new, seeded head in the place of its classifier.

    Args:
        model: Backbone with its old classifier. Left unchanged.
        classifier: Module path of that classifier: a linear layer, a 1 x 1 convolution, or what
            `flattening.flattened` has put there.
        num_classes: Logits of the new one.
        width: See `make_head`.
        depth: See `make_head`.
        dropout: See `make_head`.
        seed: Seeds the head's initial weights.

    Raises:
        SettingsError: If the classifier is something else.
    """
    head = head_for(model, classifier, num_classes, width=width, depth=depth, dropout=dropout, seed=seed)
    copied = copy.deepcopy(model)
    parent, _, name = classifier.rpartition(".")
    setattr(copied.get_submodule(parent), name, head)
    return copied


def head_for(
    model: nn.Module,
    classifier: str,
    num_classes: int,
    *,
    width: int = 0,
    depth: int = 1,
    dropout: float = 0.0,
    seed: int = 0,
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make_head(
            features,
            num_classes,
            width=width,
            depth=depth,
            dropout=dropout,
            pooled=hasattr(old, "in_features"),
            flat=isinstance(old, MapClassifier),
        )


def head_size(model: nn.Module, classifier: str, num_classes: int, **head: Any) -> tuple[int, int]:
    """Count what a head would have, without making it: forward MACs of one image, and parameters.

    Arguments and errors are those of `head_weights`.
    """
    with torch.device("meta"):
        made = head_for(model, classifier, num_classes, **head)
    return head_macs(made), sum(parameter.numel() for parameter in made.parameters())


def head_weights(model: nn.Module, classifier: str, num_classes: int, **head: Any) -> tuple[int, int]:
    """Count the weight tensors of a head, and the parameters in them, without making any of them.

    Args:
        model: See `with_head`.
        classifier: See `with_head`.
        num_classes: See `with_head`.
        **head: Width and depth, see `make_head`.

    Raises:
        SettingsError: If the width of the classifier's input is unknown.
    """
    with torch.device("meta"):
        weights = list(head_for(model, classifier, num_classes, **head).parameters())
    return len(weights), sum(weight.numel() for weight in weights)


def without_dropout(head: nn.Module) -> nn.Module:
    """Give a head of `make_head` for prediction: a linear one is then a plain layer, as timm's is."""
    kept = OrderedDict((n, layer) for n, layer in head.named_children() if not isinstance(layer, nn.Dropout))
    if isinstance(head, nn.Linear) or len(kept) == 1:
        return kept.get("classifier", head)
    return nn.Sequential(kept)


def head_macs(head: nn.Module) -> int:
    """MACs of a head of `make_head` for one image: each of its weights is used once."""
    return sum(m.in_features * m.out_features for m in head.modules() if isinstance(m, nn.Linear))
