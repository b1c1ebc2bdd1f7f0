"""Whether somebody's server answers: looking up its host alone may hang longer than any timeout."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

__all__ = ["HUB_TIMEOUT_SECONDS", "answers", "ask_hub", "in_cache"]

HUB_TIMEOUT_SECONDS = 10.0


def in_cache(repository: str, *filenames: str) -> Path | None:
    """Find the first of some files of a repository of Hugging Face's in the hub's local cache."""
    from huggingface_hub import try_to_load_from_cache

    for filename in filenames:
        path = try_to_load_from_cache(repository, filename)
        if isinstance(path, str):
            return Path(path)
    return None


def ask_hub(repository: str) -> None:
    """Ask Hugging Face's hub for a repository.

    Raises:
        Exception: If it does not answer, or has no such repository.
    """
    from huggingface_hub import HfApi

    HfApi().model_info(repository, timeout=HUB_TIMEOUT_SECONDS)


def answers(ask: Callable[[], None]) -> bool:
    """Return whether a question is answered in time."""
    answered = threading.Event()

    def try_it() -> None:
        with contextlib.suppress(Exception):
            ask()
            answered.set()

    thread = threading.Thread(target=try_it, daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT_SECONDS)
    return answered.is_set()
