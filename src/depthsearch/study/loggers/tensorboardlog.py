"""Each trial of a study as a run of TensorBoard: scalars by epoch, and its setting as a text."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import optuna

from depthsearch.errors import SettingsError
from depthsearch.files import folder_named
from depthsearch.study.events import EpochDone, Event, TrialEnded, TrialStarted
from depthsearch.study.loggers.eventlog import SCALARS, Sink, forgiving, require_extra, teller

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def check_tensorboard(folder: Path) -> None:
    """Make the folder, and check that it can be written to and that TensorBoard is installed.

    Raises:
        SettingsError: If not.
    """
    require_extra("tensorboard", "tensorboard")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(b"x")
    except OSError as error:
        raise SettingsError(
            f"--tensorboard {folder} cannot be written to: {error.strerror}. Give a folder."
        ) from error


@contextmanager
def tensorboard_log(folder: Path, study: optuna.Study) -> Iterator[Sink]:
    """Write the trials of a study as runs ``folder/STUDY/trial-0007``.

    A trial that goes on after an interruption is written from its first epoch on, and replaces its run. If
    writing fails later, one warning is logged, and the study goes on.

    Args:
        folder: For ``tensorboard --logdir``; made if it does not exist.
        study: The study of the events.

    Raises:
        SettingsError: If the folder cannot be written to, or TensorBoard is not installed.
    """
    check_tensorboard(folder)
    from torch.utils.tensorboard import SummaryWriter

    runs = folder / folder_named(study.study_name)
    entries_of = teller(study)
    writers: dict[int, SummaryWriter] = {}

    def end(*numbers: int) -> None:
        for number in numbers:
            writers.pop(number).close()

    def tell(event: Event) -> None:
        _, entries = entries_of(event)
        if isinstance(event, TrialStarted):
            end(*{event.number} & writers.keys())
            writer = SummaryWriter(str(runs / f"trial-{event.number:04d}"), purge_step=0)
            writers[event.number] = writer
            writer.add_text("setting", "\n".join(f"- {key}: {value}" for key, value in entries.items()))
        elif isinstance(event, EpochDone):
            for name in SCALARS:
                writers[event.number].add_scalar(name, getattr(event.result, name), event.result.epoch)
            writers[event.number].flush()
        elif isinstance(event, TrialEnded):
            writers[event.number].add_text("end", event.reason or event.state.name.lower())
            end(event.number)

    attempt = forgiving(f"--tensorboard {folder}")
    try:
        yield lambda event: attempt(tell, event)
    finally:
        attempt(end, *writers)
