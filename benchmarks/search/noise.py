"""How noisy are scores, and how few cuts can then be told from the best? Recorded trainings, image by image.

    python -m benchmarks.search.noise benchmarks/search/tables/*.npz

Two settings that are judged on the same validation images are right and wrong about many of them together.
What of this cancels in their difference is asked image by image. Of the settings within three points of the
best:

- *unpaired*, *paired*: standard deviation of the difference of two scores that the validation images explain,
  taken for independent, and image by image; *over seeds*: what it truly is over the seeds of the table, each
  with its own division of the images. All in points;
- *own*: share of a score's variance that does not cancel, for two cuts that lie next to each other, and for
  any two. `search.beliefs.learning.OWN_NOISE` is what a search expects beforehand.

The second table bounds what a search can reach. An oracle knows the noise and the best learning rate of
each cut, so that it has one unknown for each cut. It spends a budget of full fine-tunes on the cuts that are
likeliest the best. *Within*: how many of its searches answer with a cut within half a point of the best;
*set*: median share of the cuts in the fewest that hold the best one with 95 %.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.search.replay import WITHIN, read_table
from benchmarks.search.tables import Table
from benchmarks.search.truth import truth_of
from benchmarks.shared.printing import print_table

NEAR_SCORE = 0.03
COVERED = 0.95
# What a training costs at least, in full fine-tunes: to start it, to read what is kept.
OVERHEAD = 0.02
N_DRAWS, N_SEARCHES = 1000, 100

Setting = tuple[int, int]


def settings_near_best(table: Table) -> list[Setting]:
    """List the settings, cut and learning rate, that score within three points of the best."""
    mean = table.mean_score()[..., -1]
    near = (mean >= np.nanmax(mean) - NEAR_SCORE) & table.done.all(0)
    return [(int(cut), int(rate)) for cut, rate in zip(*np.nonzero(near), strict=True)]


def paired_variance(table: Table, one: Setting, other: Setting) -> float:
    """Return the variance of the difference of two scores, image by image, mean over the seeds."""
    differences = [
        table.outcomes(seed, *one, table.about.epochs).astype(float)
        - table.outcomes(seed, *other, table.about.epochs)
        for seed in table.whole_seeds
    ]
    return float(np.mean([each.var() for each in differences]) / table.about.n_val)


def noise_of(table: Table) -> tuple[float, float, float, float]:
    """Return variances of a difference: unpaired, paired, over the seeds, and paired of neighbouring cuts."""
    scores = table.score[..., -1]
    rows, near = [], []
    for one, other in itertools.combinations(settings_near_best(table), 2):
        shares = scores[:, *one], scores[:, *other]
        unpaired = sum(float((p * (1 - p)).mean()) for p in shares) / table.about.n_val
        paired = paired_variance(table, one, other)
        rows.append((unpaired, paired, float((shares[0] - shares[1]).var(ddof=1))))
        if other[0] - one[0] == 1 and one[1] == other[1]:
            near.append(paired)
    unpaired, paired, over_seeds = np.mean(rows, axis=0)
    return float(unpaired), float(paired), float(over_seeds), float(np.mean(near))


class Oracle:
    """A search that knows the noise and each cut's best learning rate, so that each has one unknown score."""

    def __init__(self, table: Table, noise: float, seed: int) -> None:
        """Begin with nothing trained."""
        self.truth = truth_of(table).score.max(1)
        self.noise, self.spread = noise, float(self.truth.std())
        costs = [table.epoch_cost(cut) * table.about.epochs for cut in range(len(self.truth))]
        self.costs = np.maximum(costs, OVERHEAD)
        self.n, self.total = np.zeros(len(self.truth)), np.zeros(len(self.truth))
        self.rng = np.random.default_rng(seed)

    def search(self, budget: float) -> None:
        """Train within a budget of full fine-tunes."""
        for cut in np.argsort(self.costs):
            if self.costs[cut] <= budget:
                budget -= self._train(cut)
        while (self.costs <= budget).any():
            # One more training takes so much of the variance of a cut's mean away.
            worth = np.where(self.costs <= budget, self._wins(100) / (self.n + 1) / self.costs, 0.0)
            if not worth.any():
                break
            budget -= self._train(self.rng.choice(len(worth), p=worth / worth.sum()))

    @property
    def regret(self) -> float:
        """Points by which the answer, the cut of the highest mean, is below the best one."""
        means = np.where(self.n > 0, self.total / np.maximum(self.n, 1), -np.inf)
        return 100 * float(self.truth.max() - self.truth[means.argmax()])

    def set_share(self) -> float:
        """Return the share of the cuts that the set has."""
        shares = np.sort(self._wins(N_DRAWS))[::-1]
        return (int(np.searchsorted(shares.cumsum(), COVERED)) + 1) / len(shares)

    def _train(self, cut: int) -> float:
        self.n[cut] += 1
        self.total[cut] += self.truth[cut] + self.noise * self.rng.standard_normal()
        return float(self.costs[cut])

    def _wins(self, n_draws: int) -> NDArray[np.float64]:
        """Return how probably each cut is the best one; one that was not trained is one of the others."""
        trained = np.maximum(self.n, 1)
        means = np.where(self.n > 0, self.total / trained, self.total.sum() / self.n.sum())
        errors = np.where(self.n > 0, self.noise / np.sqrt(trained), self.spread)
        draws = means + errors * self.rng.standard_normal((n_draws, len(means)))
        return np.bincount(draws.argmax(1), minlength=len(means)) / n_draws


def searched(table: Table, noise: float, budget: float) -> tuple[float, float]:
    """Return how many searches of an oracle end within half a point, and the median share of their sets."""
    oracles = [Oracle(table, noise, seed) for seed in range(N_SEARCHES)]
    for oracle in oracles:
        oracle.search(budget)
    within = float(np.mean([oracle.regret <= WITHIN for oracle in oracles]))
    return within, float(np.median([oracle.set_share() for oracle in oracles]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="How noisy scores are, and how small a set can be.")
    parser.add_argument("tables", type=Path, nargs="+", metavar="TABLE")
    parser.add_argument("--budgets", type=float, nargs="+", default=[2.0, 4.0, 6.0, 10.0])
    options = parser.parse_args(arguments)
    noises = [["table", "validation images", "unpaired", "paired", "over seeds", "own: next", "own: any two"]]
    columns = [f"{what} at {budget:g}" for what in ("within", "set") for budget in options.budgets]
    bounds = [["table", "noise, points", *columns]]
    for path in options.tables:
        table = read_table(path)
        unpaired, paired, over_seeds, near = noise_of(table)
        deviations = [f"{100 * variance**0.5:.2f}" for variance in (unpaired, paired, over_seeds)]
        own = [f"{variance / unpaired:.2f}" for variance in (near, paired)]
        noises.append([table.about.name, str(table.about.n_val), *deviations, *own])
        noise = (paired / 2) ** 0.5
        within, sets = zip(*(searched(table, noise, budget) for budget in options.budgets), strict=True)
        sizes = [f"{share:.2f}" for share in sets]
        bounds.append([table.about.name, f"{100 * noise:.2f}", *(f"{share:.0%}" for share in within), *sizes])
    print_table(noises)
    print()
    print_table(bounds)


if __name__ == "__main__":
    main()
