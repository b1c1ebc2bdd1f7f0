"""What is expected of settings that were hardly tried."""

from __future__ import annotations

import numpy as np

from depthsearch.search.response import Observation, Response

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
