"""What the trials of a study say together: one response of the score to the setting.

Each trial, complete, pruned, paused or running, gives one lesson: what its score is or is likely to become,
and how far off that may be. Scores are learned as logarithms of their distance from the best: near the best
that is a change of unit, but how bad a bad setting is would else decide how far to trust good ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from depthsearch.search.beliefs.response import Observation, Response
from depthsearch.search.extrapolation import Course

Number = TypeVar("Number", bound=np.floating[Any])

# Standard errors of a score that lie near the best: differences further down count by their logarithm.
NEAR = 8.0
# Share of a score's variance over validation images that is its own. All settings are right and wrong about
# many of the same images, so that the rest cancels between them (benchmarks/search/noise.py: 0.3 to 0.5).
OWN_NOISE = 0.4
# Fewer trials say nothing.
FEWEST = 3
# What a curve of accuracy still gains: the square of the share of the epochs that is left, times a constant
# plus a factor times its recent rise; its deviation likewise (fitted to 400 recorded trainings,
# benchmarks/search/tables). This counts as much as so many curves of similar settings.
USUAL_GAIN, USUAL_SPREAD, USUAL_WEIGHT = 0.04, 0.08, 3.0
RISE_GAIN, RISE_SPREAD = 1.2, 1.2
# Recent: in this share of the epochs so far.
RECENT_SHARE = 1 / 3
# How far away a setting is still like another, as a share of each dimension.
ALIKE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What one trial has to say.

    Attributes:
        place: Its setting ``(d,)`` in [0, 1], see `space.SearchSpace.place`.
        backbone: Which of the backbones, counted from 0.
        split: Which division of the images it was judged on, see `split_of`.
        course: What it has scored.
    """

    place: tuple[float, ...]
    backbone: int
    split: int
    course: Course


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreError:
    """How far a score is from what many more validation images would say.

    Attributes:
        n_val: Validation images.
        is_share: Whether a score is a share of them that is right; else it is a loss.
    """

    n_val: int
    is_share: bool

    # Of a loss nothing is known beforehand.
    LOSS = 0.02

    def at(self, score: float) -> float:
        """Return the standard error at a score: a share's, one success and one failure added."""
        if not self.is_share:
            return self.LOSS
        n = max(1, self.n_val)
        share = (min(max(score, 0.0), 1.0) * n + 1) / (n + 2)
        return math.sqrt(share * (1 - share) / n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What the trials say.

    Attributes:
        response: Of scores as logarithms of their distance from the best; more is better.
        best: The best score there is, more is better.
        near: What one unit of the response is near the best, in the unit of the score.
        bounds: Between which all scores are taken to lie, more is better.
        errors: Of each lesson, how far off its response may be beside noise; 0 of a complete trial.
    """

    response: Response
    best: float
    near: float
    bounds: tuple[float, float]
    errors: tuple[float, ...]

    def scores(self, responses: NDArray[Number]) -> NDArray[Number]:
        """Turn values of the response into scores of the same precision, more is better."""
        scores: NDArray[Number] = np.negative(responses)
        # In place, as there may be many.
        with np.errstate(over="ignore"):
            np.expm1(scores, out=scores)
        scores *= -self.near
        scores += self.best
        return scores.clip(*self.bounds, out=scores)


def learn(lessons: Sequence[Lesson], *, epochs: int, maximize: bool, error: ScoreError) -> Learned | None:
    """Learn from trials; None before three say something and one is complete.

    Args:
        lessons: Of trials that have reported something, or diverged.
        epochs: Of a training.
        maximize: Whether a high score is good.
        error: Of a score.
    """
    sign = 1.0 if maximize else -1.0
    lessons = [replace(lesson, course=_finite(lesson.course)) for lesson in lessons]
    complete = [lesson for lesson in lessons if lesson.course.final is not None]
    if len(lessons) < FEWEST or not complete:
        return None
    # How bad an untried setting may be is unknown: without an end to it no mean of what it may score exists.
    lowest, highest = (0.0, 1.0) if error.is_share else (-math.inf, 0.0)
    known = [_expected(lesson, complete, epochs, sign, highest) for lesson in lessons]
    best, worst = (choose(score for score, _ in known) for choose in (max, min))
    near = NEAR * error.at(sign * best)
    observations = [
        Observation(
            place=lesson.place,
            backbone=lesson.backbone,
            split=lesson.split,
            score=-math.log1p((best - score) / near),
            error=off / (near + best - score),
        )
        for lesson, (score, off) in zip(lessons, known, strict=True)
    ]
    return Learned(
        response=Response(observations, noise=math.sqrt(OWN_NOISE) / NEAR),
        best=best,
        near=near,
        bounds=(max(lowest, 2 * worst - best - near), highest),
        errors=tuple(observation.error for observation in observations),
    )


def _expected(
    lesson: Lesson, complete: Sequence[Lesson], epochs: int, sign: float, highest: float
) -> tuple[float, float]:
    """Estimate the final score of a trial, more is better, and how far off that may be.

    A trial that is not complete still gains what its own curve lets expect, corrected by how far that was off
    for complete ones like it, and at most half of what there is to gain. One that diverged has the worst one.
    """
    course = lesson.course
    if course.final is not None:
        return sign * course.final, 0.0
    finals = [(other, other.course.final) for other in complete if other.course.final is not None]
    if course.has_diverged or not course.scores:
        return min(sign * final for _, final in finals), 0.0
    epoch, score = max(course.scores.items())
    gain, spread = _gain_to_come(course, epoch, epochs)
    misses, weights = [0.0], [USUAL_WEIGHT]
    for other, final in finals:
        if epoch in other.course.scores and epoch < epochs:
            expected, _ = _gain_to_come(other.course, epoch, epochs)
            misses.append(sign * (final - other.course.scores[epoch]) - expected)
            weights.append(_alikeness(lesson, other))
    miss = float(np.average(misses, weights=weights))
    squares = [spread**2, *((each - miss) ** 2 for each in misses[1:])]
    gain = min(gain + miss, (highest - sign * score) / 2)
    return sign * score + gain, math.sqrt(float(np.average(squares, weights=weights)))


def _gain_to_come(course: Course, epoch: int, epochs: int) -> tuple[float, float]:
    """Estimate what a curve still gains after an epoch, and how far off that may be.

    A curve that moved much still moves: at a high learning rate the score jumps and ends far above.
    """
    recent = epoch - max(1, round(RECENT_SHARE * epoch))
    before = max((e for e in course.scores if e <= recent), default=epoch)
    rise = abs(course.scores[epoch] - course.scores[before])
    left = (1 - epoch / epochs) ** 2
    return left * (USUAL_GAIN + RISE_GAIN * rise), left * math.hypot(USUAL_SPREAD, RISE_SPREAD * rise)


def _finite(course: Course) -> Course:
    """Leave out scores that are no number; a training that ends in one has diverged."""
    has_end = course.final is None or math.isfinite(course.final)
    return Course(
        final=course.final if has_end else None,
        scores={epoch: score for epoch, score in course.scores.items() if math.isfinite(score)},
        has_diverged=course.has_diverged or not has_end,
    )


def _alikeness(one: Lesson, other: Lesson) -> float:
    """Return how much one setting's curve says of another's, in [0, 1]: by depth and learning rate."""
    if one.backbone != other.backbone:
        return 0.0
    apart = np.subtract(one.place[:2], other.place[:2]) / ALIKE
    return float(np.exp(-0.5 * (apart**2).sum()))


def split_of(seed: int | None, *, resampled: bool) -> int:
    """Number the division that a trial was judged on: 0 the study's own, then those of the seeds."""
    return 0 if seed is None or not resampled else 1 + seed
