"""How sure the answer is: which cuts to train again, and what that says.

The best of many noisy scores is too high, and often another cut's. So the most promising cuts and both ends
are trained again with several seeds (see `study.confirm`), and only these fresh scores compare them. The
answer is the cheapest cut, the one that freezes most multiply-accumulates (of several backbones the one that
trains with fewest), whose mean is within one standard error of the best mean: the one-standard-error rule of
Breiman, Friedman, Olshen and Stone (Classification and Regression Trees, 1984, section 3.4.3; also Hastie,
Tibshirani and Friedman, The Elements of Statistical Learning, section 7.10). The error is that of the
differences from the best, seed by seed: what a seed does to all cuts cancels.

Between the cuts that were trained lie many that were not. `response.Response` learns from all trials what
these may score; a cut can be told from the best where it is the better one with less than 3 % probability,
or where its own seeds say so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from depthsearch.models.cuts import Cut
from depthsearch.options.words import COSTS
from depthsearch.results.stored import ConfirmationPlan, StoredStudy
from depthsearch.results.trials import ENDED, StoredTrial, cost_of, rank
from depthsearch.search.extrapolation import Course, extrapolated
from depthsearch.search.pareto import hypervolume
from depthsearch.search.response import Observation, Response

__all__ = ["Confirmed", "Evidence", "Expected", "promising", "weigh"]

Floats = NDArray[np.float64]

# Below this probability of being better than the best, a cut is told apart from it. With 0.05 the set held
# the best cut in 92 of 100 simulated studies of 14 trials, with 0.03 in 95 (benchmarks/search/confirm.py).
TOLD_APART = 0.03
# Standard deviations of the noise that lie near the best.
NEAR = 8.0
N_DRAWS = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """A setting that was trained again with several seeds.

    Attributes:
        cut: First trainable layer.
        trial: Number of the search's trial that had the setting first.
        params: The setting but for the cut.
        scores: By seed.
        mean: Of the scores.
        standard_error: Of the mean; None with one seed.
        gap: Mean over the seeds of how much the best is better than this, 0 or more but for the best itself.
        gap_error: Standard error of the gap, from the differences seed by seed; None with one seed.
    """

    cut: Cut
    trial: int
    params: dict[str, Any]
    scores: dict[int, float]
    mean: float
    standard_error: float | None
    gap: float
    gap_error: float | None

    @property
    def is_level(self) -> bool:
        """Whether the gap is at most one standard error; rounding does not decide."""
        return self.gap <= (self.gap_error or 0.0) * (1 + 1e-9) + 1e-12

    @property
    def is_behind(self) -> bool:
        """Whether its seeds alone tell it from the best, by a paired t-test."""
        if self.gap_error is None:
            return False
        least = float(student.ppf(1 - TOLD_APART, len(self.scores) - 1)) * self.gap_error
        return self.gap > least


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What all trials say that a candidate would score at its best setting.

    Attributes:
        mean: The middle of what it may score (its median).
        low: Lower end of a 95 % interval.
        high: Its upper end.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What confirmation says.

    Attributes:
        confirmed: Settings with a score for every seed, by depth.
        best: The one of the best mean; of equal ones the deepest.
        answer: The cheapest to train within one standard error of the best.
        level: Places, among all candidates of the study, of those that cannot be told from the best, tried
            or not.
        expected: One a candidate; empty where there are too few trials to learn from.
    """

    confirmed: tuple[Confirmed, ...]
    best: Confirmed
    answer: Confirmed
    level: tuple[int, ...]
    expected: tuple[Expected, ...]


def promising(stored: StoredStudy, n_cuts: int) -> list[StoredTrial]:
    """Choose what to train again: the most promising cuts, each at its best setting, and both ends.

    A cut promises what all trials together say of it, not what its own one trial has scored: the score of a
    lucky trial shrinks towards those of its neighbours. Of several backbones each is there with its most
    promising cut at least, so that they can be compared; the ends are those of the most promising one.

    Args:
        stored: With complete trials.
        n_cuts: How many cuts; the ends, and other backbones' best, come on top where not among them.

    Returns:
        The trials whose settings to train again, the most promising first; then other backbones'; then the
        ends.
    """
    ranked = rank((t for t in stored.trials if t.confirms is None), maximize=stored.maximize)
    sign = 1.0 if stored.maximize else -1.0
    expected = {trial.number: sign * (trial.score or 0.0) for trial in ranked}
    response = _response(stored)
    if response is not None:
        names = stored.backbone_names
        means = response.mean(
            np.array([t.place for t in ranked]), [names.index(t.cut.backbone) for t in ranked]
        )
        expected = {trial.number: float(mean) for trial, mean in zip(ranked, means, strict=True)}
        ranked.sort(key=lambda trial: -expected[trial.number])
    cuts = [cut for cut in stored.cuts if ranked and cut.backbone == ranked[0].cut.backbone]
    ends = [*cuts[-1:], *cuts[:1]]
    if stored.cost_aim is not None and ranked:
        ranked = [*_along_front(ranked, expected, ends, stored.cost_aim, n_cuts), *ranked]
    by_cut: dict[Cut, StoredTrial] = {}
    by_backbone: dict[str, Cut] = {}
    for trial in ranked:
        by_cut.setdefault(trial.cut, trial)
        by_backbone.setdefault(trial.cut.backbone, trial.cut)
    first = list(by_cut)[:n_cuts]
    chosen = [*first, *by_backbone.values(), *ends]
    return [by_cut[cut] for cut in dict.fromkeys(chosen) if cut in by_cut]


def _along_front(
    ranked: Sequence[StoredTrial],
    expected: Mapping[int, float],
    ends: Sequence[Cut],
    cost: str,
    n_cuts: int,
) -> list[StoredTrial]:
    """Choose the most promising cut and, one by one, what adds most hypervolume to it and the ends.

    Args:
        ranked: Complete trials, the most promising first.
        expected: Score by number, more is better.
        ends: Cuts that are trained again anyway.
        cost: One of `words.COSTS`.
        n_cuts: How many at most; fewer where nothing adds to the front.
    """

    def point(trial: StoredTrial) -> tuple[float, float]:
        return expected[trial.number], math.log(max(1, getattr(trial, COSTS[cost])))

    points = {trial.number: point(trial) for trial in ranked}
    lowest = min(score for score, _ in points.values()), max(paid for _, paid in points.values())
    chosen = [ranked[0]]
    there = [ranked[0], *(trial for end in ends for trial in [t for t in ranked if t.cut == end][:1])]

    def gain(trial: StoredTrial) -> float:
        before = [points[t.number] for t in there]
        return hypervolume([*before, points[trial.number]], lowest) - hypervolume(before, lowest)

    while len(chosen) < n_cuts:
        left = [t for t in ranked if all(t.cut != other.cut for other in there)]
        best = max(left, key=gain, default=None)
        if best is None or gain(best) <= 0:
            break
        chosen.append(best)
        there.append(best)
    return chosen


def weigh(stored: StoredStudy) -> Evidence | None:
    """Judge what was trained again; None before two settings, or the only one, have scores for all seeds."""
    sign = 1.0 if stored.maximize else -1.0
    cuts = stored.cuts
    runs = _runs(stored.trials, stored.plan)
    if len(runs) < min(2, len(cuts)):
        return None
    place = {cut: i for i, cut in enumerate(cuts)}
    best = min(runs, key=lambda run: (-sign * fmean(run[1].values()), cost_of(run[0].cut)))
    confirmed = tuple(
        _confirmed(trial, scores, best[1], sign)
        for trial, scores in sorted(runs, key=lambda run: place[run[0].cut])
    )
    first = next(c for c in confirmed if c.trial == best[0].number)
    answer = min((c for c in confirmed if c.is_level), key=lambda c: cost_of(c.cut))
    noise = _noise([list(scores.values()) for _, scores in runs])
    expected, level = _expect(stored, best[0], noise)
    level -= {place[c.cut] for c in confirmed if c.is_behind}
    level |= {place[c.cut] for c in confirmed if c.is_level}
    return Evidence(
        confirmed=confirmed, best=first, answer=answer, level=tuple(sorted(level)), expected=expected
    )


def _runs(
    trials: Sequence[StoredTrial], plan: ConfirmationPlan | None
) -> list[tuple[StoredTrial, dict[int, float]]]:
    """Group the scores of a planned confirmation by the trial that was repeated.

    Only the seeds that every setting is through with count, so that an early look is fair. A setting of which
    one of them failed or diverged cannot be compared, and must not win by the others.
    """
    if plan is None:
        return []
    again = [t for t in trials if t.confirms is not None and t.resampled == plan.resample]
    runs = {number: {t.seed: t for t in again if t.confirms == number} for number in plan.trials}
    done = {
        seed
        for seed in range(plan.seeds)
        if all(seed in run and run[seed].state in ENDED for run in runs.values())
    }
    complete = {
        number: {s: score for s in sorted(done) if (score := _final(run[s])) is not None}
        for number, run in runs.items()
    }
    return [
        (next(t for t in trials if t.number == number), scores)
        for number, scores in complete.items()
        if scores and scores.keys() == done
    ]


def _final(trial: StoredTrial) -> float | None:
    return trial.score if trial.state == "complete" else None


def _confirmed(
    trial: StoredTrial, scores: dict[int, float], best: dict[int, float], sign: float
) -> Confirmed:
    gaps = [sign * (best[seed] - score) for seed, score in scores.items()]
    return Confirmed(
        cut=trial.cut,
        trial=trial.number,
        params=trial.params,
        scores=dict(sorted(scores.items())),
        mean=fmean(scores.values()),
        standard_error=_standard_error(list(scores.values())),
        gap=fmean(gaps),
        gap_error=_standard_error(gaps),
    )


def _standard_error(values: Sequence[float]) -> float | None:
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def _noise(groups: Sequence[Sequence[float]]) -> float | None:
    """Pool the standard deviation of scores over settings; None where it is nothing, or one seed each."""
    squares = sum((score - fmean(group)) ** 2 for group in groups for score in group)
    freedom = sum(len(group) - 1 for group in groups)
    return math.sqrt(squares / freedom) if freedom and squares else None


def _response(stored: StoredStudy, *, noise: float | None = None) -> Response | None:
    """Learn from all trials, complete and pruned; None where there are too few.

    Args:
        stored: Whose trials.
        noise: Standard deviation of a score from seed to seed, if known. Scores are then learned as the
            negative logarithm of how many times `NEAR` of it they lie below the best: near the best that is
            a change of unit, but how bad a bad setting is would else decide how far to trust good ones.
    """
    sign = 1.0 if stored.maximize else -1.0
    trials = [trial for trial in stored.trials if trial.state in ("complete", "pruned")]
    guesses = extrapolated([_course_of(trial) for trial in trials], sign)
    known = [
        (trial, sign * guess)
        for trial, guess in zip(trials, guesses, strict=True)
        if guess is not None and not trial.diverged
    ]
    if len(known) < 3:
        return None
    if noise is not None:
        best = max(score for _, score in known)
        known = [(trial, -math.log1p((best - score) / (NEAR * noise))) for trial, score in known]
    names = stored.backbone_names
    return Response(
        [
            Observation(place=trial.place, score=score, backbone=names.index(trial.cut.backbone))
            for trial, score in known
        ]
    )


def _course_of(trial: StoredTrial) -> Course:
    final = trial.score if trial.state == "complete" else None
    return Course(final=final, scores=trial.scores, has_diverged=trial.diverged)


def _expect(
    stored: StoredStudy, best: StoredTrial, noise: float | None
) -> tuple[tuple[Expected, ...], set[int]]:
    """Return what every candidate would score, and which of them may be better than the best."""
    response = _response(stored, noise=noise)
    if response is None:
        return (), set()
    sign = 1.0 if stored.maximize else -1.0
    cuts, names = stored.cuts, stored.backbone_names
    ranked = rank(stored.trials, maximize=stored.maximize)
    settings = sorted({trial.place[1:] for trial in ranked})
    of_cut = [names.index(cut.backbone) for cut in cuts]
    places = _best_places(response, of_cut, settings)
    draws = response.draws(
        np.vstack([[best.place], places]),
        N_DRAWS,
        seed=0,
        backbones=[names.index(best.cut.backbone), *of_cut],
    )
    better = (draws[:, 1:] > draws[:, :1]).mean(0)
    low, middle, high = np.quantile(draws[:, 1:], (0.025, 0.5, 0.975), axis=0)
    if noise is not None:
        top = max(sign * t.score for t in ranked if t.score is not None)
        low, middle, high = (top - NEAR * noise * np.expm1(-each) for each in (low, middle, high))
    if not stored.maximize:
        low, middle, high = -high, -middle, -low
    expected = tuple(
        Expected(mean=float(m), low=float(a), high=float(b))
        for m, a, b in zip(middle, low, high, strict=True)
    )
    return expected, {i for i in range(len(cuts)) if better[i] > TOLD_APART}


def _best_places(response: Response, of_cut: Sequence[int], settings: Sequence[tuple[float, ...]]) -> Floats:
    """Find the setting that each cut is expected to score best with: ``(n_cuts, d)``.

    Args:
        response: What the trials say.
        of_cut: Each candidate's backbone, counted from 0; the candidates of one lie evenly over depth.
        settings: All dimensions but the cut, as they were tried at some cut: of others nothing is known.
    """
    n_cuts = len(of_cut)
    depths = [depth for _, run in groupby(of_cut) for depth in np.linspace(0, 1, len(list(run)))]
    places = np.empty((n_cuts, len(settings), 1 + len(settings[0])))
    places[:, :, 0], places[:, :, 1:] = np.array(depths)[:, None], np.array(settings)
    backbones = np.repeat(of_cut, len(settings))
    # Far more than the rounding of single precision decides which is best.
    every = places.reshape(n_cuts * len(settings), -1).astype(np.float32)
    means = response.mean(every, backbones)
    best: Floats = places[np.arange(n_cuts), means.reshape(n_cuts, -1).argmax(1)]
    return best
