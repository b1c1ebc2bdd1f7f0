"""What a study answers: the cheapest setting that loses little against the best, and how sure that is.

All that is said comes from draws of what the true scores of settings may be, together, tried settings and
untried candidates (`response.Response.draws`). A setting is good enough if it loses less than the tolerance
against whatever is the best with a probability of 90 %. The answer is the cheapest of these; if none can be
shown to be good enough, the setting of the highest expected score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthsearch.search.beliefs.learning import Learned
from depthsearch.search.beliefs.response import Response

Floats = NDArray[np.floating[Any]]

# How probable something is that is called shown.
SURE = 0.9
# The set of candidates that cannot be told apart holds the best one with this probability.
COVERED = 0.95
N_DRAWS = 2000
# Candidates of which a neighbour on either side is taken for alike; of twice as many two, and so on.
ALIKE = 40
# Where a head alone that is solved lies: depth and learning rate, see `SearchSpace.place`.
SOLVED = (1.0, 0.5)
# Settings of a candidate that may be its best one, and of all candidates together.
MOST_EACH, MOST_PLACES = 3, 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the trials say of the ``k`` settings that are settled, and of ``c`` candidates at their best.

    Attributes:
        answer: Place of the answer among the settled settings.
        best: Place of the setting of the highest expected score; of equal ones the cheapest.
        chance: That a setting loses less than the tolerance against the best there is ``(k,)``.
        gap: How far its score is expected to be below that of the best setting ``(k,)``; the best's is 0.
        gap_error: Standard deviation of that ``(k,)``.
        score: Median of what a candidate may score ``(c,)``, more is better.
        low: Lower end of a 95 % interval of it ``(c,)``.
        high: Its upper end ``(c,)``.
        loss: What a candidate loses at most against the best, with a probability of 90 % ``(c,)``.
        behind: What the best setting loses at most against the settled ones, with a probability of 90 %.
        untried: How probable it is that it loses the tolerance or more, and only against what was not tried.
        level: Places of the candidates that cannot be told apart: the fewest that hold the best one with a
            probability of 95 %, and those of the answer and the best setting.
    """

    answer: int
    best: int
    chance: Floats
    gap: Floats
    gap_error: Floats
    score: Floats
    low: Floats
    high: Floats
    loss: Floats
    behind: float
    untried: float
    level: tuple[int, ...]

    @property
    def is_shown(self) -> bool:
        """Whether the answer is good enough with a probability of 90 %."""
        return bool(self.chance[self.answer] >= SURE)


def judge(
    learned: Learned,
    settled: Sequence[tuple[float, ...]],
    backbones: Sequence[int],
    costs: Sequence[tuple[float, ...]],
    candidates: Sequence[int],
    of_candidates: Sequence[int],
    *,
    tolerance: float,
) -> Verdict:
    """Say which setting to take.

    Args:
        learned: What the trials say.
        settled: Settings with a complete training, the cheapest first.
        backbones: Of each, counted from 0.
        costs: Of each, what orders them by what their training costs.
        candidates: Of each settled setting the place of its cut among all candidates.
        of_candidates: Backbone of each candidate; those of one lie evenly over depth.
        tolerance: What the answer may lose, in the unit of the score.
    """
    places = _best_places(learned.response, of_candidates, settled)
    places = places.reshape(-1, places.shape[-1])
    k = len(settled)
    of_places = np.repeat(of_candidates, len(places) // len(of_candidates))
    drawn = learned.response.draws(
        np.vstack([np.array(settled), places]), N_DRAWS, seed=0, backbones=[*backbones, *of_places]
    )
    scores = learned.scores(drawn)
    ours = scores[:, :k]
    # Of each candidate the best of its settings that promise most.
    theirs = scores[:, k:].reshape(len(scores), len(of_candidates), -1).max(2)
    most = scores.max(1)
    chance = (most[:, None] - ours < tolerance).mean(0)
    # Draws have heavy tails while little is known: their mean is chance.
    means = learned.response.mean(np.array(settled), backbones)
    best = int(means.argmax())
    shown = [at for at in range(k) if chance[at] >= SURE]
    # Of those that cost the same, the best.
    answer = min(shown, key=lambda at: (costs[at], -means[at]), default=best)
    gaps = ours[:, [best]] - ours
    level = _fewest(theirs.argmax(1), of_candidates) | {candidates[answer], candidates[best]}
    behind = ours.max(1) - ours[:, best]
    is_untried = (behind < tolerance) & (most - ours[:, best] >= tolerance)
    (loss,) = _quantiles(most[:, None] - theirs, (SURE,))
    # At last, as it changes their order.
    low, middle, high = _quantiles(theirs, (0.025, 0.5, 0.975))
    return Verdict(
        answer=answer,
        best=best,
        chance=chance,
        gap=gaps.mean(0).clip(0),
        gap_error=gaps.std(0),
        score=middle,
        low=low,
        high=high,
        loss=loss,
        behind=float(np.quantile(behind, SURE)),
        untried=float(is_untried.mean()),
        level=tuple(sorted(level)),
    )


def _quantiles(draws: Floats, shares: Sequence[float]) -> Floats:
    """Return quantiles of draws ``(n, c)``, whose order is lost: ``(len(shares), c)``.

    In single precision it takes half the time to sort them first.
    """
    draws.sort(axis=0)
    quantiles: Floats = np.quantile(draws, shares, axis=0, overwrite_input=True)
    return quantiles


def _fewest(winners: NDArray[np.int64], of_candidates: Sequence[int]) -> set[int]:
    """Return the fewest candidates among which the winner of a draw is often enough.

    Of many candidates the shares of neighbours are averaged first: which of them wins is chance.

    Args:
        winners: Place of the best candidate of each draw.
        of_candidates: Backbone of each candidate.
    """
    shares = np.bincount(winners, minlength=len(of_candidates)) / len(winners)
    for backbone in set(of_candidates):
        own = np.flatnonzero(np.asarray(of_candidates) == backbone)
        reach = len(own) // ALIKE
        near = abs(own[:, None] - own) <= reach
        shares[own] = (near * shares[own]).sum(1) / near.sum(1)
    order = np.argsort(-shares, kind="stable")
    needed = int(np.searchsorted(np.cumsum(shares[order]), COVERED * shares.sum() - 1e-9)) + 1
    return {int(place) for place in order[:needed]}


def _best_places(response: Response, of_cut: Sequence[int], settled: Sequence[tuple[float, ...]]) -> Floats:
    """Find the settings that each cut is expected to score best with: ``(n_cuts, n, d)``.

    Only combinations of the other dimensions that were tried at some cut are considered. A head alone that is
    solved has no learning rate, so that it shares its setting with no other cut; where it was tried, the head
    alone is considered only as it was tried.

    Args:
        response: What the trials say.
        of_cut: Each candidate's backbone, counted from 0; the candidates of one lie evenly over depth.
        settled: Settings with a complete training.
    """
    n_cuts = len(of_cut)
    depths = np.array([d for _, run in groupby(of_cut) for d in np.linspace(0, 1, len(list(run)))])
    solved = {place[1:] for place in settled if place[:2] == SOLVED}
    trained = {place[1:] for place in settled if place[:2] != SOLVED}
    heads = {place[1:] for place in settled if place[0] == 1} if solved else trained
    settings = sorted(solved | trained)
    places = np.empty((n_cuts, len(settings), 1 + len(settings[0])))
    places[:, :, 0], places[:, :, 1:] = depths[:, None], np.array(settings)
    # Far more than the rounding of single precision decides which is best.
    every = places.reshape(n_cuts * len(settings), -1).astype(np.float32)
    means = response.mean(every, np.repeat(of_cut, len(settings))).reshape(n_cuts, -1)
    for is_head, own in ((depths == 1, heads), (depths < 1, trained)):
        if own:
            others = np.array([setting not in own for setting in settings])
            means[np.ix_(is_head, others)] = -np.inf
    n_own = min(len(own) for own in (heads, trained) if own)
    n_each = min(n_own, max(1, min(MOST_EACH, MOST_PLACES // n_cuts)))
    order = np.argsort(-means, axis=1, kind="stable")[:, :n_each]
    best: Floats = np.take_along_axis(places, order[:, :, None], axis=1)
    return best
