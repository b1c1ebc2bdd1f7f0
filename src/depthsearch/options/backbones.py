"""What ``--backbone`` may name: a model of timm, torchvision or Hugging Face, or a function in a file.

Names are only parsed here, so that the command line needs no PyTorch.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from depthsearch.errors import SettingsError
from depthsearch.files import full_path, is_folder

TORCHVISION, TRANSFORMERS = "torchvision:", "hf:"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneName:
    """The parts of a backbone's name.

    Attributes:
        source: The library or file that it comes from.
        name: timm's or torchvision's name; the hub's name or a folder; the path of a Python file.
        entry: The weights named (torchvision), the function (file), or empty.
    """

    source: Literal["timm", "torchvision", "hf", "file"]
    name: str
    entry: str = ""


def parse_name(text: str) -> BackboneName:
    """Parse a backbone's name.

    Args:
        text: ``densenet121``, ``torchvision:resnet50``, ``torchvision:resnet50@IMAGENET1K_V1``,
            ``hf:microsoft/resnet-18``, ``hf:FOLDER`` or ``FILE.py:function``.

    Raises:
        SettingsError: If it begins like one of these and the rest is missing.
    """
    if text.startswith(TORCHVISION):
        name, at, entry = text.removeprefix(TORCHVISION).partition("@")
        if not name or (at and not entry):
            raise SettingsError(
                f"Backbone {text!r}: give torchvision:NAME, such as torchvision:resnet50, or "
                "torchvision:NAME@WEIGHTS, such as torchvision:resnet50@IMAGENET1K_V1."
            )
        return BackboneName(source="torchvision", name=name, entry=entry)
    if text.startswith(TRANSFORMERS):
        name = text.removeprefix(TRANSFORMERS)
        if not name:
            raise SettingsError("Backbone 'hf:': give hf:NAME, such as hf:microsoft/resnet-18, or hf:FOLDER.")
        return BackboneName(source="hf", name=name)
    if match := re.fullmatch(r"(.+\.py):(\w+)", text, re.DOTALL):
        return BackboneName(source="file", name=match[1], entry=match[2])
    if text.endswith((".py", ".py:")):
        raise SettingsError(
            f"Backbone {text!r} names no function. Give {text.rstrip(':')}:FUNCTION, which returns a model."
        )
    return BackboneName(source="timm", name=text)


def normal(text: str) -> str:
    """Write a name in its normal form, in which it is stored and compared: a file's path is normalised.

    Raises:
        SettingsError: See `parse_name`.
    """
    parsed = parse_name(text)
    return f"{os.path.normpath(parsed.name)}:{parsed.entry}" if parsed.source == "file" else text


def plain_name(text: str) -> str:
    """Write a backbone's name without separators, for the default name of a study."""
    parsed = parse_name(text)
    if parsed.source == "timm":
        return parsed.name
    if parsed.source == "file":
        return f"{Path(parsed.name).stem}-{parsed.entry}"
    if parsed.source == "hf":
        return f"hf-{full_path(parsed.name).name}"
    return "-".join(filter(None, ("torchvision", parsed.name, parsed.entry)))


def counted_from(folder: Path, text: str) -> str:
    """Resolve a name that is a relative path from a folder, as in a study file; others stay as they are."""
    parsed = parse_name(text)
    if parsed.source not in ("file", "hf"):
        return text
    place = Path(parsed.name).expanduser()
    if place.is_absolute():
        return text
    resolved = os.path.normpath(folder / place)
    if parsed.source == "file":
        return f"{resolved}:{parsed.entry}"
    return f"{TRANSFORMERS}{resolved}" if is_folder(Path(resolved)) else text
