"""The events of a study as lines of JSON in a file, for ``tail -f``, ``jq`` and programs.

Each line is one object. All have ``time`` (ISO 8601, UTC), ``event`` and ``study``; then come those of `KEYS`
that the event has, in that order, then its other fields. ``event`` is the name of the event's class in small
letters, ``epoch_done`` for `EpochDone`; besides there are

- ``opened`` and ``closed``: the first and the last line of a process; ``reason`` is the class of the error
  that ended it, such as ``KeyboardInterrupt``, or null;
- ``log``: a warning of depthsearch's own logger.

The cut and the worker in a trial's first event are repeated in all lines of that trial. A trial that goes on
after an interruption repeats the epochs that it had done; these lines have ``"again": true``. Numbers that
are not finite are null, so that the JSON is strict, and passwords in addresses are hidden.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, fields
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from depthsearch import __version__
from depthsearch.errors import SettingsError
from depthsearch.models.cuts import Cut
from depthsearch.results.stored import StoredStudy
from depthsearch.search.space import Point
from depthsearch.study.events import Event, TrialEnded
from depthsearch.text import first_line, hidden
from depthsearch.training.outcomes import EpochResult, TransferCurve

log = logging.getLogger(__name__)

Sink = Callable[[Event], None]

KEYS = (
    "time", "event", "study", "trial", "worker", "epoch", "backbone", "layer", "cut", "origin", "adopted",
    "again", "score", "val_loss", "train_loss", "seconds", "images_per_second", "macs", "kept_bytes",
    "read_bytes", "state", "reason",
)  # fmt: skip
# How often to check whether a file's last line has its end, and how long to wait in between.
LOOKS, LOOK_SECONDS = 4, 0.05
# Entries of every line of a trial, and those that are summed over its epochs when it ends.
OF_TRIAL = ("worker", "backbone", "layer", "cut", "origin")
SUMMED = ("seconds", "macs", "kept_bytes", "read_bytes")
# What other loggers plot over the epochs.
SCALARS = ("score", "val_loss", "train_loss", "seconds")


def check_log(path: Path) -> None:
    """Check that a file can be appended to, before anything is loaded; a missing one is made.

    Raises:
        SettingsError: If it cannot.
    """
    with _naming(path), path.open("ab", buffering=0) as file:
        # A device that takes nothing refuses even that.
        file.write(b"")


@contextmanager
def open_log(path: Path, study: optuna.Study) -> Iterator[Sink]:
    """Append the events of a study to a file, and the warnings of depthsearch's logger meanwhile.

    A line is written at once and in one piece, so that several processes may share a file. If writing fails
    later, one warning is logged, and the study goes on.

        with open_log(Path("study.jsonl"), study) as log:
            for event in search(study, ...):
                log(event)

    Args:
        path: Of the file; its content stays.
        study: The study of the events.

    Raises:
        SettingsError: If the file cannot be written to.
    """
    with closing(_LogFile(path, study.study_name)) as file:
        with _naming(path):
            opened = {"host": socket.gethostname(), "pid": os.getpid(), "version": __version__}
            file.append("opened", opened)
        reason: str | None = None
        try:
            with _warnings_to(file):
                entries_of = teller(study)
                yield lambda event: file.write(*entries_of(event))
        except BaseException as error:
            # The last line names the class of an interrupt, too.
            reason = type(error).__name__
            raise
        finally:
            file.write("closed", {"reason": reason})


def log_line(event: str, entries: Mapping[str, Any], *, study: str) -> str:
    """Write one line, without its end: an event by its name, with entries in any order."""
    head = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, "study": study}
    known = {**entries, **head}
    ordered = {key: known[key] for key in KEYS if key in known} | known
    return json.dumps(_plain(ordered), allow_nan=False)


def forgiving(name: str) -> Callable[..., None]:
    """Return a function that calls others until one fails: then it logs a warning, and calls no more."""
    has_failed = False

    def attempt(function: Callable[..., object], *arguments: Any) -> None:
        nonlocal has_failed
        if has_failed:
            return
        try:
            function(*arguments)
        except Exception as error:  # noqa: BLE001 (the loggers' libraries raise anything; the study goes on)
            has_failed = True
            log.warning("The study goes on without %s, which failed: %s", name, first_line(error))

    return attempt


def require_extra(extra: str, package: str) -> None:
    """Check that the package of an extra, needed by the option of the same name, is installed.

    Raises:
        SettingsError: If it is not.
    """
    if find_spec(package) is None:
        raise SettingsError(
            f'--{extra} needs {package}: pip install "depthsearch[{extra}]", or leave --{extra} out.'
        )


def teller(study: optuna.Study) -> Callable[[Event], tuple[str, dict[str, Any]]]:
    """Return a function that gives an event's name and entries, with those known from earlier events."""
    names = {key: stored.name for key, stored in StoredStudy.read(study).backbones.items()}
    of_trial: dict[int, dict[str, Any]] = defaultdict(dict)
    spent: dict[int, dict[int, dict[str, Any]]] = defaultdict(dict)

    def tell(event: Event) -> tuple[str, dict[str, Any]]:
        entries: dict[str, Any] = {}
        for field in fields(event):
            entries |= _entries(field.name, getattr(event, field.name), names)
        trial, epoch = entries.get("trial"), entries.get("epoch")
        if trial is not None:
            of_trial[trial] |= {key: entries[key] for key in OF_TRIAL if entries.get(key) is not None}
            entries = {**of_trial[trial], **entries}
        if trial is not None and epoch is not None:
            spent[trial][epoch] = {key: entries[key] for key in SUMMED if key in entries}
        if entries.pop("is_again", False):
            entries["again"] = True
        if isinstance(event, TrialEnded):
            epochs = spent.pop(event.number, {}).values()
            entries |= {key: sum(each[key] for each in epochs) for key in SUMMED}
        return re.sub(r"\B(?=[A-Z])", "_", type(event).__name__).lower(), entries

    return tell


def _entries(name: str, value: Any, names: Mapping[str, str]) -> dict[str, Any]:
    """List the entries of one field, with names of the backbones by the cuts' names for them."""
    match value:
        case Cut():
            backbone = names.get(value.backbone, value.backbone)
            return {"backbone": backbone, "layer": value.layer, "cut": value.name}
        case Point():
            setting = {key: each for key, each in asdict(value).items() if key != "cut"}
            return _entries("cut", value.cut, names) | setting
        case EpochResult():
            return {**asdict(value), "macs": value.macs}
        case TransferCurve():
            layers, scores = ([getattr(point, key) for point in value.points] for key in ("layer", "score"))
            return {"layers": layers, "scores": scores, "seconds": value.seconds}
        case (Cut(), *_):
            return {name: [_entries("cut", cut, names) for cut in value]}
        case TrialState():
            return {name: value.name.lower()}
    if name == "backbone":
        return {name: names.get(value, value)}
    return {"trial" if name == "number" else name: value}


def _plain(value: Any) -> Any:
    """Convert a value to what strict JSON can hold, with passwords in addresses hidden."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int) else hidden(str(value))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Raise an error of the system as one that names the file."""
    try:
        yield
    except OSError as error:
        raise SettingsError(
            f"--log-file {path} cannot be written to: {error.strerror}. "
            "Give a file in a folder that exists, or leave --log-file out."
        ) from error


class _LogFile(logging.Handler):
    """A file that lines are appended to, also the warnings of a logger."""

    def __init__(self, path: Path, study: str) -> None:
        """Open it.

        Raises:
            SettingsError: If it cannot be written to.
        """
        super().__init__(logging.WARNING)
        self._path = path
        self._study = study
        self._has_failed = False
        with _naming(path):
            self._is_torn = _ends_within_a_line(path)
            # Unbuffered, a line is one system call, and follows what other processes have appended.
            self._file = path.open("ab", buffering=0)

    def append(self, event: str, entries: Mapping[str, Any]) -> None:
        """Append a line.

        Raises:
            OSError: If that fails.
        """
        # A line that a full disk has cut off stays a line of its own.
        before = "\n" if self._is_torn else ""
        content = f"{before}{log_line(event, entries, study=self._study)}\n".encode()
        self._is_torn = self._file.write(content) != len(content)
        if self._is_torn:
            raise OSError(0, "only a part of a line could be written")

    def write(self, event: str, entries: Mapping[str, Any]) -> None:
        """Append a line; log a warning at the first failure."""
        try:
            self.append(event, entries)
        except OSError as error:
            if not self._has_failed:
                # Set first: this handler gets the warning too.
                self._has_failed = True
                log.warning("--log-file %s lacks some events: %s", self._path, error.strerror)

    def emit(self, record: logging.LogRecord) -> None:
        """Append a warning."""
        level, message = record.levelname.lower(), record.getMessage()
        self.write("log", {"level": level, "logger": record.name, "message": message})

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def _ends_within_a_line(path: Path) -> bool:
    """Return whether the last line of a file has no line end, as a full disk leaves it."""
    if not path.is_file() or not path.stat().st_size or not os.access(path, os.R_OK):
        return False
    # A line that another process is writing has its end in a moment.
    for _ in range(LOOKS):
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            if file.read() == b"\n":
                return False
        time.sleep(LOOK_SECONDS)
    return True


@contextmanager
def _warnings_to(handler: logging.Handler) -> Iterator[None]:
    """Send the warnings of depthsearch's logger to a handler, too."""
    ours = logging.getLogger("depthsearch")
    handlers = [handler]
    if not ours.hasHandlers() and logging.lastResort is not None:
        # Python prints only unhandled warnings to stderr: go on showing them there.
        handlers.append(logging.lastResort)
    for each in handlers:
        ours.addHandler(each)
    try:
        yield
    finally:
        for each in handlers:
            ours.removeHandler(each)
