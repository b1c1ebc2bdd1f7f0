"""How sure the answer is: what all trials together say of the settings that were trained, and of all cuts.

The best of many noisy scores is too high, and often another cut's. So nothing is read off single scores: a
regression over every trial of the study, each training on a division of the images of its own told from
those on others, says what each setting truly scores and how sure that is (`search.learning`). The answer is
the cheapest setting that loses less than a tolerance against the best with a probability of 90 %, see
`search.verdict`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthsearch.models.cuts import Cut
from depthsearch.options.words import COSTS, SHARES
from depthsearch.results.stored import StoredStudy
from depthsearch.results.trials import StoredTrial, cost_of, rank
from depthsearch.search.beliefs.learning import Learned, Lesson, ScoreError, learn, split_of
from depthsearch.search.beliefs.verdict import SURE, Verdict, judge
from depthsearch.search.extrapolation import Course
from depthsearch.search.pareto import hypervolume

Floats = NDArray[np.float64]

# States of trials that say something once they have reported.
TELLING = ("complete", "pruned", "paused", "running")
# More trainings than this of two settings are not advised, nor more times as many validation images.
MOST_TRAININGS, MOST_TIMES = 50, 10
# Standard deviations to the 90 % quantile of a normal distribution.
TO_SURE = 1.28
# A learning rate within this share of the range, on its log scale, lies at the end of it.
AT_END = 0.1
# Losses, in points, at which the price of freezing more is named.
PRICES = (0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What all trials say that a candidate would score at its best setting.

    Attributes:
        mean: The middle of what it may score (its median).
        low: Lower end of a 95 % interval.
        high: Its upper end.
        loss: What it loses at most against the best there is, with a probability of 90 %; 0 or more.
    """

    mean: float
    low: float
    high: float
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A setting that was trained to its end.

    Attributes:
        cut: First trainable layer.
        trial: Number of the search's trial that had the setting first.
        params: The setting but for the cut.
        scores: Of further trainings, by seed; empty where there is none.
        mean: Of these scores; without any, the score of its one training.
        standard_error: Of the mean; None with fewer than two scores.
        gap: How much the best setting is expected to score better than this, 0 or more.
        gap_error: Standard deviation of that.
        chance: How probable it is that this loses less than the tolerance against the best there is.
        is_solved: Whether only a linear head learns, which is solved.
    """

    cut: Cut
    trial: int
    params: dict[str, Any]
    scores: dict[int, float]
    mean: float
    standard_error: float | None
    gap: float
    gap_error: float
    chance: float
    is_solved: bool = False

    @property
    def n_trainings(self) -> int:
        """Trainings behind the mean."""
        return max(1, len(self.scores))


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What would make it surer that the answer is as good as the best, as far as can be estimated.

    Attributes:
        trials: Whether more settings are to be tried: most of the doubt is about those that were not.
        trainings: More trainings of each of two settings; None: too many, or they would not do.
        images: Times as many validation images, with the trainings that there are; None likewise.
    """

    trials: bool
    trainings: int | None
    images: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What all trials say.

    Attributes:
        settled: Settings with a complete training, by depth.
        best: The one of the highest expected score.
        answer: The cheapest to train that loses less than the tolerance with 90 % probability; the best
            where none can be shown to.
        tolerance: What it may lose, in the unit of the score.
        level: Places, among all candidates of the study, of the fewest that hold the best one with a
            probability of 95 %, tried or not.
        expected: One a candidate.
        further_rates: The learning rates to search instead, where the best setting's lies at an end of those
            that were searched; None: it does not.
        advice: What would make sure that the answer loses less than the tolerance; None: that is sure, or
            the tolerance is 0.
    """

    settled: tuple[Settled, ...]
    best: Settled
    answer: Settled
    tolerance: float
    level: tuple[int, ...]
    expected: tuple[Expected, ...]
    further_rates: tuple[float, float] | None
    advice: Advice | None

    @property
    def confirmed(self) -> tuple[Settled, ...]:
        """Settings that were trained again, by depth."""
        return tuple(setting for setting in self.settled if setting.scores)

    @property
    def best_again(self) -> dict[Cut, Settled]:
        """The best setting of each cut that was trained again, the best cut first."""
        best: dict[Cut, Settled] = {}
        for setting in sorted(self.confirmed, key=lambda setting: setting.gap):
            best.setdefault(setting.cut, setting)
        return best

    def prices(self, cuts: Sequence[Cut]) -> list[tuple[Cut, float]]:
        """Return what freezing more than the answer costs: cuts, and what each loses at most with 90 %.

        The deepest cut of the answer's backbone at each of a few losses, and the head alone.

        Args:
            cuts: The candidates that ``expected`` is about.
        """
        deeper = [
            (cut, expected.loss)
            for cut, expected in zip(cuts, self.expected, strict=True)
            if cut.backbone == self.answer.cut.backbone and cut.index > self.answer.cut.index
        ]
        found: dict[Cut, float] = {}
        for limit in PRICES:
            found.update([(cut, loss) for cut, loss in deeper if 100 * loss <= limit][-1:])
        found.update(deeper[-1:])
        return sorted(found.items(), key=lambda price: price[0].index)

    @property
    def is_shown(self) -> bool:
        """Whether the answer loses less than the tolerance with a probability of 90 %."""
        return self.answer.chance >= SURE


def weigh(stored: StoredStudy) -> Evidence | None:
    """Judge what was trained; None before three trials say something and one is complete."""
    learned = _learned(stored)
    first = _first_trainings(stored)
    if learned is None or not first:
        return None
    names, places = stored.backbone_names, {cut: place for place, cut in enumerate(stored.cuts)}
    verdict = judge(
        learned,
        [trial.place for trial in first],
        [names.index(trial.cut.backbone) for trial in first],
        [_order(trial) for trial in first],
        [places[trial.cut] for trial in first],
        [names.index(cut.backbone) for cut in stored.cuts],
        tolerance=stored.tolerance,
    )
    again = _scores_again(stored, first)
    settled = [_settled(trial, again[trial.number], verdict, place) for place, trial in enumerate(first)]
    return Evidence(
        settled=tuple(sorted(settled, key=lambda setting: places[setting.cut])),
        best=settled[verdict.best],
        answer=settled[verdict.answer],
        tolerance=stored.tolerance,
        level=verdict.level,
        expected=_expected(verdict, maximize=stored.maximize),
        further_rates=_further_rates(stored, first[verdict.best]),
        advice=None if verdict.is_shown or not stored.tolerance else _advice(stored, settled, verdict),
    )


def _learned(stored: StoredStudy) -> Learned | None:
    names = stored.backbone_names
    return learn(
        [
            Lesson(
                place=trial.place,
                backbone=names.index(trial.cut.backbone),
                split=split_of(trial.seed, resampled=trial.resampled),
                course=_course_of(trial),
            )
            for trial in stored.trials
            if trial.state in TELLING and (trial.scores or trial.score is not None or trial.diverged)
        ],
        epochs=stored.recipe.epochs,
        maximize=stored.maximize,
        error=error_of(stored),
    )


def error_of(stored: StoredStudy) -> ScoreError:
    """Return how far a score of a study is from what many more validation images would say."""
    return ScoreError(n_val=stored.data.images["val"], is_share=stored.recipe.metric in SHARES)


def _course_of(trial: StoredTrial) -> Course:
    final = trial.score if trial.state == "complete" else None
    return Course(final=final, scores=trial.scores, has_diverged=trial.diverged)


def _first_trainings(stored: StoredStudy) -> list[StoredTrial]:
    """List the search's complete trials, the first of each setting, the cheapest to train first."""
    first: dict[tuple[Any, ...], StoredTrial] = {}
    for trial in stored.trials:
        if trial.confirms is None and trial.state == "complete" and trial.score is not None:
            first.setdefault((trial.cut.backbone, trial.place), trial)
    return sorted(first.values(), key=lambda trial: (_order(trial), trial.number))


def _order(trial: StoredTrial) -> tuple[float, ...]:
    """Return what orders settings by what their training costs, the head included."""
    return trial.training_macs, *cost_of(trial.cut)


def _scores_again(stored: StoredStudy, first: Iterable[StoredTrial]) -> dict[int, dict[int, float]]:
    """Collect the scores of the trainings that repeat a setting, by the number of its first trial."""
    settings = {(trial.cut.backbone, trial.place): trial.number for trial in first}
    again: dict[int, dict[int, float]] = {number: {} for number in settings.values()}
    for trial in stored.trials:
        number = settings.get((trial.cut.backbone, trial.place))
        if number is None or trial.confirms is None or trial.seed is None or trial.score is None:
            continue
        if trial.state == "complete":
            again[number][trial.seed] = trial.score
    return {number: dict(sorted(scores.items())) for number, scores in again.items()}


def _settled(trial: StoredTrial, scores: dict[int, float], verdict: Verdict, place: int) -> Settled:
    assert trial.score is not None
    values = list(scores.values())
    return Settled(
        cut=trial.cut,
        trial=trial.number,
        params=trial.params,
        scores=scores,
        mean=fmean(values) if values else trial.score,
        standard_error=stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None,
        gap=float(verdict.gap[place]),
        gap_error=float(verdict.gap_error[place]),
        chance=float(verdict.chance[place]),
        is_solved=trial.is_solved,
    )


def _expected(verdict: Verdict, *, maximize: bool) -> tuple[Expected, ...]:
    low, middle, high = verdict.low, verdict.score, verdict.high
    if not maximize:
        low, middle, high = -high, -middle, -low
    return tuple(
        Expected(mean=float(m), low=float(a), high=float(b), loss=float(loss))
        for m, a, b, loss in zip(middle, low, high, verdict.loss, strict=True)
    )


def _further_rates(stored: StoredStudy, best: StoredTrial) -> tuple[float, float] | None:
    """Return a wider range where a trial's learning rate lies at an end of it; None where it does not."""
    low, high = stored.space.learning_rate
    share = best.place[1]
    if low == high or AT_END < share < 1 - AT_END:
        return None
    return (low / 10, high) if share <= AT_END else (low, high * 10)


def _advice(stored: StoredStudy, settled: Sequence[Settled], verdict: Verdict) -> Advice:
    """Estimate what would show that the best setting loses less than the tolerance.

    A difference that is known with a standard deviation is known with a smaller one after more pairs of
    trainings, each of which says it with twice the variance of a score. Neither these nor more images say
    much of what was not tried.
    """
    if verdict.untried > (1 - verdict.chance[verdict.best]) / 2 and not stored.is_exhaustive:
        return Advice(trials=True, trainings=None, images=None)
    spread, aim = max(verdict.behind, stored.tolerance) / TO_SURE, stored.tolerance / TO_SURE
    sign = 1.0 if stored.maximize else -1.0
    pooled = _noise([list(setting.scores.values()) for setting in settled])
    noise = pooled or error_of(stored).at(sign * settled[verdict.best].mean)
    n = math.ceil(max(1.0, 2 * noise**2 * (1 / aim**2 - 1 / spread**2)))
    times = max(2, math.ceil((spread / aim) ** 2))
    return Advice(
        trials=False,
        trainings=n if n <= MOST_TRAININGS else None,
        images=times if times <= MOST_TIMES else None,
    )


def _noise(groups: Sequence[Sequence[float]]) -> float | None:
    """Pool the standard deviation of scores over settings; None where it is nothing, or one seed each."""
    squares = sum((score - fmean(group)) ** 2 for group in groups for score in group)
    freedom = sum(len(group) - 1 for group in groups if group)
    return math.sqrt(squares / freedom) if freedom and squares else None


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
    learned = _learned(stored)
    if learned is not None and ranked:
        names = stored.backbone_names
        means = learned.response.mean(
            np.array([t.place for t in ranked]), [names.index(t.cut.backbone) for t in ranked]
        )
        expected = {t.number: float(m) for t, m in zip(ranked, learned.scores(means), strict=True)}
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
    ranked: Sequence[StoredTrial], expected: Mapping[int, float], ends: Sequence[Cut], cost: str, n_cuts: int
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
