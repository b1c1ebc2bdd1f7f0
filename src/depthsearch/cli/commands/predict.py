"""``depthsearch predict``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from depthsearch.classifier.model import Classifier
from depthsearch.classifier.modelfolder import load
from depthsearch.cli.console import console_for, say
from depthsearch.data.decode import UnreadableError
from depthsearch.data.samples import Sample
from depthsearch.data.sources.folder import files_left_out, image_files
from depthsearch.data.sources.manifest import MANIFEST_SUFFIXES, read_samples
from depthsearch.devices import use_all_cores
from depthsearch.errors import DataError
from depthsearch.files import is_folder
from depthsearch.options.commands import PredictOptions

# Classes shown of an image, the most probable first.
N_SHOWN = 3


def predict(options: PredictOptions) -> None:
    """Predict the classes of images, or of a table's samples, with a model that `fit` wrote.

    Raises:
        DepthsearchError: If the model or an image cannot be used.
    """
    use_all_cores()
    classifier = load(
        options.folder, device=options.device, precision=options.precision, backbone=options.backbone
    )
    samples = [sample for given in options.images for sample in _samples_of(classifier, given)]
    console, warnings = console_for(), console_for(stderr=True)

    def skipped(error: UnreadableError) -> None:
        say(warnings, f"Left out: {error.problem}", style="yellow")

    predictions = classifier.predictions(
        samples, batch_size=options.batch_size, skipped=skipped if options.skip_unreadable else None
    )
    for prediction in predictions:
        if options.json:
            print(json.dumps(prediction.as_json()))
            continue
        ranked = sorted(prediction.probabilities.items(), key=lambda each: -each[1])[:N_SHOWN]
        shown = prediction.sample or prediction.image
        say(console, f"{shown}: " + ", ".join(f"{name} {p:.4f}" for name, p in ranked))


def _samples_of(classifier: Classifier, given: Path) -> Sequence[Path | Sample]:
    """List the images of a file or folder, or the samples of a table, as a model takes them."""
    columns = classifier.columns
    is_table = given.suffix.lower() in MANIFEST_SUFFIXES and not is_folder(given)
    if columns.is_plain:
        if is_table:
            raise DataError(
                f"{given} is a table, and this model takes images. Give files, or folders of them."
            )
        if not is_folder(given):
            return [given]
        for note in files_left_out(given):
            say(console_for(stderr=True), f"{given}: {note}", style="yellow")
        return image_files(given)
    if not is_table:
        raise DataError(
            f"{given} is no table, and this model takes {columns}. Give a .csv or .parquet with the columns "
            f"{', '.join((*columns.images, *columns.numbers))}."
        )
    return read_samples(given, columns)
