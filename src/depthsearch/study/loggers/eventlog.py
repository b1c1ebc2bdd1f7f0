"""The events of a study as lines of JSON in a file, for ``tail -f``, ``jq`` and programs.

Each line is one object. All have ``time`` (ISO 8601, UTC), ``event`` and ``study``; then come those of `KEYS`
that the event has, in that order, then what else it has under its own names. ``event`` is the name of the
event's class in small letters, ``epoch_done`` for `EpochDone`; besides there are

- ``opened`` and ``closed``: the first and the last line of a process; ``reason`` is the class of what ended
  it, if anything did, such as ``KeyboardInterrupt``;
- ``log``: a warning of depthsearch's own logger.

What a trial's first event says of its cut and its worker stands in all lines of that trial. A trial that
goes on after an interruption tells the epochs that it had done once more; these lines have ``"again": true``.
Figures that are not finite are null, so that the JSON is strict, and passwords in addresses are hidden.
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
from dataclasses import asdict, fields, is_dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from depthsearch import __version__
from depthsearch.errors import SettingsError
from depthsearch.models.cuts import Cut
from depthsearch.results.stored import read_backbones
from depthsearch.search.space import Point
from depthsearch.study.events import Event, TrialEnded
from depthsearch.text import first_line, hidden
from depthsearch.training.loop import EpochResult
from depthsearch.training.objective import TransferCurve

__all__ = [
    "KEYS",
    "Sink",
    "check_log",
    "forgiving",
    "log_line",
    "open_log",
    "require_extra",
    "teller",
]

log = logging.getLogger(__name__)

Sink = Callable[[Event], None]

KEYS = (
    "time",
    "event",
    "study",
    "trial",
    "worker",
    "epoch",
    "backbone",
    "layer",
    "cut",
    "origin",
    "adopted",
    "again",
    "score",
    "val_loss",
    "train_loss",
    "seconds",
    "images_per_second",
    "macs",
    "kept_bytes",
    "read_bytes",
    "state",
    "reason",
)
# How often to look whether a file's last line has its end, and between two looks.
LOOKS, LOOK_SECONDS = 4, 0.05
# What every line of a trial says, and what is added up over its epochs where it ends.
OF_TRIAL = ("worker", "backbone", "layer", "cut", "origin")
SUMMED = ("seconds", "macs", "kept_bytes", "read_bytes")


def check_log(path: Path) -> None:
    """Refuse a file that cannot be appended to, before anything is loaded; one that is not there is made.

    Raises:
        SettingsError: If it cannot.
    """
    with _naming(path), path.open("ab", buffering=0) as file:
        # A device that takes nothing refuses even that.
        file.write(b"")


@contextmanager
def open_log(path: Path, study: optuna.Study) -> Iterator[Sink]:
    """Append what happens to a study to a file, and the warnings of depthsearch's logger meanwhile.

    A line is written at once and in one piece, so that several processes may share a file. Where that fails
    later, it is warned of once, and the study goes on.

        with open_log(Path("study.jsonl"), study) as log:
            for event in search(study, ...):
                log(event)

    Args:
        path: Of the file; what is in it stays.
        study: Whose events come.

    Raises:
        SettingsError: If the file cannot be written to.
    """

    def line(event: str, entries: Mapping[str, Any]) -> str:
        return log_line(event, entries, study=study.study_name)

    with closing(_File(path)) as file:
        with _naming(path):
            opened = {"host": socket.gethostname(), "pid": os.getpid(), "version": __version__}
            file.append(line("opened", opened))
        reason: str | None = None
        try:
            with _warnings_too(lambda entries: file.write(line("log", entries))):
                tell = teller(study)
                yield lambda event: file.write(line(*tell(event)))
        except BaseException as error:
            reason = type(error).__name__
            raise
        finally:
            file.write(line("closed", {"reason": reason}))


def log_line(event: str, entries: Mapping[str, Any], *, study: str) -> str:
    """Write one line, without its end.

    Args:
        event: What happened.
        entries: What is told of it, in any order.
        study: Name of the study.
    """
    head = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, "study": study}
    known = {**entries, **head}
    ordered = {key: known[key] for key in KEYS if key in known} | known
    return json.dumps(_plain(ordered), allow_nan=False)


def forgiving(name: str) -> Callable[..., None]:
    """Give what calls a function with arguments, until one fails: that is warned of, and no more are called.

    Args:
        name: What the functions belong to, for the warning.
    """
    has_failed = False

    def attempt(function: Callable[..., object], *arguments: Any) -> None:
        nonlocal has_failed
        if has_failed:
            return
        try:
            function(*arguments)
        except Exception as error:  # noqa: BLE001 (whatever a foreign library raises, the study goes on)
            has_failed = True
            log.warning("The study goes on without %s, which failed: %s", name, first_line(error))

    return attempt


def require_extra(extra: str, package: str) -> None:
    """Refuse to go on where the package of an extra, and of the option of its name, is missing.

    Raises:
        SettingsError: If it is.
    """
    if find_spec(package) is None:
        raise SettingsError(
            f'--{extra} needs {package}: pip install "depthsearch[{extra}]", or leave --{extra} out.'
        )


def teller(study: optuna.Study) -> Callable[[Event], tuple[str, dict[str, Any]]]:
    """Give a function that names an event and lists what a line says of it, from what came before too."""
    names = {key: stored.name for key, stored in read_backbones(study).items()}
    of_trial: dict[int, dict[str, Any]] = defaultdict(dict)
    spent: dict[int, dict[int, dict[str, Any]]] = defaultdict(dict)

    def tell(event: Event) -> tuple[str, dict[str, Any]]:
        entries = _taken_apart(event, names)
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


def _taken_apart(event: Event, names: Mapping[str, str]) -> dict[str, Any]:
    """Take an event of any class apart, field by field.

    Args:
        event: A dataclass.
        names: timm's names of the backbones, by the cuts' names for them.
    """
    entries: dict[str, Any] = {}
    for field in fields(event):
        entries |= _entries(field.name, getattr(event, field.name), names)
    return entries


def _entries(name: str, value: Any, names: Mapping[str, str]) -> dict[str, Any]:
    """Say what one field tells."""
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
            points = [(point.layer, point.score) for point in value.points]
            return {
                "layers": [layer for layer, _ in points],
                "scores": [score for _, score in points],
                "seconds": value.seconds,
            }
        case (Cut(), *_):
            return {name: [_entries("cut", cut, names) for cut in value]}
        case TrialState():
            return {name: value.name.lower()}
    if name == "backbone":
        return {name: names.get(value, value)}
    return {"trial" if name == "number" else name: value}


def _plain(value: Any) -> Any:
    """Give what strict JSON can hold; passwords in addresses are hidden."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int) else hidden(str(value))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say of which file an error is."""
    try:
        yield
    except OSError as error:
        raise SettingsError(
            f"--log-file {path} cannot be written to: {error.strerror}. "
            "Give a file in a folder that is there, or leave --log-file out."
        ) from error


class _File:
    """A file that lines are appended to."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            SettingsError: If it cannot be written to.
        """
        self._path = path
        self._has_failed = False
        with _naming(path):
            self._is_torn = _ends_within_a_line(path)
            # Without a buffer a line is one call of the system, and goes behind what others have appended.
            self._file = path.open("ab", buffering=0)

    def append(self, line: str) -> None:
        """Append a line.

        Raises:
            OSError: If that fails.
        """
        # What a full disk has torn stays a line of its own.
        before = "\n" if self._is_torn else ""
        content = f"{before}{line}\n".encode()
        n_written = self._file.write(content)
        self._is_torn = n_written != len(content)
        if self._is_torn:
            raise OSError(0, "only a part of a line could be written")

    def write(self, line: str) -> None:
        """Append a line; of the first that fails there is a warning."""
        try:
            self.append(line)
        except OSError as error:
            if not self._has_failed:
                # Set first: the warning would come here too.
                self._has_failed = True
                log.warning("--log-file %s misses some of what happens: %s", self._path, error.strerror)

    def close(self) -> None:
        self._file.close()


def _ends_within_a_line(path: Path) -> bool:
    """Say whether the last line of a file was left without its end, by a full disk."""
    if not path.is_file() or not path.stat().st_size or not os.access(path, os.R_OK):
        return False
    # What another process writes in this moment has its end in the next.
    for _ in range(LOOKS):
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            if file.read() == b"\n":
                return False
        time.sleep(LOOK_SECONDS)
    return True


class _Handler(logging.Handler):
    """Hands warnings on as entries of a line."""

    def __init__(self, tell: Callable[[Mapping[str, Any]], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        level, message = record.levelname.lower(), record.getMessage()
        self._tell({"level": level, "logger": record.name, "message": message})


@contextmanager
def _warnings_too(tell: Callable[[Mapping[str, Any]], None]) -> Iterator[None]:
    """Hand on the warnings of depthsearch's logger as well; they stay where they were shown before."""
    ours = logging.getLogger("depthsearch")
    handlers: list[logging.Handler] = [_Handler(tell)]
    if not ours.hasHandlers() and logging.lastResort is not None:
        # Python shows on stderr only what nobody handles.
        handlers.append(logging.lastResort)
    for handler in handlers:
        ours.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            ours.removeHandler(handler)
