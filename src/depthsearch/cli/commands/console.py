"""Where commands write: a terminal, or plain lines."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from depthsearch.text import one_line, printable

__all__ = ["console_for", "say", "say_list"]

# Without a terminal there is no width to keep to.
PLAIN_WIDTH = 160


class PlainConsole(Console):
    """A console that shows names from outside as they are: neither markup nor control characters work."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Draw; what the console itself uses to move and colour stays."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control or not text else Segment(printable(text), style)


def console_for(*, stderr: bool = False) -> Console:
    """Open stdout or stderr: as wide as the terminal, or wide where there is none."""
    stream = sys.stderr if stderr else sys.stdout
    # A process may have been started with it closed.
    is_terminal = stream is not None and stream.isatty()
    return PlainConsole(
        stderr=stderr,
        file=io.StringIO() if stream is None else None,
        width=None if is_terminal else PLAIN_WIDTH,
        markup=False,
        emoji=False,
    )


def say(console: Console, text: str, style: str | None = None) -> None:
    """Write a line as it is, without markup."""
    console.print(one_line(text, longest=None), style=style, highlight=False, markup=False, soft_wrap=True)


def say_list(console: Console, what: str, items: Sequence[str], n_shown: int = 5) -> None:
    """Write a line that names a few of many."""
    more = f", and {len(items) - n_shown} more (all in the study)" if len(items) > n_shown else ""
    say(console, f"{what}: {', '.join(items[:n_shown])}{more}.", style="yellow")
