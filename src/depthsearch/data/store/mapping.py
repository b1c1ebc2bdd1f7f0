"""Stored pixels, pickled as the name of their file, or with their bytes if need be."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depthsearch.errors import DataError
from depthsearch.hashing import digest_of


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFile:
    """A file that starts with pixels, and says behind them what they are of.

    Attributes:
        path: Where it lies, in full.
        digest: Hash of what stands behind the pixels: the store's key and the digest of each image.
    """

    path: Path
    digest: str


class Pixels(Tensor):
    """Pixels of a store: a tensor that is pickled in another way. What is computed of it is a plain tensor.

    Attributes:
        file: That they are mapped from and mapped from again where they are unpickled; None: a pickle
            carries them.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    file: StoreFile | None

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Callable[..., Pixels], tuple[Any, ...]]:
        """Pickle the file's name, or an array, which protocol 5 can hand over without copying it."""
        if self.file is None:
            return _pixels, (self.numpy(),)
        return _mapped_again, (self.file, tuple(self.shape))

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        """Copy into memory, as a plain tensor."""
        copied = memo[id(self)] = self.clone()
        return copied


def mapped_pixels(path: Path, shape: tuple[int, ...]) -> Pixels:
    """Map the pixels that a file starts with, uint8: read when touched, and private to this process.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is too short.
    """
    with path.open("rb") as file:
        file.seek(math.prod(shape))
        digest = digest_of(file.read())
    # Mode "c" (copy on write) gives torch memory that it may write to, without the file changing.
    pixels = np.memmap(path, dtype=np.uint8, mode="c", shape=shape)
    return _pixels(pixels, StoreFile(path=path.absolute(), digest=digest))


def carried_pixels(pixels: Tensor) -> Pixels:
    """Return the same pixels, in the same memory, to be pickled with their bytes."""
    return _pixels(pixels.numpy())


def _mapped_again(file: StoreFile, shape: tuple[int, ...]) -> Pixels:
    """Map pixels that another process has mapped, from a file that has to be the same."""
    advice = "Leave the cache folder as it is while a study runs; on another machine it must be there too."
    try:
        pixels = mapped_pixels(file.path, shape)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is too short"
        raise DataError(f"Cannot read the decoded images in {file.path}: {reason}. {advice}") from error
    if pixels.file != file:
        raise DataError(f"The decoded images in {file.path} are no longer the same. {advice}")
    return pixels


def _pixels(array: NDArray[np.uint8], file: StoreFile | None = None) -> Pixels:
    with warnings.catch_warnings():
        # What was handed over without copying may be for reading alone, and nobody writes to it.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        pixels = torch.from_numpy(array).as_subclass(Pixels)
    pixels.file = file
    return pixels
