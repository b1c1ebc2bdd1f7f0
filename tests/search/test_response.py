"""What is expected of settings that were hardly tried."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from depthsearch.search.beliefs import response as responses
from depthsearch.search.beliefs.response import SPLIT_NOISE, Observation, Response

# Three cheap late cuts at four learning rates each, mostly poor, and a good one in the middle.
LATE = [
    Observation(place=(depth, rate), score=-3 * abs(rate - 0.9) - 2 * (depth - 0.7))
    for depth in (0.8, 0.9, 1.0)
    for rate in (0.0, 0.3, 0.6, 0.9)
]
GOOD = [Observation(place=(0.6, rate), score=0.1) for rate in (0.6, 0.9)]


def test_poor_trials_of_cheap_cuts_say_little_against_one_that_was_not_tried() -> None:
    response = Response([*LATE, *GOOD])
    scores = np.array([each.score for each in (*LATE, *GOOD)])
    untried = response.mean(np.array([[0.0, 0.3]]))[0]
    assert scores.mean() < -1 < 0 < untried
    # What was tried stays what it was.
    tried = response.mean(np.array([each.place for each in LATE]))
    assert np.allclose(tried, scores[: len(LATE)], atol=0.15)


def test_equal_scores_leave_room_for_better_ones() -> None:
    level = [Observation(place=(depth, 0.5), score=0.0) for depth in (0.7, 0.8, 0.9, 1.0)]
    draws = Response(level, noise=0.125).draws(np.array([[0.0, 0.5], [0.9, 0.5]]), 2000, seed=0)
    far, near = draws.std(0)
    assert 0.03 < near < far
    assert far > 0.08


def test_further_trainings_on_a_division_say_what_conditioning_on_everything_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """True scores, what a division of the images does to them, and trials in one large Gaussian."""
    share = 0.2
    monkeypatch.setattr(responses, "SPLIT_SHARES", (share,))
    rng = np.random.default_rng(0)
    places = rng.uniform(size=(9, 2))
    trials = [
        Observation(place=(a, b), score=float(rng.normal()), split=int(i % 3 == 2))
        for i, (a, b) in enumerate(places)
    ]
    response = Response(trials, noise=0.1)
    asked, n_first = np.vstack([places[:4], rng.uniform(size=(3, 2))]), 4
    beliefs = response.beliefs(asked, n_first, divisions=(0, 1, 7))
    assert len(beliefs) > 1
    n, splits = len(trials), np.array([each.split for each in trials])
    for (belief, fit), division in itertools.product(zip(beliefs, response._fitted, strict=False), (0, 1, 7)):
        # Trials, true scores, what a division makes of these.
        every = np.vstack([places, asked[:n_first], asked[:n_first]])
        nobody = np.zeros(len(every), dtype=np.int64)
        correlation = fit.kernel(every, nobody, every, nobody)
        of = np.array([*splits, *[-1] * n_first, *[division] * n_first])
        is_same = np.equal.outer(of, of) & (of[:, None] >= 0)
        # The mean may be anything.
        prior = correlation * (1 + SPLIT_NOISE * fit.noise * is_same) + share * is_same + 1e5
        given = prior[:n, :n] + fit.noise * np.eye(n)
        rest = prior[n:, n:] - prior[n:, :n] @ np.linalg.solve(given, prior[:n, n:])
        rest *= belief.noise / fit.noise
        covariance, variance = belief.of_another_score(division, 2)
        assert np.allclose(covariance, rest[:n_first, n_first + 2], atol=1e-4)
        assert variance == pytest.approx(rest[n_first + 2, n_first + 2] + belief.noise, abs=1e-4)
        if division == 0:
            assert np.allclose(belief.score_covariance[:, :n_first], rest[:n_first, n_first:], atol=1e-4)
            assert np.allclose(belief.score_own[:n_first], rest[:n_first, n_first:].diagonal(), atol=1e-4)
            assert np.allclose(belief.score_variance[:n_first], rest.diagonal()[n_first:], atol=1e-4)
        # Of two trainings beside each other the difference.
        covariance, variance = belief.of_another_score(division, 0, 3)
        apart = rest[:, n_first] - rest[:, n_first + 3]
        assert np.allclose(covariance, apart[:n_first], atol=1e-4)
        expected = apart[n_first] - apart[n_first + 3] + 2 * belief.noise
        assert variance == pytest.approx(expected, abs=1e-4)
