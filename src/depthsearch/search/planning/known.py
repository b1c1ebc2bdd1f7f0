"""What a search knows when it chooses: the settings that are settled, and what is being trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from depthsearch.options.attributes import TrialKey
from depthsearch.search.beliefs.learning import Learned, Lesson
from depthsearch.search.extrapolation import Course
from depthsearch.search.origins import origin_of
from depthsearch.search.planning.moves import is_paused
from depthsearch.search.planning.problem import Problem
from depthsearch.search.space import cut_parameter

# Failed trainings that say that a cut asks for too much: one may be chance.
MOST_FAILED = 2
# Two settings that are nearer than this in depth and learning rate, as a share of each, are alike.
ALIKE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Setting:
    """A setting with a complete training.

    Attributes:
        params: By Optuna's names.
        backbone: Which of the backbones, counted from 0.
        place: Where it lies, see `SearchSpace.place`.
        number: Of the trial of the search that had it first.
        seeds: Those with which it was trained again, is being, or failed to.
    """

    params: Mapping[str, Any]
    backbone: int
    place: tuple[float, ...]
    number: int
    seeds: set[int] = field(default_factory=set)

    def is_like(self, other: Setting) -> bool:
        """Return whether what one scores on other images says as much of the other."""
        apart = (abs(a - b) for a, b in zip(self.place[:2], other.place[:2], strict=True))
        return self.backbone == other.backbone and max(apart) < ALIKE


class Known:
    """What the trials of a study say, sorted for a choice.

    Attributes:
        trials: All of them.
        learned: What they say together; None where that is too little.
        settled: Settings with a complete training.
        running: Trials that are being trained.
        means: Of the settled settings: their expected scores.
        leads: For each settled setting the best one of those it is compared with; None: it has none.
        ended: Trials that were begun and are over: complete, pruned, failed.
    """

    def __init__(self, problem: Problem, trials: Sequence[FrozenTrial], *, but: int | None = None) -> None:
        """Sort the trials.

        Args:
            problem: What is searched.
            trials: All of the study.
            but: Number of a running one that is not counted as being trained.
        """
        self.trials = trials
        self._problem = problem
        whole = [trial for trial in trials if problem.is_set(trial)]
        self.running = [
            trial
            for trial in whole
            if trial.state == TrialState.RUNNING and not is_paused(trial) and trial.number != but
        ]
        self.ended = [
            trial
            for trial in whole
            if trial.state.is_finished() and not trial.user_attrs.get(TrialKey.DROPPED)
        ]
        self._errors: dict[int, float] = {}
        self.learned = self._learned([trial for trial in whole if _says_something(trial)])
        self.settled = self._settled()
        self.means: NDArray[np.floating[Any]] = np.zeros(0)
        self.leads: list[Setting | None] = [None] * len(self.settled)
        if self.learned is not None:
            self._find_leads()

    def _learned(self, telling: Sequence[FrozenTrial]) -> Learned | None:
        """Learn from trials; what is being trained is taken for known at the score that is expected of it.

        So nobody trains the same beside it, and nothing is trained again because it is not known yet.
        """
        lessons = {trial.number: self._problem.lesson_of(trial) for trial in telling}
        learned = self._learn(lessons)
        if learned is None or not self.running:
            return learned
        running = [self._problem.lesson_of(trial) for trial in self.running]
        means = learned.response.mean(
            np.array([lesson.place for lesson in running]), [lesson.backbone for lesson in running]
        )
        sign = 1.0 if self._problem.maximize else -1.0
        for trial, lesson, score in zip(
            self.running, running, learned.scores(np.asarray(means, dtype=np.float64)), strict=True
        ):
            lessons[trial.number] = replace(lesson, course=Course(final=sign * float(score), scores={}))
        return self._learn(lessons)

    def _learn(self, lessons: Mapping[int, Lesson]) -> Learned | None:
        """Learn from lessons by the numbers of their trials."""
        learned = self._problem.learn(list(lessons.values()))
        if learned is not None:
            self._errors = dict(zip(lessons, learned.errors, strict=True))
        return learned

    def _settled(self) -> list[Setting]:
        by_number: dict[int, Setting] = {}
        by_place: dict[Any, Setting] = {}
        for trial in self.trials:
            if trial.state == TrialState.COMPLETE and origin_of(trial) != "confirm":
                place = self._problem.space.place(trial.params)
                backbone = self._problem.backbone(trial.params)
                new = Setting(params=trial.params, backbone=backbone, place=place, number=trial.number)
                setting = by_place.setdefault((backbone, *place), new)
                by_number[trial.number] = setting
        for trial in self.trials:
            of = by_number.get(trial.user_attrs.get(TrialKey.CONFIRMS, -1))
            if of is not None and not trial.user_attrs.get(TrialKey.DROPPED):
                of.seeds.add(trial.user_attrs[TrialKey.SEED])
        return list(by_place.values())

    def first_cut(self, backbone: str) -> int:
        """Return the first cut that may be trained: those before it ask for too much, of memory mostly.

        Two trainings that train no more failed there, and none that trains as much came to its end.
        """
        failed, done = [], math.inf
        for trial in self.ended:
            if self._problem.space.backbone_of(trial.params) == backbone:
                cut = trial.params[cut_parameter(backbone)]
                if trial.state == TrialState.FAIL:
                    failed.append(cut)
                else:
                    done = min(done, cut)
        unexplained = sorted(cut for cut in failed if cut < done)
        return unexplained[-MOST_FAILED] + 1 if len(unexplained) >= MOST_FAILED else 0

    def failed_cuts(self, backbone: str) -> set[int]:
        """Return the cuts of a backbone at which a training failed."""
        return {
            trial.params[cut_parameter(backbone)]
            for trial in self.ended
            if trial.state == TrialState.FAIL and self._problem.space.backbone_of(trial.params) == backbone
        }

    def _find_leads(self) -> None:
        assert self.learned is not None
        if not self.settled:
            return
        self.means = means = self.learned.response.mean(
            np.array([setting.place for setting in self.settled]),
            [setting.backbone for setting in self.settled],
        )
        allowed = self.allowed([self._problem.front_cost(each.params) for each in self.settled])
        if self._problem.seeks_front:
            # Each is compared with what is cheaper, itself left out: so those on the front are made sure of.
            np.fill_diagonal(allowed, False)
        for at in range(len(self.settled)):
            rivals = np.flatnonzero(allowed[:, at])
            self.leads[at] = self.settled[rivals[means[rivals].argmax()]] if len(rivals) else None

    def allowed(self, costs: Sequence[float]) -> NDArray[np.bool_]:
        """Return which settled settings ``k`` are what others are compared with ``(k, m)``.

        Args:
            costs: Of the others along the front ``(m,)``.
        """
        if not self._problem.seeks_front:
            return np.ones((len(self.settled), len(costs)), dtype=np.bool_)
        ours = np.array([self._problem.front_cost(setting.params) for setting in self.settled])
        return ours[:, None] <= np.array(costs)[None]

    def error_of(self, number: int) -> float:
        """Return how far off the response of a trial may be beside noise."""
        return self._errors.get(number, 0.0)

    def best_params(self, backbone: str) -> Mapping[str, Any]:
        """Return the best complete trial's setting, of a backbone if it has one; empty if there is none."""
        complete = [t for t in self.trials if t.state == TrialState.COMPLETE and t.value is not None]
        own = [trial for trial in complete if self._problem.space.backbone_of(trial.params) == backbone]
        sign = 1.0 if self._problem.maximize else -1.0
        best = max(own or complete, key=lambda trial: sign * (trial.value or 0.0), default=None)
        return {} if best is None else best.params


def _says_something(trial: FrozenTrial) -> bool:
    """Return whether a trial has reported anything; a failed one says nothing."""
    if trial.state == TrialState.FAIL:
        return False
    return (
        bool(trial.intermediate_values)
        or trial.value is not None
        or bool(trial.user_attrs.get(TrialKey.DIVERGED))
    )
