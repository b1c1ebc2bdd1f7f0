"""The lease of a study: one coordinator at a time, and a dead one's place can be taken."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna

from depthsearch.errors import StudyError
from depthsearch.interrupts import deferred

__all__ = ["lease"]

# A coordinator on another machine that has not renewed its lease for so long is taken for dead.
LEASE_SECONDS = 900.0


@contextlib.contextmanager
def lease(study: optuna.Study) -> Iterator[Callable[[], None]]:
    """Hold the study's lease: a second coordinator is refused while the first lives.

    Yields:
        To be called now and then: renews the lease.

    Raises:
        StudyError: If another process holds it.
    """
    holder = study.user_attrs.get("coordinator")
    if holder and _lives(holder):
        raise StudyError(
            f"Study {study.study_name!r} is being run by process {holder['pid']} on {holder['host']}. "
            "Stop that one first, or give another --name."
        )
    token = uuid.uuid4().hex
    mine = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _start_of(os.getpid()),
        "token": token,
    }
    last_renewed = 0.0

    def held() -> bool:
        return (study.user_attrs.get("coordinator") or {}).get("token") == token

    def renew() -> None:
        nonlocal last_renewed
        if last_renewed and not held():
            raise StudyError(f"Study {study.study_name!r} was taken over by another process.")
        if time.time() - last_renewed > LEASE_SECONDS / 30:
            last_renewed = time.time()
            study.set_user_attr("coordinator", {**mine, "renewed": last_renewed})

    with deferred():
        renew()
    # Of two that started in the same moment the first finds itself replaced here.
    renew()
    try:
        yield renew
    finally:
        if held():
            study.set_user_attr("coordinator", None)


def _lives(holder: Mapping[str, Any]) -> bool:
    # On Windows, os.kill would end the process that it asks for.
    if holder["host"] != socket.gethostname() or os.name == "nt":
        return bool(time.time() - holder["renewed"] < LEASE_SECONDS)
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    # The same number may have been given to another process since.
    return bool(_start_of(holder["pid"]) == holder["started"])


def _start_of(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot, where the system tells it."""
    if platform.system() != "Linux":
        return None
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
