"""From a backbone's name to a model with weights, whichever library it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any, Unpack

import torch
from torch import nn

from depthsearch.devices import is_out_of_memory
from depthsearch.errors import SettingsError
from depthsearch.models.backbones import file_source, timm_source, torchvision_source, transformers_source
from depthsearch.models.backbones.backbone import (
    Backbone,
    Preprocessing,
    PreprocessingOptions,
    Request,
    state_digest,
)
from depthsearch.models.backbones.description import classifier_of, preprocessing_of, unsaid
from depthsearch.models.flattening import flattened
from depthsearch.models.tracing.inputs import configuration
from depthsearch.models.tracing.restoring import evaluating
from depthsearch.options.backbones import parse_name
from depthsearch.options.words import HEADS, HeadWord
from depthsearch.text import counted, first_line

# Each has ``network(request, weights)``, with its weights, and ``create(request, built_from)``, without them.
SOURCES = {
    "timm": timm_source,
    "torchvision": torchvision_source,
    "hf": transformers_source,
    "file": file_source,
}


def check_names(names: Iterable[str]) -> None:
    """Refuse names that their library does not know, before weights of any are downloaded.

    Raises:
        SettingsError: If one is unknown, with names that are like it.
    """
    for parsed in map(parse_name, names):
        if parsed.source == "timm":
            timm_source.check_name(parsed.name)
        elif parsed.source == "torchvision":
            torchvision_source.find_entry(parsed.name, parsed.entry)


def load_backbone(
    name: str,
    weights: str = "auto",
    *,
    image_size: int | None = None,
    in_chans: int = 3,
    head: HeadWord = "pool",
    demo: bool = False,
    seed: int = 0,
    **seen: Unpack[PreprocessingOptions],
) -> Backbone:
    """Build a model and give it pretrained weights.

    Args:
        name: timm's, such as ``densenet121`` or ``resnet50.a1_in1k``; ``torchvision:NAME``, or
            ``torchvision:NAME@WEIGHTS`` for others than its default weights; ``hf:NAME`` of Hugging Face's
            hub, or ``hf:FOLDER``; ``FILE.py:function``, which is run and returns a model.
        weights: ``auto`` (those of its library, or that the function returns), ``random``, or a safetensors
            or state-dict file; ``FILE:NAME`` is one of several state dicts in it. Of ``cnn``, which nobody
            has pretrained, the first two are the same.
        image_size: Height and width of the images in pixels; default: what the weights were trained with.
        in_chans: 3 for colours, or 1 for grey: the kernels of the first convolution are summed over the
            colours, as timm does, and mean and standard deviation of the pixels are the means of theirs.
        head: ``pool``: the new head takes the place of the classifier, behind what is before it
            (global pooling; in VGG also two fully connected layers). ``flatten``: it comes straight behind
            the last feature map, which it flattens; what timm puts behind that map is left out.
        demo: Whether the weights shipped with this package may stand in for missing ones.
        seed: Seeds the weights where they are random.
        **seen: Preprocessing other than the weights were trained with.

    Raises:
        SettingsError: If there is no such model, or not with such images or such a head.
        WeightsError: If no weights are to be had or the given ones do not fit.
    """
    _check_options(image_size, in_chans, head)
    source, request = _asked(name, in_chans=in_chans, image_size=image_size, demo=demo, seed=seed)
    network = source.network(request, weights)
    model = network.model
    check_size(name, model, image_size)
    _unfreeze(model)
    preprocessing = _changed(preprocessing_of(model), image_size, seen)
    is_guessed = network.assumes and None in (seen.get("mean"), seen.get("std"))
    notes = (unsaid(name, preprocessing),) if is_guessed else ()
    digest = state_digest(model, leave_out=classifier_of(model))
    if head == "flatten":
        model = flattened(model, image_size=preprocessing.image_size)
    return Backbone(
        name=name,
        model=model.eval(),
        classifier=classifier_of(model),
        weights=network.weights,
        digest=digest,
        preprocessing=preprocessing,
        head=head,
        built_from=network.built_from,
        code=network.code,
        library=network.library,
        notes=(*network.notes, *notes),
    )


def _check_options(image_size: int | None, in_chans: int, head: str) -> None:
    if image_size is not None and image_size < 8:
        raise SettingsError(f"--image-size {image_size} is too small: give at least 8 pixels.")
    if in_chans not in (1, 3):
        raise SettingsError(f"--channels {in_chans}: give 3 for colours or 1 for grey.")
    if head not in HEADS:
        raise SettingsError(f"--head {head!r}: give one of {', '.join(HEADS)}.")


def _unfreeze(model: nn.Module) -> None:
    """Make a model learn that comes frozen as a whole: here the study decides what learns."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())


def _asked(name: str, **options: Any) -> tuple[ModuleType, Request]:
    """Return the module for a name's source, and what to ask it for."""
    parsed = parse_name(name)
    return SOURCES[parsed.source], Request(name=parsed.name, entry=parsed.entry, **options)


def make_model(
    name: str,
    built_from: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    in_chans: int = 3,
    image_size: int | None = None,
) -> nn.Module:
    """Build a model without pretrained weights; for grey images with one channel.

    Args:
        name: See `load_backbone`. A function in a file gives its model the weights that it has.
        built_from: What `Backbone.built_from` said once, to build the same again; None: as it is built now.
        seed: Of the weights.
        in_chans: 3 for colours, 1 for grey.
        image_size: In pixels, where the model does not say itself what it takes.

    Raises:
        SettingsError: If there is no such model, or it is built otherwise now.
    """
    source, request = _asked(name, in_chans=in_chans, image_size=image_size, seed=seed)
    model: nn.Module = source.create(request, built_from)
    return model.eval()


def check_size(name: str, model: nn.Module, image_size: int | None) -> None:
    """Refuse a size of images, in pixels, that a model cannot take, before anything is traced or decoded.

    Raises:
        SettingsError: Naming the size that it takes.
    """
    config = configuration(model)
    channels, own, _ = config["input_size"]
    is_timms = parse_name(name).source == "timm"
    if image_size in (None, own) or (is_timms and not config.get("fixed_input_size")):
        return
    try:
        with evaluating(model), torch.no_grad():
            model(torch.zeros(1, channels, image_size, image_size))
    except Exception as error:  # the model's own code may raise anything
        if is_out_of_memory(error):
            raise
        raise SettingsError(
            f"--image-size {image_size}: {name} takes images of {own} px "
            f"({first_line(error).rstrip('.')}). Leave --image-size out, or take another backbone."
        ) from error


def _changed(own: Preprocessing, image_size: int | None, seen: PreprocessingOptions) -> Preprocessing:
    """Replace what the weights were trained to see by what is asked for, as far as it fits the channels."""
    changes: dict[str, Any] = {name: value for name, value in seen.items() if value is not None}
    n_channels = len(own.mean)
    for name in ("mean", "std"):
        values = changes.get(name)
        if values is None:
            continue
        if len(values) not in (1, n_channels):
            raise SettingsError(
                f"--{name} has {counted(len(values), 'value')}, and images have {n_channels} "
                f"{'channel' if n_channels == 1 else 'channels'}. Give one for each, or one for all."
            )
        changes[name] = tuple(values) * (n_channels if len(values) == 1 else 1)
    if image_size is not None:
        changes["image_size"] = image_size
    return replace(own, **changes)
