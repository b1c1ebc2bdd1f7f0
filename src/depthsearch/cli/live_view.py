"""The output of a running study: a live panel in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from optuna.trial import TrialState
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from depthsearch.cli.console import say
from depthsearch.report.text import sparkline
from depthsearch.results.summary import ENDED, Summary
from depthsearch.search.space import Point
from depthsearch.study.events import (
    ConfirmationPlanned,
    CurveDrawn,
    EpochDone,
    Event,
    SearchEnded,
    TrialEnded,
    TrialLost,
    TrialPaused,
    TrialStarted,
)
from depthsearch.text import counted, duration


class View:
    """Follows the events of a study; use it as a context manager."""

    def __init__(self, console: Console, before: Summary, *, n_trials: int | None, epochs: int) -> None:
        """Start from where the study stands.

        Args:
            console: Where to draw.
            before: The study so far.
            n_trials: Finished trials wanted in total; None: the search ends by itself.
            epochs: Epochs of a trial that is not pruned.
        """
        self.console = console
        self.n_trials = n_trials
        self.epochs = epochs
        self.maximize = before.maximize
        self.n_pruned = before.count("pruned")
        self.n_done = self.n_done_before = before.n_finished + sum(
            t.state in ENDED for t in before.confirming
        )
        if self.n_trials is not None:
            self.n_trials += len(before.confirming)
        best = before.best
        self.best = (best.score, str(best.cut)) if best and best.score is not None else None
        self.running: dict[int, _Shown] = {}
        self.started = time.monotonic()
        self.live = Live(console=console, transient=True) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()

    def update(self, event: Event) -> None:
        """Show an event."""
        match event:
            case CurveDrawn():
                scores = [point.score for point in event.curve.points]
                self._line(
                    f"frozen features {f'of {event.backbone} ' if event.backbone else ''}"
                    f"probed at {counted(len(scores), 'depth')}: {sparkline(scores)} "
                    f"{min(scores):.4f} to {max(scores):.4f}, {event.curve.seconds:.1f} s"
                )
            case ConfirmationPlanned():
                self.n_trials = self.n_done + event.n_trainings
                layers = ", ".join(f"{cut.backbone} {cut.layer}".strip() for cut in event.cuts)
                left = f"{counted(event.n_trainings, 'training')} to go"
                self._line(f"confirming layers {layers} with {counted(event.n_seeds, 'seed')} each: {left}")
            case SearchEnded():
                self._line(f"search ended: {event.reason}")
            case TrialStarted():
                again = ", continued" if event.adopted else ""
                on = f" on {event.worker}" if event.worker else ""
                title = f"trial {event.number} ({event.origin}{again}){on}: {_describe(event.point)}"
                self.running[event.number] = _Shown(
                    title=title, is_alone=event.worker is None, is_solved=event.point.is_solved
                )
                self._line(title)
            case EpochDone():
                self._show_epoch(event)
            case TrialLost():
                del self.running[event.number]
                text = f"trial {event.number} goes on elsewhere: {event.reason}"
                say(self.console, text, style="yellow")
            case TrialPaused():
                del self.running[event.number]
                where = f"after epoch {event.epoch}, score {event.score:.4f}"
                self._line(f"trial {event.number} paused {where}: it may go on later")
            case TrialEnded():
                self._end(event)
        if self.live:
            self.live.update(self._panel())

    def _show_epoch(self, event: EpochDone) -> None:
        shown, result = self.running[event.number], event.result
        shown.scores.append(result.score)
        if not event.is_again:
            whose = "" if shown.is_alone else f"trial {event.number}, "
            step = "solved" if shown.is_solved else f"epoch {result.epoch}/{self.epochs}"
            self._line(
                f"  {whose}{step}: score {result.score:.4f}, "
                f"validation loss {result.val_loss:.4f}, {result.seconds:.1f} s"
            )

    def _end(self, event: TrialEnded) -> None:
        self.n_done += 1
        if self.n_trials is not None:
            # Guesses may be extra.
            self.n_trials = max(self.n_trials, self.n_done)
        self.n_pruned += event.state == TrialState.PRUNED
        if event.state == TrialState.COMPLETE and event.score is not None:
            better = self.best is None or (
                event.score > self.best[0] if self.maximize else event.score < self.best[0]
            )
            if better:
                self.best = (event.score, str(event.point.cut))
        score = "" if event.score is None else f", score {event.score:.4f}"
        summary = f"trial {event.number} {event.reason or event.state.name.lower()}{score}"
        if self.live:
            self.console.print(Text.assemble(summary, "  ", (_describe(event.point), "dim")))
        progress = "" if self.n_trials is None else f"; {self._progress()}"
        self._line(f"{summary}{progress}")
        # One that was paused runs no more.
        self.running.pop(event.number, None)

    def _line(self, text: str) -> None:
        if not self.live:
            say(self.console, text)

    def _progress(self) -> str:
        if self.n_trials is None:
            return f"{self.n_done} done"
        n_here, n_left = self.n_done - self.n_done_before, self.n_trials - self.n_done
        left = ""
        if n_here and n_left > 0:
            left = f", about {duration((time.monotonic() - self.started) / n_here * n_left)} left"
        return f"{self.n_done} of {self.n_trials} done{left}"

    def _panel(self) -> RenderableType:
        progress = Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}"))
        total = None if self.n_trials is None else max(1, self.n_trials)
        words = f"{self._progress()}, {self.n_pruned} pruned"
        task: TaskID = progress.add_task("trials", total=total, words=words)
        progress.update(task, completed=self.n_done)
        best = f"best so far {self.best[0]:.4f} at {self.best[1]}" if self.best else "no complete trial yet"
        return Group(progress, Text(best, style="green"), *self._each_running())

    def _each_running(self) -> list[Text]:
        """Render each running trial in two lines: its setting, and its progress."""
        lines = []
        for shown in self.running.values():
            curve = f"  {sparkline(shown.scores)} {shown.scores[-1]:.4f}" if shown.scores else ""
            epoch = f"  epoch {len(shown.scores)}/{self.epochs}{curve}"
            lines += [Text(shown.title), Text(epoch, style="cyan")]
        return lines


@dataclass(slots=True, kw_only=True)
class _Shown:
    """A running trial, as it is shown.

    Attributes:
        title: Its first line.
        is_alone: Whether no other runs beside it.
        is_solved: Whether it is solved, in one step.
        scores: Of its epochs so far.
    """

    title: str
    is_alone: bool
    is_solved: bool
    scores: list[float] = field(default_factory=list)


def _describe(point: Point) -> str:
    head = f"head {point.head_width}" if point.head_width else "linear head"
    setting = f"{head}, solved" if point.is_solved else f"lr {point.learning_rate:.2g}, {head}"
    return f"{point.cut}, {setting}"
