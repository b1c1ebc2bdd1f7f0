"""Ctrl-C and SIGTERM, taken at a moment when nothing is half written."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

__all__ = ["deferred", "let_through", "sigterm_drains", "sigterm_interrupts"]

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


@contextlib.contextmanager
def sigterm_drains() -> Iterator[Callable[[], bool]]:
    """Let the first SIGTERM ask for an orderly end, and a second one end the work as Ctrl-C does.

    Yields:
        Whether there was one.
    """
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if asked:
            _interrupt(number, frame)
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: bool(asked)
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
