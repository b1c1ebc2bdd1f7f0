"""Describe other libraries' models as timm describes its own, so that the rest knows one form.

timm's configuration (``pretrained_cfg``) says which images a model takes and which module is its classifier.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import Any

import torch
from timm.data import resolve_data_config
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import adapt_input_conv
from torch import nn

from depthsearch.devices import is_out_of_memory
from depthsearch.errors import SettingsError
from depthsearch.models.backbones.backbone import Preprocessing
from depthsearch.models.tracing.inputs import configuration, logits_of
from depthsearch.models.tracing.restoring import evaluating
from depthsearch.text import first_line

USUAL_MEAN, USUAL_STD = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


def describe(model: nn.Module, name: str, seen: Preprocessing, **others: Any) -> None:
    """Attach timm's configuration to a model, and further keys.

    Its classifier is what a configuration that it has says, else it is found by running it on one image.

    Raises:
        SettingsError: If it does not run on such an image, or no single module gives what it returns.
    """
    size = (len(seen.mean), seen.image_size, seen.image_size)
    named = configuration(model).get("classifier")
    if not isinstance(named, str) or named not in dict(model.named_modules()):
        named = _find_classifier(model, name, size)
    vars(model)["pretrained_cfg"] = {
        "architecture": name,
        "input_size": size,
        "mean": seen.mean,
        "std": seen.std,
        "interpolation": seen.interpolation,
        "crop_pct": seen.crop_share,
        "classifier": named,
        **others,
    }


def classifier_of(model: nn.Module) -> str:
    """Read the module path of a model's classifier.

    Raises:
        SettingsError: If it has not just one.
    """
    path = configuration(model).get("classifier")
    if not isinstance(path, str) or not path:
        raise SettingsError(
            f"{type(model).__name__} has no single classifier to replace (timm names {path!r}). "
            "Take another backbone."
        )
    return path


def preprocessing_of(model: nn.Module) -> Preprocessing:
    """Read what a model's weights were trained to see."""
    config = resolve_data_config(model=model, verbose=False)
    return Preprocessing(
        image_size=config["input_size"][-1],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        crop_share=config["crop_pct"],
    )


def _find_classifier(model: nn.Module, name: str, size: tuple[int, int, int]) -> str:
    """Find the last linear layer or convolution whose output the model returns."""
    outputs: list[tuple[str, torch.Tensor]] = []
    kinds = (nn.Linear, nn.Conv2d)
    hooks = [
        module.register_forward_hook(lambda _, __, out, path=path: outputs.append((path, out)))
        for path, module in model.named_modules()
        if isinstance(module, kinds) and path
    ]
    try:
        with evaluating(model), torch.no_grad():
            returned = model(torch.zeros(1, *size))
    except Exception as error:  # the model's own code may raise anything
        if is_out_of_memory(error):
            raise
        shape = " x ".join(map(str, size))
        raise SettingsError(
            f"{name} does not run on one image of {shape}: {first_line(error).rstrip('.')}. "
            "Give another --image-size, --channels or --backbone."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    logits = logits_of(returned)
    if isinstance(logits, torch.Tensor):
        for path, output in reversed(outputs):
            if output.numel() == logits.numel() and torch.equal(output.flatten(), logits.flatten()):
                return path
    raise SettingsError(
        f"{name} has no classifier to replace: what it returns is not what one of its linear layers or "
        "convolutions computes. Return the logits of its last layer, or take another backbone."
    )


def fold_to_grey(model: nn.Module, name: str) -> None:
    """Make a model take grey images: its first kernel is summed over the colours.

    Raises:
        SettingsError: If its first convolution does not take three colours.
    """
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.in_channels != 3 or first.groups != 1:
        raise SettingsError(
            f"{name} cannot be folded to one channel: its first convolution does not take three colours. "
            "Leave --channels 1 out, or take another backbone."
        )
    first.weight = nn.Parameter(adapt_input_conv(1, first.weight.detach()))
    first.in_channels = 1


def grey(seen: Preprocessing) -> Preprocessing:
    """Return the preprocessing of grey images: mean and deviation averaged over the colours, as in timm."""
    return replace(seen, mean=(fmean(seen.mean),), std=(fmean(seen.std),))


def unsaid(name: str, seen: Preprocessing) -> str:
    """Write which preprocessing is assumed, as the backbone names none."""
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (seen.mean, seen.std))
    return (
        f"Backbone {name} does not say what its images are to be like: they get ImageNet's mean {mean} and "
        f"deviation {std}, {seen.interpolation}, crop share {seen.crop_share:g}. Others: --mean, --std, "
        "--interpolation, --crop-share."
    )
