"""What ``--backbone`` may name: a model of timm, torchvision or Hugging Face, or a function in a file.

Here names are only read, so that the command line needs no PyTorch for it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from depthsearch.errors import SettingsError
from depthsearch.files import full_path, is_folder

__all__ = ["BackboneName", "counted_from", "normal", "parse_name", "plain_name"]

TORCHVISION, TRANSFORMERS = "torchvision:", "hf:"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneName:
    """A backbone's name, taken apart.

    Attributes:
        source: Where it is looked for.
        name: timm's or torchvision's name; the hub's name or a folder; the path of a Python file.
        entry: Of torchvision the weights that are named, or empty; of a file the function.
    """

    source: Literal["timm", "torchvision", "hf", "file"]
    name: str
    entry: str = ""


def parse_name(text: str) -> BackboneName:
    """Take a backbone's name apart.

    Args:
        text: ``densenet121``, ``torchvision:resnet50``, ``torchvision:resnet50@IMAGENET1K_V1``,
            ``hf:microsoft/resnet-18``, ``hf:FOLDER`` or ``FILE.py:function``.

    Raises:
        SettingsError: If it begins as one of these and does not go on so.
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
    found = re.fullmatch(r"(.+\.py):(\w+)", text, re.DOTALL)
    if found:
        return BackboneName(source="file", name=found[1], entry=found[2])
    if text.endswith((".py", ".py:")):
        raise SettingsError(
            f"Backbone {text!r} names no function. Give {text.rstrip(':')}:FUNCTION, which returns a model."
        )
    return BackboneName(source="timm", name=text)


def normal(text: str) -> str:
    """Write a name as it is kept and compared: the path of a file without steps that lead nowhere.

    Raises:
        SettingsError: See `parse_name`.
    """
    parsed = parse_name(text)
    return f"{os.path.normpath(parsed.name)}:{parsed.entry}" if parsed.source == "file" else text


def plain_name(text: str) -> str:
    """Write a backbone's name without what no file's name can have, for a study that is named after it."""
    parsed = parse_name(text)
    if parsed.source == "timm":
        return parsed.name
    if parsed.source == "file":
        return f"{Path(parsed.name).stem}-{parsed.entry}"
    if parsed.source == "hf":
        return f"hf-{full_path(parsed.name).name}"
    return "-".join(filter(None, ("torchvision", parsed.name, parsed.entry)))


def counted_from(folder: Path, text: str) -> str:
    """Let a name that is a path count from a folder, as the paths in a study file do; leave others alone."""
    parsed = parse_name(text)
    if parsed.source not in ("file", "hf"):
        return text
    place = Path(parsed.name).expanduser()
    if place.is_absolute():
        return text
    there = os.path.normpath(folder / place)
    if parsed.source == "file":
        return f"{there}:{parsed.entry}"
    return f"{TRANSFORMERS}{there}" if is_folder(Path(there)) else text
