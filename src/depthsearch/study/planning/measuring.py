"""A few batches of the real images, decoded and trained on with the real backbone, and timed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from depthsearch.data.dataset import DataSet, ImageSet
from depthsearch.data.sources.torchvision_sets import PREFIX
from depthsearch.data.surveying import Survey
from depthsearch.devices import Device
from depthsearch.models.backbones.backbone import Backbone
from depthsearch.options.study import StudyOptions
from depthsearch.search.space import Point, SearchSpace
from depthsearch.study.events import Decoding, Notice
from depthsearch.study.preparing.tasks import load_images
from depthsearch.training.costs import full_fine_tune_macs
from depthsearch.training.objective import train_point
from depthsearch.training.recipe import Recipe
from depthsearch.training.task import Task

N_BATCHES = 2
# The first warms up; the second is timed.
EPOCHS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a few batches took.

    Attributes:
        fine_tune_seconds: One training of everything on all images, by the space's names of the backbones.
        images_per_second: Of the training of everything, by the same names.
        decode_seconds: For all images; 0 where that was not timed, as they are small.
    """

    fine_tune_seconds: Mapping[str, float]
    images_per_second: Mapping[str, float]
    decode_seconds: float


@dataclass(slots=True)
class _Clock:
    """Notes when images were decoded.

    Attributes:
        moments: By `time.perf_counter`, and how many were decoded by then.
    """

    moments: list[tuple[float, int]] = field(default_factory=list)

    def __call__(self, notice: Notice) -> None:
        if isinstance(notice, Decoding):
            self.moments.append((time.perf_counter(), notice.n_done))

    @property
    def seconds_each(self) -> float:
        if len(self.moments) < 2:
            return 0.0
        (began, n_before), (ended, n_after) = self.moments[0], self.moments[-1]
        return (ended - began) / max(1, n_after - n_before)


def measure(
    options: StudyOptions,
    survey: Survey,
    backbones: Mapping[str, Backbone],
    space: SearchSpace,
    device: Device,
) -> Measured:
    """Train everything for a few batches with each backbone.

    Args:
        options: With all defaults.
        survey: Of the images.
        backbones: By the space's names.
        space: What is searched.
        device: What to compute on.

    Raises:
        DataError: If one of the images cannot be used.
    """
    fine_tunes, rates, decode_seconds = {}, {}, 0.0
    with _folder_for_images(options) as folder:
        for name, backbone in backbones.items():
            clock = _Clock()
            data = load_images(_few(options, survey), clock, backbone.preprocessing, cache=folder)
            n_images = survey.n_samples * survey.columns.images_each
            decode_seconds = max(decode_seconds, clock.seconds_each * n_images)
            task = Task(
                backbone=backbone,
                data=_cut_short(data, options.batch_size),
                recipe=Recipe(epochs=EPOCHS, batch_size=options.batch_size),
                device=device,
            )
            point = Point(cut=space.cuts_of(name)[0], learning_rate=1e-5)
            *_, last = train_point(task, point, seed=0)
            here = _passes(EPOCHS, len(task.data.train), len(task.data.val))
            whole = _passes(options.epochs or 1, survey.splits["train"], survey.splits["val"])
            fine_tunes[name] = last.seconds / last.macs * full_fine_tune_macs(task) * whole / here
            rates[name] = last.images_per_second
    return Measured(fine_tune_seconds=fine_tunes, images_per_second=rates, decode_seconds=decode_seconds)


@contextmanager
def _folder_for_images(options: StudyOptions) -> Iterator[Path | None]:
    """Make a folder for a few decoded images, removed again; sets that are downloaded stay in the cache."""
    if str(options.data).startswith(PREFIX):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="depthsearch-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _few(options: StudyOptions, survey: Survey) -> StudyOptions:
    """Ask for little more than the batches that are measured."""
    n_wanted = (N_BATCHES + 1) * options.batch_size
    return replace(options, subset=min(1.0, n_wanted / survey.splits["train"]))


def _cut_short(data: DataSet, batch_size: int) -> DataSet:
    def first(images: ImageSet, n: int) -> ImageSet:
        return images.chosen(torch.arange(min(n, len(images))))

    return replace(data, train=first(data.train, N_BATCHES * batch_size), val=first(data.val, batch_size))


def _passes(epochs: int, n_train: int, n_val: int) -> int:
    """Count the forward passes that a training costs, a backward pass as two."""
    return epochs * (3 * n_train + n_val)
