"""Two aims: a good score and a low cost. What a study aims at, and which trial to stop then.

The cost of a setting is no unknown: it follows from the cut and the head before any training, and stands in
each trial's user attributes. So the Optuna study keeps one objective, the score, and is searched for the best
of that: it passes the front on its way. With two objectives Optuna would neither prune nor take intermediate
values.

What is stopped: a trial is judged only against trials that cost at most as much, at the same epoch. Worse
than most of what is cheaper cannot be on the front; less accurate than what is dearer can.
"""

from __future__ import annotations

import optuna
from optuna.pruners import BasePruner, MedianPruner
from optuna.trial import FrozenTrial, TrialState

from depthsearch.errors import SettingsError
from depthsearch.options.attributes import StudyKey
from depthsearch.options.words import COSTS
from depthsearch.search.extrapolation import study_of

# Complete trials that cost at most as much as a trial, before it can be judged.
STARTUP_CHEAPER = 4


def store_aim(study: optuna.Study, cost: str | None, tolerance: float) -> None:
    """Store in a study what it aims at; the latest is what its report shows.

    Args:
        study: Which.
        cost: The second aim, one of `words.COSTS`; None: there is none.
        tolerance: What the answer may lose against the best, in points.
    """
    aim = {"aim": "accuracy" if cost is None else "accuracy+cost", "cost": cost, "tolerance": tolerance}
    if study.user_attrs.get(StudyKey.AIM) != aim:
        study.set_user_attr(StudyKey.AIM, aim)


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
        if cost not in COSTS:
            raise SettingsError(f"No cost {cost!r}: give one of {', '.join(COSTS)}.")
        self._attribute = COSTS[cost]
        self._median = MedianPruner(n_startup_trials=n_startup_trials, n_warmup_steps=n_warmup_steps)

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Return whether to stop a trial after its last reported epoch."""
        limit = trial.user_attrs.get(self._attribute)
        if not limit:
            return False
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        cheaper = [other for other in complete if 0 < other.user_attrs.get(self._attribute, 0) <= limit]
        return self._median.prune(study_of(cheaper, study.direction), trial)
