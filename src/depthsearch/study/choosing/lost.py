"""Trials that failed because they lost their workers; those that are needed run again later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from depthsearch.options.attributes import TrialKey
from depthsearch.search.origins import Origin, origin_of
from depthsearch.study.storage.optuna_private import planned_params

# How often a trial may lose its worker and go on.
MOST_LOST = 2
# Trials of these origins run to their last epoch: others are compared with them.
NEVER_STOPPED: tuple[Origin, ...] = ("baseline", "exhaustive")
# User attributes of a confirmation: which trial it repeats, and how.
REPEATS = (TrialKey.CONFIRMS, TrialKey.SEED, TrialKey.RESAMPLE)


def has_failed_by_loss(trial: FrozenTrial) -> bool:
    """Return whether a trial failed because it lost its workers, whatever its setting."""
    return trial.state == TrialState.FAIL and len(trial.user_attrs.get(TrialKey.LOST, ())) > MOST_LOST


def enqueue_lost(study: optuna.Study) -> None:
    """Enqueue the trials that are never stopped and failed by loss once more, unless that was done before."""
    trials = study.get_trials(deepcopy=False)
    again = replaced(trials)
    for trial in trials:
        origin = origin_of(trial)
        if origin in NEVER_STOPPED and has_failed_by_loss(trial) and trial.number not in again:
            study.enqueue_trial(trial.params, user_attrs={TrialKey.ORIGIN: origin})


def replaced(trials: Sequence[FrozenTrial]) -> set[int]:
    """Return the numbers of the trials that failed by loss and were replaced by a later one of their setting.

    A confirmation is replaced only by one of the same seed and division.
    """
    last: dict[Any, int] = {}
    for trial in trials:
        last[_key(trial)] = max(trial.number, last.get(_key(trial), 0))
    return {t.number for t in trials if has_failed_by_loss(t) and last[_key(t)] > t.number}


def _key(trial: FrozenTrial) -> Any:
    repeated = (trial.user_attrs.get(name) for name in (TrialKey.ORIGIN, *REPEATS))
    return *repeated, *sorted(planned_params(trial).items())
