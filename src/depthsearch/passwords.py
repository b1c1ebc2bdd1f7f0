"""Database URLs, and errors that name them, for output: without passwords."""

from __future__ import annotations

import re

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

__all__ = ["first_line", "hidden", "without_password"]

SECRETS = r"password|passwd|pwd|secret|token|odbc_connect|scram_"


def without_password(url: str) -> str:
    """Hide the passwords of a database URL, for output: of its user, and in its query."""
    if "://" not in url:
        return re.sub(r"^([^/@:]*:).*@", r"\1***@", url)
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return _greedily_hidden(url)
    query = [(key, value) for key, value in parsed.query.items() if re.search(SECRETS, key, re.IGNORECASE)]
    if parsed.password is not None and url.count("@") > 1:
        # An @ that is not written %40 may be the password's: all up to the last one goes.
        return _greedily_hidden(url)
    if parsed.password is None and not query:
        return url
    parsed = parsed.difference_update_query([key for key, _ in query])
    shown = parsed.render_as_string(hide_password=True)
    for key, _ in query:
        shown += f"{'&' if '?' in shown else '?'}{key}=***"
    return shown


def first_line(error: BaseException) -> str:
    """Say in a line what went wrong, the passwords of database URLs hidden."""
    return hidden((str(error).strip() or type(error).__name__).splitlines()[0])


def hidden(text: str) -> str:
    """Hide the passwords of the database URLs in a text."""
    # Begun at a word's first letter only: a word may be as long as a file.
    url = r"(?<![\w+])\w[\w+]*://[^\s'\"]+"
    return re.sub(url, lambda found: without_password(found[0]), _greedily_hidden(text))


def _greedily_hidden(text: str) -> str:
    """Hide all that may be a password: whoever forgot to encode it is not to see half of it."""
    text = re.sub(r"(\w://[^\s/:\[]*:).*@", r"\1***@", text)
    # Without an @ it may be a password as well, unless it is a port.
    text = re.sub(r"(\w://[^\s/:\[]*:)(?!\d+\b)[^\s/?@]+", r"\1***", text)
    return re.sub(rf"((?:{SECRETS})\w*=)[^&\s'\"]+", r"\1***", text, flags=re.IGNORECASE)
