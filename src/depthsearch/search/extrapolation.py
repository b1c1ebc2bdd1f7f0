"""What a pruned trial would likely have scored, had it gone on; and studies in memory to show that in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

import optuna
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

__all__ = ["extrapolated", "running_beside", "study_of"]


def study_of(trials: Iterable[FrozenTrial], direction: StudyDirection) -> optuna.Study:
    """Make a study in memory of other trials, to let a sampler or a pruner of Optuna see those."""
    storage = InMemoryStorage()
    storage.create_new_study([direction], "shadow")
    shadow = optuna.Study("shadow", storage, sampler=RandomSampler(seed=0))
    shadow.add_trials(trials)
    return shadow


def running_beside(study: optuna.Study, trial: FrozenTrial) -> list[FrozenTrial]:
    """List the trials that other workers are at while this one is suggested: those with all their values."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [other for other in running if other.number != trial.number and other.params]


def extrapolated(trials: Sequence[FrozenTrial], sign: float = 1.0) -> list[float | None]:
    """Estimate the final score of each trial: its own, or for a pruned one what it would likely have reached.

    Args:
        trials: Complete and pruned ones.
        sign: 1 where more is better, -1 where less is.

    Returns:
        A score a trial; None where nothing can be said, as no trial is complete.
    """
    complete = [t for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
    if not complete:
        return [None for _ in trials]
    finals = sorted(sign * float(t.value) for t in complete if t.value is not None)
    ceiling = finals[-1] - 0.005

    def final(trial: FrozenTrial) -> float:
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            return float(trial.value)
        if trial.user_attrs.get("diverged") or not trial.intermediate_values:
            return sign * min(finals[0], ceiling)
        step, score = max(trial.intermediate_values.items())
        gains = [
            sign * (float(t.value) - t.intermediate_values[step])
            for t in complete
            if t.value is not None and step in t.intermediate_values
        ]
        return sign * min(sign * score + (median(gains) if gains else 0.0), ceiling)

    return [final(t) for t in trials]
