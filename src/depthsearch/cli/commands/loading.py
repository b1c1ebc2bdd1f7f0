"""Backbones, images and search space of a command line, or of a stored study."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import optuna
import timm
import torch
from rich.console import Console
from rich.filesize import decimal
from rich.progress import Progress

from depthsearch import __version__
from depthsearch.cli.commands.console import say, say_list
from depthsearch.cli.commands.places import cache_folder, check_cache
from depthsearch.cli.commands.weights import stored_weights, weights_by_backbone, with_full_paths
from depthsearch.data import DataSet, load_data
from depthsearch.data.listing import a_few
from depthsearch.devices import Device, choose_device, processor_name, use_all_cores
from depthsearch.errors import StudyError
from depthsearch.features import choose_budget, local_folder
from depthsearch.files import full_path
from depthsearch.models.backbones import Backbone, Preprocessing, load_backbone
from depthsearch.models.tracing.graph import LayerGraph
from depthsearch.options.backbones import parse_name
from depthsearch.results.stored import read_backbones
from depthsearch.search.space import FIXABLE, SearchSpace
from depthsearch.training.loop import Recipe
from depthsearch.training.objective import Task

__all__ = [
    "OPTIONAL_RANGES",
    "load_backbones",
    "load_tasks",
    "prepare_again",
    "provenance_of",
    "say_kept_whole",
]

# What commands take for options that a stored study has none of: those not kept, and those younger than it.
BEFORE: dict[str, Any] = {
    "keep_memory": None,
    "keep_disk": None,
    "layers": None,
    "learning_rates": None,
    "channels": 3,
    "classes_map": None,
    "subset": 1.0,
    "mark": None,
    "image_columns": ("image",),
    "number_columns": (),
    "balance": "none",
    "head": "pool",
    "momentum": None,
    "mean": None,
    "std": None,
    "interpolation": None,
    "crop_share": None,
    "augment": None,
    **dict.fromkeys(FIXABLE),
}
# Options that say nothing of what is trained; an address may hold a password.
NOT_KEPT = (
    *("command", "file", "storage", "name", "json", "keep_memory", "keep_disk", "workers", "hung_after"),
    *("executor", "ray_address"),
    *("log_file", "tensorboard", "mlflow"),
)
OPTIONAL_RANGES: dict[str, Any] = {
    "head_depth": (1, 3),
    "dropout": (0.0, 0.5),
    "weight_decay": (1e-5, 1e-1),
    "optimizer": ("adamw", "sgd"),
}


def load_backbones(
    arguments: argparse.Namespace, console: Console
) -> tuple[Mapping[str, Backbone], SearchSpace]:
    """Load the backbones.

    Returns:
        Them, by the space's names, and what is searched of them.

    Raises:
        DepthsearchError: If one of them cannot be had or used, or the device cannot.
    """
    check_cache(arguments)
    names = arguments.backbone
    weights = weights_by_backbone(arguments.weights, names)
    device_here(arguments)  # which refuses what cannot be had
    use_all_cores()
    backbones = {name: _load_backbone(name, weights[name], arguments, console) for name in names}
    space = SearchSpace.across(
        {name: backbone.model for name, backbone in backbones.items()},
        arguments.kinds,
        image_size={name: b.preprocessing.image_size for name, b in backbones.items()},
        layers=arguments.layers,
        from_scratch=[name for name, backbone in backbones.items() if backbone.from_scratch],
        learning_rate=arguments.learning_rate or _ends(arguments.learning_rates),
        head_width=arguments.head_width,
        **{name: OPTIONAL_RANGES[name] for name in arguments.also},
        fixed=_given(arguments, FIXABLE),
    )
    return dict(zip(space.backbones, backbones.values(), strict=True)), space


def load_tasks(
    arguments: argparse.Namespace,
    console: Console,
    backbones: Mapping[str, Backbone],
    space: SearchSpace,
    device: Device,
) -> Mapping[str, Task]:
    """Load the images for backbones and say in a line each what these and those are.

    Args:
        arguments: Of the command line.
        console: Where to say it.
        backbones: By the space's names for them.
        space: What is searched of them.
        device: What is computed on, here or by the workers of a cluster.

    Returns:
        The task of each backbone by the space's name for it.

    Raises:
        DepthsearchError: If the images cannot be had or used.
    """
    recipe = Recipe(
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        schedule=arguments.schedule,
        label_smoothing=arguments.label_smoothing,
        metric=arguments.metric,
        seed=arguments.seed,
        views=arguments.views,
        balance=arguments.balance,
        **_given(arguments, ["momentum", "augment"]),
    )
    # On a cluster each node has a budget of its own.
    budget = choose_budget(
        device_here(arguments),
        local_folder(cache_folder("features")),
        memory_bytes=arguments.keep_memory,
        disk_bytes=arguments.keep_disk,
    )
    data: dict[Preprocessing, DataSet] = {}
    tasks = {}
    for key, backbone in backbones.items():
        wanted = backbone.preprocessing
        if wanted not in data:
            data[wanted] = _load_images(arguments, console, wanted)
        tasks[key] = Task(
            backbone=backbone,
            data=data[wanted],
            recipe=recipe,
            device=device,
            budget=budget.divided(len(backbones)),
        )
        n_cuts = len(space.cuts_of(key))
        say(
            console,
            f"Backbone {backbone.name}, weights: {backbone.weights}; {n_cuts} candidate "
            f"{'cut' if n_cuts == 1 else 'cuts'}; {wanted.image_size} px.",
        )
        say_kept_whole(console, tasks[key].graph)
    kept = (
        "features are kept by each node"
        if _is_on_a_cluster(arguments)
        else f"features kept: up to {decimal(budget.device_bytes + budget.memory_bytes)} in memory, "
        f"{decimal(budget.disk_bytes)} on disk"
    )
    say(console, f"Device {device.kind}, {device.precision}; {kept}.")
    return tasks


def say_kept_whole(console: Console, graph: LayerGraph) -> None:
    """Say which modules tracing could not enter, so that no cut lies in them, and why."""
    if graph.opaque:
        n_whole = len(graph.opaque)
        what = f"{n_whole} {'module has' if n_whole == 1 else 'modules have'} no cuts inside"
        say_list(console, what, [f"{path} ({reason})" for path, reason in graph.reasons.items()])


def device_here(arguments: argparse.Namespace) -> Device:
    """Choose the device of this machine, which may only coordinate a cluster that has others."""
    lacks_it = arguments.device == "cuda" and not torch.cuda.is_available()
    kind = "cpu" if _is_on_a_cluster(arguments) and lacks_it else arguments.device
    return choose_device(kind, arguments.precision, compiled=arguments.compile)


def _is_on_a_cluster(arguments: argparse.Namespace) -> bool:
    """Whether a cluster's workers train; of the commands only `study` may have some."""
    return vars(arguments).get("executor") == "ray"


def _load_backbone(name: str, weights: str, arguments: argparse.Namespace, console: Console) -> Backbone:
    backbone = load_backbone(
        name,
        weights,
        image_size=arguments.image_size,
        in_chans=arguments.channels,
        head=arguments.head,
        demo=_is_demo(arguments),
        seed=arguments.seed,
        mean=arguments.mean,
        std=arguments.std,
        interpolation=arguments.interpolation,
        crop_share=arguments.crop_share,
    )
    for note in backbone.notes:
        say(console, note)
    if backbone.weights.startswith("shipped "):
        warning = f"NO IMAGENET WEIGHTS for {backbone.name} at hand. Using the {backbone.weights}."
        say(console, warning, style="bold yellow")
    if backbone.weights.startswith("file ") and None in (arguments.mean, arguments.std):
        say(console, _as_seen(backbone))
    return backbone


def _as_seen(backbone: Backbone) -> str:
    """Say what images the weights of a file see, as the file does not say what they were trained with."""
    seen = backbone.preprocessing
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (seen.mean, seen.std))
    whose = {"timm": "timm's ", "torchvision": "torchvision's "}.get(parse_name(backbone.name).source, "")
    return (
        f"The weights of {backbone.name} see images with {whose}mean {mean} and deviation {std}. Trained "
        "with others, they are worth less here: give --mean and --std."
    )


def prepare_again(
    stored: optuna.Study,
    options: Mapping[str, Any],
    console: Console,
    *,
    backbone: str = "",
    subset: float | None = None,
) -> tuple[Task, SearchSpace]:
    """Load a backbone and the images of a stored study once more; refuse others than it had.

    Args:
        stored: The study.
        options: What to do otherwise, such as the device; values that are None count as not given.
        console: Where to say what is loaded.
        backbone: Which one, by the name that the study's cuts have for it: empty if it has only one.
        subset: Share of the images to take in the end, once those of the study are found as they were;
            default: the study's.

    Returns:
        Task and space of this backbone alone.

    Raises:
        StudyError: If the study does not say how it was run, or its images or weights are others now.
    """
    kept = stored.user_attrs.get("provenance", {}).get("options")
    if kept is None:
        raise StudyError(
            f"Study {stored.study_name!r} was stored by an older depthsearch, without its options. "
            "Run it again under another --name."
        )
    was = read_backbones(stored)[backbone]
    given = {name: value for name, value in options.items() if value is not None}
    its_own = {"backbone": (was.name,), "weights": stored_weights(kept, was.name)}
    merged = {**BEFORE, **kept, **its_own, **given}
    merged["layers"] = _layers_of(was.name, kept.get("backbone", ()), merged["layers"])
    # The database turned tuples into lists.
    merged = {name: tuple(v) if isinstance(v, list) else v for name, v in merged.items()}
    wanted = argparse.Namespace(**merged)
    backbones, space = load_backbones(wanted, console)
    (task,) = load_tasks(wanted, console, backbones, space, device_here(wanted)).values()
    if task.backbone.build_digest != was.build_digest:
        raise StudyError(
            f"The network {was.name} of study {stored.study_name!r} is not what it was. Bring that back, or "
            "run the study again under another --name."
        )
    if task.data.fingerprint != was.data_fingerprint or task.backbone.digest != was.digest:
        changed = "images" if task.data.fingerprint != was.data_fingerprint else "weights"
        origin = stored.user_attrs["data"]["source"] if changed == "images" else was.weights
        raise StudyError(
            f"The {changed} of study {stored.study_name!r} ({origin}) are not what they were. "
            "Bring those back, or run the study again under another --name."
        )
    if subset is not None and subset != merged["subset"]:
        wanted = argparse.Namespace(**{**merged, "subset": subset})
        task = replace(task, data=_load_images(wanted, console, task.backbone.preprocessing))
    return task, space


def _layers_of(name: str, backbones: Sequence[str], layers: Sequence[str] | None) -> Sequence[str] | None:
    """Leave out the layers that are picked of a study's other backbones alone."""
    others = [f"{other}:" for other in backbones if other != name and not name.startswith(f"{other}:")]
    found = [layer for layer in layers or () if not str(layer).startswith(tuple(others))]
    return found or None


def _load_images(arguments: argparse.Namespace, console: Console, preprocessing: Preprocessing) -> DataSet:
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task("Decoding images", visible=False)
        data = load_data(
            arguments.data or "digits",
            image_size=preprocessing.image_size,
            crop_share=preprocessing.crop_share,
            interpolation=preprocessing.interpolation,
            channels=len(preprocessing.mean),
            val_share=arguments.val_share,
            test_share=arguments.test_share,
            subset=arguments.subset,
            seed=arguments.seed,
            classes_map=arguments.classes_map,
            image_columns=arguments.image_columns,
            number_columns=arguments.number_columns,
            skip_unreadable=arguments.skip_unreadable,
            progress=lambda done, total: bar.update(shown, completed=done, total=total, visible=True),
        )
    layout = f" ({data.layout})" if data.layout else ""
    say(
        console,
        f"Data {data.name}{layout}: {data.num_classes} classes ({_class_names(data)}); "
        f"{len(data.train)} train, {len(data.val)} validation, {len(data.test)} test {data.columns}.",
    )
    for note in data.notes:
        say(console, note, style="yellow")
    if data.skipped:
        whole = "" if data.columns.images_each == 1 else ", their samples with them"
        say_list(console, f"{len(data.skipped)} unreadable images left out{whole}", data.skipped)
    if data.duplicates:
        groups = [" = ".join(group) for group in data.duplicates]
        say_list(console, f"{len(groups)} images stand in several splits", groups)
    return data


def _class_names(data: DataSet) -> str:
    """Name the first few classes, long names by their beginning."""
    return a_few(name if len(name) <= 30 else f"{name[:27]}..." for name in data.classes)


def _given(arguments: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Give the options among these that are given: the others keep the library's defaults."""
    values = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _ends(rates: Sequence[float]) -> tuple[float, float]:
    return min(rates), max(rates)


def _is_demo(arguments: argparse.Namespace) -> bool:
    return arguments.data in (None, "digits")


def provenance_of(arguments: argparse.Namespace, task: Task) -> dict[str, Any]:
    """Tell what a study was run with, by one of its tasks: versions, machine, options."""
    return {
        "versions": {
            "depthsearch": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "timm": timm.__version__,
            **dict([task.backbone.library.split()] if task.backbone.library else []),
            "optuna": optuna.__version__,
        },
        "machine": f"{processor_name(device_here(arguments))}, {platform.system()}, "
        f"{torch.get_num_threads()} torch threads",
        "device": task.device.kind,
        "precision": task.device.precision,
        **({"study file": arguments.file.name} if arguments.file else {}),
        "options": _kept_options(arguments, task),
    }


def _kept_options(arguments: argparse.Namespace, task: Task) -> dict[str, Any]:
    """Take down what another command needs to load the same backbone and images again."""
    options = {name: value for name, value in vars(arguments).items() if name not in NOT_KEPT}
    if arguments.classes_map is not None:
        options["classes_map"] = str(full_path(arguments.classes_map))
    options["weights"] = with_full_paths(arguments.weights, arguments.backbone)
    return {**options, "data": task.data.source}
