"""The answer of a study as a model: trained on train + validation, then, once, judged on the test images.

Nothing is chosen here. The setting is the study's answer, epochs and schedule are those of its recipe; as
there are more images than in a trial, the same epochs are proportionally more steps. The test images are not
within reach while the model is trained, and every reading of them is recorded in the study before anybody
sees its figures: a second one says that it is.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.exceptions import StorageInternalError
from torch import nn

from depthsearch.classifier.checking import check_place, require_onnx
from depthsearch.classifier.figures import Figures, figures_of
from depthsearch.classifier.model import BATCH_SIZE, Classifier
from depthsearch.classifier.modelfolder import Description, save
from depthsearch.classifier.onnxfile import OnnxFile, export_onnx
from depthsearch.data.dataset import DataSet, ImageSet
from depthsearch.devices import is_out_of_memory
from depthsearch.errors import DivergedError, SettingsError, StudyError, TrainingError
from depthsearch.models.backbones.backbone import Preprocessing
from depthsearch.models.cuts import Cut
from depthsearch.models.heads import without_dropout
from depthsearch.models.split import Suffix
from depthsearch.options.attributes import StudyKey
from depthsearch.search.space import Point
from depthsearch.seeds import seed_from
from depthsearch.signals import deferred
from depthsearch.study.lease import Lease, lease
from depthsearch.text import first_line
from depthsearch.training.objective import model_for, train_point
from depthsearch.training.outcomes import EpochResult
from depthsearch.training.task import Task

ONNX_IMAGES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class TestReading:
    """One reading of a study's test images.

    Attributes:
        when: UTC, ISO 8601.
        accuracy: That it gave.
        n: Images.
        trial: Whose setting was trained.
        layer: Number of the first trainable layer.
    """

    __test__ = False  # to pytest a name that starts so is a test

    when: str
    accuracy: float
    n: int
    trial: int
    layer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A model that was trained, judged and written.

    Attributes:
        study: Name of the study.
        backbone: timm's name.
        trial: Number of the trial whose setting it is.
        point: That setting.
        seed: Of the head's weights, batch order and dropout.
        n_images: Samples learned from: training and validation.
        results: Of each epoch; there is no validation.
        figures: On the test images.
        readings: Of the test images, this one last.
        folder: Where the model is.
        onnx: The ONNX file, if asked for.
        timm_loads: Whether timm loads it by itself.
        seconds: Training, test and writing, what an interrupted start spent on epochs included.
        noun: What a sample is called, see `data.Columns`.
    """

    study: str
    backbone: str
    trial: int
    point: Point
    seed: int
    n_images: int
    results: tuple[EpochResult, ...]
    figures: Figures
    readings: tuple[TestReading, ...]
    folder: Path
    onnx: OnnxFile | None
    timm_loads: bool = False
    seconds: float = 0.0
    noun: str = "image"

    def as_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "study": self.study,
            "backbone": self.backbone,
            "trial": self.trial,
            "cut": _names(self.point.cut),
            "setting": _setting(self.point),
            "is_solved": self.point.is_solved,
            "seed": self.seed,
            "n_images": self.n_images,
            "epochs": [
                {"epoch": r.epoch, "train_loss": r.train_loss, "seconds": round(r.seconds, 3)}
                for r in self.results
            ],
            "test": self.figures.as_json(),
            "test_readings": [asdict(reading) for reading in self.readings],
            "folder": str(self.folder.resolve()),
            "timm_loads": self.timm_loads,
            "onnx": self.onnx and {"difference": self.onnx.difference, "n_images": self.onnx.n_images},
            "seconds": round(self.seconds, 3),
        }


def learn_from_all(data: DataSet) -> DataSet:
    """Join train and validation to one training set; nothing is left to validate or test on."""
    nothing = data.val.chosen(torch.arange(0))
    return replace(data, train=data.train.joined(data.val), val=nothing, test=nothing)


def refit(
    task: Task, point: Point, *, seed: int, checkpoint: Path | None = None
) -> Generator[EpochResult, None, nn.Module]:
    """Train a point on train + validation and yield a result after each epoch.

    Args:
        task: As in the study.
        point: What to train.
        seed: Of the head's weights, batch order and dropout.
        checkpoint: See `training.train`.

    Returns:
        The whole model, on the CPU in eval mode: the frozen prefix as pretrained, the suffix as trained.

    Raises:
        TrainingError: If the training diverges or its memory does not suffice.
    """
    everything = replace(task, data=learn_from_all(task.data), split_seed=None)
    try:
        suffix = yield from train_point(everything, point, seed=seed, checkpoint=checkpoint)
    except DivergedError as error:
        raise TrainingError(f"The refit diverged: {error}. Try another --seed.") from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        size = task.recipe.batch_size
        raise TrainingError(
            f"The refit ran out of memory on {task.device.kind} at batch size {size}. "
            "Free some, or give another --device."
        ) from error
    return _whole(task, point, suffix, seed)


def _whole(task: Task, point: Point, suffix: Suffix, seed: int) -> nn.Module:
    """Put the trained suffix behind the pretrained prefix, ready to predict."""
    model = model_for(task, point, seed)
    names = model.state_dict().keys()
    trained = {name: tensor for name, tensor in suffix.graph.state_dict().items() if name in names}
    # Only what was trained: a tensor with two names keeps what its other name was given.
    model.load_state_dict(trained, strict=False)
    parent, _, name = task.backbone.classifier.rpartition(".")
    head = model.get_submodule(task.backbone.classifier)
    setattr(model.get_submodule(parent), name, without_dropout(head))
    return model.eval()


def fit(
    study: optuna.Study,
    task: Task,
    point: Point,
    folder: Path,
    *,
    trial: int,
    seed: int | None = None,
    checkpoints: Path,
    onnx: bool = False,
) -> Generator[EpochResult, None, Fitted]:
    """Train a study's answer, judge it on the test images and write it; yield a result after each epoch.

    A fit that was killed goes on from its last epoch.

    Args:
        study: Where the reading of the test images is recorded.
        task: As in the study.
        point: Its answer.
        folder: Where to write the model.
        trial: Number of the trial that the answer comes from.
        seed: See `refit`; default: the trial's own.
        checkpoints: Folder for the checkpoint.
        onnx: Whether to write an ONNX file too.

    Raises:
        ModelError: If the model cannot be written, or not as ONNX.
        SettingsError: If ONNX is asked for and its packages are missing, or samples are more than an image.
        StudyError: If the study is being run, or cannot be written to.
        TrainingError: See `refit`.
    """
    _check(folder, task.data, onnx=onnx)
    seed = seed_from(task.recipe.seed, trial) if seed is None else seed
    checkpoint = _checkpoint(study, task, trial, seed, checkpoints)
    results: list[EpochResult] = []
    with lease(study, "fit") as owned:
        model = yield from _renewing(refit(task, point, seed=seed, checkpoint=checkpoint), results, owned)
        started = time.perf_counter()
        classifier = classifier_with(task, model)
        written = _as_onnx(classifier, task.data.train) if onnx else None
        figures = figures_of(logits_on(classifier, task.data.test), task.data.test.labels, task.data.classes)
        with deferred():
            owned.renew()
            fitted = Fitted(
                study=study.study_name,
                backbone=task.backbone.name,
                trial=trial,
                point=point,
                seed=seed,
                n_images=len(task.data.train) + len(task.data.val),
                results=tuple(results),
                figures=figures,
                readings=_record(study, trial, point.cut, figures),
                folder=folder,
                onnx=written,
                noun=task.data.columns.noun,
            )
            fitted = _saved(study, fitted, task, classifier, started)
            checkpoint.unlink(missing_ok=True)
    return fitted


def _checkpoint(study: optuna.Study, task: Task, trial: int, seed: int, folder: Path) -> Path:
    """Name the file from which an interrupted fit of these images, on this device, goes on."""
    images = task.data.fingerprint[:8]
    name = f"fit-{trial}-{seed}-{images}-{task.device.kind}-{task.device.precision}.pt"
    return folder / str(study.user_attrs[StudyKey.CHECKPOINT_ID]) / name


def classifier_with(task: Task, model: nn.Module) -> Classifier:
    """Join a model with what its task says of classes and images."""
    data = task.data
    return Classifier(
        model=model,
        classes=data.classes,
        # As the images really were: digits are kept whole.
        preprocessing=replace(
            task.backbone.preprocessing,
            image_size=data.image_size,
            crop_share=data.crop_share,
            interpolation=data.interpolation,
            ranges=data.ranges,
        ),
        device=task.device,
        columns=data.columns,
    )


def _as_onnx(classifier: Classifier, images: ImageSet) -> OnnxFile:
    return export_onnx(classifier, images.gather(torch.arange(min(ONNX_IMAGES, len(images)))))


def _check(folder: Path, data: DataSet, *, onnx: bool) -> None:
    """Refuse before the training what could not be written after it."""
    check_place(folder)
    if onnx and not data.columns.is_plain:
        raise SettingsError(
            f"--onnx writes models of one image per sample, and {data.name} has {data.columns}. "
            "Leave --onnx out."
        )
    if onnx:
        require_onnx()


def _renewing(
    training: Generator[EpochResult, None, nn.Module],
    results: list[EpochResult],
    study_lease: Lease,
) -> Generator[EpochResult, None, nn.Module]:
    """Yield a training's results, keep them, and renew the lease after each."""
    while True:
        try:
            result = next(training)
        except StopIteration as ended:
            model: nn.Module = ended.value
            return model
        results.append(result)
        with deferred():
            study_lease.renew()
        yield result


def logits_on(classifier: Classifier, images: ImageSet) -> torch.Tensor:
    """Run the model on a whole set: ``(n, k)``."""
    batches = [images.chosen(index) for index in torch.arange(len(images)).split(BATCH_SIZE)]
    return torch.cat([classifier.logits(b.gather(torch.arange(len(b.rows))), b.numbers) for b in batches])


def _record(study: optuna.Study, trial: int, cut: Cut, figures: Figures) -> tuple[TestReading, ...]:
    """Record a reading of the test images; return all of them."""
    reading = TestReading(
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        accuracy=figures.accuracy,
        n=figures.n,
        trial=trial,
        layer=cut.layer,
    )
    readings = [*study.user_attrs.get(StudyKey.TEST_READINGS, []), asdict(reading)]
    try:
        study.set_user_attr(StudyKey.TEST_READINGS, readings)
    except StorageInternalError as error:
        raise StudyError(
            f"The reading of the test images cannot be recorded in study {study.study_name!r}: "
            f"{first_line(error)}. Mend that and run the same command again."
        ) from error
    return tuple(TestReading(**each) for each in readings)


def _saved(study: optuna.Study, fitted: Fitted, task: Task, classifier: Classifier, started: float) -> Fitted:
    """Write a fitted model's folder, and in the study what was fitted; return that."""
    content = None if fitted.onnx is None else fitted.onnx.content
    description = _describe(fitted, task, classifier.preprocessing)
    config = save(fitted.folder, classifier.model, description, onnx=content)
    seconds = sum(result.seconds for result in fitted.results) + time.perf_counter() - started
    fitted = replace(fitted, timm_loads=config["depthsearch"]["timm_loads"], seconds=seconds)
    study.set_user_attr(StudyKey.FIT, fitted.as_json())
    return fitted


def _describe(fitted: Fitted, task: Task, preprocessing: Preprocessing) -> Description:
    data, setting = task.data, _setting(fitted.point)
    return Description(
        backbone=task.backbone.name,
        built_from=task.backbone.built_from,
        classifier=task.backbone.classifier,
        classes=data.classes,
        head_width=fitted.point.head_width,
        head_depth=fitted.point.head_depth,
        head=task.backbone.head,
        samples=None if data.columns.is_plain else data.columns.as_json(),
        cut={**_names(fitted.point.cut), "shown": str(fitted.point.cut)},
        setting=setting,
        preprocessing=preprocessing,
        precision=task.device.precision,
        provenance={
            "weights": asdict(task.backbone.weights),
            "weights_digest": task.backbone.digest,
            "data": {
                "name": data.name,
                "fingerprint": data.fingerprint,
                "n_learned": fitted.n_images,
                "n_test": len(data.test),
            },
            "study": fitted.study,
            "trial": fitted.trial,
            "seed": fitted.seed,
            "is_solved": fitted.point.is_solved,
            "recipe": {name: v for name, v in asdict(task.recipe).items() if name not in setting},
        },
        test={
            "figures": fitted.figures.as_json(),
            "readings": [asdict(reading) for reading in fitted.readings],
        },
    )


def _names(cut: Cut) -> dict[str, Any]:
    return {name: getattr(cut, name) for name in ("index", "layer", "name", "kind", "keras_name")}


def _setting(point: Point) -> dict[str, Any]:
    return {name: value for name, value in asdict(point).items() if name != "cut"}
