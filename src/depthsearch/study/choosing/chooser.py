"""The next trial of a search: what waits, what a sampler suggests, or what promises most for its cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from depthsearch.options.attributes import TrialKey
from depthsearch.results.evidence import weigh
from depthsearch.results.stored import StoredStudy
from depthsearch.search.beliefs.verdict import SURE
from depthsearch.search.origins import origin_of
from depthsearch.search.planning.moves import is_paused
from depthsearch.search.planning.planner import Planner
from depthsearch.search.sampling import make_sampler
from depthsearch.seeds import seed_from
from depthsearch.signals import deferred
from depthsearch.study.choosing.confirmation import (
    FINISHED,
    count_searched,
    drop,
    enqueue_again,
    waiting_to_confirm,
)
from depthsearch.study.choosing.limits import Limits
from depthsearch.study.choosing.lost import replaced
from depthsearch.study.control import GUESS, trials_in_total
from depthsearch.study.storage.optuna_private import planned_params, storage_of, trial_id_of
from depthsearch.text import percent

# So few full fine-tunes are shown as none.
SPENT = 0.005


@dataclass(frozen=True, slots=True)
class Chooser:
    """Chooses the trials of a search.

    Attributes:
        study: Whose.
        n_trials: How many it is to have in total.
        limits: What it may take.
        sampler: Resolved name; without a meaning where a planner chooses.
        planner: Chooses by gain per cost; None: a sampler of Optuna's suggests.
        seed: Of the study.
        is_exhaustive: Whether every candidate is tried, so that guesses are extra.
        pauses: Whether the planner may let a running trial wait.
    """

    study: optuna.Study
    n_trials: int
    limits: Limits
    sampler: str
    planner: Planner | None
    seed: int
    is_exhaustive: bool
    pauses: bool

    def sampler_of(self, number: int) -> BaseSampler:
        """Make the sampler of a trial; where a planner chooses it fills in what is missing."""
        name = "random" if self.planner else self.sampler
        return make_sampler(name, seed_from(self.seed, number))

    def should_pause(self, number: int) -> bool:
        """Return whether a running trial is to wait for something that promises more."""
        if self.planner is None or not self.pauses:
            return False
        return self.planner.should_pause(
            self.study.get_trials(deepcopy=False),
            number,
            seed=seed_from(self.seed, number),
            most=self.limits.left(self.study),
            may_be_new=self.n_trials > self._n_begun(),
        )

    def next_trial(self) -> Trial | None:
        """Begin another trial, or take a paused one up again; None where nothing may or need be begun."""
        left, n_begun = self.limits.left(self.study), self._n_begun()
        n_left = self.n_trials - n_begun
        # The head alone is trained whatever the budget: its features were computed for the probe.
        is_first = self.planner is not None and not n_begun and not self.limits.is_time_up()
        if (left <= 0 and not is_first) or (n_left <= 0 and self.planner is None):
            return None
        with deferred():
            if self.planner is None or not self.planner.races:
                # What a confirmation planned that was left for more of the search is out of date now.
                for waiting in waiting_to_confirm(self.study):
                    drop(self.study, waiting)
            if self.planner is not None:
                return self._planned(self.planner, n_left, left)
            self.study.sampler = self.sampler_of(len(self.study.get_trials(deepcopy=False)))
            return _first(self.study)

    def why_it_ends(self) -> str:
        """Return why nothing more is begun, in a line."""
        left = self.limits.left(self.study)
        if left < SPENT:
            return f"the budget of {self.limits.budget:g} full fine-tunes is spent"
        trials = self.study.get_trials(deepcopy=False)
        if not any(trial.state == TrialState.COMPLETE for trial in trials):
            return "no training came to its end"
        if self._is_sure(trials):
            return f"the answer holds with a probability of {percent(SURE)}"
        n_left = self.n_trials - self._n_begun()
        if self.planner is not None and math.isfinite(left):
            seed = seed_from(self.seed, len(trials))
            if self.planner.next_move(trials, seed=seed, may_be_new=n_left > 0) is not None:
                return (
                    "the next training worth its cost does not fit into the "
                    f"{left:.2f} full fine-tunes that are left of the budget"
                )
        if n_left <= 0:
            tried = "1 setting was" if self.n_trials == 1 else f"{self.n_trials} settings were"
            return f"{tried} tried, and training one again is not worth its cost"
        return "another training is not worth its cost"

    def _n_begun(self) -> int:
        """Count the trials of the search that have begun, those left out that others have replaced."""
        trials = self.study.get_trials(deepcopy=False)
        again = replaced(trials)
        begun = [t for t in trials if t.state in (*FINISHED, TrialState.RUNNING) and t.number not in again]
        n_extra = trials_in_total(0, map(origin_of, trials), is_exhaustive=self.is_exhaustive)
        return count_searched(begun) - n_extra

    def _planned(self, planner: Planner, n_left: int, left: float) -> Trial | None:
        """Begin what waits, or what promises most for its cost, or take it up again where it was paused.

        Args:
            planner: Chooses.
            n_left: How many new trials there may be.
            left: Full fine-tunes that are left.
        """

        def turn(enqueued: FrozenTrial) -> tuple[bool, bool, float]:
            # What is cheap says whether the dear ones are worth going on with.
            is_again, params = origin_of(enqueued) == "confirm", planned_params(enqueued)
            # What somebody enqueues may leave the cut to the search.
            cost = planner.cost_of(params) if planner.problem.space.has_cut(params) else 0.0
            return not is_again, origin_of(enqueued) != GUESS, cost

        trials = self.study.get_trials(deepcopy=False)
        waiting = [
            trial
            for trial in trials
            if trial.state == TrialState.WAITING and (n_left > 0 or origin_of(trial) == "confirm")
        ]
        if waiting:
            return begin(self.study, min(waiting, key=turn))
        seed = seed_from(self.seed, len(trials))
        # What others are at is not paid yet.
        under_way = [t for t in trials if t.state == TrialState.RUNNING and not is_paused(t)]
        left -= sum(planner.cost_of(trial.params) for trial in under_way if planner.problem.is_set(trial))
        move = planner.next_move(
            trials, seed=seed, most=left, may_be_new=n_left > 0, is_thrifty=not self.limits.are_given
        )
        if move is None or (move.repeats and self._is_sure(trials)):
            return None
        if move.repeats:
            enqueue_again(self.study, move.repeats, resample=planner.resamples)
            return begin(self.study, waiting_to_confirm(self.study)[0])
        if move.number is None:
            self.study.enqueue_trial(dict(move.params))
            self.study.sampler = self.sampler_of(len(trials))
            return self.study.ask()
        trial = Trial(self.study, trial_id_of(self.study, move.number))
        trial.set_user_attr(TrialKey.RESUMED, trial.user_attrs[TrialKey.PAUSED])
        trial.set_user_attr(TrialKey.PAUSED, 0)
        return trial

    def _is_sure(self, trials: Sequence[FrozenTrial]) -> bool:
        """Return whether the answer holds: it loses little with 90 % probability, and was trained again."""
        evidence = weigh(StoredStudy.read(self.study))
        if evidence is None or not evidence.is_shown:
            return False
        params = trials[evidence.answer.trial].params
        return bool(evidence.answer.scores) or (
            self.planner is not None and self.planner.is_the_same_again(params)
        )


def _first(study: optuna.Study) -> Trial:
    """Begin the first guess that waits; else whatever else waits, or what the sampler suggests."""
    for waiting in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        if origin_of(waiting) == GUESS:
            return begin(study, waiting)
    return study.ask()


def begin(study: optuna.Study, waiting: FrozenTrial) -> Trial:
    """Begin this one of the trials that wait: `study.ask` would begin the first."""
    trial_id = trial_id_of(study, waiting.number)
    storage_of(study).set_trial_state_values(trial_id, state=TrialState.RUNNING)
    return Trial(study, trial_id)
