"""``depthsearch fit`` and ``predict``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console

from depthsearch.classifier.fitting import Fitted
from depthsearch.classifier.fitting import fit as fit_answer
from depthsearch.classifier.model import Classifier
from depthsearch.classifier.modelfolder import check_place, load
from depthsearch.cli.commands.console import console_for, say
from depthsearch.cli.commands.keeping import keep_fit, keep_report
from depthsearch.cli.commands.loading import prepare_again
from depthsearch.cli.commands.places import artifacts_of, cache_folder, named_study
from depthsearch.cli.fit_view import epoch_line, render_fit
from depthsearch.data import (
    MANIFEST_SUFFIXES,
    Sample,
    UnreadableError,
    files_left_out,
    image_files,
    read_samples,
)
from depthsearch.devices import use_all_cores
from depthsearch.errors import DataError, ModelError, StudyError
from depthsearch.files import folder_named, is_folder
from depthsearch.report.dashboard import refresh
from depthsearch.results.summary import summarize
from depthsearch.training.loop import EpochResult

__all__ = ["fit", "predict"]

# Classes told of an image, the most probable first.
N_SHOWN = 3


def fit(arguments: argparse.Namespace) -> None:
    """Train a study's answer on train + validation, read the test images, write the model.

    Raises:
        DepthsearchError: If there is no such study or answer, or the model cannot be trained or written.
    """
    console = console_for(stderr=True)
    stored = named_study(arguments)
    chosen = summarize(stored).chosen
    if chosen is None:
        raise StudyError(
            f"No trial of study {stored.study_name!r} is complete: it has no answer to train. "
            "How it goes on: depthsearch status."
        )
    folder = arguments.out or _default_folder(stored.study_name)
    check_place(folder)
    artifacts_of(arguments)  # which refuses what is no folder
    names = ("device", "precision", "keep_memory", "keep_disk")
    options = {name: getattr(arguments, name) for name in names}
    task, space = prepare_again(
        stored, options, console, backbone=chosen.cut.backbone, subset=arguments.subset
    )
    point = space.point({**chosen.params, "cut": chosen.cut.index})
    n_learned = len(task.data.train) + len(task.data.val)
    say(
        console,
        f"Fit {stored.study_name}: {chosen.cut}, setting of trial {chosen.number}; {n_learned} "
        f"{task.data.columns.noun}s (train + validation), {task.recipe.epochs} epochs.",
    )
    training = fit_answer(
        stored,
        task,
        point,
        folder,
        trial=chosen.number,
        seed=arguments.seed,
        checkpoints=cache_folder("checkpoints"),
        onnx=arguments.onnx,
    )
    with closing(training):
        fitted = _show_epochs(console, training, task.recipe.epochs)
    keep_fit(arguments, stored, fitted, console)
    keep_report(arguments, stored, console)
    refresh(stored)
    console_for(stderr=arguments.json).print(render_fit(fitted))
    if arguments.json:
        print(json.dumps(fitted.as_json()))


def _show_epochs(console: Console, training: Generator[EpochResult, None, Fitted], epochs: int) -> Fitted:
    while True:
        try:
            result = next(training)
        except StopIteration as ended:
            fitted: Fitted = ended.value
            return fitted
        say(console, epoch_line(result, epochs))


def _default_folder(study_name: str) -> Path:
    return Path(f"{folder_named(study_name)}-model")


def predict(arguments: argparse.Namespace) -> None:
    """Tell the classes of images, or of a table's samples, with a model that `fit` wrote.

    Raises:
        DepthsearchError: If the model or an image cannot be used.
    """
    use_all_cores()
    of_study = _default_folder(str(arguments.folder))
    if is_folder(of_study) and not is_folder(Path(arguments.folder)):
        raise ModelError(
            f"No model folder {str(arguments.folder)!r}. Give {str(of_study)!r}, which is there."
        )
    classifier = load(
        arguments.folder,
        device=arguments.device,
        precision=arguments.precision,
        backbone=arguments.backbone,
    )
    samples = [sample for given in arguments.images for sample in _samples_of(classifier, given)]
    console, warnings = console_for(), console_for(stderr=True)

    def skipped(error: UnreadableError) -> None:
        say(warnings, f"Left out: {error}", style="yellow")

    predictions = classifier.predictions(
        samples, batch_size=arguments.batch_size, skipped=skipped if arguments.skip_unreadable else None
    )
    for prediction in predictions:
        if arguments.json:
            print(json.dumps(prediction.as_json()))
            continue
        ranked = sorted(prediction.probabilities.items(), key=lambda each: -each[1])[:N_SHOWN]
        shown = prediction.sample or prediction.image
        say(console, f"{shown}: " + ", ".join(f"{name} {p:.4f}" for name, p in ranked))


def _samples_of(classifier: Classifier, given: Path) -> Sequence[Path | Sample]:
    """List what a file or folder holds for a model: its images, or the samples of a table.

    Raises:
        DataError: If the model takes the other of these, or nothing can be listed.
    """
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
