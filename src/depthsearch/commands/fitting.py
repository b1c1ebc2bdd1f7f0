"""``depthsearch fit`` and ``predict``."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

from rich.console import Console

from depthsearch.commands.console import console_for, say
from depthsearch.commands.loading import prepare_again
from depthsearch.commands.places import cache_folder, named_study
from depthsearch.data import UnreadableError, image_files
from depthsearch.devices import use_all_cores
from depthsearch.errors import StudyError
from depthsearch.fitview import epoch_line, render_fit
from depthsearch.modelfolder import check_place, load
from depthsearch.refit import Fitted
from depthsearch.refit import fit as fit_answer
from depthsearch.summary import summarize
from depthsearch.training import EpochResult

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
            "Go on with it: depthsearch study."
        )
    # A study's name may hold what a folder's cannot.
    folder = arguments.out or Path(re.sub(r"[^\w.-]+", "-", stored.study_name) + "-model")
    check_place(folder)
    names = ("device", "precision", "keep_memory", "keep_disk")
    options = {name: getattr(arguments, name) for name in names}
    task, space = prepare_again(stored, options, console, backbone=chosen.cut.backbone)
    point = space.point({**chosen.params, "cut": chosen.cut.index})
    n_images = len(task.data.train) + len(task.data.val)
    say(
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
        checkpoints=cache_folder("checkpoints"),
        onnx=arguments.onnx,
    )
    with closing(training):
        fitted = _show_epochs(console, training, task.recipe.epochs)
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
    console, warnings = console_for(), console_for(stderr=True)

    def skipped(error: UnreadableError) -> None:
        say(warnings, f"Left out: {error}", style="yellow")

    predictions = classifier.predictions(
        paths, batch_size=arguments.batch_size, skipped=skipped if arguments.skip_unreadable else None
    )
    for prediction in predictions:
        if arguments.json:
            print(json.dumps(prediction.as_json()))
            continue
        ranked = sorted(prediction.probabilities.items(), key=lambda each: -each[1])[:N_SHOWN]
        say(console, f"{prediction.image}: " + ", ".join(f"{name} {p:.4f}" for name, p in ranked))
