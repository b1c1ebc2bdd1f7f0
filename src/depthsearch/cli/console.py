"""The output of commands: for a terminal, or as plain lines."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import Progress
from rich.segment import Segment

from depthsearch.study.events import Decoding, Event, Note, Notice
from depthsearch.text import named_few, one_line, printable

# Without a terminal there is no width to keep to.
PLAIN_WIDTH = 160
STYLES = {"info": None, "warning": "yellow", "alarm": "bold yellow"}


class PlainConsole(Console):
    """A console in which names from outside can use neither markup nor control characters."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render with control characters in text escaped; the console's own control codes stay."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control or not text else Segment(printable(text), style)


def console_for(*, stderr: bool = False) -> Console:
    """Open a console on stdout or stderr: as wide as the terminal, or wide where there is none."""
    stream = sys.stderr if stderr else sys.stdout
    # The process may have been started with the stream closed.
    is_terminal = stream is not None and stream.isatty()
    return PlainConsole(
        stderr=stderr,
        file=io.StringIO() if stream is None else None,
        width=None if is_terminal else PLAIN_WIDTH,
        markup=False,
        emoji=False,
    )


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print one line, without markup."""
    console.print(one_line(text, longest=None), style=style, highlight=False, markup=False, soft_wrap=True)


def say_list(console: Console, what: str, items: Sequence[str]) -> None:
    """Print a line that names the first few of many items."""
    say(console, named_few(what, items), style="yellow")


class Notices:
    """Shows the notes while backbones and images are loaded, and the decoding of images as a bar."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar: Progress | None = None

    def __call__(self, event: Event | Notice) -> None:
        """Show a note or the progress of decoding; other events are shown elsewhere."""
        if isinstance(event, Decoding):
            self._show_decoding(event)
            return
        self.close()
        if isinstance(event, Note):
            say(self.console, event.text, style=STYLES[event.level])

    def _show_decoding(self, event: Decoding) -> None:
        if self.console.is_terminal:
            if self.bar is None:
                self.bar = Progress(console=self.console, transient=True)
                self.bar.add_task("Decoding images")
                self.bar.start()
            self.bar.update(self.bar.task_ids[0], completed=event.n_done, total=event.n_images)

    def close(self) -> None:
        """Remove the bar, if there is one."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
