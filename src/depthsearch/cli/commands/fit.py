"""``depthsearch fit``."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import closing

from rich.console import Console

from depthsearch.classifier.confusion import confusion_picture
from depthsearch.classifier.fitting import Fitted, fit as fit_answer
from depthsearch.cli.console import Notices, console_for, say
from depthsearch.cli.fit_view import epoch_line, render_fit
from depthsearch.cli.keeping import keep_fit, keep_report
from depthsearch.cli.places import answer_of, model_folder, named_study
from depthsearch.options.commands import FitOptions
from depthsearch.report.dashboard.refreshing import refresh
from depthsearch.results.stored import StoredStudy
from depthsearch.study.preparing.again import prepare_again
from depthsearch.study.preparing.places import cache_folder
from depthsearch.text import counted
from depthsearch.training.outcomes import EpochResult


def fit(options: FitOptions) -> None:
    """Train a study's answer on train + validation, read the test images, write the model.

    Raises:
        DepthsearchError: If there is no such study or answer, or the model cannot be trained or written.
    """
    console = console_for(stderr=True)
    study = named_study(options)
    stored = StoredStudy.read(study)
    chosen = answer_of(stored)
    folder = options.out or model_folder(stored.name)
    with closing(Notices(console)) as notices:
        task, space = prepare_again(
            stored,
            notices,
            backbone=chosen.cut.backbone,
            subset=options.subset,
            device=options.device,
            precision=options.precision,
            keep_memory=options.keep_memory,
            keep_disk=options.keep_disk,
        )
    point = space.point({**chosen.params, "cut": chosen.cut.index})
    learned = counted(len(task.data.train) + len(task.data.val), task.data.columns.noun)
    how = "solved" if point.is_solved else counted(task.recipe.epochs, "epoch")
    say(
        console,
        f"Fit {stored.name}: {chosen.cut}, setting of trial {chosen.number}; {learned} "
        f"(train + validation), {how}.",
    )
    training = fit_answer(
        study,
        task,
        point,
        folder,
        trial=chosen.number,
        seed=options.seed,
        checkpoints=cache_folder("checkpoints"),
        onnx=options.onnx,
    )
    with closing(training):
        fitted = _show_epochs(console, training, task.recipe.epochs, is_solved=point.is_solved)
    confusions = confusion_picture(fitted.figures, fitted.noun)
    keep_fit(study, confusions, fitted.folder / "README.md", console, options.storage, options.artifacts)
    keep_report(study, console, options.storage, options.artifacts)
    refresh(study)
    console_for(stderr=options.json).print(render_fit(fitted))
    if options.json:
        print(json.dumps(fitted.as_json()))


def _show_epochs(
    console: Console, training: Generator[EpochResult, None, Fitted], epochs: int, *, is_solved: bool
) -> Fitted:
    while True:
        try:
            result = next(training)
        except StopIteration as ended:
            fitted: Fitted = ended.value
            return fitted
        say(console, epoch_line(result, epochs, is_solved=is_solved))
