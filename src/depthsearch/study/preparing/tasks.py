"""Backbones, images and search space of a study, loaded from its options."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import timm
import torch
from rich.filesize import decimal

from depthsearch import __version__
from depthsearch.data.dataset import DataSet
from depthsearch.data.listing import Listing
from depthsearch.data.loading import load_data
from depthsearch.devices import Device, choose_device, processor_name, use_all_cores
from depthsearch.features.budget import choose_budget
from depthsearch.features.tiers.nodes import local_folder
from depthsearch.files import full_path
from depthsearch.models.backbones.backbone import Backbone, Preprocessing
from depthsearch.models.backbones.loading import check_names, load_backbone
from depthsearch.models.tracing.graph import LayerGraph
from depthsearch.options.backbones import parse_name
from depthsearch.options.defaults import is_demo
from depthsearch.options.study import StudyOptions
from depthsearch.options.weights import weights_by_backbone, with_full_paths
from depthsearch.options.words import OPTIONAL_RANGES
from depthsearch.search.space import FIXABLE, SearchSpace
from depthsearch.study.events import Decoding, Note, Notice, Say
from depthsearch.study.preparing.images import division_of, source_of
from depthsearch.study.preparing.places import cache_folder, check_cache
from depthsearch.text import a_few, counted, named_few
from depthsearch.training.recipe import Recipe
from depthsearch.training.task import Task

# Options that the recipe has under the same name.
RECIPE = (
    *("epochs", "late_passes", "batch_size", "schedule", "label_smoothing", "metric", "seed"),
    *("momentum", "views", "augment", "balance"),
)


def load_backbones(options: StudyOptions, say: Say) -> tuple[Mapping[str, Backbone], SearchSpace]:
    """Load the backbones.

    Returns:
        The backbones by the space's names, and the search space.

    Raises:
        DepthsearchError: If one of them cannot be had or used.
    """
    check_cache(options.keep_disk)
    weights = weights_by_backbone(options.weights, options.backbone)
    check_names(options.backbone)
    use_all_cores()
    backbones = {name: _load_backbone(name, weights[name], options, say) for name in options.backbone}
    rates = options.learning_rates or ()
    ranges: dict[str, Any] = {name: OPTIONAL_RANGES[name] for name in options.also}
    space = SearchSpace.across(
        {name: backbone.model for name, backbone in backbones.items()},
        options.kinds,
        image_size={name: b.preprocessing.image_size for name, b in backbones.items()},
        layers=options.layers,
        from_scratch=[name for name, backbone in backbones.items() if backbone.from_scratch],
        learning_rate=options.learning_rate or (min(rates), max(rates)),
        head_width=options.head_width,
        **ranges,
        fixed=_given(options, FIXABLE),
    )
    return dict(zip(space.backbones, backbones.values(), strict=True)), space


def load_tasks(
    options: StudyOptions,
    say: Say,
    backbones: Mapping[str, Backbone],
    space: SearchSpace,
    device: Device,
    *,
    images: Listing | None = None,
) -> Mapping[str, Task]:
    """Load the images for backbones, with a note on each backbone, the images and the device.

    Args:
        options: Of the study, with defaults.
        say: Receives the notes.
        backbones: By the space's names for them.
        space: What is searched.
        device: What is computed on, here or by the workers of a cluster.
        images: What `check_images` has found; default: they are listed again.

    Returns:
        The task of each backbone by the space's name for it.

    Raises:
        DepthsearchError: If the images cannot be had or used.
    """
    recipe = Recipe(**_given(options, RECIPE))
    # On a cluster each node has a budget of its own.
    budget = choose_budget(
        device_here(options),
        local_folder(cache_folder("features")),
        memory_bytes=options.keep_memory,
        disk_bytes=options.keep_disk,
    )
    say_new = _once(say)
    data: dict[Preprocessing, DataSet] = {}
    tasks = {}
    for key, backbone in backbones.items():
        preprocessing = backbone.preprocessing
        if preprocessing not in data:
            data[preprocessing] = load_images(options, say_new, preprocessing, images=images)
        tasks[key] = Task(
            backbone=backbone,
            data=data[preprocessing],
            recipe=recipe,
            device=device,
            budget=budget.divided(len(backbones)),
        )
        _say_backbone(say, tasks[key], n_cuts=len(space.cuts_of(key)))
    kept = (
        "features are kept by each node"
        if options.executor == "ray"
        else f"features kept: up to {decimal(budget.device_bytes + budget.memory_bytes)} in memory, "
        f"{decimal(budget.disk_bytes)} on disk"
    )
    say(Note(text=f"Device {device.kind}, {device.precision}; {kept}."))
    return tasks


def _once(say: Say) -> Say:
    """Pass each note on once: backbones that take other pixels are told the same of the images."""
    said: set[Note] = set()

    def say_new(notice: Notice) -> None:
        if isinstance(notice, Note):
            if notice in said:
                return
            said.add(notice)
        say(notice)

    return say_new


def _say_backbone(say: Say, task: Task, *, n_cuts: int) -> None:
    backbone = task.backbone
    cuts = counted(n_cuts, "candidate cut")
    about = f"Backbone {backbone.name}, weights: {backbone.weights}"
    say(Note(text=f"{about}; {cuts}; {backbone.preprocessing.image_size} px."))
    if text := whole_modules(task.graph):
        say(Note(text=text, level="warning"))


def whole_modules(graph: LayerGraph) -> str:
    """List the modules that tracing could not enter, so that they hold no cut, with reasons; empty: none."""
    if not graph.opaque:
        return ""
    n_whole = len(graph.opaque)
    what = f"{n_whole} {'module has' if n_whole == 1 else 'modules have'} no cuts inside"
    return named_few(what, [f"{path} ({reason})" for path, reason in graph.opaque.items()])


def device_here(options: StudyOptions) -> Device:
    """Choose the device of this machine, which may only coordinate a cluster with other devices."""
    lacks_it = options.device == "cuda" and not torch.cuda.is_available()
    kind = "cpu" if options.executor == "ray" and lacks_it else options.device
    return choose_device(kind, options.precision, compiled=options.compile)


def _load_backbone(name: str, weights: str, options: StudyOptions, say: Say) -> Backbone:
    backbone = load_backbone(
        name,
        weights,
        image_size=options.image_size,
        in_chans=options.channels,
        head=options.head,
        demo=is_demo(options),
        seed=options.seed,
        mean=options.mean,
        std=options.std,
        interpolation=options.interpolation,
        crop_share=options.crop_share,
    )
    for note in backbone.notes:
        say(Note(text=note))
    if backbone.weights.kind == "shipped":
        warning = f"NO IMAGENET WEIGHTS for {backbone.name} at hand. Using the {backbone.weights}."
        say(Note(text=warning, level="alarm"))
    if backbone.weights.kind == "file" and None in (options.mean, options.std):
        say(Note(text=_as_seen(backbone)))
    return backbone


def _as_seen(backbone: Backbone) -> str:
    """Describe the normalisation for weights from a file, which does not say how they were trained."""
    preprocessing = backbone.preprocessing
    mean, std = (
        ", ".join(f"{value:g}" for value in values) for values in (preprocessing.mean, preprocessing.std)
    )
    whose = {"timm": "timm's ", "torchvision": "torchvision's "}.get(parse_name(backbone.name).source, "")
    return (
        f"The weights of {backbone.name} see images with {whose}mean {mean} and deviation {std}. Trained "
        "with others, they are worth less here: give --mean and --std."
    )


def load_images(
    options: StudyOptions,
    say: Say,
    preprocessing: Preprocessing,
    *,
    images: Listing | None = None,
    cache: Path | None = None,
) -> DataSet:
    """Load the images as a backbone takes them, with notes on what they are.

    Args:
        options: Of the study.
        say: Receives the notes.
        preprocessing: What the backbone takes.
        images: What `check_images` has found; default: they are listed again.
        cache: Folder for decoded images; default: in the user's cache folder.

    Raises:
        DataError: If they cannot be had or used.
    """
    data = load_data(
        images or source_of(options),
        division_of(options),
        image_size=preprocessing.image_size,
        crop_share=preprocessing.crop_share,
        interpolation=preprocessing.interpolation,
        channels=len(preprocessing.mean),
        cache=cache,
        progress=lambda done, total: say(Decoding(n_done=done, n_images=total)),
    )
    layout = f" ({data.layout})" if data.layout else ""
    # Of a long name the beginning.
    names = a_few(name if len(name) <= 30 else f"{name[:27]}..." for name in data.classes)
    counts = f"{len(data.train)} train, {len(data.val)} validation, {len(data.test)} test {data.columns}"
    say(Note(text=f"Data {data.name}{layout}: {data.num_classes} classes ({names}); {counts}."))
    notes = list(data.notes)
    if data.skipped:
        whole = "" if data.columns.images_each == 1 else ", their samples with them"
        what = f"{counted(len(data.skipped), 'unreadable image')} left out{whole}"
        notes.append(named_few(what, data.skipped))
    if data.duplicates:
        groups = [" = ".join(group) for group in data.duplicates]
        noun = "image stands" if len(groups) == 1 else "images stand"
        notes.append(named_few(f"{len(groups)} {noun} in several splits", groups))
    for note in notes:
        say(Note(text=note, level="warning"))
    return data


def _given(options: StudyOptions, names: Sequence[str]) -> dict[str, Any]:
    """Return those of the named options that are given; the others keep the library's defaults."""
    values = {name: getattr(options, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def provenance_of(options: StudyOptions, task: Task) -> dict[str, Any]:
    """Describe how a study was run, from one of its tasks: versions, machine, options."""
    return {
        "versions": {
            "depthsearch": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "timm": timm.__version__,
            **dict([task.backbone.library.split()] if task.backbone.library else []),
            "optuna": optuna.__version__,
        },
        "machine": f"{processor_name(device_here(options))}, {platform.system()}, "
        f"{torch.get_num_threads()} torch threads",
        "device": task.device.kind,
        "precision": task.device.precision,
        **({"study file": options.file.name} if options.file else {}),
        "options": _from_anywhere(options, task).as_json(),
    }


def _from_anywhere(options: StudyOptions, task: Task) -> StudyOptions:
    """Write paths in full, so that another command loads the same backbone and images from any folder."""
    return replace(
        options,
        data=task.data.source,
        classes_map=None if options.classes_map is None else str(full_path(options.classes_map)),
        weights=with_full_paths(options.weights, options.backbone),
    )
