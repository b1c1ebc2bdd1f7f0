"""What is true of a recorded table: what each setting scores, whatever seed and images a study sees."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

from benchmarks.search.tables import Floats, Table

# Settings that score so much less than the best cannot be it, and their scores obey other laws.
NEAR_SCORE = 0.1
# Where means over the seeds are less sure than that of a difference, a regression takes their noise out.
SURE_ERROR = 0.0025
# Of the regression: how far neighbours are alike, as a share of the range; variance, as one of the means'.
REACHES = tuple(np.geomspace(0.1, 3, 6))
SIZES = (0.5, 1.0, 2.0, 4.0)
FEWEST_SETTINGS = 6

Way = Literal["mean", "smooth"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truth:
    """What the settings of a table score.

    Attributes:
        score: ``(c, r)``, after the last epoch.
        error: Standard error of the difference between two settings' means over the seeds.
        way: ``mean``: over the seeds; ``smooth``: a regression of that over neighbouring cuts and learning
            rates.
    """

    score: Floats
    error: float
    way: Way

    @property
    def best_score(self) -> float:
        """Score of the best setting."""
        return float(self.score.max())

    @property
    def best_cut(self) -> int:
        """Cut of the best setting."""
        return int(np.unravel_index(self.score.argmax(), self.score.shape)[0])

    def regret(self, cut: int, rate: int) -> float:
        """How many points a setting is below the best one."""
        return 100 * (self.best_score - float(self.score[cut, rate]))


def truth_of(table: Table, way: Way | Literal["auto"] = "auto") -> Truth:
    """Say what each setting of a table scores.

    Args:
        table: All of whose trainings are there.
        way: See `Truth`; ``auto``: smooth where the error of a difference of means is above a quarter of a
            point, or unknown, as there is one seed.
    """
    mean, error = table.mean_score()[..., -1], difference_error(table)
    if way == "auto":
        way = "mean" if error <= SURE_ERROR else "smooth"
    return Truth(score=mean if way == "mean" else _smooth(table, mean, error), error=error, way=way)


def difference_error(table: Table) -> float:
    """Standard error of the difference of two settings' means, paired by seed, among those near the best.

    What a seed, with its split, does to all settings cancels; infinite with one seed.
    """
    mean = table.mean_score()[..., -1]
    scores = table.score[..., -1][:, mean >= mean.max() - NEAR_SCORE]
    scores = scores[:, np.isfinite(scores).all(0)]
    n_seeds, n_settings = scores.shape
    if n_seeds < 2 or n_settings < 2:
        return math.inf
    rest = scores - scores.mean(0) - scores.mean(1, keepdims=True) + scores.mean()
    variance = (rest**2).sum() / ((n_seeds - 1) * (n_settings - 1))
    return math.sqrt(2 * variance / n_seeds)


def _smooth(table: Table, mean: Floats, error: float) -> Floats:
    """Regress the means of the better settings on place among the cuts and learning rate.

    A Gaussian process with the noise of a mean over the seeds; its size and its reach along both are the
    likeliest ones. Settings far below the best keep their means.
    """
    near = mean >= mean.max() - NEAR_SCORE
    if near.sum() < FEWEST_SETTINGS:
        return mean
    grid = np.meshgrid(*(np.linspace(0, 1, n) for n in mean.shape), indexing="ij")
    apart = [(axis[near][:, None] - axis[near]) ** 2 for axis in grid]
    scores = mean[near] - mean[near].mean()
    # With one seed nothing is known of the noise: half of what there is.
    noise = min(error**2 / 2, scores.var() / 2) + 1e-9
    best, smooth = -math.inf, scores
    for by_cut, by_rate, size in product(REACHES, REACHES, SIZES):
        signal = size * scores.var() * np.exp(-0.5 * (apart[0] / by_cut**2 + apart[1] / by_rate**2))
        factor = np.linalg.cholesky(signal + noise * np.eye(len(scores)))
        weights = np.linalg.solve(factor.T, np.linalg.solve(factor, scores))
        likelihood = -0.5 * scores @ weights - np.log(np.diag(factor)).sum()
        if likelihood > best:
            best, smooth = likelihood, signal @ weights
    truth = mean.copy()
    truth[near] = smooth + mean[near].mean()
    return truth
