"""Ctrl-C and SIGTERM, taken at a moment when nothing is half written."""

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

__all__ = [
    "Drain",
    "children_uninterrupted",
    "deferred",
    "handled",
    "let_through",
    "name_of_signal",
    "sigterm_drains",
    "sigterm_interrupts",
]

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# What each `deferred` of the main thread holds back, and the handlers that were there before it.
_deferring: list[tuple[list[int], Mapping[int, Any]]] = []


@contextlib.contextmanager
def handled(handlers: Mapping[int, Any]) -> Iterator[Mapping[int, Any]]:
    """Handle signals otherwise meanwhile; in another thread than the main one nothing changes.

    Args:
        handlers: As `signal.signal` takes them, by the signals' numbers.

    Yields:
        The handlers that were there before; empty in another thread.
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
    """Have SIGTERM end the work as Ctrl-C does, in the main thread; in another this does nothing."""
    return handled(dict.fromkeys(SIGNALS, _interrupt))


@dataclass(slots=True)
class Drain:
    """Whether to end in order.

    Attributes:
        is_on: Whether there is something that can be: until then SIGTERM interrupts.
        is_asked: Whether somebody has asked for it.
    """

    is_on: bool = False
    is_asked: bool = False


@contextlib.contextmanager
def sigterm_drains(notice: str) -> Iterator[Drain]:
    """Have the first SIGTERM ask for an orderly end, and a second one end the work as Ctrl-C does.

    Args:
        notice: Line to write to stderr when it comes.
    """
    drain = Drain()

    def note(number: int, frame: FrameType | None) -> None:
        if drain.is_asked or not drain.is_on:
            _interrupt(number, frame)
        drain.is_asked = True
        # In the middle of anything: what is buffered is not to be touched.
        with contextlib.suppress(OSError):
            os.write(2, f"{notice}\n".encode())

    with handled({signal.SIGTERM: note}):
        yield drain


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Hold interrupts back while the study is written to, then deliver them."""
    held: list[int] = []
    try:
        with handled(dict.fromkeys(SIGNALS, lambda number, _: held.append(number))) as before:
            if not before:
                yield
                return
            _deferring.append((held, before))
            try:
                yield
            finally:
                _deferring.pop()
    finally:
        for number in held:
            signal.raise_signal(number)


@contextlib.contextmanager
def let_through() -> Iterator[None]:
    """Deliver interrupts again, also those held back, while the caller only waits."""
    if threading.current_thread() is not threading.main_thread() or not _deferring:
        yield
        return
    _, outermost = _deferring[0]
    with handled(outermost):
        for held, _ in _deferring:
            if held:
                signal.raise_signal(held.pop(0))
        yield


@contextlib.contextmanager
def children_uninterrupted() -> Iterator[None]:
    """Keep a terminal's Ctrl-C, which all of its processes get, from processes started meanwhile.

    Windows cannot: there they hear it until they have started.
    """
    if sys.platform == "win32":
        yield
        return
    from multiprocessing import resource_tracker

    # It lets signals through again when it starts.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def name_of_signal(number: int) -> str:
    """Return the name of a signal; its number where this system knows none of it."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
