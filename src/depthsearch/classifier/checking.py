"""What can be known to be wrong before a model is trained or loaded, and before PyTorch is."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from depthsearch import __version__
from depthsearch.errors import ModelError, SettingsError
from depthsearch.files import is_allowed, is_folder, nearest_folder, read_regular, why_no_folder

FORMAT = 1
WEIGHTS, CONFIG, CARD, ONNX = FILES = ("model.safetensors", "config.json", "README.md", "model.onnx")
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
# Far more than any description has: a damaged one is not to fill the memory.
MOST_BYTES = 2**26


def check_place(folder: Path) -> None:
    """Refuse to write a model where something else is, before it is trained.

    Raises:
        ModelError: If the folder is there and holds anything but an earlier model, or cannot be written.
    """
    there = nearest_folder(folder)
    if not is_folder(there):
        raise ModelError(f"{there} is a file. Give --out a folder that is not there yet.")
    if not is_allowed(there, os.W_OK):
        raise ModelError(f"{there} may not be written to. Give another --out.")
    if not is_folder(folder) and (reason := why_no_folder(folder)):
        raise ModelError(f"{folder} cannot be made{reason}. Give another --out.")
    files = _held(folder) if is_folder(folder) else []
    others = [name for name in files if name not in FILES]
    if files and not _is_ours(folder):
        raise ModelError(
            f"{folder} is there already and is no model folder of depthsearch. Give another --out."
        )
    if others:
        raise ModelError(
            f"{folder} holds other files than a model's, which a new one would remove: "
            f"{', '.join(others[:5])}. Move them away, or give another --out."
        )


def _held(folder: Path) -> list[str]:
    """List a folder that is to be replaced."""
    try:
        files = sorted(file.name for file in folder.iterdir())
    except OSError as error:
        raise ModelError(f"{folder} cannot be looked into ({error.strerror}). Give another --out.") from error
    around = folder.resolve().parent
    if not is_allowed(around, os.W_OK):
        raise ModelError(
            f"{around} may not be written to: {folder.name} cannot be replaced there. Give another --out."
        )
    return files


def _is_ours(folder: Path) -> bool:
    try:
        read_config(folder)
    except ModelError:
        return False
    return True


def read_config(folder: Path) -> dict[str, Any]:
    """Read the description of one of our own model folders.

    Raises:
        ModelError: If there is no such folder, or it is not ours or cannot be read.
    """
    if not is_folder(folder):
        raise ModelError(
            f"No model folder {str(folder)!r}{why_no_folder(folder)}. Give the folder that depthsearch fit "
            "wrote."
        )
    try:
        config = json.loads(read_regular(folder / CONFIG, most_bytes=MOST_BYTES))
    except FileNotFoundError as error:
        raise ModelError(
            f"{folder} is no model folder: it has no {CONFIG}. Give the folder that depthsearch fit wrote."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{folder / CONFIG} cannot be read ({type(error).__name__}). "
            "Write the model again with depthsearch fit."
        ) from error
    ours = config.get("depthsearch") if isinstance(config, dict) else None
    if not isinstance(ours, dict):
        raise ModelError(
            f"{folder} was not written by depthsearch. A model of timm's loads with "
            f'timm.create_model("local-dir:{folder}", pretrained=True).'
        )
    if ours.get("format") != FORMAT:
        raise ModelError(
            f"{folder} has format {ours.get('format')}, this depthsearch {__version__} reads {FORMAT}. "
            f"Install the version that wrote it: {ours.get('version')}."
        )
    return dict(config)


def require_onnx() -> None:
    """Refuse to go on where the packages are missing.

    Raises:
        SettingsError: If one is.
    """
    missing = [package for package in ONNX_PACKAGES if find_spec(package) is None]
    if missing:
        raise SettingsError(
            f'--onnx needs {", ".join(missing)}: pip install "depthsearch[onnx]", or leave --onnx out.'
        )
