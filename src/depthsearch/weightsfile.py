"""Weights in a file: read without running code that it holds, refused where nobody can compute with them.

A state dict by itself, or under ``state_dict`` or ``model`` as training programs save it, its keys with or
without ``module.`` before them.
"""

from __future__ import annotations

import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from timm.models import load_state_dict

from depthsearch.errors import WeightsError
from depthsearch.files import is_file, why_no_file

__all__ = ["differences", "read_state"]

# PyTorch does not compress, and somebody who does so saves a few per cent.
MOST_INFLATED, FREE_BYTES = 10, 2**24
SAVE = "Save model.state_dict() with safetensors.torch.save_file."


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict.

    Raises:
        WeightsError: If there is no such file, or no state dict in it that loads without running code.
    """
    if not is_file(path):
        raise WeightsError(
            f"No weights file {str(path)!r}{why_no_file(path)}. Give auto, random, or a safetensors or "
            "state-dict file."
        )
    _refuse_bomb(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whether it can be read is what counts, not how it was written
            state = load_state_dict(str(path), use_ema=False, device="cpu", weights_only=True)
    except PermissionError as error:
        raise WeightsError(f"Cannot read {path}: {error.strerror}. Check that it may be read.") from error
    except Exception as error:
        raise WeightsError(
            f"{path} is neither a safetensors file nor a state dict that loads without running code. {SAVE}"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(t, torch.Tensor) for t in state.values()):
        raise WeightsError(f"{path} holds no state dict of tensors. Save model.state_dict() and give that.")
    return state


def _refuse_bomb(path: Path) -> None:
    """Refuse a small file that would fill the memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            n_bytes = sum(entry.file_size for entry in archive.infolist())
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError, struct.error):
        return  # no archive that can be listed: what PyTorch makes of it is its to say
    if n_bytes > FREE_BYTES + MOST_INFLATED * path.stat().st_size:
        raise WeightsError(
            f"{path} would grow to {n_bytes / 2**30:.1f} GiB in memory, far more than weights of its size "
            f"do. {SAVE}"
        )


def differences(wanted: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> list[str]:
    """Say in which tensors a state dict is not what a model takes.

    Args:
        wanted: The model's.
        given: From a file; what counts batches may be missing.
    """
    both = wanted.keys() & given.keys()
    fitting = {k for k in both if wanted[k].shape == given[k].shape}
    unlike = {k for k in fitting if not _is_like(given[k], wanted[k])}
    counters = {k for k in wanted if k.endswith("num_batches_tracked")}
    return [
        *_listed("missing", wanted.keys() - given.keys() - counters),
        *_listed("unexpected", given.keys() - wanted.keys()),
        *_listed("of another shape", both - fitting),
        *_listed("that hold no floating-point numbers", unlike),
        *_listed("with NaN or infinite values", {k for k in fitting - unlike if not _is_finite(given[k])}),
    ]


def _is_like(given: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether a tensor is numbers in memory that another can be filled with: whole ones would be scaled."""
    if given.layout is not torch.strided or given.device.type != "cpu" or given.is_complex():
        return False
    return given.is_floating_point() or not wanted.is_floating_point()


def _is_finite(given: torch.Tensor) -> bool:
    # In the precision that it is computed in: what 64 bits hold may be infinite in 32.
    return not given.is_floating_point() or bool(given.float().isfinite().all())


def _listed(what: str, keys: set[str]) -> Iterator[str]:
    if keys:
        shown = sorted(keys)[:5]
        more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
        yield f"{len(keys)} keys {what} ({', '.join(shown)}{more})"
