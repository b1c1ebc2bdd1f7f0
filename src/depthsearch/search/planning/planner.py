"""Choose what to train next by gain per cost: what lets the answer become better most for its MACs.

What a setting costs is known before any training: its cut says what each epoch computes. What a training may
say is asked of a model that learns from every trial (`learning.learn`). One rule, the knowledge gradient,
then answers all questions: which setting to try, which paused trial to take up again, which setting to train
again on another division of the images, whether a running trial is to be paused for something better, and
when another training is not worth its cost any more. The gain of a training is by how much the best
expected score of all settings is expected to rise once its score is known. So a training that only makes sure
which of two settings is the better one counts as much as one that may find a better setting.

A setting is trained again beside the best one, both on the same division of the images: what a division
does to both cancels. A training that ends early is no loss: its frozen features are kept and so is its
checkpoint.

A new setting is a cut at a sensible learning rate: which cut is the better one is known sooner if the rate is
not chosen with it. Before it ends, a search checks its best setting even where no gain is expected: at other
learning rates, and once more on other images if none like it was trained again. Where somebody has given a
budget, what is left of it goes to cuts at any learning rate.

Source: Frazier, Powell and Dayanik, The knowledge-gradient policy for correlated normal beliefs, INFORMS
Journal on Computing 2009; by cost as in Snoek, Larochelle and Adams, Practical Bayesian optimization of
machine learning algorithms, NeurIPS 2012, section 3.2; trials that are paused and taken up again after
Swersky, Snoek and Adams, Freeze-thaw Bayesian optimization, 2014.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial

from depthsearch.search.beliefs.learning import split_of
from depthsearch.search.firsts import sensible_setting
from depthsearch.search.planning.known import Known, Setting
from depthsearch.search.planning.moves import Move, Race, Repeat, is_paused
from depthsearch.search.planning.problem import Problem
from depthsearch.search.planning.promise import gains_of
from depthsearch.search.planning.settings import rates_at, settings_of, spread, widest_gap

Floats = NDArray[np.float64]

# Less score than this for a whole full fine-tune is not worth it. Where nobody has said what may be spent,
# that doubles with each full fine-tune after so many: on few images another one always promises a little.
LEAST_RATE, MODEST = 0.0002, 4.0
# Nor is a training, however cheap, that is expected to give less.
LEAST_GAIN = 0.00002
# A running trial is paused where another move promises this many times as much for its cost.
BETTER = 4.0
# Trials that have ended or are paused before the search may end by itself.
FEWEST_TRIALS = 6
# Before it ends, the best setting is tried at other learning rates, where that costs at most so many full
# fine-tunes, as long as there is one so much of the range away from those that were tried.
OTHER_RATE_COST, OTHER_RATE_GAP = 0.35, 0.15
# Then it is trained again if none like it was, where that costs at most so many full fine-tunes:
# *everything* too, which may be the luckiest training, and with it what it is compared with.
ONCE_MORE_COST = 1.5
# Trials that failed or diverged, where no other is complete, before it is given up.
MOST_IN_VAIN = 10
# What the first trainings of a backbone cost behind that of its head alone, in full fine-tunes.
FIRST_COSTS = (0.0, 0.05, 0.1)
# And at most, while others are trained.
FIRST_MOST = 0.2
# Share of a training after which it may be paused: before, its curve says little of its end.
CHECK = 0.6
# A trial cheaper than this, in full fine-tunes, is not paused.
CHEAP = 0.05
# Two learning rates that are nearer than this share of the range come out alike, but for chance.
SAME_RATE = 0.1


class Planner:
    """Chooses the next training of a study."""

    def __init__(self, problem: Problem, race: Race | None = None) -> None:
        """Prepare to choose.

        Args:
            problem: What is searched, and what each setting costs.
            race: How settings may be trained again; None: they may not.
        """
        self.problem = problem
        self._race = race
        space = problem.space
        self._is_adamw = space.optimizer is None and space.fixed.get("optimizer", "adamw") == "adamw"

    @property
    def races(self) -> bool:
        """Whether settings may be trained again."""
        return self._race is not None

    @property
    def resamples(self) -> bool:
        """Whether each seed of a further training divides training and validation images anew."""
        return self._race is not None and self._race.resample

    def next_move(
        self,
        trials: Sequence[FrozenTrial],
        *,
        seed: int,
        most: float = math.inf,
        may_be_new: bool = True,
        is_thrifty: bool = False,
    ) -> Move | None:
        """Choose what to train next; None where nothing is worth its cost and the best setting is checked.

        Args:
            trials: All of the study.
            seed: Of the settings that are weighed.
            most: What it may cost, in full fine-tunes of the first backbone.
            may_be_new: Whether a new setting may be tried.
            is_thrifty: Whether each further full fine-tune must promise more, and cuts are tried at their
                sensible learning rates only, as nobody has said what the study may cost.
        """
        known, most = Known(self.problem, trials), most / self.problem.unit
        if known.learned is None:
            is_hopeless = not known.settled and len(known.ended) >= MOST_IN_VAIN
            return self._first(known, seed, most) if may_be_new and not is_hopeless else None
        moves = [move for move in self._moves(known, seed, may_be_new=may_be_new) if move.cost <= most]
        weighed = self._weighed(moves, known)
        best = _best_worth(weighed, self._least_rate(trials) if is_thrifty else LEAST_RATE)
        if best is not None:
            return best
        if len(known.ended) + sum(map(is_paused, trials)) < FEWEST_TRIALS:
            new = max((move for move in weighed if move.is_new), key=lambda move: move.rate, default=None)
            if new is not None:
                return new
        check = (self._other_rate(known, most) if may_be_new else None) or _once_more(known, weighed)
        if check is not None or is_thrifty or not may_be_new:
            return check
        moves = list(self._new(known, np.random.default_rng(seed), any_rate=True))
        return _best_worth(self._weighed([move for move in moves if move.cost <= most], known), LEAST_RATE)

    def _least_rate(self, trials: Sequence[FrozenTrial]) -> float:
        """Return how much score a full fine-tune must promise, by what the trials have cost so far."""
        spent = sum(
            self.problem.cost(trial.params) * max(trial.intermediate_values, default=0) / self.problem.epochs
            for trial in trials
            if self.problem.is_set(trial)
        )
        return LEAST_RATE * 2 ** max(0.0, spent * self.problem.unit - MODEST)

    def cost_of(self, params: Mapping[str, Any]) -> float:
        """Estimate what a setting costs, in full fine-tunes of the first backbone."""
        return self.problem.unit * self.problem.cost(params)

    def should_pause(
        self,
        trials: Sequence[FrozenTrial],
        number: int,
        *,
        seed: int,
        most: float = math.inf,
        may_be_new: bool = True,
    ) -> bool:
        """Return whether a running trial is to wait, as another move promises more for its cost.

        Args:
            trials: All of the study; of the running one the epochs so far are reported.
            number: The running trial.
            seed: Of the settings that are weighed.
            most: What another move may cost, in full fine-tunes of the first backbone.
            may_be_new: Whether that may be a new setting.
        """
        trial = next(each for each in trials if each.number == number)
        epoch = max(trial.intermediate_values, default=0)
        if epoch != math.ceil(CHECK * self.problem.epochs) or epoch >= self.problem.epochs:
            return False
        going_on = self._going_on(trial)
        if going_on.cost < CHEAP:
            return False
        known = Known(self.problem, trials, but=number)
        if known.learned is None:
            return False
        most /= self.problem.unit
        others = [move for move in self._moves(known, seed, may_be_new=may_be_new) if move.cost <= most]
        here, *others = self._weighed([going_on, *others], known)
        best_rate = max((move.rate for move in others), default=0.0)
        return here.rate < max(LEAST_RATE, best_rate / BETTER)

    def _first(self, known: Known, seed: int, most: float) -> Move | None:
        """Choose a setting while too little is known: cheap ones, at some distance from the head.

        Where each of a few cuts was tried at its sensible learning rate, the cheapest at another.
        """
        tried = self.problem.tried(known.trials)
        every = [
            Move(params=params, place=self.problem.space.place(params), cost=self.problem.cost(params))
            for name in self.problem.space.backbones
            for index in range(known.first_cut(name), len(self.problem.space.cuts_of(name)))
            if (params := sensible_setting(self.problem.space, name, index))
        ]
        if known.running:
            # Other workers shall not spend the budget before the first score is in.
            most = min(most, FIRST_MOST)
        every = [move for move in every if move.cost <= most]
        left = [move for move in every if not _is_known(*self.problem.alike(move.params, move.place), tried)]
        aim = FIRST_COSTS[min(sum(map(len, tried.values())), len(FIRST_COSTS) - 1)]
        if left:
            return min(left, key=lambda move: abs(move.cost - aim))
        others = self._new(known, np.random.default_rng(seed), any_rate=True)
        return min((move for move in others if move.cost <= most), key=lambda move: move.cost, default=None)

    # --- what may be done ---------------------------------------------------------------------------

    def _moves(self, known: Known, seed: int, *, may_be_new: bool = True) -> list[Move]:
        """List what may be done: go on with what is paused, train again, try what was not tried."""
        moves = [self._going_on(trial) for trial in known.trials if is_paused(trial)]
        moves += self._repeats(known)
        if may_be_new:
            moves += self._new(known, np.random.default_rng(seed))
        return moves

    def _new(self, known: Known, rng: np.random.Generator, *, any_rate: bool = False) -> Iterator[Move]:
        """List settings that were not tried: cuts at their sensible learning rate, or at any.

        What is sensible is known of AdamW. A training that failed may have diverged; another rate may not.
        """
        any_rate = any_rate or not self._is_adamw
        tried = self.problem.tried(known.trials)
        for name in self.problem.space.backbones:
            distributions = self.problem.space.distributions(name)
            cuts = self.problem.space.cuts_of(name)
            best = known.best_params(name)
            first, failed = known.first_cut(name), known.failed_cuts(name)
            for index in (first + at for at in spread(len(cuts) - first, rng)):
                is_any = any_rate or index in failed
                rate = None if is_any else sensible_setting(self.problem.space, name, index)["learning_rate"]
                for params in settings_of(name, index, distributions, best, rng, rate=rate):
                    place = self.problem.space.place(params)
                    if not _is_known(*self.problem.alike(params, place), tried):
                        yield Move(params=params, place=place, cost=self.problem.cost(params))

    def _repeats(self, known: Known) -> Iterator[Move]:
        """List the settings that may be trained again, each beside the best one it is to be compared with.

        On the division that costs least: where one of the two was trained already, the other is enough.
        """
        if self._race is None:
            return
        again = {self.problem.space.cut_of(s.params) for s in known.settled if s.seeds}
        for setting, lead in zip(known.settled, known.leads, strict=True):
            if lead is None or lead is setting:
                continue
            cuts = again | {self.problem.space.cut_of(setting.params), self.problem.space.cut_of(lead.params)}
            if self._race.n_cuts is not None and len(cuts) > max(2, self._race.n_cuts):
                continue
            pairs = [
                [s for s in (lead, setting) if seed not in s.seeds and not self.is_the_same_again(s.params)]
                for seed in range(self._race.n_seeds)
            ]
            costs = [sum(self.problem.cost(s.params) for s in pair) for pair in pairs]
            choices = [
                (cost, seed) for seed, (cost, pair) in enumerate(zip(costs, pairs, strict=True)) if pair
            ]
            if choices:
                cost, seed = min(choices)
                repeats = tuple(Repeat(number=s.number, seed=seed) for s in pairs[seed])
                yield Move(params=setting.params, place=setting.place, repeats=repeats, cost=cost)

    def is_the_same_again(self, params: Mapping[str, Any]) -> bool:
        """Return whether a setting trained again comes to the same: a solved head, on the same images."""
        return self.problem.space.is_solved(params) and not self.resamples

    def _other_rate(self, known: Known, most: float) -> Move | None:
        """Choose the best setting at the learning rate that is furthest from those tried at its cut.

        A few noisy scores make all learning rates of a cut look alike, and a few cheap trainings tell.
        """
        tried, found = self.problem.tried(known.trials), []
        rates = FloatDistribution(*self.problem.space.learning_rate, log=True)
        if rates.low == rates.high:
            return None
        for lead in self._tunable(known):
            if (cost := self.problem.cost(lead.params)) > min(most, OTHER_RATE_COST):
                continue
            gap, share = widest_gap(tried[self.problem.alike(lead.params, lead.place)[0]])
            if gap >= OTHER_RATE_GAP:
                params = {**lead.params, "learning_rate": rates_at(rates, share).item()}
                found.append((gap, Move(params=params, place=self.problem.space.place(params), cost=cost)))
        return max(found, key=lambda each: each[0], default=(0.0, None))[1]

    def _tunable(self, known: Known) -> list[Setting]:
        """List the best settings that have a learning rate: not a head that is solved."""
        trained = [
            (mean, setting)
            for mean, setting in zip(known.means, known.settled, strict=True)
            if not self.problem.space.is_solved(setting.params)
        ]
        leads = {lead.number for lead in known.leads if lead is not None}
        found = [setting for _, setting in trained if setting.number in leads]
        if found or not trained:
            return found
        # Where nothing beats the head alone, it may be that all others had a poor rate.
        return [max(trained, key=lambda each: each[0])[1]]

    def _going_on(self, trial: FrozenTrial) -> Move:
        done = max(trial.intermediate_values, default=0)
        params = dict(trial.params)
        cost = self.problem.cost(params, done)
        return Move(params=params, place=self.problem.space.place(params), number=trial.number, cost=cost)

    # --- what it promises ---------------------------------------------------------------------------

    def _weighed(self, moves: Sequence[Move], known: Known) -> list[Move]:
        """Return the moves with what each promises."""
        assert known.learned is not None
        if not moves:
            return []
        every: list[Setting | Move] = [*known.settled, *moves]
        beliefs = known.learned.response.beliefs(
            np.array([each.place for each in every]),
            len(known.settled),
            [self.problem.backbone(each.params) for each in every],
            divisions={self._division(move) for move in moves if move.repeats},
        )
        weights = np.array([belief.weight for belief in beliefs])
        divisions = [self._division(move) for move in moves]
        allowed = known.allowed([self.problem.front_cost(move.params) for move in moves])
        # A front is compared far below the best score, too, where a response is another unit than near it.
        near = functools.partial(np.multiply, known.learned.near)
        worth = known.learned.scores if self.problem.seeks_front else near
        gains = sum(
            belief.weight * gains_of(belief, worth, moves, known, allowed, divisions) for belief in beliefs
        )
        gains = np.asarray(gains) / weights.sum()
        return [replace(move, gain=float(gain)) for move, gain in zip(moves, gains, strict=True)]

    def _division(self, move: Move) -> int:
        """Return the division of the images that a move's trainings are judged on."""
        return split_of(move.repeats[0].seed, resampled=self.resamples) if move.repeats else 0


def _best_worth(moves: Iterable[Move], least_rate: float) -> Move | None:
    """Choose the move that promises most for its cost among those that promise enough."""
    worth = (move for move in moves if move.rate >= least_rate and move.gain >= LEAST_GAIN)
    return max(worth, key=lambda move: move.rate, default=None)


def _is_known(key: tuple[Any, ...], rate: float, tried: Mapping[tuple[Any, ...], Sequence[float]]) -> bool:
    """Return whether a setting was tried, or one that differs in little but chance."""
    return any(abs(rate - at) < SAME_RATE for at in tried.get(key, ()))


def _once_more(known: Known, moves: Sequence[Move]) -> Move | None:
    """Choose to train the best setting again if none like it was: chance may have made it the best.

    Beside the one of the others that promises most, the cheapest where none promises anything.
    """
    again = [setting for setting in known.settled if setting.seeds]
    once = {
        lead.number
        for lead in known.leads
        if lead is not None and not any(lead.is_like(setting) for setting in again)
    }
    moves = [move for move in moves if any(repeat.number in once for repeat in move.repeats)]
    moves = [move for move in moves if move.cost <= ONCE_MORE_COST]
    return max(
        moves, key=lambda move: (move.rate if move.gain >= LEAST_GAIN else 0.0, -move.cost), default=None
    )
