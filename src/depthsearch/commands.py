"""What each command does. Imported once a command runs: this module loads PyTorch."""

from __future__ import annotations

import argparse
import json
import platform
import re
import shlex
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import optuna
import platformdirs
import timm
import torch
from rich.console import Console
from rich.filesize import decimal
from rich.progress import Progress
from rich.table import Table

from depthsearch import __version__
from depthsearch.artifacts import Artifacts, artifact_folder, keep_artifact, small_pictures
from depthsearch.backbones import Backbone, Preprocessing, load_backbone, make_model
from depthsearch.cuts import DEFAULT_KINDS, KINDS, Cut, find_cut, list_cuts
from depthsearch.dashboard import serve
from depthsearch.data import DataSet, UnreadableError, image_files, load_data
from depthsearch.devices import choose_device, use_all_cores
from depthsearch.errors import SettingsError, StudyError, WeightsError
from depthsearch.explain import Comparison, Photo, compare, pretrained_classes
from depthsearch.features import choose_budget, kept_files
from depthsearch.fitview import epoch_line, render_fit
from depthsearch.gallery import Picture, draw_gallery, pick_photos, read_photos
from depthsearch.interrupts import deferred
from depthsearch.modelfolder import check_place, load
from depthsearch.objective import Task
from depthsearch.page import write_report
from depthsearch.refit import Fitted
from depthsearch.refit import fit as fit_answer
from depthsearch.report import as_json, render, render_trials, summarize
from depthsearch.sampling import resolve
from depthsearch.space import SearchSpace
from depthsearch.study import confirm, open_storage, open_study, search, without_password
from depthsearch.training import EpochResult, Recipe
from depthsearch.view import View

__all__ = ["cache", "cuts", "dashboard", "explain", "fit", "predict", "report", "study"]

# Without a terminal there is no width to keep to.
PLAIN_WIDTH = 160
# Classes told of an image, the most probable first.
N_SHOWN = 3
# Options that say nothing of what is trained; a database's address may hold a password.
NOT_KEPT = ("command", "storage", "name", "json", "keep_memory", "keep_disk")
OPTIONAL_RANGES: dict[str, Any] = {
    "head_depth": (1, 3),
    "dropout": (0.0, 0.5),
    "weight_decay": (1e-5, 1e-1),
    "optimizer": ("adamw", "sgd"),
}

optuna.logging.set_verbosity(optuna.logging.WARNING)


def study(arguments: argparse.Namespace) -> None:
    """Search for the best cut and print it.

    Raises:
        DepthsearchError: If the study cannot be run, or no trial of it is complete.
    """
    console = _console(stderr=True)
    if arguments.data is None:
        _say(console, "No --data: a demo on scikit-learn's digits (1,797 images of 8 x 8 px).")
    task, space = _prepare(arguments, console)
    storage = open_storage(arguments.storage)
    name = arguments.name or f"{arguments.backbone}-{task.data.name}"
    stored = open_study(storage, name, task, space, _provenance(arguments, task))
    _search(arguments, console, stored, task, space)
    summary = summarize(stored)
    results = _console(stderr=arguments.json)
    results.print(render(summary))
    storage_url = without_password(arguments.storage)
    option = f" --storage {shlex.quote(storage_url)}"
    _say(results, f"Study     {name} in {storage_url}; watch it: depthsearch dashboard{option}")
    if arguments.json:
        print(json.dumps(as_json(summary)))
    if summary.best is None:
        raise SettingsError(
            f"No trial of {name} is complete. See why: depthsearch report --name {shlex.quote(name)}{option}"
        )


def cuts(arguments: argparse.Namespace) -> None:
    """List a backbone's candidate cuts."""
    found = list_cuts(make_model(arguments.backbone), arguments.kinds, image_size=arguments.image_size)
    if arguments.json:
        print(json.dumps([asdict(cut) for cut in found]))
        return
    table = Table(title=f"{arguments.backbone}: {len(found)} candidate cuts", title_justify="left")
    for heading in ("index", "layer"):
        table.add_column(heading, justify="right")
    for heading in ("first trainable", "kind", "Keras", "also"):
        table.add_column(heading, overflow="fold")
    for heading in ("frozen MACs", "trainable", "boundary"):
        table.add_column(heading, justify="right")
    for cut in found:
        table.add_row(
            str(cut.index),
            str(cut.layer),
            cut.name,
            cut.kind,
            cut.keras_name or "",
            ", ".join(cut.aliases),
            f"{cut.frozen_mac_share:.4f}",
            f"{cut.trainable_parameters:,}",
            f"{cut.boundary_bytes / 1024:,.0f} KiB",
        )
    _console().print(table)


def report(arguments: argparse.Namespace) -> None:
    """Show a stored study, every trial of it, and write its report where one is asked for.

    Raises:
        SettingsError: If there is no such study, or the report cannot be written.
    """
    store = _artifacts(arguments)
    stored = _stored(arguments)
    summary = summarize(stored)
    written: Sequence[Path] = ()
    if arguments.out is not None:
        pictures = small_pictures(stored, store) if store else {}
        written = write_report(stored, Path(arguments.out), pictures)
    if arguments.json:
        print(json.dumps(as_json(summary)))
    else:
        _console().print(render(summary), render_trials(summary))
    if written:
        _say(_console(stderr=arguments.json), f"Report    {' '.join(map(str, written))}")


def fit(arguments: argparse.Namespace) -> None:
    """Train a study's answer on train + validation, read the test images, write the model.

    Raises:
        DepthsearchError: If there is no such study or answer, or the model cannot be trained or written.
    """
    console = _console(stderr=True)
    stored = _stored(arguments)
    chosen = summarize(stored).chosen
    if chosen is None:
        raise StudyError(
            f"No trial of study {stored.study_name!r} is complete: it has no answer to train. "
            "Go on with it: depthsearch study."
        )
    # A study's name may hold what a folder's cannot.
    folder = arguments.out or Path(re.sub(r"[^\w.-]+", "-", stored.study_name) + "-model")
    check_place(folder)
    names = ("device", "precision", "keep_memory", "keep_disk")
    task, space = _again(stored, {name: getattr(arguments, name) for name in names}, console)
    point = space.point({**chosen.params, "cut": chosen.cut.index})
    n_images = len(task.data.train) + len(task.data.val)
    _say(
        console,
        f"Fit {stored.study_name}: {chosen.cut}, setting of trial {chosen.number}; {n_images} images "
        f"(train + validation), {task.recipe.epochs} epochs.",
    )
    training = fit_answer(
        stored,
        task,
        point,
        folder,
        trial=chosen.number,
        seed=arguments.seed,
        checkpoints=_cache_folder("checkpoints"),
        onnx=arguments.onnx,
    )
    with closing(training):
        fitted = _show_epochs(console, training, task.recipe.epochs)
    _console(stderr=arguments.json).print(render_fit(fitted))
    if arguments.json:
        print(json.dumps(fitted.as_json()))


def _show_epochs(console: Console, training: Generator[EpochResult, None, Fitted], epochs: int) -> Fitted:
    while True:
        try:
            result = next(training)
        except StopIteration as ended:
            fitted: Fitted = ended.value
            return fitted
        _say(console, epoch_line(result, epochs))


def predict(arguments: argparse.Namespace) -> None:
    """Tell the classes of images with a model that `fit` wrote.

    Raises:
        DepthsearchError: If the model or an image cannot be used.
    """
    use_all_cores()
    classifier = load(arguments.folder, device=arguments.device, precision=arguments.precision)
    paths = [
        path for given in arguments.images for path in (image_files(given) if given.is_dir() else [given])
    ]
    console, warnings = _console(), _console(stderr=True)

    def skipped(error: UnreadableError) -> None:
        _say(warnings, f"Left out: {error}", style="yellow")

    predictions = classifier.predictions(
        paths, batch_size=arguments.batch_size, skipped=skipped if arguments.skip_unreadable else None
    )
    for prediction in predictions:
        if arguments.json:
            print(json.dumps(prediction.as_json()))
            continue
        ranked = sorted(prediction.probabilities.items(), key=lambda each: -each[1])[:N_SHOWN]
        _say(console, f"{prediction.image}: " + ", ".join(f"{name} {p:.4f}" for name, p in ranked))


def explain(arguments: argparse.Namespace) -> None:
    """Draw what layers across depth see in images, before and after fine-tuning.

    Raises:
        DepthsearchError: If there is no fitted model, or an image or layer of it cannot be had.
    """
    console = _console(stderr=True)
    device = choose_device(arguments.device, "float32")
    store = _artifacts(arguments)
    use_all_cores()
    folder, stored = _model_folder(arguments)
    if stored is None and not arguments.images:
        raise SettingsError(f"Which images? Give files: depthsearch explain {arguments.model} IMAGE...")
    classifier = load(folder)
    about = classifier.config["depthsearch"]
    pretrained = _pretrained(arguments.weights, about, stored, console)
    comparison = compare(
        # Both in one layout: in another, convolutions round otherwise.
        device.place(classifier.model),
        None if pretrained is None else device.place(pretrained.model),
        classes=classifier.classes,
        before_classes=None if pretrained is None else pretrained_classes(pretrained),
        preprocessing=classifier.preprocessing,
        cut=_named_cut(classifier.model, about["cut"], classifier.preprocessing.image_size),
        wanted=arguments.layers or (),
    )
    photos = _photos(arguments, comparison, stored, console)
    name = folder.resolve().name if stored is None else stored.study_name
    out = Path(arguments.out or re.sub(r"[^\w.-]+", "-", name) + "-explain")
    pictures = []
    for picture in draw_gallery(comparison, photos, out):
        pictures.append(picture)
        _say(_console(stderr=arguments.json), str(picture.path))
    if stored is not None:
        _keep_pictures(stored, store, pictures, console)
    if arguments.json:
        print(json.dumps({"folder": str(out), "pictures": [picture.about for picture in pictures]}))


def dashboard(arguments: argparse.Namespace) -> None:
    """Serve optuna-dashboard on the stored studies until interrupted."""
    if arguments.port > 65535:
        raise SettingsError(f"--port {arguments.port} is no port: give one up to 65535.")
    storage = open_storage(_existing(arguments.storage))
    serve(storage, arguments.host, arguments.port, _artifacts(arguments))


def cache(arguments: argparse.Namespace) -> None:
    """Show what is kept on disk, or clear it."""
    kept = [file for kind in ("features", "images") for file in _kept(kind)]
    if arguments.clear:
        wanted = ("features", "images") if arguments.clear == "all" else (arguments.clear,)
        kept = [file for file in kept if file["kind"] in wanted]
        for file in kept:
            Path(file["path"]).unlink(missing_ok=True)
    n_bytes = sum(file["bytes"] for file in kept)
    if arguments.json:
        done = "cleared" if arguments.clear else "kept"
        print(json.dumps({"folder": str(_cache_folder()), "bytes": n_bytes, done: kept}))
        return
    console = _console()
    if not arguments.clear and kept:
        table = Table()
        for heading, right in (("kind", 0), ("of", 0), ("images", 1), ("view", 1), ("files", 1), ("size", 1)):
            table.add_column(heading, justify="right" if right else "left", overflow="fold")
        for (kind, of, n_images, view), files in groupby(kept, key=_kept_as):
            sizes = [file["bytes"] for file in files]
            table.add_row(kind, of, n_images, view, str(len(sizes)), decimal(sum(sizes)))
        console.print(table)
    done = "Cleared" if arguments.clear else "Kept"
    _say(console, f"{done} {decimal(n_bytes)} in {len(kept)} files of {_cache_folder()}.")


def _model_folder(arguments: argparse.Namespace) -> tuple[Path, optuna.Study | None]:
    """Find the folder of a model, and the study where the model is named by that."""
    folder = Path(arguments.model)
    if (folder / "config.json").is_file():
        return folder, None
    if folder.is_dir():
        raise SettingsError(
            f"{folder} holds no config.json: it is no model. Give what depthsearch fit has saved."
        )
    storage = open_storage(_existing(arguments.storage))
    if arguments.model not in (names := optuna.get_all_study_names(storage)):
        raise SettingsError(
            f"No model folder and no study {arguments.model!r}; {without_password(arguments.storage)} has: "
            f"{', '.join(names) or 'none'}."
        )
    stored = optuna.load_study(study_name=arguments.model, storage=storage)
    fitted = stored.user_attrs.get("fit")
    if not fitted:
        raise SettingsError(
            f"Study {arguments.model!r} has no fitted model. Run depthsearch fit first, then this again."
        )
    folder = Path(fitted["folder"])
    if not (folder / "config.json").is_file():
        raise SettingsError(
            f"The model of study {arguments.model!r} is not in {folder} any more. Give its folder, or run "
            "depthsearch fit again."
        )
    return folder, stored


def _named_cut(model: torch.nn.Module, named: Mapping[str, Any], image_size: int) -> Cut:
    """Find the cut of which a model's description gives the names."""
    kinds = KINDS if named["kind"] == "block" else DEFAULT_KINDS
    return find_cut(list_cuts(model, kinds, image_size=image_size), named["name"])


def _pretrained(
    weights: str | None, about: Mapping[str, Any], stored: optuna.Study | None, console: Console
) -> Backbone | None:
    """Load the backbone that a model was made from, if it is at hand; say so if not."""
    if weights == "none":
        return None
    options = {} if stored is None else stored.user_attrs.get("provenance", {}).get("options", {})
    try:
        return _same_backbone(weights or options.get("weights"), about["backbone"], about["provenance"])
    except WeightsError as error:
        if weights is not None:
            raise
        _say(console, f"Without a row for before fine-tuning. {error}", style="yellow")
        return None


def _same_backbone(weights: str | None, name: str, provenance: Mapping[str, Any]) -> Backbone:
    """Load a backbone with the weights that a model started from.

    Raises:
        WeightsError: If those are not to be had, or the given ones are others.
    """
    origin = provenance["weights"]
    seed = re.fullmatch(r"random \(seed (\d+)\)", origin)
    given = weights or ("random" if seed else "auto")
    if origin.startswith("file") and given == "auto":
        raise WeightsError(f"It started from the {origin}: give that with --weights.")
    demo = origin.startswith("shipped")
    backbone = load_backbone(name, given, demo=demo, seed=int(seed[1]) if seed else 0)
    if backbone.digest != provenance["weights_digest"]:
        raise WeightsError(
            f"It started from other weights ({origin}) than {backbone.weights}. Give --weights FILE."
        )
    return backbone


def _photos(
    arguments: argparse.Namespace, comparison: Comparison, stored: optuna.Study | None, console: Console
) -> list[Photo]:
    """Read the images given, or pick some of the study's."""
    if stored is None or arguments.images:
        photos = read_photos(
            [Path(image) for image in arguments.images],
            comparison.preprocessing,
            comparison.classes,
            label=arguments.label,
            skip_unreadable=arguments.skip_unreadable,
        )
        skipped = [image for image in arguments.images if image not in {photo.name for photo in photos}]
        if skipped:
            _list(console, f"{len(skipped)} unreadable images left out", skipped)
        return photos
    task, _ = _again(stored, {}, console)
    return pick_photos(
        comparison.after.model, task.data, arguments.split, comparison.preprocessing, arguments.n
    )


def _keep_pictures(
    stored: optuna.Study, store: Artifacts | None, pictures: Sequence[Picture], console: Console
) -> None:
    """Make pictures artifacts of the study, for the dashboard, and note them in it, for the report."""
    if store is None:
        _say(
            console,
            "Not shown in the dashboard: this database has no folder beside it. Give --artifacts DIR.",
        )
    wanted = ("image", "file", "predicted", "probability", "true", "right")
    noted = []
    for picture in pictures:
        try:
            kept = None if store is None else keep_artifact(stored, store, picture.path)
        except OSError as error:
            raise SettingsError(
                f"Cannot keep {picture.path.name} as an artifact: {error}. Give another --artifacts folder."
            ) from error
        noted.append({**{key: picture.about[key] for key in wanted}, "artifact_id": kept})
    with deferred():
        stored.set_user_attr("explained", noted)


def _artifacts(arguments: argparse.Namespace) -> Artifacts | None:
    """Open the folder of the studies' pictures; None for a database without a place beside it.

    Raises:
        SettingsError: If it is a file.
    """
    folder = Path(arguments.artifacts) if arguments.artifacts else artifact_folder(arguments.storage)
    if folder is not None and folder.is_file():
        raise SettingsError(f"{folder} is a file. Give a folder for the studies' pictures with --artifacts.")
    return None if folder is None else Artifacts(folder)


def _kept(kind: str) -> list[dict[str, Any]]:
    """Describe the files that are kept of a kind, those of unfinished writing included."""
    files = kept_files(_cache_folder(kind), f".{kind}")
    described = (
        {
            "kind": kind,
            "path": str(file.path),
            "bytes": file.n_bytes,
            **{key: file.description.get(key) for key in ("backbone", "layer", "view", "n_images")},
        }
        for file in files
    )
    return sorted(described, key=_kept_as)


def _kept_as(file: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(
        str(file[key] if file[key] is not None else "") for key in ("kind", "backbone", "n_images", "view")
    )


def _cache_folder(kind: str = "") -> Path:
    return Path(platformdirs.user_cache_dir("depthsearch")) / kind


def _console(*, stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else PLAIN_WIDTH)


def _say(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def _is_demo(arguments: argparse.Namespace) -> bool:
    return arguments.data in (None, "digits")


def _prepare(arguments: argparse.Namespace, console: Console) -> tuple[Task, SearchSpace]:
    """Load backbone and images and say in a line each what they are."""
    device = choose_device(arguments.device, arguments.precision, compiled=arguments.compile)
    use_all_cores()
    backbone = load_backbone(
        arguments.backbone,
        arguments.weights,
        image_size=arguments.image_size,
        demo=_is_demo(arguments),
        seed=arguments.seed,
    )
    if backbone.weights.startswith("shipped"):
        warning = f"NO IMAGENET WEIGHTS for {backbone.name} at hand. Using the {backbone.weights}."
        _say(console, warning, style="bold yellow")
    data = _load_images(arguments, console, backbone.preprocessing)
    space = SearchSpace.for_model(
        backbone.model,
        arguments.kinds,
        image_size=backbone.preprocessing.image_size,
        learning_rate=arguments.learning_rate,
        head_width=arguments.head_width,
        **{name: OPTIONAL_RANGES[name] for name in arguments.also},
    )
    recipe = Recipe(
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        schedule=arguments.schedule,
        label_smoothing=arguments.label_smoothing,
        metric=arguments.metric,
        seed=arguments.seed,
        views=arguments.views,
    )
    budget = choose_budget(
        device, _cache_folder("features"), memory_bytes=arguments.keep_memory, disk_bytes=arguments.keep_disk
    )
    _say(
        console,
        f"Backbone {backbone.name}, weights: {backbone.weights}; {len(space.cuts)} candidate cuts; "
        f"{backbone.preprocessing.image_size} px; {device.kind}, {device.precision}; features kept: up to "
        f"{decimal(budget.device_bytes + budget.memory_bytes)} in memory, "
        f"{decimal(budget.disk_bytes)} on disk.",
    )
    return Task(backbone=backbone, data=data, recipe=recipe, device=device, budget=budget), space


def _again(stored: optuna.Study, options: Mapping[str, Any], console: Console) -> tuple[Task, SearchSpace]:
    """Load the backbone and the images of a stored study once more; refuse others than it had.

    Args:
        stored: The study.
        options: What to do otherwise, such as the device; values that are None count as not given.
        console: Where to say what is loaded.

    Raises:
        StudyError: If the study does not say how it was run, or its images or weights are others now.
    """
    kept = stored.user_attrs.get("provenance", {}).get("options")
    if kept is None:
        raise StudyError(
            f"Study {stored.study_name!r} was stored by an older depthsearch, without its options. "
            "Run it again under another --name."
        )
    given = {name: value for name, value in options.items() if value is not None}
    merged = {"keep_memory": None, "keep_disk": None, **kept, **given}
    # The database turned tuples into lists.
    merged = {name: tuple(v) if isinstance(v, list) else v for name, v in merged.items()}
    task, space = _prepare(argparse.Namespace(**merged), console)
    data, backbone = stored.user_attrs["data"], stored.user_attrs["backbone"]
    if task.data.fingerprint != data["fingerprint"] or task.backbone.digest != backbone["digest"]:
        changed = "images" if task.data.fingerprint != data["fingerprint"] else "weights"
        was = data["source"] if changed == "images" else backbone["weights"]
        raise StudyError(
            f"The {changed} of study {stored.study_name!r} ({was}) are not what they were. "
            "Bring those back, or run the study again under another --name."
        )
    return task, space


def _load_images(arguments: argparse.Namespace, console: Console, preprocessing: Preprocessing) -> DataSet:
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task("Decoding images", visible=False)
        data = load_data(
            arguments.data or "digits",
            image_size=preprocessing.image_size,
            crop_share=preprocessing.crop_share,
            interpolation=preprocessing.interpolation,
            val_share=arguments.val_share,
            test_share=arguments.test_share,
            seed=arguments.seed,
            skip_unreadable=arguments.skip_unreadable,
            progress=lambda done, total: bar.update(shown, completed=done, total=total, visible=True),
        )
    _say(
        console,
        f"Data {data.name}: {data.num_classes} classes; {len(data.train)} train, {len(data.val)} validation, "
        f"{len(data.test)} test images.",
    )
    if data.skipped:
        _list(console, f"{len(data.skipped)} unreadable images left out", data.skipped)
    if data.duplicates:
        groups = [" = ".join(group) for group in data.duplicates]
        _list(console, f"{len(groups)} images stand in several splits", groups)
    return data


def _list(console: Console, what: str, items: Sequence[str], n_shown: int = 5) -> None:
    more = f", and {len(items) - n_shown} more (all in the study)" if len(items) > n_shown else ""
    _say(console, f"{what}: {', '.join(items[:n_shown])}{more}.", style="yellow")


def _search(
    arguments: argparse.Namespace,
    console: Console,
    stored: optuna.Study,
    task: Task,
    space: SearchSpace,
) -> None:
    """Run the missing trials and show them."""
    sampler, pruner = resolve(arguments.sampler, arguments.pruner, arguments.trials)
    before = summarize(stored)
    view = View(console, before, n_trials=arguments.trials, epochs=task.recipe.epochs)
    _say(
        console,
        f"Study {stored.study_name}: {before.n_finished} of {arguments.trials} trials done; "
        f"{task.recipe.epochs} epochs each; sampler {sampler}, pruner {pruner}.",
    )
    events = search(
        stored,
        task,
        space,
        n_trials=arguments.trials,
        sampler=sampler,
        pruner=pruner,
        checkpoints=_cache_folder("checkpoints"),
    )
    with view:
        with closing(events):
            for event in events:
                view.update(event)
        if not arguments.confirm or summarize(stored).best is None:
            return
        again = confirm(
            stored,
            task,
            space,
            n_cuts=arguments.confirm,
            n_seeds=arguments.seeds,
            resample=arguments.resample,
            checkpoints=_cache_folder("checkpoints"),
        )
        with closing(again):
            for event in again:
                view.update(event)


def _provenance(arguments: argparse.Namespace, task: Task) -> dict[str, Any]:
    return {
        "versions": {
            "depthsearch": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "timm": timm.__version__,
            "optuna": optuna.__version__,
        },
        "machine": f"{platform.machine()}, {platform.system()}, {torch.get_num_threads()} threads",
        "device": task.device.kind,
        "precision": task.device.precision,
        "options": _kept_options(arguments, task),
    }


def _kept_options(arguments: argparse.Namespace, task: Task) -> dict[str, Any]:
    """Take down what another command needs to load the same backbone and images again."""
    options = {name: value for name, value in vars(arguments).items() if name not in NOT_KEPT}
    if arguments.weights not in ("auto", "random"):
        options["weights"] = str(Path(arguments.weights).resolve())
    return {**options, "data": task.data.source}


def _stored(arguments: argparse.Namespace) -> optuna.Study:
    """Find the study that the command line names; the only one needs no name."""
    if arguments.name and arguments.study and arguments.name != arguments.study:
        raise SettingsError(f"Two studies, {arguments.study!r} and --name {arguments.name!r}: give one.")
    storage = open_storage(_existing(arguments.storage))
    names = optuna.get_all_study_names(storage)
    name = arguments.study or arguments.name or (names[0] if len(names) == 1 else None)
    if name not in names:
        asked = f"No study {name!r}" if name else "Which study? Give --name"
        raise SettingsError(
            f"{asked}; {without_password(arguments.storage)} has: {', '.join(names) or 'none'}."
        )
    return optuna.load_study(study_name=name, storage=storage)


def _existing(url: str) -> str:
    """Refuse a database file that is not there: opening it would make an empty one."""
    path = url.removeprefix("sqlite:///")
    if path != url and not Path(path).is_file():
        raise SettingsError(f"No file {path!r} with studies. Run depthsearch study, or give --storage.")
    return url
