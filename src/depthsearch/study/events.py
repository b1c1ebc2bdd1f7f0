"""The events of a study while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from optuna.trial import TrialState

from depthsearch.models.cuts import Cut
from depthsearch.search.origins import Origin
from depthsearch.search.space import Point
from depthsearch.training.outcomes import EpochResult, TransferCurve


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialStarted:
    """A trial begins, or goes on after an interruption.

    Attributes:
        number: Optuna's.
        point: Its setting.
        origin: What it is for.
        adopted: Whether it goes on after an interruption.
        worker: Its worker; None: this process trains it.
    """

    number: int
    point: Point
    origin: Origin
    adopted: bool
    worker: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochDone:
    """A trial has reported an epoch.

    Attributes:
        number: Optuna's.
        result: Of the epoch.
        is_again: Whether it was reported before the trial was interrupted.
    """

    number: int
    result: EpochResult
    is_again: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialLost:
    """A trial's worker died, hangs, or had too little memory; the trial goes on elsewhere.

    Attributes:
        number: Optuna's.
        reason: In a line.
        n_lost: How often its worker has died or hung so far.
    """

    number: int
    reason: str
    n_lost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialPaused:
    """A trial is left for something that promises more; it may be taken up again from its checkpoint.

    Attributes:
        number: Optuna's.
        point: Its setting.
        epoch: The last one that was trained.
        score: After it.
    """

    number: int
    point: Point
    epoch: int
    score: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing was reported for a moment, so that the receiver gets a turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialEnded:
    """A trial has ended: its state, its last score, and the reason if it ended early."""

    number: int
    point: Point
    state: TrialState
    score: float | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveDrawn:
    """The frozen features of a backbone were probed over depth, before the first trial."""

    backbone: str
    curve: TransferCurve


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmationPlanned:
    """Cuts will be trained again, each with several seeds; some trainings may have been done before."""

    cuts: tuple[Cut, ...]
    n_seeds: int
    n_trainings: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchEnded:
    """The search has ended by itself, or its time is over.

    Attributes:
        reason: Why, in a line.
    """

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """The study was asked to stop: the last event. The next call goes on from here.

    Attributes:
        after: What has ended before: the ``epoch``, or the ``trial``.
    """

    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A note about what is loaded or how the study is run.

    Attributes:
        text: In a line.
        level: ``alarm`` where the result is likely not what was wanted.
    """

    text: str
    level: Literal["info", "warning", "alarm"] = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """Some of the images are decoded."""

    n_done: int
    n_images: int


Event = (
    CurveDrawn
    | ConfirmationPlanned
    | TrialStarted
    | EpochDone
    | TrialLost
    | TrialPaused
    | TrialEnded
    | SearchEnded
    | Stopped
    | Waiting
)

# Reported before a study is open, and beside its events; loggers do not get them.
Notice = Note | Decoding
Say = Callable[[Notice], None]
