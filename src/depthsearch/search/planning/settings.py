"""Which settings are weighed: cuts over the depth, learning rates over their range, the rest drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from depthsearch.search.space import BACKBONE, cut_parameter

Floats = NDArray[np.float64]

# Learning rates that are weighed at each cut, and values of the other dimensions.
N_RATES, N_OTHERS = 7, 2
# Cuts that are weighed each time, of a network with more: drawn anew, so that each is reached.
MOST_CUTS = 40


def settings_of(
    backbone: str,
    index: int,
    distributions: Mapping[str, BaseDistribution],
    best: Mapping[str, Any],
    rng: np.random.Generator,
    *,
    rate: float | None = None,
) -> Iterator[dict[str, Any]]:
    """List settings of one cut: learning rates over the range, the rest as the best has it or drawn.

    Args:
        backbone: Its name, as of the space.
        index: Of the cut.
        distributions: Of a trial of the backbone, by parameter.
        best: Parameters of the best setting so far; none if there is none.
        rng: Draws.
        rate: The only learning rate; None: several over the range.
    """
    rates = [rate] if rate is not None else _rates_over(distributions["learning_rate"], rng)
    named: dict[str, Any] = {cut_parameter(backbone): index}
    if BACKBONE in distributions:
        named[BACKBONE] = backbone
    others = [name for name in distributions if name not in (*named, "learning_rate")]
    for each in rates:
        for n in range(N_OTHERS if others else 1):
            rest = {
                name: best[name] if n == 0 and name in best else _drawn(distributions[name], rng)
                for name in others
            }
            yield {**named, "learning_rate": each, **rest}


def _rates_over(rates: BaseDistribution, rng: np.random.Generator) -> list[float]:
    """Draw learning rates, one from each stretch of the range."""
    assert isinstance(rates, FloatDistribution)
    n_rates = N_RATES if rates.high > rates.low else 1
    drawn: list[float] = rates_at(rates, (np.arange(n_rates) + rng.uniform(0.25, 0.75)) / n_rates).tolist()
    return drawn


def rates_at(rates: FloatDistribution, shares: float | Floats) -> Floats:
    """Return the learning rates at shares of their range, on its logarithmic scale: of the shares' shape."""
    low, high = math.log(rates.low), math.log(rates.high)
    return np.exp(low + np.asarray(shares) * (high - low)).clip(rates.low, rates.high)


def widest_gap(places: Sequence[float]) -> tuple[float, float]:
    """Find the place in [0, 1] that is furthest from some: how far, and where."""
    inner = sorted(places)
    between = [((after - before) / 2, (after + before) / 2) for before, after in pairwise(inner)]
    return max([*between, (inner[0], 0.0), (1 - inner[-1], 1.0)])


def spread(n: int, rng: np.random.Generator) -> list[int]:
    """Pick at most `MOST_CUTS` of n places evenly, each drawn from its own stretch, and both ends."""
    if n <= MOST_CUTS:
        return list(range(n))
    edges = np.linspace(0, n, MOST_CUTS + 1)
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
        return float(rates_at(distribution, rng.uniform()))
    return float(rng.uniform(distribution.low, distribution.high))
