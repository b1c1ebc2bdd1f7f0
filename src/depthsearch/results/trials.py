"""The trials of a stored study, as plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from depthsearch.models.cuts import Cut
from depthsearch.options.attributes import TrialKey
from depthsearch.search.origins import Origin, origin_of
from depthsearch.search.planning.moves import is_paused
from depthsearch.search.space import BACKBONE, SearchSpace, cut_parameter
from depthsearch.training.outcomes import EpochResult

# ``paused``: for Optuna, which has no such state, it is RUNNING.
State = Literal["complete", "pruned", "fail", "running", "paused", "waiting"]
ENDED: tuple[State, ...] = ("complete", "pruned", "fail")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsetTrial:
    """A trial without a setting: it waits, was only just begun, or ended before it was begun.

    Attributes:
        number: Optuna's.
        state: Where it stands.
        origin: Why it is there.
        is_dropped: Whether it was to confirm a setting that a later plan does not want.
    """

    number: int
    state: State
    origin: Origin
    is_dropped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTrial:
    """One trial as stored.

    Attributes:
        number: Optuna's.
        cut: First trainable layer, and the backbone where there are several.
        params: The other parameters, by name.
        state: Where it stands, or how it ended.
        score: Last reported score, or None.
        epochs: Epochs trained.
        seconds: Spent on it, prefix included.
        macs: MACs spent on it.
        plain_macs: MACs of the same epochs with the frozen prefix run for every image in each.
        kept_bytes: Written to the feature store.
        read_bytes: Read from it.
        origin: Why it is there.
        reason: Why it ended early, or None.
        place: All parameters but the backbone, cut and learning rate first, each in [0, 1] between the ends
            of its range.
        scores: Reported scores by epoch.
        stored_results: Of its epochs, once it has ended; `results` are values.
        is_solved: Whether only a linear head learns, which is solved: its learning rate says nothing.
        diverged: Whether its loss was not finite.
        confirms: Number of the trial whose setting it trains again, or None.
        seed: Which of the seeds that is done with, from 0, or None.
        resampled: Whether the seed divides training and validation anew.
        training_macs: MACs of training on one image, the head included; as of the cut alone where not noted.
        trainable_parameters: What learns, the head included; likewise.
        head_weights: Weight tensors of its head, and parameters in them; None where it was not noted.
        parameters: All parameters as Optuna has them, the cut's and the backbone's too.
        distributions: Of these.
    """

    number: int
    cut: Cut
    params: dict[str, Any]
    state: State
    score: float | None
    epochs: int
    seconds: float
    macs: int
    plain_macs: int
    kept_bytes: int
    read_bytes: int
    origin: Origin
    reason: str | None
    place: tuple[float, ...] = ()
    scores: dict[int, float] = field(default_factory=dict)
    stored_results: Sequence[Mapping[str, Any]] = ()
    is_solved: bool = False
    diverged: bool = False
    confirms: int | None = None
    seed: int | None = None
    resampled: bool = False
    training_macs: int = 0
    trainable_parameters: int = 0
    head_weights: tuple[int, int] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    distributions: Mapping[str, BaseDistribution] = field(default_factory=dict)

    @property
    def results(self) -> tuple[EpochResult, ...]:
        """What its epochs gave, once it has ended."""
        # Made when they are asked for: most of what is made of a study is not about epochs.
        return tuple(EpochResult(**result) for result in self.stored_results)


def rank(trials: Iterable[StoredTrial], *, maximize: bool) -> list[StoredTrial]:
    """Order the complete trials: by score, then the cheaper cut, then the earlier trial."""
    sign = -1.0 if maximize else 1.0
    complete = [(t.score, t) for t in trials if t.state == "complete" and t.score is not None]
    return [t for _, t in sorted(complete, key=lambda p: (sign * p[0], cost_of(p[1].cut), p[1].number))]


def cost_of(cut: Cut) -> tuple[float, ...]:
    """Return what orders cuts by what they cost to train; of one backbone that is by depth."""
    return cut.training_macs, -cut.frozen_mac_share, -cut.index


def has_setting(trial: FrozenTrial, space: SearchSpace) -> bool:
    """Return whether a trial of Optuna's has its whole setting: not if it was killed while it chose."""
    if trial.state == TrialState.RUNNING:
        return space.is_whole(trial.params)
    return space.has_cut(trial.params)


def read_unset(trial: FrozenTrial) -> UnsetTrial:
    """Read a trial that has no whole setting."""
    return UnsetTrial(
        number=trial.number,
        state=_state(trial),
        origin=origin_of(trial),
        is_dropped=bool(trial.user_attrs.get(TrialKey.DROPPED, False)),
    )


def read_trial(trial: FrozenTrial, space: SearchSpace) -> StoredTrial:
    """Read a trial of Optuna's that has a whole setting."""
    cut = space.cut_of(trial.params)
    where = cut_parameter(cut.backbone)
    scores = trial.intermediate_values
    last = scores[max(scores)] if scores else None
    attributes = trial.user_attrs
    head = attributes.get(TrialKey.HEAD_WEIGHTS)
    results = attributes.get(TrialKey.RESULTS, ())
    return StoredTrial(
        number=trial.number,
        cut=cut,
        params={name: value for name, value in trial.params.items() if name not in (where, BACKBONE)},
        place=space.place(trial.params),
        state=_state(trial),
        score=trial.value if trial.state == TrialState.COMPLETE else last,
        scores=dict(scores),
        stored_results=results,
        epochs=len(results if TrialKey.RESULTS in attributes else scores),
        seconds=attributes.get(TrialKey.SECONDS, 0.0),
        macs=attributes.get(TrialKey.MACS, 0),
        plain_macs=attributes.get(TrialKey.PLAIN_MACS, 0),
        kept_bytes=attributes.get(TrialKey.KEPT_BYTES, 0),
        read_bytes=attributes.get(TrialKey.READ_BYTES, 0),
        origin=origin_of(trial),
        reason=attributes.get(TrialKey.REASON),
        is_solved=space.is_solved(trial.params),
        diverged=attributes.get(TrialKey.DIVERGED, False),
        confirms=attributes.get(TrialKey.CONFIRMS),
        seed=attributes.get(TrialKey.SEED),
        resampled=attributes.get(TrialKey.RESAMPLE, False),
        training_macs=attributes.get(TrialKey.TRAINING_MACS, cut.training_macs),
        trainable_parameters=attributes.get(TrialKey.TRAINABLE_PARAMETERS, cut.trainable_parameters),
        head_weights=None if head is None else (int(head[0]), int(head[1])),
        parameters=trial.params,
        distributions=trial.distributions,
    )


def _state(trial: FrozenTrial) -> State:
    return "paused" if is_paused(trial) else cast("State", trial.state.name.lower())
