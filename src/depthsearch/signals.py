"""Ctrl-C and SIGTERM, taken at a moment when nothing is half written."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

__all__ = [
    "Drain",
    "children_uninterrupted",
    "deferred",
    "let_through",
    "name_of_signal",
    "sigterm_drains",
    "sigterm_interrupts",
]

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# What each `deferred` of the main thread holds back, and the handlers that were there before it.
_deferring: list[tuple[list[int], list[Any]]] = []


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM end the work as Ctrl-C does; only in the main thread, elsewhere it does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [signal.signal(number, _interrupt) for number in SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)


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
def sigterm_drains(told: str) -> Iterator[Drain]:
    """Let the first SIGTERM ask for an orderly end, and a second one end the work as Ctrl-C does.

    Args:
        told: What to say on stderr when it comes.
    """
    drain = Drain()

    def note(number: int, frame: FrameType | None) -> None:
        if drain.is_asked or not drain.is_on:
            _interrupt(number, frame)
        drain.is_asked = True
        # In the middle of anything: what is buffered is not to be touched.
        with contextlib.suppress(OSError):
            os.write(2, f"{told}\n".encode())

    if threading.current_thread() is not threading.main_thread():
        yield drain
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield drain
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Hold interrupts back while the study is written to, then let them through."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    before = [signal.signal(number, lambda n, _: held.append(n)) for number in SIGNALS]
    _deferring.append((held, before))
    try:
        yield
    finally:
        _deferring.pop()
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)
        for each in held:
            signal.raise_signal(each)


@contextlib.contextmanager
def let_through() -> Iterator[None]:
    """Let interrupts through again, those held back as well: for who waits while he writes nothing."""
    if threading.current_thread() is not threading.main_thread() or not _deferring:
        yield
        return
    _, outermost = _deferring[0]
    deferring = [signal.signal(n, handler) for n, handler in zip(SIGNALS, outermost, strict=True)]
    try:
        for held, _ in _deferring:
            if held:
                signal.raise_signal(held.pop(0))
        yield
    finally:
        for number, handler in zip(SIGNALS, deferring, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def children_uninterrupted() -> Iterator[None]:
    """Let processes started meanwhile not hear a terminal's Ctrl-C, which all of its processes get.

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
