"""Checkpoints between machines: nodes that share the coordinator's folder need not be sent them."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from depthsearch.files import written_whole

# The content of a file that is sent: Ray passes an array on without a copy.
Bytes = NDArray[np.uint8]


class Tokens:
    """Files beside the checkpoints: a node that sees one has the same folder."""

    def __init__(self) -> None:
        self._names: dict[Path, str] = {}

    def token_in(self, folder: Path) -> str | None:
        """Return the name of the file in a folder, made at first; None if it cannot be made."""
        if folder not in self._names:
            token = f".{secrets.token_hex(8)}.coordinator"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / token).touch()
            except OSError:
                return None
            self._names[folder] = token
        return self._names[folder]

    def remove(self) -> None:
        """Remove the files."""
        for folder, token in self._names.items():
            with contextlib.suppress(OSError):
                (folder / token).unlink(missing_ok=True)
        self._names = {}


def read_checkpoint(path: Path) -> Bytes | None:
    """Read a checkpoint; None if there is none."""
    try:
        return np.fromfile(path, dtype=np.uint8)
    except OSError:
        return None


def write_checkpoint(path: Path, content: Bytes | None) -> None:
    """Write a checkpoint where the training looks for it; None: remove an older one.

    Raises:
        OSError: If it cannot be written.
    """
    if content is None:
        # Where nothing can be written, the training runs without checkpoints.
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        return
    with written_whole(path, durable=False) as file:
        file.write(content.data)
