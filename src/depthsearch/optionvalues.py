"""How the command line reads values that many of its options take; each refusal says what would be right."""

from __future__ import annotations

import argparse
from pathlib import Path

from depthsearch.wording import is_plain

__all__ = ["read_name", "read_number", "read_path", "read_place", "read_whole"]

# Of a study; databases keep no longer ones.
LONGEST_NAME = 512


def read_whole(text: str) -> int:
    """Read a whole number as everybody writes it: Python takes 1_000, and digits of any script, too.

    Raises:
        ValueError: If it is none.
    """
    if not text.isascii() or "_" in text:
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


def read_number(text: str) -> float:
    """Read a number as everybody writes it; also ``inf`` and ``nan``.

    Raises:
        ValueError: If it is none.
    """
    if not text.isascii() or "_" in text:
        raise ValueError(f"{text!r} is no number")
    return float(text)


def read_name(text: str) -> str:
    """Read a name, such as a study's: it is kept in databases and shown in terminals."""
    _refuse_empty(text)
    if not is_plain(text):
        raise argparse.ArgumentTypeError(f"{text!r} holds characters that cannot be shown: take others")
    if len(text) > LONGEST_NAME:
        raise argparse.ArgumentTypeError(f"{text!r} is too long: give at most {LONGEST_NAME} characters")
    return text


def read_place(text: str) -> str:
    """Read where something is: the name of a file may hold any character but NUL."""
    _refuse_empty(text)
    if "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no path: none holds a NUL character")
    return text


def read_path(text: str) -> Path:
    """Read where something is, as a path."""
    return Path(read_place(text))


def _refuse_empty(text: str) -> None:
    """Refuse what a shell makes of a variable that is not set: it would be taken for a default."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty: give a value, or leave it out")
