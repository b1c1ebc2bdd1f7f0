r"""Text from outside, made safe for a terminal: names of files and classes can hold anything.

Control characters can repaint a terminal or forge a line, and marks of direction can make a name read as
another. They are shown as Python writes them, such as ``\x1b``; letters of every script and emoji stay.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

__all__ = ["is_plain", "named_few", "one_line", "printable"]

# Control characters, halves of UTF-16 pairs (which also stand for bytes that are no UTF-8), line separators.
_HIDDEN = ("Cc", "Cs", "Zl", "Zp")
# What turns the direction of writing: a name that holds one can be shown as another.
_TURNING = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
LONGEST = 1200


def printable(text: str) -> str:
    """Write what a terminal would obey instead of show as escapes; line breaks stay."""
    if text.isprintable():
        return text
    return "".join(_escaped(character) if _obeyed(character) else character for character in text)


def one_line(text: str, *, longest: int | None = LONGEST) -> str:
    """Write text as one line: line breaks as escapes, and the middle of text that is too long left out."""
    line = printable(text).replace("\n", "\\n")
    if longest is None or len(line) <= longest:
        return line
    # The begin says what is wrong, the end what to do.
    head, tail = line[: longest * 2 // 3], line[-longest // 3 :]
    return f"{head} ... ({len(line) - len(head) - len(tail):,} characters) ... {tail}"


def is_plain(text: str) -> bool:
    """Whether text is shown as it is, in one line, and can be written as UTF-8."""
    return printable(text) == text and "\n" not in text


def named_few(what: str, items: Sequence[str], n_shown: int = 5) -> str:
    """Write a line that names a few of many."""
    more = f", and {len(items) - n_shown} more (all in the study)" if len(items) > n_shown else ""
    return f"{what}: {', '.join(items[:n_shown])}{more}."


def _obeyed(character: str) -> bool:
    if character == "\n":
        return False
    return character in _TURNING or unicodedata.category(character) in _HIDDEN


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8, as Python reads file names
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
