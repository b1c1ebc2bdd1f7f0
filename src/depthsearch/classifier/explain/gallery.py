"""Choose the images to explain, and write a picture of each and an index."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from depthsearch.classifier.explain.maps import Comparison, Explanation, Photo, explain
from depthsearch.classifier.explain.picture import class_name, draw, shown_channels
from depthsearch.classifier.model import read_pixels
from depthsearch.data.dataset import DataSet, ImageSet
from depthsearch.data.decode import UnreadableError
from depthsearch.errors import DataError, SettingsError
from depthsearch.files import is_file, is_folder, written_whole
from depthsearch.models.backbones.backbone import Preprocessing
from depthsearch.models.pixels import Normalisation
from depthsearch.models.tracing.inputs import logits_of
from depthsearch.models.tracing.restoring import evaluating

INDEX = "index.json"
BATCH = 32
# More images take long to look through for wrong ones.
N_PREDICTED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture that was written.

    Attributes:
        path: The PNG file.
        about: What it shows, as the index says it.
    """

    path: Path
    about: dict[str, Any]


def read_photos(
    paths: Sequence[Path],
    preprocessing: Preprocessing,
    classes: Sequence[str],
    *,
    label: str | None = None,
    skip_unreadable: bool = False,
) -> list[Photo]:
    """Read image files as the classifier's preprocessing cuts them.

    The true class is the given one, or that whose name the nearest folder around an image has.

    Args:
        paths: Image files.
        preprocessing: The classifier's.
        classes: Its classes.
        label: The true class of all of them; None: by their folders.
        skip_unreadable: Whether to leave out files that cannot be read.

    Raises:
        DataError: If a file cannot be read.
        SettingsError: If there is no such class.
    """
    if label is not None and label not in classes:
        raise SettingsError(f"--label {label!r} is none of the classes: {', '.join(classes)}.")
    photos = []
    for path in paths:
        if is_folder(path):
            raise DataError(f"{path} is a folder. Give image files, such as {path}/*.jpg.")
        try:
            pixels = read_pixels(path, preprocessing)
        except UnreadableError:
            if not skip_unreadable:
                raise
            continue
        named = label or next((p.name for p in path.absolute().parents if p.name in classes), None)
        true = None if named is None else list(classes).index(named)
        photos.append(Photo(name=str(path), pixels=pixels, true=true))
    return photos


def pick_photos(
    model: nn.Module, data: DataSet, split: str, preprocessing: Preprocessing, n_photos: int
) -> list[Photo]:
    """Pick images of a split, half of them wrongly predicted if there are so many.

    Of the wrong ones those that the model is surest of, of the right ones an even spread. Of more than 1,000
    images an even spread is looked through.

    Args:
        model: The fine-tuned classifier.
        data: Labelled images, of the classifier's image size.
        split: ``val`` or ``test``.
        preprocessing: The classifier's.
        n_photos: How many images.
    """
    images: ImageSet = getattr(data, split)
    places = _spread(range(len(images)), N_PREDICTED)
    probabilities = _predict(model, images, places, preprocessing)
    labels = images.labels[torch.tensor(places)]
    sureness, predicted = probabilities.max(1)
    wrong = (predicted != labels).nonzero().flatten()
    wrong = wrong[sureness[wrong].argsort(descending=True, stable=True)]
    right = (predicted == labels).nonzero().flatten().tolist()
    n_wrong = max(min(len(wrong), n_photos // 2), n_photos - len(right))
    chosen = [*wrong[:n_wrong].tolist(), *_spread(right, n_photos - min(n_wrong, len(wrong)))]
    names = _names(data, split, images)
    return [
        Photo(
            name=names[places[i]],
            pixels=images.gather(torch.tensor([places[i]]))[0],
            true=int(labels[i]),
        )
        for i in chosen
    ]


def _spread(items: Sequence[int], n: int) -> list[int]:
    """Choose n of some items, evenly spread, or all where there are no more."""
    if len(items) <= n:
        return list(items)
    return [items[(2 * i + 1) * len(items) // (2 * n)] for i in range(n)]


def _predict(
    model: nn.Module, images: ImageSet, places: Sequence[int], preprocessing: Preprocessing
) -> torch.Tensor:
    """Predict images of a split: probabilities ``(n, num_classes)``."""
    device = next(model.parameters()).device
    normalise = Normalisation(preprocessing).to(device)
    probabilities = []
    with evaluating(model), torch.no_grad():
        for batch in torch.tensor(places).split(BATCH):
            logits: torch.Tensor = logits_of(model(normalise(images.gather(batch).to(device))))
            probabilities.append(logits.softmax(1).cpu())
    return torch.cat(probabilities)


def _names(data: DataSet, split: str, images: ImageSet) -> list[str]:
    """Name the images of a split: their paths in the source, or places where that is no file or folder."""
    if not is_folder(Path(data.source)) and not is_file(Path(data.source)):
        return [f"{data.name} {split} {place}" for place in range(len(images))]
    return [data.paths[row] for row in images.rows.tolist()]


def draw_gallery(comparison: Comparison, photos: Sequence[Photo], folder: Path) -> Iterator[Picture]:
    """Explain photos, write a PNG file of each into a folder and in the end the index, ``index.json``.

    Raises:
        SettingsError: If the folder cannot be written to.
    """
    pictures: list[Picture] = []
    try:
        for photo in photos:
            explanation = explain(comparison, photo)
            path = folder / _file_name(photo.name, [picture.path.stem for picture in pictures])
            with written_whole(path, durable=False) as file:
                draw(comparison, explanation).save(file, format="png")
            pictures.append(Picture(path=path, about=_about(comparison, explanation, path)))
            yield pictures[-1]
        with written_whole(folder / INDEX, durable=False) as file:
            file.write(json.dumps([picture.about for picture in pictures], indent=1).encode())
    except OSError as error:
        raise SettingsError(
            f"Cannot write to {folder}: {error.strerror or error}. Give another folder with --out."
        ) from error


def _file_name(name: str, taken: Sequence[str]) -> str:
    """Make a file's name of a photo's: its last folder and its stem, and a number where that is taken."""
    *folders, last = Path(name).parts or (name,)
    around = [folder for folder in folders[-1:] if re.search(r"\w", folder)]
    stem = re.sub(r"[^\w.-]+", "-", "-".join([*around, Path(last).stem])).strip("-.") or "image"
    numbered = stem
    n = 1
    while numbered in taken:
        n += 1
        numbered = f"{stem}-{n}"
    return f"{numbered}.png"


def _about(comparison: Comparison, explanation: Explanation, path: Path) -> dict[str, Any]:
    """Describe what a picture shows, as plain values."""
    photo, after, before = explanation.photo, explanation.after, explanation.before
    pretrained = None
    if before is not None and comparison.before_classes is not None:
        name = class_name(comparison.before_classes, before.predicted)
        pretrained = {"predicted": name, "probability": round(before.probability, 6)}
    return {
        "image": photo.name,
        "file": path.name,
        "predicted": class_name(comparison.classes, after.predicted),
        "probability": round(after.probability, 6),
        "true": None if photo.true is None else comparison.classes[photo.true],
        "right": explanation.right,
        "pretrained": pretrained,
        "layers": [
            {
                "layer": layer.number,
                "keras_name": layer.keras_name,
                "name": layer.name,
                "shape": [layer.channels, layer.height, layer.width],
                "channels": shown_channels(explanation, layer),
                "frozen": comparison.is_frozen(layer),
                "unchanged": None if before is None else explanation.unchanged(layer),
            }
            for layer in comparison.layers
        ],
    }
