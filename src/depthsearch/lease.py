"""The lease of a study: one coordinator at a time, and a dead one's place can be taken.

Who wants a study to stop asks the holder of its lease, by the lease's token: what a dead coordinator was
asked never stops a later one. The holder sees it where it renews its lease.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from depthsearch.errors import StudyError
from depthsearch.interrupts import deferred

__all__ = ["Holder", "Lease", "asked_of", "holder_of", "lease", "start_of"]

# A coordinator on another machine that has not renewed its lease for so long is taken for dead.
LEASE_SECONDS = 900.0
# The study's user attributes: who runs it, and what its holder is asked.
COORDINATOR, REQUEST = "coordinator", "stop_request"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The process that runs a study.

    Attributes:
        pid: Its number.
        host: The machine it runs on.
        doing: ``study``, or ``fit``.
        token: Of its lease.
    """

    pid: int
    host: str
    doing: str
    token: str | None

    def __str__(self) -> str:
        """Name it in a message."""
        return f"process {self.pid} on {self.host}"


def holder_of(attributes: Mapping[str, Any]) -> Holder | None:
    """Find the process that runs a study; None: nobody that lives.

    Args:
        attributes: The study's user attributes, read once.
    """
    holder = attributes.get(COORDINATOR)
    if not holder or not _lives(holder):
        return None
    return Holder(
        pid=holder["pid"], host=holder["host"], doing=holder.get("doing", "study"), token=holder.get("token")
    )


def asked_of(attributes: Mapping[str, Any], token: str | None) -> str | None:
    """Say after what the holder of a lease is asked to stop, ``epoch`` or ``trial``; None: it is not."""
    request = attributes.get(REQUEST)
    return str(request["after"]) if request and token and request["token"] == token else None


class Lease:
    """A study's lease while it is held."""

    def __init__(self, study: optuna.Study, doing: str) -> None:
        """Prepare to hold a lease.

        Args:
            study: Whose.
            doing: What for: ``study`` or ``fit``.
        """
        self._study = study
        self._token = uuid.uuid4().hex
        self._mine = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": start_of(os.getpid()),
            "doing": doing,
            "token": self._token,
        }
        self._last_renewed = 0.0

    def renew(self) -> str | None:
        """Renew the lease; to be called now and then. One reading of the study, and now and then a writing.

        Returns:
            After what the holder is asked to stop, ``epoch`` or ``trial``; None: it is not.

        Raises:
            StudyError: If another process has taken it.
        """
        attributes = self._study.user_attrs
        if self._last_renewed and not self._is_mine(attributes):
            raise StudyError(f"Study {self._study.study_name!r} was taken over by another process.")
        if time.time() - self._last_renewed > LEASE_SECONDS / 30:
            self._last_renewed = time.time()
            self._study.set_user_attr(COORDINATOR, {**self._mine, "renewed": self._last_renewed})
        return asked_of(attributes, self._token)

    def asked(self) -> str | None:
        """Say after what its holder is, or was, asked to stop; also once the lease is given back."""
        return asked_of(self._study.user_attrs, self._token)

    def give_back(self) -> None:
        """Let others have it, if it is still held."""
        if self._is_mine(self._study.user_attrs):
            self._study.set_user_attr(COORDINATOR, None)

    def _is_mine(self, attributes: Mapping[str, Any]) -> bool:
        return (attributes.get(COORDINATOR) or {}).get("token") == self._token


@contextlib.contextmanager
def lease(study: optuna.Study, doing: str = "study") -> Iterator[Lease]:
    """Hold the study's lease: a second coordinator is refused while the first lives.

    Args:
        study: Whose.
        doing: What for: ``study`` or ``fit``.

    Yields:
        The lease, to be renewed now and then.

    Raises:
        StudyError: If another process holds it.
    """
    holder = holder_of(study.user_attrs)
    if holder is not None:
        raise StudyError(
            f"Study {study.study_name!r} is being run by {holder}. "
            "Stop that one first, or give another --name."
        )
    held = Lease(study, doing)
    with deferred():
        held.renew()
    # Of two that started in the same moment the first finds itself replaced here.
    held.renew()
    try:
        yield held
    finally:
        held.give_back()


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
    return bool(start_of(holder["pid"]) == holder["started"])


def start_of(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot, where the system tells it."""
    if platform.system() != "Linux":
        return None
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
