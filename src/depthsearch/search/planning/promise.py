"""What a training promises: by how much the best expected score is expected to rise once it is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from depthsearch.search.beliefs.response import Belief
from depthsearch.search.planning.known import Known
from depthsearch.search.planning.moves import Move

Floats = NDArray[np.float64]

# Settings that may turn out the best one: those of the highest expected scores.
MOST_RIVALS = 10
# Scores that a training may have, in standard deviations, each as probable.
OUTCOMES: Floats = ndtri((np.arange(9) + 0.5) / 9)


def gains_of(
    belief: Belief,
    worth: Callable[[Floats], Floats],
    moves: Sequence[Move],
    known: Known,
    allowed: NDArray[np.bool_],
    divisions: Sequence[int],
) -> Floats:
    """Return by how much the best expected score is expected to rise with each move ``(m,)``.

    Args:
        belief: Of the settled settings ``(k,)``, then of the moves' own.
        worth: Turns responses into scores.
        moves: What may be done.
        known: The settled settings.
        allowed: Which of these a move is compared with ``(k, m)``.
        divisions: Of the images, that each move is judged on ``(m,)``.
    """
    k, numbers = len(known.settled), {setting.number: i for i, setting in enumerate(known.settled)}
    mean, noise = belief.mean, belief.noise
    own = np.arange(k, k + len(moves))
    # What a score, or the difference of two, says of each settled setting, and how far it may be off.
    shift, variance = belief.score_covariance[:, own].copy(), belief.score_variance[own] + noise
    is_again = np.array([bool(move.repeats) for move in moves])
    for at, move in enumerate(moves):
        if move.number is not None:
            variance[at] += noise * noise / max(known.error_of(move.number) ** 2, 1e-12)
    for at, move in enumerate(moves):
        if move.repeats:
            again = [numbers[repeat.number] for repeat in move.repeats]
            shift[:, at], variance[at] = belief.of_another_score(divisions[at], *again)
    shift /= np.sqrt(variance)
    rivals = np.arange(k)
    if allowed.all():
        rivals = np.argsort(-mean[:k] - 2 * np.sqrt(belief.variance[:k]))[:MOST_RIVALS]
        rivals = np.union1d(rivals, mean[:k].argmax())
    # A move that no settled setting may be compared with is compared with the worst of them.
    before = worth(np.where(allowed, mean[:k, None], mean[:k].min()).max(0))
    after = mean[rivals, None, None] + shift[rivals, :, None] * OUTCOMES
    after = np.where(allowed[rivals, :, None], after, mean[:k].min()).max(0)
    own_shift = np.where(is_again, 0.0, belief.score_own[own] / np.sqrt(variance))
    own_mean = np.where(is_again, -np.inf, mean[own])
    after = worth(np.maximum(after, own_mean[:, None] + own_shift[:, None] * OUTCOMES))
    gains: Floats = (after.mean(1) - before).clip(0)
    return gains
