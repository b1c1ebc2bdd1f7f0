"""The trials of a stored study, as plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from depthsearch.models.cuts import Cut
from depthsearch.results.stored import read_cuts
from depthsearch.search.space import BACKBONE, cut_parameter, place_of

__all__ = ["TrialSummary", "cost_of", "rank", "read_trials"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSummary:
    """One trial as stored.

    Attributes:
        number: Optuna's.
        cut: First trainable layer, and the backbone where there are several.
        params: The other parameters, by name.
        state: ``complete``, ``pruned``, ``fail``, ``running`` or ``waiting``.
        score: Last reported score, or None.
        epochs: Epochs trained.
        seconds: Spent on it, prefix included.
        macs: MACs spent on it.
        plain_macs: MACs of the same epochs with the frozen prefix run for every image in each.
        kept_bytes: Written to the feature store.
        read_bytes: Read from it.
        origin: ``baseline``, ``anchor``, ``exhaustive``, ``sampler``, ``guess``: a person's, or ``confirm``:
            trained again.
        reason: Why it ended early, or None.
        place: All parameters but the backbone, cut and learning rate first, each in [0, 1] between the ends
            of its range.
        scores: Reported scores by epoch.
        diverged: Whether its loss was not finite.
        confirms: Number of the trial whose setting it trains again, or None.
        seed: Which of the seeds that is done with, from 0, or None.
        resampled: Whether the seed divides training and validation anew.
        training_macs: MACs of training on one image, the head included; in studies that did not store it, as
            of the cut alone.
        trainable_parameters: What learns, the head included; likewise.
        head_weights: Weight tensors of its head, and parameters in them; None where it was not noted.
    """

    number: int
    cut: Cut
    params: dict[str, Any]
    state: str
    score: float | None
    epochs: int
    seconds: float
    macs: int
    plain_macs: int
    kept_bytes: int
    read_bytes: int
    origin: str
    reason: str | None
    place: tuple[float, ...] = ()
    scores: dict[int, float] = field(default_factory=dict)
    diverged: bool = False
    confirms: int | None = None
    seed: int | None = None
    resampled: bool = False
    training_macs: int = 0
    trainable_parameters: int = 0
    head_weights: tuple[int, int] | None = None


def read_trials(study: optuna.Study) -> tuple[TrialSummary, ...]:
    """Read all trials that have a setting, by number."""
    cuts: dict[str, list[Cut]] = {}
    for cut in read_cuts(study):
        cuts.setdefault(cut.backbone, []).append(cut)
    return tuple(_trial(t, cuts) for t in study.get_trials(deepcopy=False) if _has_cut(t))


def _has_cut(trial: FrozenTrial) -> bool:
    return cut_parameter(trial.params.get(BACKBONE, "")) in trial.params


def rank(trials: Iterable[TrialSummary], *, maximize: bool) -> list[TrialSummary]:
    """Order the complete trials: by score, then the cheaper cut, then the earlier trial."""
    sign = -1.0 if maximize else 1.0
    complete = [(t.score, t) for t in trials if t.state == "complete" and t.score is not None]
    return [t for _, t in sorted(complete, key=lambda p: (sign * p[0], cost_of(p[1].cut), p[1].number))]


def cost_of(cut: Cut) -> tuple[float, ...]:
    """Order cuts by what they cost to train; of one backbone, and in older studies, that is by depth."""
    return cut.training_macs, -cut.frozen_mac_share, -cut.index


def _trial(trial: FrozenTrial, cuts: Mapping[str, Sequence[Cut]]) -> TrialSummary:
    backbone = trial.params.get(BACKBONE, "")
    where = cut_parameter(backbone)
    scores = trial.intermediate_values
    last = scores[max(scores)] if scores else None
    attributes = trial.user_attrs
    cut = cuts[backbone][trial.params[where]]
    head = attributes.get("head_weights")
    return TrialSummary(
        number=trial.number,
        cut=cut,
        params={name: value for name, value in trial.params.items() if name not in (where, BACKBONE)},
        place=place_of(trial.params, trial.distributions),
        state=trial.state.name.lower(),
        score=trial.value if trial.state == TrialState.COMPLETE else last,
        scores=dict(scores),
        epochs=len(attributes.get("results", scores)),
        seconds=attributes.get("seconds", 0.0),
        macs=attributes.get("macs", 0),
        plain_macs=attributes.get("plain_macs", attributes.get("macs", 0)),
        kept_bytes=attributes.get("kept_bytes", 0),
        read_bytes=attributes.get("read_bytes", 0),
        origin=attributes.get("origin", "sampler"),
        reason=attributes.get("reason"),
        diverged=attributes.get("diverged", False),
        confirms=attributes.get("confirms"),
        seed=attributes.get("seed"),
        resampled=attributes.get("resample", False),
        training_macs=attributes.get("training_macs", cut.training_macs),
        trainable_parameters=attributes.get("trainable_parameters", cut.trainable_parameters),
        head_weights=None if head is None else (int(head[0]), int(head[1])),
    )
