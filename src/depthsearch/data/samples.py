"""Samples: one image, or several with some numbers, each in a column of a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from depthsearch.errors import DataError
from depthsearch.text import counted

# Of 32 bits.
LARGEST = 3.4028234663852886e38
_TAKEN = {"label": "the class", "split": "the split"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns of a table that a sample is made of; elsewhere a sample is one image.

    Attributes:
        images: Columns of paths, at least one: every sample has an image in each.
        numbers: Columns of numbers.

    Raises:
        DataError: If there is no column of images, or one is named twice or holds something else.
    """

    images: tuple[str, ...] = ("image",)
    numbers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse columns that cannot be told apart."""
        if not self.images:
            raise DataError("--image-columns names no column. Give at least one, such as image.")
        given = {"--image-columns": self.images, "--number-columns": self.numbers}
        seen: dict[str, str] = {}
        for option, name in ((option, name) for option, names in given.items() for name in names):
            key = column_key(name)
            if key in _TAKEN:
                raise DataError(f"{option} names {name!r}, which holds {_TAKEN[key]}. Leave it out.")
            if seen.get(key) == option:
                raise DataError(f"{option} names {name!r} twice. Name each column once.")
            if key in seen:
                raise DataError(f"{seen[key]} and {option} both name {name!r}. Keep it in one of them.")
            seen[key] = option

    @property
    def images_each(self) -> int:
        """Count the images of a sample."""
        return len(self.images)

    @property
    def is_plain(self) -> bool:
        """Whether a sample is one image and nothing else."""
        return len(self.images) == 1 and not self.numbers

    @property
    def noun(self) -> str:
        """Name what is counted: ``image`` where a sample is no more than that."""
        return "image" if self.is_plain else "sample"

    def __str__(self) -> str:
        """Name what there are many of: ``images``, or ``samples of 2 images and 3 numbers``."""
        if self.is_plain:
            return "images"
        numbers = f" and {counted(len(self.numbers), 'number')}" if self.numbers else ""
        return f"samples of {counted(len(self.images), 'image')}{numbers}"

    def as_json(self) -> dict[str, list[str]]:
        """Return plain values for JSON."""
        return {"image_columns": list(self.images), "number_columns": list(self.numbers)}


def column_key(name: str) -> str:
    """Return what a column is known by, whatever the case of its name."""
    return name.strip().lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a model of several images, or of images and numbers, is to tell the class of.

    Attributes:
        images: Files, by column or in the order of the columns that the model was trained on.
        numbers: As they stand in such a table, by column or in their order.
        place: Where it comes from, for people: ``"samples.csv, line 3"``.
    """

    images: Sequence[Path | str] | Mapping[str, Path | str]
    numbers: Sequence[float] | Mapping[str, float] = ()
    place: str = field(default="", compare=False)

    def ordered(self, columns: Columns) -> Sample:
        """Return the sample with its images and numbers in the order of the columns.

        Raises:
            DataError: If some are missing or too many, or a number is not finite in 32 bits.
        """
        prefix = f"{self.place}: " if self.place else ""
        images = _in_order(self.images, columns.images, f"{prefix}images")
        numbers = _in_order(self.numbers, columns.numbers, f"{prefix}numbers")
        for name, value in zip(columns.numbers, numbers, strict=True):
            if not is_number(value):
                raise DataError(f"{prefix}{name} is {value!r}. Give a finite number, such as 12.5.")
        return Sample(
            images=tuple(Path(image) for image in images),
            numbers=tuple(map(float, numbers)),
            place=self.place,
        )

    def __str__(self) -> str:
        """Name its images."""
        files = self.images.values() if isinstance(self.images, Mapping) else self.images
        return ", ".join(map(str, files))


def _in_order(given: Sequence[Any] | Mapping[str, Any], columns: Sequence[str], what: str) -> list[Any]:
    """Put values in the order of the columns."""
    expected = ", ".join(columns) or "none"
    if isinstance(given, Mapping):
        if set(given) != set(columns):
            raise DataError(f"{what} are {', '.join(given) or 'none'}. Give {expected}.")
        return [given[name] for name in columns]
    if isinstance(given, str | Path) or len(given) != len(columns):
        n = 1 if isinstance(given, str | Path) else len(given)
        raise DataError(f"{what}: {n} given for {len(columns)}. Give {expected}.")
    return list(given)


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number, also in 32 bits, in which numbers are kept."""
    try:
        return not isinstance(value, str) and math.isfinite(value) and abs(value) <= LARGEST
    except (TypeError, OverflowError):
        return False
