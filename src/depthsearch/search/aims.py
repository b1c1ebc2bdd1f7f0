"""Two aims: a good score and a low cost. Which setting to try next then, and which trial to stop.

The cost of a setting is no unknown: it follows from the cut and the head before any training, and stands in
each trial's user attributes. So the Optuna study keeps one objective, the score: with two, Optuna neither
prunes nor takes intermediate values, and of the two only the score has to be learned.

What to try: each trial draws how much score and cost weigh, and the sampler sees past trials with the two
made one number by these weights. Over many trials the weights sweep the front.

What to stop: a trial is judged only against trials that cost at most as much, at the same epoch. Worse than
most of what is cheaper cannot be on the front; less accurate than what is dearer can.

Source: Knowles, ParEGO: a hybrid algorithm with on-line landscape approximation for expensive multiobjective
optimization problems, IEEE Trans. Evol. Comput. 10(1), 2006, equation 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, MedianPruner
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from depthsearch.errors import SettingsError
from depthsearch.options.words import COSTS
from depthsearch.search.extrapolation import extrapolated, running_beside, study_of
from depthsearch.search.pareto import non_dominated
from depthsearch.seeds import seed_from

__all__ = [
    "AccuracyAndCostSampler",
    "CheaperMedianPruner",
    "cost_in",
    "read_cost_aim",
    "scalarised",
    "store_aim",
    "weight_of",
]

# What can be the second aim, and the user attribute of a trial (and field of its summary) that has it.
# The share of the plain sum: Knowles's rho. Without it a setting that is worse in one aim alone is no worse.
AUGMENTATION = 0.05
# Sets the draw of weights apart from all others.
WEIGHTS = 0xA1
# Complete trials that cost at most as much as a trial, before it can be judged.
STARTUP_CHEAPER = 4


def store_aim(study: optuna.Study, cost: str | None) -> None:
    """Keep in a study what it aims at; the latest is what its report shows."""
    aim = {"aim": "accuracy" if cost is None else "accuracy+cost", "cost": cost}
    if study.user_attrs.get("aim") != aim:
        study.set_user_attr("aim", aim)


def read_cost_aim(study: optuna.Study) -> str | None:
    """Read which cost a study aims at beside the score; None: it aims at the score alone."""
    cost = (study.user_attrs.get("aim") or {}).get("cost")
    return cost if cost in COSTS else None


def cost_in(trial: FrozenTrial, cost: str) -> float | None:
    """Read a trial's cost; None where nobody noted it."""
    found = trial.user_attrs.get(COSTS[cost])
    return float(found) if found else None


def weight_of(seed: int, number: int) -> float:
    """Draw how much the score weighs for a trial, in [0, 1]; the cost has the rest."""
    return float(np.random.default_rng(seed_from(seed, number, WEIGHTS)).uniform())


def scalarised(points: Sequence[tuple[float, float]], weight: float) -> list[float]:
    """Make score and cost one number each, of which less is better: the augmented Tchebycheff function.

    The score counts from the best down, in units of the larger of two ranges: that of the scores on the front
    so far, and that from the best to the median. So neither a few failures nor a flat front sets the unit.
    The logarithm of the cost counts from the least up, in units of its range.

    Args:
        points: Score (more is better) and cost (above 0) of each.
        weight: Of the score, in [0, 1].
    """
    scores = [score for score, _ in points]
    logs = [math.log(cost) for _, cost in points]
    best, least = max(scores), min(logs)
    on_front = [scores[i] for i in non_dominated(points)]
    unit = max(best - min(on_front), best - median(scores)) or 1.0
    span = (max(logs) - least) or 1.0
    found = []
    for score, log in zip(scores, logs, strict=True):
        parts = weight * (best - score) / unit, (1 - weight) * (log - least) / span
        found.append(max(parts) + AUGMENTATION * sum(parts))
    return found


class AccuracyAndCostSampler(BaseSampler):
    """Lets a sampler of one objective search the front of score and cost.

    The sampler sees all finished trials as complete ones of a minimised number, see `scalarised`; a pruned
    trial counts with its likely final score, but below the best of what costs no more: it was stopped as it
    is not on the front. For a study of one's own: each trial needs its cost in its user attributes
    (``trial.set_user_attr("training_macs", point.cut.training_macs)``); those without are not seen.
    """

    def __init__(self, inner: BaseSampler, *, cost: str, seed: int) -> None:
        """Make a sampler.

        Args:
            inner: Suggests, for one objective.
            cost: The second aim, one of `COSTS`.
            seed: Of the weights: trial n draws its own from (seed, n).

        Raises:
            SettingsError: If there is no such cost.
        """
        self._inner = inner
        self._cost = _known(cost)
        self._seed = seed

    def reseed_rng(self) -> None:
        """Draw a new seed, for a copy of the sampler in another process."""
        self._inner.reseed_rng()

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Search what the inner sampler would."""
        shadow, stand_in = self._shadow(study, trial)
        return self._inner.infer_relative_search_space(shadow, stand_in)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Suggest the setting that promises most at this trial's weights."""
        shadow, stand_in = self._shadow(study, trial)
        return self._inner.sample_relative(shadow, stand_in, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Suggest the value of one parameter at this trial's weights."""
        shadow, stand_in = self._shadow(study, trial)
        return self._inner.sample_independent(shadow, stand_in, param_name, param_distribution)

    def _shadow(self, study: optuna.Study, trial: FrozenTrial) -> tuple[optuna.Study, FrozenTrial]:
        """Copy a study with one minimised number a trial, and ask it for a trial in this one's place."""
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        known = [t for t in finished if cost_in(t, self._cost) is not None]
        points = _points(known, sign, self._cost)
        values = scalarised(points, weight_of(self._seed, trial.number)) if points else []
        copies = [
            create_trial(params=t.params, distributions=t.distributions, value=value)
            for t, value in zip(known, values, strict=False)
        ]
        copies += [
            create_trial(state=TrialState.RUNNING, params=t.params, distributions=t.distributions)
            for t in running_beside(study, trial)
        ]
        shadow = study_of(copies, StudyDirection.MINIMIZE)
        shadow.ask()
        return shadow, shadow.get_trials(deepcopy=False)[-1]


def _points(trials: Sequence[FrozenTrial], sign: float, cost: str) -> list[tuple[float, float]]:
    """Give each trial a final score (more is better) and its cost; nothing before one is complete."""
    guesses = extrapolated(trials, sign)
    points = [
        (sign * guess, cost_in(trial, cost) or 1.0)
        for trial, guess in zip(trials, guesses, strict=True)
        if guess is not None
    ]
    complete = [p for p, t in zip(points, trials, strict=False) if t.state == TrialState.COMPLETE]

    def below(point: tuple[float, float]) -> tuple[float, float]:
        cheaper = [score for score, paid in complete if paid <= point[1]]
        return min([point[0], *([max(cheaper) - 0.005] if cheaper else [])]), point[1]

    return [p if t.state == TrialState.COMPLETE else below(p) for p, t in zip(points, trials, strict=False)]


class CheaperMedianPruner(BasePruner):
    """Stops a trial that is worse than the median of those that cost at most as much.

    The rule is Optuna's median rule: a trial's best score so far against the median of the others' at the
    same epoch, a tie goes on. Only complete trials count, and the rule waits until four of them cost no more,
    and for the first epochs. So the cheapest trials are never judged, and none is ever stopped for being less
    accurate than a dearer one. A trial without its cost in its user attributes neither judges nor is judged.
    """

    def __init__(
        self, *, cost: str, n_warmup_steps: int = 0, n_startup_trials: int = STARTUP_CHEAPER
    ) -> None:
        """Make a pruner.

        Args:
            cost: The second aim, one of `COSTS`.
            n_warmup_steps: First epoch to judge at.
            n_startup_trials: Complete trials of at most a trial's cost before it is judged.

        Raises:
            SettingsError: If there is no such cost.
        """
        self._cost = _known(cost)
        self._median = MedianPruner(n_startup_trials=n_startup_trials, n_warmup_steps=n_warmup_steps)

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Say whether to stop a trial after its last reported epoch."""
        limit = cost_in(trial, self._cost)
        if limit is None:
            return False
        cheaper = [
            other
            for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if (paid := cost_in(other, self._cost)) is not None and paid <= limit
        ]
        return self._median.prune(study_of(cheaper, study.direction), trial)


def _known(cost: str) -> str:
    if cost not in COSTS:
        raise SettingsError(f"No cost {cost!r}: give one of {', '.join(COSTS)}.")
    return cost
