"""Backbones of torchvision: its image classifiers, with the weights and transforms of its enumerations."""

from __future__ import annotations

import math
import re
import sys
import urllib.request
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from depthsearch.devices import is_out_of_memory
from depthsearch.errors import SettingsError, WeightsError
from depthsearch.models.backbones import hub
from depthsearch.models.backbones.backbone import Network, Preprocessing, Request, WeightsOrigin
from depthsearch.models.backbones.description import (
    USUAL_MEAN,
    USUAL_STD,
    describe,
    fold_to_grey,
    grey,
    preprocessing_of,
)
from depthsearch.models.backbones.requirements import TORCHVISION, unknown_model
from depthsearch.models.backbones.weightsfile import load_file, read_state
from depthsearch.models.tracing.inputs import configuration
from depthsearch.text import first_line

# Where torchvision has no weights of a model, as of mnasnet in some versions.
USUAL = Preprocessing(
    image_size=224, mean=USUAL_MEAN, std=USUAL_STD, interpolation="bilinear", crop_share=0.875
)
# Classifiers in the middle, which help to train from scratch, are left out, as torchvision does.
AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
# What a description says beside images and classifier.
KEPT = ("fixed_input_size", "num_classes")
# DenseNet's files have names with dots that modules may not have any more.
DOTTED = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$")


def network(request: Request, weights: str) -> Network:
    """Build a model and load its weights.

    Raises:
        SettingsError: If torchvision has no such model or weights, or not with so many channels.
        WeightsError: If the weights are not to be had or do not fit.
    """
    name, entry = request.name, request.entry
    if entry and weights != "auto":
        raise SettingsError(
            f"torchvision:{name}@{entry} names weights, and --weights {weights} gives others: leave one out."
        )
    chosen = find_entry(name, entry)
    notes: tuple[str, ...] = ()
    model = _coloured(request, as_pretrained=weights == "auto")
    if weights == "auto":
        if chosen is None:
            raise WeightsError(f"torchvision has no weights of {name}. Give --weights random, or a file.")
        origin = WeightsOrigin(kind="pretrained", where=f"torchvision {chosen}")
        _load(f"torchvision:{name}", model, _state(name, chosen), origin.where)
    elif weights == "random":
        origin = WeightsOrigin(kind="random", seed=request.seed)
    else:
        origin, notes = load_file(f"torchvision:{name}", model, weights)
    if request.in_chans == 1:
        _make_grey(model, f"torchvision:{name}")
    library = f"torchvision {torchvision.__version__}"
    return Network(model=model, weights=origin, library=library, notes=notes)


def create(request: Request, built_from: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a model with random weights; its name says all of how it is built.

    Raises:
        SettingsError: If torchvision has no such model or weights, or not with so many channels.
    """
    model = _coloured(request, as_pretrained=False)
    if request.in_chans == 1:
        _make_grey(model, f"torchvision:{request.name}")
    return model


def _coloured(request: Request, *, as_pretrained: bool) -> nn.Module:
    """Build a model for colours with random weights, described by the images of its weights' entry."""
    name = request.name
    chosen = find_entry(name, request.entry)
    options: dict[str, Any] = {}
    if name in AUXILIARY:
        # With torchvision's weights these see images otherwise.
        options = {"aux_logits": False, "init_weights": True, "transform_input": as_pretrained}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(request.seed)
        model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    _end_in_classifier(model)
    seen = USUAL if chosen is None else seen_by_transforms(chosen.transforms())
    fixed = isinstance(model, torchvision.models.VisionTransformer)
    describe(model, f"torchvision:{name}", seen, fixed_input_size=fixed, num_classes=1000)
    return model


def _end_in_classifier(model: nn.Module) -> None:
    """Make SqueezeNet end in its last convolution: the head that replaces it pools by itself."""
    if isinstance(model, torchvision.models.SqueezeNet):
        model.classifier = next(m for m in model.classifier if isinstance(m, nn.Conv2d))


def _make_grey(model: nn.Module, name: str) -> None:
    if getattr(model, "transform_input", False):
        raise SettingsError(
            f"{name} treats its three colours each in its own way: leave --channels 1 out, or take another "
            "backbone."
        )
    fold_to_grey(model, name)
    describe(model, name, grey(preprocessing_of(model)), **{n: configuration(model)[n] for n in KEPT})


def find_entry(name: str, entry: str) -> Any:
    """Find the weights of a model; None where it has none and none are named.

    Raises:
        SettingsError: If torchvision has no such model or weights.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise unknown_model(TORCHVISION, name, known)
    weights = torchvision.models.get_model_weights(name)
    if not entry:
        return getattr(weights, "DEFAULT", None)
    if entry != "DEFAULT" and entry not in weights.__members__:
        raise SettingsError(
            f"torchvision's {name} has no weights {entry!r}. Give one of {', '.join(weights.__members__)}."
        )
    return weights[entry] if entry != "DEFAULT" else weights.DEFAULT


def seen_by_transforms(transforms: Any) -> Preprocessing:
    """Read what weights were trained to see from the transforms that come with them."""
    image_size, resized = transforms.crop_size[0], transforms.resize_size[0]
    share = image_size / resized
    # Rounding is not to make a pixel less of the shorter side.
    if math.floor(image_size / share) < resized:
        share = math.nextafter(share, 0)
    return Preprocessing(
        image_size=image_size,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        interpolation=transforms.interpolation.value,
        crop_share=share,
    )


def _state(name: str, chosen: Any) -> dict[str, torch.Tensor]:
    """Read torchvision's weights from its cache, downloaded if need be, without running code."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / chosen.url.rpartition("/")[2]
    if not path.is_file():
        _download(name, chosen.url, path)
    state = read_state(path).tensors
    if name.startswith("densenet"):
        return {DOTTED.sub(r"\1\2", key): tensor for key, tensor in state.items()}
    if name.startswith("squeezenet"):
        return {re.sub(r"^classifier\.1\.", "classifier.", key): t for key, t in state.items()}
    if name in AUXILIARY:
        return {key: tensor for key, tensor in state.items() if not key.startswith(AUXILIARY[name])}
    return state


def _load(name: str, model: nn.Module, state: dict[str, torch.Tensor], origin: str) -> None:
    """Load weights that may be older than the model: some of its modules know their former names."""
    try:
        model.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise WeightsError(
            f"The weights {origin} do not fit {name}: {reason}. Remove the file from torchvision's cache, or "
            "give --weights FILE."
        ) from error


def _download(name: str, url: str, path: Path) -> None:
    request = urllib.request.Request(url, method="HEAD")
    if not hub.answers(lambda: urllib.request.urlopen(request, timeout=hub.HUB_TIMEOUT_SECONDS).close()):
        raise WeightsError(
            f"No pretrained weights for torchvision:{name}: neither in {path.parent} nor from {url} within "
            f"{hub.HUB_TIMEOUT_SECONDS:.0f} s. Go online once, put the file there, give --weights FILE, or "
            "say --weights random."
        )
    digest = re.search(r"-([a-f0-9]{8,})\.", path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_watched = sys.stderr is not None and sys.stderr.isatty()
        torch.hub.download_url_to_file(url, str(path), digest[1] if digest else None, progress=is_watched)
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"The weights of torchvision:{name} cannot be downloaded to {path.parent}: {first_line(error)}. "
            "TORCH_HOME names another folder; or give --weights FILE."
        ) from error
