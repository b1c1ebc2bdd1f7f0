"""``depthsearch explain``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console

from depthsearch.classifier.explain.gallery import Picture, draw_gallery, pick_photos, read_photos
from depthsearch.classifier.explain.maps import Comparison, Photo, compare, pretrained_classes
from depthsearch.classifier.modelfolder import load
from depthsearch.cli.console import Notices, console_for, say, say_list
from depthsearch.cli.keeping import keep_report
from depthsearch.cli.places import artifacts_of
from depthsearch.devices import choose_device, use_all_cores
from depthsearch.errors import SettingsError, WeightsError
from depthsearch.files import folder_named, is_file, is_folder
from depthsearch.models.backbones.backbone import Backbone, WeightsOrigin
from depthsearch.models.backbones.loading import load_backbone
from depthsearch.models.candidates import list_cuts
from depthsearch.models.cuts import find_cut
from depthsearch.options.attributes import StudyKey
from depthsearch.options.backbones import parse_name
from depthsearch.options.commands import ExplainOptions
from depthsearch.options.weights import weights_by_backbone
from depthsearch.options.words import KINDS
from depthsearch.results.stored import StoredStudy
from depthsearch.signals import deferred
from depthsearch.study.artifacts import Artifacts, keep_artifact
from depthsearch.study.preparing.again import prepare_again
from depthsearch.study.preparing.places import existing
from depthsearch.study.storage.opening import open_storage
from depthsearch.text import counted, without_password

# Images of a study, unless others or more are asked for.
SPLIT, N_PHOTOS = "val", 4


def explain(options: ExplainOptions) -> None:
    """Draw what layers across depth see in images, before and after fine-tuning.

    Raises:
        DepthsearchError: If there is no fitted model, or an image or layer of it cannot be had.
    """
    console = console_for(stderr=True)
    device = choose_device(options.device, "float32")
    store = artifacts_of(options.storage, options.artifacts)
    use_all_cores()
    folder, study, stored = _model_folder(options)
    if stored is None and not options.images:
        raise SettingsError(f"Which images? Give files: depthsearch explain {options.model} IMAGE...")
    network = options.backbone or _own_network(stored)
    classifier = load(folder, backbone=network)
    if not classifier.columns.is_plain:
        raise SettingsError(
            f"depthsearch explain shows models of one image per sample, and {folder} takes "
            f"{classifier.columns}. Nothing is drawn."
        )
    about = classifier.config["depthsearch"]
    pretrained = _pretrained(options.weights, network, about, stored, console)
    cuts = list_cuts(classifier.model, KINDS, image_size=classifier.preprocessing.image_size)
    comparison = compare(
        # Both in one layout: in another, convolutions round otherwise.
        device.place(classifier.model),
        None if pretrained is None else device.place(pretrained.model),
        classes=classifier.classes,
        before_classes=None if pretrained is None else pretrained_classes(pretrained),
        preprocessing=classifier.preprocessing,
        cut=find_cut(cuts, about["cut"]["name"]),
        layers=options.layers or (),
    )
    photos = _photos(options, comparison, stored, console)
    name = folder.resolve().name if stored is None else stored.name
    out = Path(options.out or f"{folder_named(name)}-explain")
    pictures = []
    for picture in draw_gallery(comparison, photos, out):
        pictures.append(picture)
        say(console_for(stderr=options.json), str(picture.path))
    if study is not None:
        _keep_pictures(study, store, pictures, console)
        keep_report(study, console, options.storage, options.artifacts)
    if options.json:
        print(json.dumps({"folder": str(out), "pictures": [picture.about for picture in pictures]}))


def _model_folder(options: ExplainOptions) -> tuple[Path, optuna.Study | None, StoredStudy | None]:
    """Find the folder of a model, and read the study if that is given instead of the folder."""
    folder = Path(options.model)
    if is_file(folder / "config.json"):
        return folder, None, None
    study = _study_named(options)
    stored = StoredStudy.read(study)
    if not stored.fit:
        raise SettingsError(
            f"Study {options.model!r} has no fitted model. Run depthsearch fit first, then this again."
        )
    folder = Path(stored.fit["folder"])
    if not is_file(folder / "config.json"):
        raise SettingsError(
            f"The model of study {options.model!r} is not in {folder} any more. Give its folder, or run "
            "depthsearch fit again."
        )
    return folder, study, stored


def _study_named(options: ExplainOptions) -> optuna.Study:
    """Load the study that is given instead of a model; a folder of its name may hold its images."""
    name, is_there = options.model, is_folder(Path(options.model))
    no_model = (
        f"{name} holds no config.json: it is no model, and there is" if is_there else "No model folder and"
    )
    try:
        storage = open_storage(existing(options.storage))
    except SettingsError as error:
        if not is_there:
            raise
        raise SettingsError(f"{no_model} no study {name!r}: {error}") from error
    if name not in (names := optuna.get_all_study_names(storage)):
        raise SettingsError(
            f"{no_model} no study {name!r}; {without_password(options.storage)} has: "
            f"{', '.join(names) or 'none'}."
        )
    return optuna.load_study(study_name=name, storage=storage)


def _own_network(stored: StoredStudy | None) -> str | None:
    """Return the FILE.py:FUNCTION that builds a study's model; None: the model is a library's."""
    name = None if stored is None else str(stored.fit["backbone"])
    return name if name and parse_name(name).source == "file" else None


def _pretrained(
    weights: str | None,
    network: str | None,
    about: Mapping[str, Any],
    stored: StoredStudy | None,
    console: Console,
) -> Backbone | None:
    """Load the backbone that a model was made from; print a line if its weights are not at hand."""
    if weights == "none":
        return None
    try:
        given = weights or _weights_of(stored, about["backbone"])
        return _same_backbone(given, network or about["backbone"], about)
    except WeightsError as error:
        if weights is not None:
            raise
        say(console, f"The pictures have no row for before fine-tuning. {error}", style="yellow")
        return None


def _weights_of(stored: StoredStudy | None, backbone: str) -> str | None:
    """Read a backbone's weights from a study's options; None: there is no study, or no stored options."""
    if stored is None or stored.options is None:
        return None
    options = stored.options
    return weights_by_backbone(options.weights, options.backbone).get(backbone, options.weights)


def _same_backbone(weights: str | None, name: str, about: Mapping[str, Any]) -> Backbone:
    """Load a backbone with the weights that a model started from, and no others."""
    provenance, seen = about["provenance"], about["preprocessing"]
    origin = WeightsOrigin(**provenance["weights"])
    given = weights or ("auto" if origin.seed is None else "random")
    if origin.kind == "file" and given == "auto":
        raise WeightsError(f"It started from the {origin}: give that with --weights.")
    backbone = load_backbone(
        name,
        given,
        image_size=seen["image_size"],
        in_chans=len(seen["mean"]),
        demo=origin.kind == "shipped",
        seed=origin.seed or 0,
    )
    if backbone.digest != provenance["weights_digest"]:
        raise WeightsError(
            f"It started from other weights ({origin}) than {backbone.weights}. Give --weights FILE."
        )
    return backbone


def _photos(
    options: ExplainOptions, comparison: Comparison, stored: StoredStudy | None, console: Console
) -> list[Photo]:
    """Read the images given, or pick some of the study's."""
    if stored is None or options.images:
        photos = read_photos(
            [Path(image) for image in options.images],
            comparison.preprocessing,
            comparison.classes,
            label=options.label,
            skip_unreadable=options.skip_unreadable,
        )
        skipped = [image for image in options.images if image not in {photo.name for photo in photos}]
        if skipped:
            say_list(console, f"{counted(len(skipped), 'unreadable image')} left out", skipped)
        return photos
    keys = {each.name: key for key, each in stored.backbones.items()}
    with closing(Notices(console)) as notices:
        task, _ = prepare_again(stored, notices, backbone=keys[stored.fit["backbone"]])
    return pick_photos(
        comparison.after.model,
        task.data,
        options.split or SPLIT,
        comparison.preprocessing,
        options.n or N_PHOTOS,
    )


def _keep_pictures(
    study: optuna.Study, store: Artifacts | None, pictures: Sequence[Picture], console: Console
) -> None:
    """Store pictures as artifacts of the study, for the dashboard, and list them in it, for the report."""
    if store is None:
        say(
            console,
            "Not shown in the dashboard: this database has no folder beside it. Give --artifacts DIR.",
        )
    keys = ("image", "file", "predicted", "probability", "true", "right")
    explained = []
    for picture in pictures:
        try:
            kept = None if store is None else keep_artifact(study, store, picture.path)
        except OSError as error:
            raise SettingsError(
                f"Cannot keep {picture.path.name} as an artifact: {error}. Give another --artifacts folder."
            ) from error
        explained.append({**{key: picture.about[key] for key in keys}, "artifact_id": kept})
    with deferred():
        study.set_user_attr(StudyKey.EXPLAINED, explained)
