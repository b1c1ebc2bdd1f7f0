r"""Text from outside, made safe for output: names may hold any character, URLs passwords.

Control characters can repaint a terminal or forge a line, and direction marks can make a name read as
another. They are shown as escapes such as ``\x1b``; letters of every script and emoji stay.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

# Control characters, surrogates (which also stand for bytes that are no UTF-8), line separators.
_CONTROL = ("Cc", "Cs", "Zl", "Zp")
_DIRECTION_MARKS = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
LONGEST = 1200
SECRETS = r"password|passwd|pwd|secret|token|odbc_connect|scram_"


def printable(text: str) -> str:
    """Write control characters and direction marks as escapes; line breaks stay."""
    if text.isprintable():
        return text
    return "".join(_escaped(character) if _is_unsafe(character) else character for character in text)


def one_line(text: str, *, longest: int | None = LONGEST) -> str:
    """Write text as one line: line breaks as escapes, the middle of a very long text left out."""
    line = printable(text).replace("\n", "\\n")
    if longest is None or len(line) <= longest:
        return line
    # The beginning says what is wrong, the end what to do.
    head, tail = line[: longest * 2 // 3], line[-longest // 3 :]
    return f"{head} ... ({len(line) - len(head) - len(tail):,} characters) ... {tail}"


def is_plain(text: str) -> bool:
    """Return whether text is a single line without unsafe characters, and valid UTF-8."""
    return printable(text) == text and "\n" not in text


def first_few(items: Iterable[str], n: int = 5) -> str:
    """Name the first few of many, in their order."""
    every = list(items)
    return ", ".join(every[:n]) + (f" and {len(every) - n} more" if len(every) > n else "")


def a_few(names: Iterable[str]) -> str:
    """Name a few of many, in the order of the alphabet."""
    return first_few(sorted(names))


def named_few(what: str, items: Sequence[str]) -> str:
    """Write a line that names the first few of many items."""
    return f"{what}: {first_few(items)}{' (all in the study)' if len(items) > 5 else ''}."


def duration(seconds: float) -> str:
    """Write how long something takes, or took, in the unit that it is usually told in."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def percent(share: float, digits: int = 0) -> str:
    """Write a share in per cent."""
    return f"{share:.{digits}%}".replace("%", " %")


def plural(word: str, n: int) -> str:
    """Return a word in the number that fits."""
    return word if n == 1 else f"{word}s"


def counted(n: int, word: str) -> str:
    """Write how many there are of something."""
    return f"{n:,} {plural(word, n)}"


def _is_unsafe(character: str) -> bool:
    if character == "\n":
        return False
    return character in _DIRECTION_MARKS or unicodedata.category(character) in _CONTROL


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def without_password(url: str) -> str:
    """Replace the passwords of a database URL by ``***``: the user's, and those in its query."""
    # Not at the top: SQLAlchemy takes long to import, and --help does not need it.
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    if "://" not in url:
        return re.sub(r"^([^/@:]*:).*@", r"\1***@", url)
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return _greedily_hidden(url)
    query = [(key, value) for key, value in parsed.query.items() if re.search(SECRETS, key, re.IGNORECASE)]
    if parsed.password is not None and url.count("@") > 1:
        # An @ that is not written %40 may be part of the password: hide all up to the last one.
        return _greedily_hidden(url)
    if parsed.password is None and not query:
        return url
    parsed = parsed.difference_update_query([key for key, _ in query])
    shown = parsed.render_as_string(hide_password=True)
    for key, _ in query:
        shown += f"{'&' if '?' in shown else '?'}{key}=***"
    return shown


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, the passwords of database URLs hidden."""
    return hidden((str(error).strip() or type(error).__name__).splitlines()[0])


def hidden(text: str) -> str:
    """Replace the passwords of the database URLs in a text by ``***``."""
    # Matches begin at a word's first letter only, for speed: a word may be as long as a file.
    url = r"(?<![\w+])\w[\w+]*://[^\s'\"]+"
    return re.sub(url, lambda match: without_password(match[0]), _greedily_hidden(text))


def _greedily_hidden(text: str) -> str:
    """Hide all that may be part of a password, also of one that was not percent-encoded.

    A password that is hidden already stays as it is, and so does what follows it.
    """
    text = re.sub(r"(\w://[^\s/:\[]*:)(?!\*\*\*@).*@", r"\1***@", text)
    # Without an @ too it may be a password, unless it is a port.
    text = re.sub(r"(\w://[^\s/:\[]*:)(?!\d+\b)[^\s/?@]+", r"\1***", text)
    return re.sub(rf"((?:{SECRETS})\w*=)[^&\s'\"]+", r"\1***", text, flags=re.IGNORECASE)
