"""A trained model with its classes and preprocessing: from image files to classes and probabilities.

Shapes: ``n`` samples, of ``m`` images and ``d`` numbers each (most often of one image), ``c`` channels, ``s``
their side in pixels, ``k`` classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from depthsearch.data.decode import UnreadableError, decode_file, pillow_quiet
from depthsearch.data.samples import Columns, Sample
from depthsearch.devices import Device
from depthsearch.errors import DataError
from depthsearch.machine import usable_cores
from depthsearch.models.backbones.backbone import Preprocessing
from depthsearch.models.heads import giving_numbers
from depthsearch.models.pixels import Normalisation
from depthsearch.models.rounding import filled_up
from depthsearch.models.tracing.inputs import logits_of

BATCH_SIZE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The class of one image, or of one sample of several, as a classifier sees it.

    Attributes:
        image: The file; of a sample the first one.
        label: The most probable class.
        probability: Of that class.
        probabilities: Of every class, by name, in the order of the classes.
        sample: Paths and numbers in the order of the model's columns, where a sample is more than an image.
    """

    image: Path
    label: str
    probability: float
    probabilities: dict[str, float]
    sample: Sample | None = None

    def as_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        about: dict[str, Any] = {"image": str(self.image)}
        if self.sample is not None:
            about = {"images": list(map(str, self.sample.images)), "numbers": list(self.sample.numbers)}
        return {
            **about,
            "class": self.label,
            "probability": self.probability,
            "probabilities": self.probabilities,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Classifier:
    """A trained model that takes images, or samples of several, as it was trained to.

    Attributes:
        model: In eval mode, on the device: normalised images ``(n * m, c, s, s)`` to logits ``(n, k)``.
        classes: Names of the classes; a label is a place in it.
        preprocessing: How images become the model's input.
        device: Where, and in which precision.
        config: What its folder says of it; empty for a model that was never saved.
        columns: What a sample is made of.
    """

    model: nn.Module = field(repr=False)
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    device: Device
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    columns: Columns = field(default_factory=Columns)

    def __post_init__(self) -> None:
        """Bring the model to its device and into eval mode."""
        self.device.place(self.model).eval()

    def predict(
        self,
        images: Iterable[Path | str | Sample],
        *,
        batch_size: int = BATCH_SIZE,
        skip_unreadable: bool = False,
    ) -> list[Prediction]:
        """Predict the classes of image files, or of samples where the model was trained on samples.

        Args:
            images: Files of any kind that Pillow knows; or samples of them.
            batch_size: Samples at once; the result does not depend on it on a CPU.
            skip_unreadable: Whether to leave out what cannot be read, instead of stopping.

        Raises:
            DataError: If a file cannot be read, naming it, or the model takes something else.
        """
        skipped: Callable[[UnreadableError], None] | None = (lambda _: None) if skip_unreadable else None
        return list(self.predictions(images, batch_size=batch_size, skipped=skipped))

    def predictions(
        self,
        images: Iterable[Path | str | Sample],
        *,
        batch_size: int = BATCH_SIZE,
        skipped: Callable[[UnreadableError], None] | None = None,
    ) -> Iterator[Prediction]:
        """Yield the predictions of image files, a batch after the other; see `predict`.

        Args:
            images: See `predict`.
            batch_size: Samples at once.
            skipped: Called for each sample of which a file cannot be read; None: such a file is an error.
        """
        each = self.columns.images_each
        samples = iter([self._sample(given) for given in images])
        while batch := list(islice(samples, batch_size)):
            decoded = _decode([Path(path) for sample in batch for path in sample.images], self.preprocessing)
            readable: list[Sample] = []
            pixels: list[torch.Tensor] = []
            for place, sample in enumerate(batch):
                parts = decoded[place * each : (place + 1) * each]
                error = next((part for part in parts if isinstance(part, UnreadableError)), None)
                if error is None:
                    readable.append(sample)
                    pixels += [part for part in parts if isinstance(part, torch.Tensor)]
                elif skipped is None:
                    raise error
                else:
                    skipped(error)
            if readable:
                numbers = torch.tensor([list(s.numbers) for s in readable], dtype=torch.float32)
                logits = self.logits(torch.stack(pixels), numbers if self.columns.numbers else None)
                yield from self._named(readable, logits)

    def _sample(self, given: Path | str | Sample) -> Sample:
        """Return a sample as the model was trained on, its parts in order."""
        if isinstance(given, Sample) and self.columns.is_plain:
            raise DataError(
                f"This model takes single images, not samples such as {given}. Give paths of files."
            )
        if isinstance(given, Sample):
            return given.ordered(self.columns)
        if not self.columns.is_plain:
            raise DataError(
                f"This model takes {self.columns}, not single images such as {given}. Give "
                f"depthsearch.Sample(images=[...], numbers=[...]) with {', '.join(self.columns.images)}"
                f"{'; ' if self.columns.numbers else ''}{', '.join(self.columns.numbers)}."
            )
        return Sample(images=(Path(given),))

    def logits(self, pixels: torch.Tensor, numbers: torch.Tensor | None = None) -> torch.Tensor:
        """Run the model.

        Args:
            pixels: ``(n * m, c, s, s)``, uint8, on the CPU; the images of a sample next to each other.
            numbers: ``(n, d)``, float32, on the CPU; None where samples have none.

        Returns:
            ``(n, k)``, float32, on the CPU.
        """
        by_sample = pixels.unflatten(0, (-1, self.columns.images_each))
        inputs = self._normalise(self.device.move(filled_up(by_sample, self.device).flatten(0, 1)))
        if numbers is not None:
            numbers = self.device.move(filled_up(numbers, self.device))
        with torch.no_grad(), self.device.autocast(), giving_numbers(self.model, numbers):
            logits: torch.Tensor = logits_of(self.model(inputs))
        return logits[: len(by_sample)].float().cpu()

    @cached_property
    def _normalise(self) -> Normalisation:
        return Normalisation(self.preprocessing, self.device)

    def _named(self, samples: Sequence[Sample], logits: torch.Tensor) -> Iterator[Prediction]:
        for sample, row in zip(samples, logits.softmax(1), strict=True):
            best = int(row.argmax())
            values = row.tolist()
            yield Prediction(
                image=Path(next(iter(sample.images))),
                label=self.classes[best],
                probability=values[best],
                probabilities=dict(zip(self.classes, values, strict=True)),
                sample=None if self.columns.is_plain else sample,
            )


def read_pixels(path: Path, preprocessing: Preprocessing) -> torch.Tensor:
    """Read an image file as a classifier takes it: ``(c, s, s)``, uint8.

    Raises:
        UnreadableError: If it cannot be read.
    """
    with pillow_quiet():
        return torch.from_numpy(decode_file(path, preprocessing.geometry, preprocessing.ranges).pixels)


def _decode(paths: Sequence[Path], preprocessing: Preprocessing) -> list[torch.Tensor | UnreadableError]:
    """Read files in threads; where one cannot be read, return the error instead."""

    def decode(path: Path) -> torch.Tensor | UnreadableError:
        try:
            return torch.from_numpy(decode_file(path, geometry, preprocessing.ranges).pixels)
        except UnreadableError as error:
            return error

    # As in the image store: threads must not meet at Pillow's list of formats.
    Image.init()
    geometry = preprocessing.geometry
    with pillow_quiet(), ThreadPoolExecutor(max_workers=usable_cores()) as executor:
        return list(executor.map(decode, paths))
