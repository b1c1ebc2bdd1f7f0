"""What augmented views of an image may change, and how far: the words of ``--augment``.

=========  ====================================================================================
crop=A     a random crop of at least the share A of the area, its sides at most 3 : 4 or 4 : 3
flip       left and right exchanged in half of the images; flip=P: in the share P
rotation=D by up to D degrees to either side
colour=C   brightness, contrast and saturation times 1 - C to 1 + C
shift=S    to either side and up or down by up to the share S of the side
shear=R    rows shifted against each other, by an angle of up to R radians (as in Keras 2.0;
           later versions count degrees, in which their usual 0.2 does next to nothing)
zoom=Z     width and height times 1 - Z to 1 + Z, each for itself
=========  ====================================================================================

Nothing here needs torch, so that the command line can check an option without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from depthsearch.errors import SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """What the views are drawn from, each uniformly between two bounds.

    There is no hue: it tells some classes apart, and the way to HSV and back costs more than all the rest.

    Attributes:
        scale: Area of the crop, as a share of the image's.
        ratio: Width of the crop over its height; its logarithm is uniform.
        flip: Probability of a horizontal flip, in [0, 1].
        degrees: Rotation, counter-clockwise.
        brightness: Factor of all pixels.
        contrast: Factor of the distance to the image's mean grey.
        saturation: Factor of the distance to the pixel's grey.
        shift: To the right and downwards, each for itself, as a share of the side.
        shear: Angle by which columns lean, in radians.
        zoom: Width and height of what is shown over those of the crop, each for itself.
    """

    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    degrees: tuple[float, float] = (-10.0, 10.0)
    brightness: tuple[float, float] = (0.8, 1.2)
    contrast: tuple[float, float] = (0.8, 1.2)
    saturation: tuple[float, float] = (0.8, 1.2)
    shift: tuple[float, float] = (0.0, 0.0)
    shear: tuple[float, float] = (0.0, 0.0)
    zoom: tuple[float, float] = (1.0, 1.0)


RANGES = Ranges()
# The same in words; what is not named in such a list is not done.
USUAL = "crop=0.5,flip,rotation=10,colour=0.2"
NOTHING = Ranges(
    scale=(1.0, 1.0),
    ratio=(1.0, 1.0),
    flip=0.0,
    degrees=(0.0, 0.0),
    brightness=(1.0, 1.0),
    contrast=(1.0, 1.0),
    saturation=(1.0, 1.0),
)
# Words by the ends of what they may be given, the lower of which is none of the values.
WORDS = {
    "crop": (0.0, 1.0),
    "flip": (0.0, 1.0),
    "rotation": (0.0, 180.0),
    "colour": (0.0, 1.0),
    "shift": (0.0, 1.0),
    "shear": (0.0, 1.5),
    "zoom": (0.0, 0.9),
}
HALF = 0.5


def read_augmentation(text: str) -> Ranges:
    """Read a list such as ``crop=0.5,flip,rotation=10``; what it does not name is not done.

    Raises:
        SettingsError: If a word is unknown or given twice, or a number is missing or out of range.
    """
    changes: dict[str, Any] = {}
    for word, value in _values(text).items():
        around_0, around_1 = (-value, value), (1 - value, 1 + value)
        match word:
            case "crop":
                changes |= {"scale": (value, 1.0), "ratio": RANGES.ratio}
            case "flip":
                changes["flip"] = value
            case "rotation":
                changes["degrees"] = around_0
            case "colour":
                changes |= dict.fromkeys(("brightness", "contrast", "saturation"), around_1)
            case "zoom":
                changes["zoom"] = around_1
            case _:
                changes[word] = around_0
    return replace(NOTHING, **changes)


def written(text: str) -> str:
    """Write a list in its normal form: words in a fixed order, numbers as short as possible.

    Raises:
        SettingsError: See `read_augmentation`.
    """
    values = _values(text)
    return ",".join(
        "flip"
        if (word, values[word]) == ("flip", HALF)
        else f"{word}={repr(values[word]).removesuffix('.0')}"
        for word in WORDS
        if word in values
    )


def _values(text: str) -> dict[str, float]:
    """Read the words and their numbers."""
    values: dict[str, float] = {}
    for item in text.split(","):
        word, _, number = (part.strip() for part in item.partition("="))
        if word not in WORDS:
            raise SettingsError(f"{word!r} is none of {', '.join(WORDS)}: give some of these, as in {USUAL}")
        if word in values:
            raise SettingsError(f"{word} is given twice in {text!r}: keep one")
        values[word] = _value(word, number if number or word != "flip" else str(HALF))
    return values


def _value(word: str, number: str) -> float:
    low, high = WORDS[word]
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not low < value <= high or (word == "crop" and value == high):
        ends = f"above {low:g} and {'below' if word == 'crop' else 'up to'} {high:g}"
        raise SettingsError(f"{word}={number!s}: give a number {ends}, or leave {word} out")
    return value
