"""What a pruned trial would likely have scored, had it gone on; and studies in memory to show that in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import optuna
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from depthsearch.options.attributes import TrialKey


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What a trial has scored, complete or pruned.

    Attributes:
        final: The score of a complete one; None: it was pruned.
        scores: Reported scores by epoch.
        has_diverged: Whether its loss was not finite.
    """

    final: float | None
    scores: Mapping[int, float]
    has_diverged: bool = False


def course_of(trial: FrozenTrial) -> Course:
    """Return what a trial of Optuna's has scored."""
    return Course(
        final=trial.value if trial.state == TrialState.COMPLETE else None,
        scores=trial.intermediate_values,
        has_diverged=bool(trial.user_attrs.get(TrialKey.DIVERGED)),
    )


def extrapolated(courses: Sequence[Course], sign: float = 1.0) -> list[float | None]:
    """Estimate the final score of each trial: its own, or for a pruned one what it would likely have reached.

    Args:
        courses: Of complete and pruned trials.
        sign: 1 where more is better, -1 where less is.

    Returns:
        A score a trial; None where nothing can be said, as no trial is complete.
    """
    complete = [(each.final, each.scores) for each in courses if each.final is not None]
    if not complete:
        return [None for _ in courses]
    finals = sorted(sign * final for final, _ in complete)
    ceiling = finals[-1] - 0.005

    def extrapolate(course: Course) -> float:
        if course.final is not None:
            return course.final
        if course.has_diverged or not course.scores:
            return sign * min(finals[0], ceiling)
        step, score = max(course.scores.items())
        gains = [sign * (final - scores[step]) for final, scores in complete if step in scores]
        return sign * min(sign * score + (median(gains) if gains else 0.0), ceiling)

    return [extrapolate(course) for course in courses]
