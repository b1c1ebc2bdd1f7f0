"""Where commands write: a terminal, or plain lines."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console

__all__ = ["console_for", "say", "say_list"]

# Without a terminal there is no width to keep to.
PLAIN_WIDTH = 160


def console_for(*, stderr: bool = False) -> Console:
    """Open stdout or stderr: as wide as the terminal, or wide where there is none."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else PLAIN_WIDTH)


def say(console: Console, text: str, style: str | None = None) -> None:
    """Write a line as it is, without markup."""
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def say_list(console: Console, what: str, items: Sequence[str], n_shown: int = 5) -> None:
    """Write a line that names a few of many."""
    more = f", and {len(items) - n_shown} more (all in the study)" if len(items) > n_shown else ""
    say(console, f"{what}: {', '.join(items[:n_shown])}{more}.", style="yellow")
