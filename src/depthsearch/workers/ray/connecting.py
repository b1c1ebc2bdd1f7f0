"""To a Ray cluster, or to a Ray of this machine's own: quickly or with a line that says why not.

Ray is imported only here and in `cluster`, and only when used.
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

__all__ = ["connect", "import_ray", "reason_of"]

# To reach the address, then for Ray to answer there; left alone, Ray tries for minutes.
REACH_SECONDS = 5.0
ANSWER_SECONDS = 30.0
WHERE = "Give the HOST:PORT of the cluster's head, auto, or local to start Ray on this machine."

log = logging.getLogger(__name__)


def import_ray() -> Any:
    """Import Ray.

    Raises:
        SettingsError: If it is not installed.
    """
    # Ray sends statistics of its use to its makers, unless told not to.
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
        Whether it was done here: False where the process is connected already.

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
                at = f"at --ray-address {named or address}" if address else f"at RAY_ADDRESS {named}"
                raise SettingsError(f"No Ray cluster {at}. {WHERE}") from None
            _start(ray)
    return True


def _start(ray: Any) -> None:
    _init(ray, address="local", num_cpus=usable_cores(), include_dashboard=False)


def _init(ray: Any, **how: Any) -> None:
    """Connect, or start.

    Raises:
        ConnectionError: If there is no cluster.
        SettingsError: If there is one that cannot be used.
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
    """Keep Ray from our output, and from our handler of SIGTERM, which it would replace by its own."""

    def note(data: Mapping[str, Any], **_: Any) -> None:
        log.debug("Ray: %s", "\n".join(data["lines"]))

    # Of each node that goes it prints pages of logs to the standard output, and has no option against that.
    ray._private.worker.print_to_stdstream = note
    with handled({signal.SIGTERM: signal.getsignal(signal.SIGTERM)}):
        yield


def _check(address: str) -> None:
    """Find out within seconds whether Ray answers at an address.

    Raises:
        SettingsError: If not.
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
    # In a process of its own, as what speaks another language there would be listened to for minutes.
    asked = [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", address]
    try:
        status = subprocess.run(asked, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise SettingsError(
            f"What listens at --ray-address {address} is no Ray cluster, or it has not answered for "
            f"{ANSWER_SECONDS:g} s. {WHERE}"
        ) from None
    if status.returncode:
        lines = (status.stderr or status.stdout).strip().splitlines() or [f"status {status.returncode}"]
        # Its last line may be a page, of which the first sentence says what is wrong.
        reason = lines[-1].partition(". ")[0].rstrip(".")
        raise SettingsError(f"Ray at --ray-address {address} cannot be used: {reason}. {WHERE}")


def reason_of(error: BaseException) -> str:
    """Find the line that says why, among those that Ray has."""
    if isinstance(error, import_ray().exceptions.ActorUnavailableError):
        # Ray says so when the connection breaks before it knows why; its own words speak of a task.
        return "it can no longer be reached: its process or its node has ended, or the network failed"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if "creation task" in str(error):
        return lines[-1]
    return next((line for line in lines[1:] if " because " in line), lines[0]).rstrip(".")
