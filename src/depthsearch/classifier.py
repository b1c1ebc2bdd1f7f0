"""A trained model with its classes and preprocessing: from image files to classes and probabilities.

Shapes: ``n`` images, ``c`` channels, ``s`` their side in pixels, ``k`` classes.
"""

from __future__ import annotations

import os
import warnings
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

from depthsearch.backbones import Preprocessing
from depthsearch.data import Geometry, UnreadableError, decode_file
from depthsearch.devices import Device
from depthsearch.pixels import Normalisation, filled_up

__all__ = ["BATCH_SIZE", "Classifier", "Prediction"]

BATCH_SIZE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a classifier says of one image.

    Attributes:
        image: The file.
        label: The most probable class.
        probability: Of that class.
        probabilities: Of every class, by name, in the order of the classes.
    """

    image: Path
    label: str
    probability: float
    probabilities: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Give plain values."""
        return {
            "image": str(self.image),
            "class": self.label,
            "probability": self.probability,
            "probabilities": self.probabilities,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Classifier:
    """A trained model that takes images as it was trained to.

    Attributes:
        model: In eval mode, on the device: normalised images ``(n, c, s, s)`` to logits ``(n, k)``.
        classes: Names of the classes; a label is a place in it.
        preprocessing: How images become the model's input.
        device: Where, and in which precision.
        config: What its folder says of it; empty for a model that was never saved.
    """

    model: nn.Module = field(repr=False)
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    device: Device
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Bring the model to its device and into eval mode."""
        self.device.place(self.model).eval()

    def predict(
        self,
        images: Iterable[Path | str],
        *,
        batch_size: int = BATCH_SIZE,
        skip_unreadable: bool = False,
    ) -> list[Prediction]:
        """Tell the classes of image files.

        Args:
            images: Files of any kind that Pillow knows.
            batch_size: Images at once; the result does not depend on it on a CPU.
            skip_unreadable: Whether to leave out files that cannot be read, instead of stopping.

        Raises:
            DataError: If a file cannot be read, naming it.
        """
        skipped: Callable[[UnreadableError], None] | None = (lambda _: None) if skip_unreadable else None
        return list(self.predictions(images, batch_size=batch_size, skipped=skipped))

    def predictions(
        self,
        images: Iterable[Path | str],
        *,
        batch_size: int = BATCH_SIZE,
        skipped: Callable[[UnreadableError], None] | None = None,
    ) -> Iterator[Prediction]:
        """Tell the classes of image files, a batch after the other; see `predict`.

        Args:
            images: Files of any kind that Pillow knows.
            batch_size: Images at once.
            skipped: Called for each file that cannot be read; None: such a file is an error.
        """
        geometry = Geometry(
            image_size=self.preprocessing.image_size,
            crop_share=self.preprocessing.crop_share,
            interpolation=self.preprocessing.interpolation,
            channels=len(self.preprocessing.mean),
        )
        paths = iter([Path(image) for image in images])
        while batch := list(islice(paths, batch_size)):
            readable = []
            for path, found in zip(batch, _decode(batch, geometry), strict=True):
                if isinstance(found, torch.Tensor):
                    readable.append((path, found))
                elif skipped is None:
                    raise found
                else:
                    skipped(found)
            if readable:
                logits = self.logits(torch.stack([pixels for _, pixels in readable]))
                yield from self._named([path for path, _ in readable], logits)

    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        """Run the model.

        Args:
            pixels: ``(n, c, s, s)``, uint8, on the CPU.

        Returns:
            ``(n, k)``, float32, on the CPU.
        """
        inputs = self._normalise(self.device.move(filled_up(pixels, self.device)))
        with torch.no_grad(), self.device.autocast():
            logits: torch.Tensor = self.model(inputs)
        return logits[: len(pixels)].float().cpu()

    @cached_property
    def _normalise(self) -> Normalisation:
        return Normalisation(self.preprocessing, self.device)

    def _named(self, paths: list[Path], logits: torch.Tensor) -> Iterator[Prediction]:
        for path, row in zip(paths, logits.softmax(1), strict=True):
            best = int(row.argmax())
            values = row.tolist()
            yield Prediction(
                image=path,
                label=self.classes[best],
                probability=values[best],
                probabilities=dict(zip(self.classes, values, strict=True)),
            )


def _decode(paths: Sequence[Path], geometry: Geometry) -> list[torch.Tensor | UnreadableError]:
    """Read files as pixels ``(c, s, s)``; where one cannot be read, give the error instead."""

    def decode(path: Path) -> torch.Tensor | UnreadableError:
        try:
            return torch.from_numpy(decode_file(path, geometry).pixels)
        except UnreadableError as error:
            return error

    # As in the image store: threads must not meet at Pillow's list of formats.
    Image.init()
    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=os.cpu_count()) as executor:
        # Pillow warns of odd metadata and large sizes, of which the pixels tell nothing.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        return list(executor.map(decode, paths))
