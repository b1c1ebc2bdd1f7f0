"""Connecting to a Ray cluster, or starting Ray here: within seconds, or with a line that says why not.

Ray is imported only here, and only when it is used.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from depthsearch.errors import SettingsError
from depthsearch.machine import usable_cores
from depthsearch.signals import handled
from depthsearch.text import first_line

# How long to try to reach the address, then to wait for Ray's answer; by itself Ray tries for minutes.
REACH_SECONDS = 5.0
ANSWER_SECONDS = 30.0
WHERE = "Give the HOST:PORT of the cluster's head, auto, or local to start Ray on this machine."

log = logging.getLogger(__name__)


def import_ray() -> Any:
    """Import Ray.

    Raises:
        SettingsError: If it is not installed.
    """
    # Ray sends usage statistics to its makers unless this is set.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise SettingsError(
            f'--executor ray needs Ray ({error}): pip install "depthsearch[ray]", '
            "or leave --executor out to train on this machine."
        ) from None


def connect(address: str | None = None) -> bool:
    """Connect to a Ray cluster, or start Ray here.

    Args:
        address: ``HOST:PORT`` of the cluster's head, of which this machine is a node; ``auto``: RAY_ADDRESS,
            or the cluster that runs on this machine; ``local``: start Ray here. Default: as ``auto``, and
            where there is no cluster as ``local``.

    Returns:
        Whether this call has connected: False where the process was connected already.

    Raises:
        SettingsError: If Ray is not installed, or the address cannot be reached.
    """
    ray = import_ray()
    if ray.is_initialized():
        return False
    named = os.environ.get("RAY_ADDRESS") if address in (None, "auto") else address
    if named and named not in ("auto", "local"):
        _check(named)
    with _quiet(ray):
        if named == "local":
            _start(ray)
            return True
        try:
            _init(ray, address=named or "auto")
        except ConnectionError:
            if address is not None or named:
                source = f"--ray-address {named or address}" if address else f"RAY_ADDRESS {named}"
                raise SettingsError(f"No Ray cluster at {source}. {WHERE}") from None
            _start(ray)
    return True


def _start(ray: Any) -> None:
    _init(ray, address="local", num_cpus=usable_cores(), include_dashboard=False)


def _init(ray: Any, **how: Any) -> None:
    """Connect, or start.

    Raises:
        ConnectionError: If there is no cluster.
        SettingsError: If the cluster cannot be used.
    """
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **how)
    except ConnectionError:
        raise
    except (RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        ray.shutdown()
        raise SettingsError(f"Ray at {how['address']} cannot be used: {first_line(error)} {WHERE}") from error


@contextlib.contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Keep Ray's logs out of the output, and restore the handler of SIGTERM, which Ray replaces."""

    def note(data: Mapping[str, Any], **_: Any) -> None:
        log.debug("Ray: %s", "\n".join(data["lines"]))

    # For each node that goes Ray prints pages of logs to stdout, and has no option against that.
    ray._private.worker.print_to_stdstream = note
    with handled({signal.SIGTERM: signal.getsignal(signal.SIGTERM)}):
        yield


def _check(address: str) -> None:
    """Check within seconds whether Ray answers at an address.

    Raises:
        SettingsError: If it does not.
    """
    if "://" in address:
        raise SettingsError(
            f"--ray-address {address}: depthsearch does not use Ray's client. Run it on a machine of the "
            "cluster, such as with ray job submit, and leave --ray-address out."
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise SettingsError(f"--ray-address {address}: that is no HOST:PORT. {WHERE}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise SettingsError(f"No Ray cluster at --ray-address {address}: {reason}. {WHERE}") from None
    # In a process of its own: to a server with another protocol Ray would listen for minutes.
    command = [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", address]
    try:
        status = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise SettingsError(
            f"What listens at --ray-address {address} is no Ray cluster, or it has not answered for "
            f"{ANSWER_SECONDS:g} s. {WHERE}"
        ) from None
    if status.returncode:
        lines = (status.stderr or status.stdout).strip().splitlines() or [f"status {status.returncode}"]
        # The last line may be as long as a page; its first sentence says what is wrong.
        reason = lines[-1].partition(". ")[0].rstrip(".")
        raise SettingsError(f"Ray at --ray-address {address} cannot be used: {reason}. {WHERE}")


def reason_of(error: BaseException) -> str:
    """Return the line of Ray's error that gives the reason."""
    if isinstance(error, import_ray().exceptions.ActorUnavailableError):
        # Raised when the connection breaks for a reason that Ray does not know; its message is about a task.
        return "it can no longer be reached: its process or its node has ended, or the network failed"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if "creation task" in str(error):
        return lines[-1]
    return next((line for line in lines[1:] if " because " in line), lines[0]).rstrip(".")
