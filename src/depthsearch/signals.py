"""Ctrl-C and SIGTERM, delivered when nothing is half written."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Of each active `deferred`: the signals that it holds back, and the handlers that it has replaced.
_deferring: list[tuple[list[int], Mapping[int, Any]]] = []


@contextlib.contextmanager
def handled(handlers: Mapping[int, Any]) -> Iterator[Mapping[int, Any]]:
    """Install signal handlers in this context; outside the main thread this does nothing.

    Args:
        handlers: As `signal.signal` takes them, by signal number.

    Yields:
        The replaced handlers; empty outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield {}
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield before
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def sigterm_interrupts() -> contextlib.AbstractContextManager[object]:
    """Raise KeyboardInterrupt on SIGTERM as on Ctrl-C; outside the main thread this does nothing."""
    return handled(dict.fromkeys(SIGNALS, _interrupt))


@dataclass(slots=True)
class Drain:
    """The state of an orderly end.

    Attributes:
        is_on: Whether there is anything to end in order; until then SIGTERM interrupts.
        is_asked: Whether SIGTERM has asked for it.
    """

    is_on: bool = False
    is_asked: bool = False


@contextlib.contextmanager
def sigterm_drains(notice: str) -> Iterator[Drain]:
    """Ask for an orderly end on the first SIGTERM; a second one ends the work as Ctrl-C does.

    Args:
        notice: Line to write to stderr at the first.
    """
    drain = Drain()

    def note(number: int, frame: FrameType | None) -> None:
        if drain.is_asked or not drain.is_on:
            _interrupt(number, frame)
        drain.is_asked = True
        # A handler may run in the middle of a buffered write: use the descriptor directly.
        with contextlib.suppress(OSError):
            os.write(2, f"{notice}\n".encode())

    with handled({signal.SIGTERM: note}):
        yield drain


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Hold interrupts back while the study is written to, then deliver them."""
    pending: list[int] = []
    try:
        with handled(dict.fromkeys(SIGNALS, lambda number, _: pending.append(number))) as before:
            if not before:
                yield
                return
            _deferring.append((pending, before))
            try:
                yield
            finally:
                _deferring.pop()
    finally:
        for number in pending:
            signal.raise_signal(number)


@contextlib.contextmanager
def let_through() -> Iterator[None]:
    """Deliver interrupts again, also those held back, while the caller only waits."""
    if threading.current_thread() is not threading.main_thread() or not _deferring:
        yield
        return
    _, outermost = _deferring[0]
    with handled(outermost):
        for pending, _ in _deferring:
            if pending:
                signal.raise_signal(pending.pop(0))
        yield


@contextlib.contextmanager
def children_uninterrupted() -> Iterator[None]:
    """Keep a terminal's Ctrl-C from processes that are started in this context.

    Not on Windows: there they get it until they have started.
    """
    if sys.platform == "win32":
        yield
        return
    from multiprocessing import resource_tracker

    # It would unblock signals when it starts.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def name_of_signal(number: int) -> str:
    """Return the name of a signal, or its number where this system has no name for it."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
