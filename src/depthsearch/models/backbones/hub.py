"""Ask model hubs with a time limit: looking up a host alone may hang longer than any timeout."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable
from pathlib import Path

HUB_TIMEOUT_SECONDS = 10.0
# A folder that is another's, of a disk that is full or only to be read, or is none.
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR)


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


def if_unwritable(error: BaseException) -> str:
    """Return what to do where the hub's cache cannot be written; empty where that is not the error."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, OSError) and chain.errno in UNWRITABLE:
            return "HF_HOME names another folder for what is downloaded. "
        chain = chain.__cause__ or chain.__context__
    return ""


def answers(ask: Callable[[], None]) -> bool:
    """Return whether a question is answered in time."""
    answered = threading.Event()

    def try_it() -> None:
        with contextlib.suppress(Exception):  # a hub's client may raise anything
            ask()
            answered.set()

    thread = threading.Thread(target=try_it, daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT_SECONDS)
    return answered.is_set()
