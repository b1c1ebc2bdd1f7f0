"""Choose what to train next by gain per cost: what is expected to improve the score most for its MACs.

What a setting costs is known before any training: its cut says how much is computed once and how much in each
epoch. What it may score is asked of `response.Response`, which learns from every trial: complete, paused,
pruned and running ones, each of these with what its curve lets expect and how sure that is. One rule then
answers four questions: which setting to try, which paused trial to take up again, whether a running trial is
to be paused for something better, and when another training is not worth its cost any more.

A training that ends early is no loss here: its frozen features are kept and so is its checkpoint.

Source: the expected improvement per cost of Snoek, Larochelle and Adams, Practical Bayesian optimization of
machine learning algorithms, NeurIPS 2012, section 3.2; trials that are paused and taken up again after
Swersky, Snoek and Adams, Freeze-thaw Bayesian optimization, 2014.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from depthsearch.models.cuts import Cut
from depthsearch.options.attributes import TrialKey
from depthsearch.search.firsts import sensible_rate
from depthsearch.search.origins import origin_of
from depthsearch.search.response import Observation, Response
from depthsearch.search.space import BACKBONE, SearchSpace, cut_parameter, place_of

__all__ = ["Move", "Planner", "cost_of_training", "is_paused"]

Floats = NDArray[np.float64]

# Less score than this for a whole full fine-tune is not worth it.
LEAST_RATE = 0.002
# What a training costs whatever its cut, in full fine-tunes: to start it, to read what is kept.
OVERHEAD = 0.02
# A running trial is paused where another move promises this many times as much for its cost.
BETTER = 2.0
# Finished trials before the search may end by itself.
FEWEST_TRIALS = 6
# Learning rates that are weighed at each cut, and values of the other dimensions.
N_RATES, N_OTHERS = 7, 2
# Cuts that are weighed each time, of a network with more: drawn anew, so that each is reached.
MOST_CUTS = 40
# Standard errors of a score that lie near the best: differences further down count by their logarithm.
NEAR = 8.0
# How many of them a training differs from another of the same setting, with another seed.
NOISE = 1.5
# Standard deviation of what is left of a curve, as a share of it, where no other curve says.
UNKNOWN_GAIN = 0.05
# Shares of a training after which it may be paused.
CHECKS = (0.25, 0.5, 0.75)
# A trial cheaper than this, in full fine-tunes, is not paused.
CHEAP = 0.05
# How far from the sensible one the best learning rate is expected, in powers of ten, and for about how many
# trials that counts.
USUAL_DECADES, USUAL_TRIALS = 0.6, 5
# Two learning rates that are nearer than this share of the range come out alike, but for chance.
SAME_RATE = 0.1
# Two trainings at once are told apart by this much of a dimension, at least.
APART = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What to do next.

    Attributes:
        params: The setting, by Optuna's names.
        number: The paused trial to go on with; None: a new one.
        gain: Expected improvement of the score, 0 or more.
        cost: Of what is to be trained, in full fine-tunes.
    """

    params: Mapping[str, Any]
    number: int | None
    gain: float
    cost: float

    @property
    def rate(self) -> float:
        """Gain for a full fine-tune."""
        return self.gain / (self.cost + OVERHEAD)


def is_paused(trial: FrozenTrial) -> bool:
    """Return whether a trial is left for something better, and may be taken up again."""
    return trial.state == TrialState.RUNNING and bool(trial.user_attrs.get(TrialKey.PAUSED))


def cost_of_training(cut: Cut, epochs: int, *, done: int = 0, whole_macs: int = 0) -> float:
    """Estimate what a training costs, in full fine-tunes, with the frozen part computed once.

    Args:
        cut: First trainable layer.
        epochs: Of the training.
        done: Epochs that are there already.
        whole_macs: Training MACs of one image of the network that the full fine-tune is of; 0: the cut's.
    """
    share = cut.frozen_mac_share
    scale = 1.0
    if whole_macs:
        # Frozen layers go forward, all others backward too: three times the MACs of going forward.
        scale = cut.training_macs / (3 - 2 * share) * 3 / whole_macs
    once = share / (3 * epochs) if done == 0 else 0.0
    return scale * ((1 - share) * (epochs - done) / epochs + once)


class Planner:
    """Chooses the next training of a study."""

    def __init__(
        self,
        space: SearchSpace,
        *,
        epochs: int,
        maximize: bool = True,
        score_error: float | None = None,
        n_val: int = 100,
        seeks_front: bool = False,
    ) -> None:
        """Prepare to choose.

        Args:
            space: What is searched.
            epochs: Of a training.
            maximize: Whether more is better.
            score_error: Standard error of a score near the best; None: a share's over ``n_val`` images.
            n_val: Validation images.
            seeks_front: Whether a setting is to be better only than what costs at most as much.
        """
        self._space, self._epochs = space, epochs
        self._sign = 1.0 if maximize else -1.0
        self._score_error, self._n_val = score_error, max(1, n_val)
        self._seeks_front = seeks_front
        self._names = space.backbones
        self._whole_macs = space.cuts_of(self._names[0])[0].training_macs

    def next_move(
        self,
        trials: Sequence[FrozenTrial],
        *,
        seed: int,
        most: float = math.inf,
        may_be_new: bool = True,
    ) -> Move | None:
        """Choose what to train next; None where nothing is worth its cost, or nothing is left.

        Args:
            trials: All of the study's search.
            seed: Of the settings that are weighed.
            most: What it may cost, in full fine-tunes.
            may_be_new: Whether a new setting may be tried; else only paused trials go on.
        """
        learned = self._learn(trials)
        moves = [
            move
            for move in self._moves(trials, seed)
            if move.cost <= most and (may_be_new or move.number is not None)
        ]
        if not moves:
            return None
        if learned is None:
            # Too little to learn from: whatever is cheapest.
            return min(moves, key=lambda move: move.cost)
        best = max(self._weighed(moves, trials, learned), key=lambda move: move.rate)
        n_finished = sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials)
        is_worth = best.rate >= LEAST_RATE or n_finished < FEWEST_TRIALS
        return best if is_worth else None

    def cost_of(self, params: Mapping[str, Any]) -> float:
        """Estimate what a setting costs, in full fine-tunes."""
        return self._cost(params, 0)

    def should_pause(self, trials: Sequence[FrozenTrial], number: int, *, seed: int) -> bool:
        """Return whether a running trial is to wait, as another move promises more for its cost.

        Args:
            trials: All of the study's search; of the running one the epochs so far are reported.
            number: The running trial.
            seed: Of the settings that are weighed.
        """
        trial = next(each for each in trials if each.number == number)
        epoch = max(trial.intermediate_values, default=0)
        if epoch not in {math.ceil(share * self._epochs) for share in CHECKS} or epoch >= self._epochs:
            return False
        going_on = self._going_on(trial, epoch)
        if going_on.cost < CHEAP:
            return False
        others = [each for each in trials if each.number != number]
        learned = self._learn(trials)
        if learned is None:
            return False
        (here,) = self._weighed([going_on], trials, learned, beside=others)
        moves = list(self._moves(others, seed))
        most = max((move.rate for move in self._weighed(moves, trials, learned)), default=0.0)
        return here.rate < max(LEAST_RATE, most / BETTER)

    def _learn(self, trials: Sequence[FrozenTrial]) -> _Learned | None:
        """Learn from all trials; None before three say something."""
        known = [(trial, *self._expected(trial, trials)) for trial in trials if self._says(trial)]
        complete = [trial for trial, _, error in known if error == 0]
        if len(known) < 3 or not complete:
            return None
        best = max(score for _, score, _ in known)
        near = NEAR * self._error_at(best)
        observations = [
            Observation(
                place=self._place(trial.params),
                score=-math.log1p((best - score) / near),
                backbone=self._backbone(trial.params),
                error=error / (near + best - score),
            )
            for trial, score, error in known
        ]
        response = Response(observations, noise=NOISE / NEAR)
        settled = [dict(trial.params) for trial in complete]
        places = np.array([self._place(params) for params in settled])
        highest = response.mean(places, [self._backbone(params) for params in settled]).max()
        return _Learned(
            response=response,
            near=near,
            settled=settled,
            best=best - near * math.expm1(-float(highest)),
        )

    def _says(self, trial: FrozenTrial) -> bool:
        """Return whether a trial has reported anything to learn from; a failed one says nothing."""
        if trial.state == TrialState.FAIL or origin_of(trial) == "confirm":
            return False
        return bool(trial.intermediate_values) or trial.value is not None

    def _expected(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> tuple[float, float]:
        """Expect a trial's final score, more is better, and how far off that may be."""
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            return self._sign * trial.value, 0.0
        complete = [t for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
        if trial.user_attrs.get(TrialKey.DIVERGED):
            worst = min((self._sign * t.value for t in complete if t.value is not None), default=0.0)
            return worst, 0.0
        epoch, score = max(trial.intermediate_values.items())
        gains = [
            self._sign * (t.value - t.intermediate_values[epoch])
            for t in complete
            if t.value is not None and epoch in t.intermediate_values and epoch < self._epochs
        ]
        usual = UNKNOWN_GAIN * (1 - epoch / self._epochs)
        if len(gains) < 3:
            return self._sign * score + usual / 2, usual
        middle = median(gains)
        spread = 1.5 * median(abs(gain - middle) for gain in gains)
        return self._sign * score + middle, max(spread, usual / 2)

    def _error_at(self, score: float) -> float:
        """Return the standard error of a score: a share's, one success and one failure added."""
        if self._score_error is not None:
            return self._score_error
        share = (min(max(score, 0.0), 1.0) * self._n_val + 1) / (self._n_val + 2)
        return math.sqrt(share * (1 - share) / self._n_val)

    def _weighed(
        self,
        moves: Sequence[Move],
        trials: Sequence[FrozenTrial],
        learned: _Learned,
        beside: Sequence[FrozenTrial] | None = None,
    ) -> Iterator[Move]:
        """Return the moves with what each promises; what lies near a training under way promises less."""
        if not moves:
            return
        places = np.array([self._place(move.params) for move in moves])
        backbones = [self._backbone(move.params) for move in moves]
        allowed = None
        if self._seeks_front:
            ours, theirs = (
                [self._training_macs(p) for p in each]
                for each in (
                    [move.params for move in moves],
                    learned.settled,
                )
            )
            allowed = np.array(theirs)[None] <= np.array(ours)[:, None]
        gains = learned.near * learned.response.improvement(
            places,
            np.array([self._place(params) for params in learned.settled]),
            backbones,
            [self._backbone(params) for params in learned.settled],
            allowed,
        )
        gains = (
            gains
            * self._apart(places, backbones, trials if beside is None else beside)
            * self._usual(moves, len(trials))
        )
        known = {trial.number: trial for trial in trials}
        for move, gain in zip(moves, gains, strict=True):
            promised = float(gain)
            if move.number is not None:
                # Neighbours may have it wrong, and so may the curve.
                promised = (promised + self._by_curve(known[move.number], trials, learned)) / 2
            yield Move(params=move.params, number=move.number, gain=promised, cost=move.cost)

    def _by_curve(self, trial: FrozenTrial, trials: Sequence[FrozenTrial], learned: _Learned) -> float:
        """Expect how much better than the best a trial ends by its own curve alone."""
        score, error = self._expected(trial, trials)
        deviation = math.hypot(error, NOISE * learned.near / NEAR)
        z = (score - learned.best) / deviation
        return deviation * (z * NormalDist().cdf(z) + NormalDist().pdf(z))

    def _usual(self, moves: Sequence[Move], n_trials: int) -> Floats:
        """Lower what has a learning rate far from the sensible one of its depth, the less the more is known.

        Source: Hvarfner et al., PiBO: Augmenting acquisition functions with user beliefs for Bayesian
        optimization, ICLR 2022.
        """
        off = []
        for move in moves:
            cuts = self._space.cuts_of(move.params.get(BACKBONE, self._names[0]))
            depth = self._cut(move.params).index / max(1, len(cuts) - 1)
            off.append(math.log10(move.params["learning_rate"] / sensible_rate(depth)))
        belief = -0.5 * (np.array(off) / USUAL_DECADES) ** 2
        weight: Floats = np.exp(belief * USUAL_TRIALS / max(1, n_trials))
        return weight

    def _apart(self, places: Floats, backbones: Sequence[int], trials: Sequence[FrozenTrial]) -> Floats:
        """Lower what lies near a setting that is being trained: it is soon known. ``(m,)`` in [0, 1]."""
        factor = np.ones(len(places))
        for trial in trials:
            if trial.state == TrialState.RUNNING and not is_paused(trial) and trial.params:
                distance = (np.abs(places - np.array(self._place(trial.params)))[:, :2] / APART).max(1)
                same = np.array(backbones) == self._backbone(trial.params)
                factor = np.where(same, np.minimum(factor, distance), factor)
        return factor.clip(0, 1)

    def _moves(self, trials: Sequence[FrozenTrial], seed: int) -> Iterator[Move]:
        """List what may be done: paused trials to go on with, and settings that were not tried."""
        rng = np.random.default_rng(seed)
        tried = [self._alike(t.params) for t in trials if t.params and t.state != TrialState.FAIL]
        for trial in trials:
            if is_paused(trial):
                yield self._going_on(trial, max(trial.intermediate_values, default=0))
        for name in self._names:
            distributions = self._space.distributions(name)
            cuts = self._space.cuts_of(name)
            best = self._best_of(trials, name)
            for index in _spread(len(cuts), MOST_CUTS, rng):
                for params in self._settings(name, index, distributions, best, rng):
                    if not self._is_known(params, tried):
                        yield Move(params=params, number=None, gain=0.0, cost=self._cost(params, 0))

    def _settings(
        self,
        backbone: str,
        index: int,
        distributions: Mapping[str, BaseDistribution],
        best: Mapping[str, Any],
        rng: np.random.Generator,
    ) -> Iterator[dict[str, Any]]:
        """List settings of one cut: learning rates over the range, the rest as the best has it or drawn."""
        rates = distributions["learning_rate"]
        assert isinstance(rates, FloatDistribution)
        n_rates = N_RATES if rates.high > rates.low else 1
        shares = (np.arange(n_rates) + rng.uniform(0.25, 0.75)) / n_rates
        named: dict[str, Any] = {cut_parameter(backbone): index}
        if BACKBONE in distributions:
            named[BACKBONE] = backbone
        others = [name for name in distributions if name not in (*named, "learning_rate")]
        for share in shares:
            rate = float(np.exp(np.interp(share, (0, 1), np.log((rates.low, rates.high)))))
            for n in range(N_OTHERS if others else 1):
                rest = {
                    name: best[name] if n == 0 and name in best else _drawn(distributions[name], rng)
                    for name in others
                }
                yield {**named, "learning_rate": min(max(rate, rates.low), rates.high), **rest}

    def _best_of(self, trials: Sequence[FrozenTrial], backbone: str) -> Mapping[str, Any]:
        """Return the setting of the best complete trial of a backbone, or of any."""
        complete = [t for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
        own = [t for t in complete if t.params.get(BACKBONE, "") == backbone]
        best = max(own or complete, key=lambda t: self._sign * (t.value or 0.0), default=None)
        return {} if best is None else best.params

    def _going_on(self, trial: FrozenTrial, epoch: int) -> Move:
        cost = self._cost(trial.params, epoch)
        return Move(params=dict(trial.params), number=trial.number, gain=0.0, cost=cost)

    def _cost(self, params: Mapping[str, Any], done: int) -> float:
        cut = self._cut(params)
        if self._is_solved(params):
            return cost_of_training(cut, self._epochs, whole_macs=self._whole_macs)
        return cost_of_training(cut, self._epochs, done=done, whole_macs=self._whole_macs)

    def _cut(self, params: Mapping[str, Any]) -> Cut:
        backbone = params.get(BACKBONE, self._names[0])
        index: int = params[cut_parameter(backbone)]
        return self._space.cuts_of(backbone)[index]

    def _training_macs(self, params: Mapping[str, Any]) -> int:
        return self._cut(params).training_macs

    def _backbone(self, params: Mapping[str, Any]) -> int:
        return self._names.index(params.get(BACKBONE, self._names[0]))

    def _place(self, params: Mapping[str, Any]) -> tuple[float, ...]:
        distributions = self._space.distributions(params.get(BACKBONE, self._names[0]))
        return place_of(params, distributions)

    def _is_solved(self, params: Mapping[str, Any]) -> bool:
        """Return whether a setting has a head that is solved, so that its learning rate says nothing."""
        cuts = self._space.cuts_of(params.get(BACKBONE, self._names[0]))
        return self._cut(params) is cuts[-1] and not params.get("head_width")

    def _alike(self, params: Mapping[str, Any]) -> tuple[tuple[Any, ...], float]:
        """Return what settings that come out alike have in common, and the place of the learning rate."""
        cut, *rest = self._place(params)
        if self._is_solved(params):
            return (self._backbone(params), cut), 0.0
        rate, *others = rest
        return (self._backbone(params), cut, *(round(value, 2) for value in others)), rate

    def _is_known(self, params: Mapping[str, Any], tried: Sequence[tuple[tuple[Any, ...], float]]) -> bool:
        """Return whether a setting was tried, or one that differs in little but chance."""
        mine, rate = self._alike(params)
        return any(mine == other and abs(rate - at) < SAME_RATE for other, at in tried)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Learned:
    """What the trials say.

    Attributes:
        response: Of scores as logarithms of their distance from the best.
        near: What one unit of that is near the best, in the unit of the score.
        settled: Settings of the complete trials.
        best: The highest score that one of them is expected to have, more is better.
    """

    response: Response
    near: float
    settled: Sequence[Mapping[str, Any]]
    best: float


def _spread(n: int, most: int, rng: np.random.Generator) -> list[int]:
    """Pick places evenly, each drawn from its own stretch; both ends are among them."""
    if n <= most:
        return list(range(n))
    edges = np.linspace(0, n, most + 1)
    drawn = rng.uniform(edges[:-1], edges[1:]).astype(int)
    return sorted({0, n - 1, *(int(place) for place in drawn)})


def _drawn(distribution: BaseDistribution, rng: np.random.Generator) -> Any:
    """Draw a value evenly, on a log scale where the range has one."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(rng.integers(len(distribution.choices)))]
    if isinstance(distribution, IntDistribution):
        return int(rng.integers((distribution.high - distribution.low) // distribution.step + 1)) * (
            distribution.step
        ) + (distribution.low)
    assert isinstance(distribution, FloatDistribution)
    if distribution.log:
        return float(np.exp(rng.uniform(math.log(distribution.low), math.log(distribution.high))))
    return float(rng.uniform(distribution.low, distribution.high))
