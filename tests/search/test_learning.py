"""What a trial that has not come to its end is expected to score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.search.tables import Table
from depthsearch.options.words import LEARNING_RATES
from depthsearch.search.beliefs import learning
from depthsearch.search.beliefs.learning import Learned, Lesson, ScoreError, learn
from depthsearch.search.beliefs.response import Observation, Response
from depthsearch.search.extrapolation import Course

TABLES = Path(__file__).parents[2] / "benchmarks" / "search" / "tables"
ERROR = ScoreError(n_val=100, is_share=True)
EPOCHS = 5


def complete(place: tuple[float, float], *scores: float) -> Lesson:
    """Make the lesson of a complete trial."""
    course = Course(final=scores[-1], scores=dict(enumerate(scores, 1)))
    return Lesson(place=place, backbone=0, split=0, course=course)


def running(place: tuple[float, float], *scores: float) -> Lesson:
    """Make the lesson of one that runs."""
    return Lesson(
        place=place, backbone=0, split=0, course=Course(final=None, scores=dict(enumerate(scores, 1)))
    )


def learned(*lessons: Lesson, epochs: int = EPOCHS) -> Learned:
    """Learn from some."""
    found = learn(lessons, epochs=epochs, maximize=True, error=ERROR)
    assert found is not None
    return found


def expected_best(*lessons: Lesson) -> float:
    """Return the best score that is expected where the first lesson's trial promises most."""
    return learned(*lessons).best


FAR = [complete((0.9, 0.2), *[0.5] * EPOCHS), complete((1.0, 0.2), *[0.5] * EPOCHS)]


def test_four_tenths_of_the_variance_by_the_images_are_expected_to_be_a_scores_own(monkeypatch) -> None:
    """Guards the belief about noise: it decides how far a single good training is trusted."""
    given: list[float] = []

    def respond(observations: Sequence[Observation], *, noise: float) -> Response:
        given.append(noise)
        return Response(observations, noise=noise)

    monkeypatch.setattr(learning, "Response", respond)
    found = learned(complete((0.0, 0.5), *[0.8] * EPOCHS), *FAR)
    by_images = 0.8 * 0.2 / ERROR.n_val
    assert (given[0] * found.near) ** 2 == pytest.approx(0.4 * by_images, rel=0.05)


def test_a_curve_that_still_moves_is_expected_to_gain_more_and_less_surely() -> None:
    """Guards a trial at a high learning rate, which jumps and ends far above, against an early pause."""
    flat = learned(running((0.0, 0.9), 0.80, 0.90, 0.90), *FAR)
    rising = learned(running((0.0, 0.9), 0.60, 0.70, 0.90), *FAR)
    falling = learned(running((0.0, 0.9), 0.90, 0.99, 0.90), *FAR)
    assert 0.90 < flat.best < falling.best < rising.best < 1.0
    assert flat.errors[0] < rising.errors[0]
    assert rising.errors[1:] == (0.0, 0.0)


def test_complete_curves_of_like_settings_say_how_much_is_still_gained() -> None:
    """Guards what is learned from a study's own curves, and only from those that are alike."""
    curve = 0.50, 0.60, 0.60
    alone = expected_best(running((0.1, 0.5), *curve), *FAR)
    like = [complete((0.1, 0.4 + 0.02 * n), 0.4, 0.5, 0.5, 0.6, 0.65) for n in range(10)]
    unlike = [complete((0.9, 0.9), *scores) for scores in ((0.3, 0.4, 0.4, 0.5, 0.55),) * 10]
    beside_like = expected_best(running((0.1, 0.5), *curve), *like, *FAR)
    assert 0.70 < beside_like < 0.75
    assert expected_best(running((0.1, 0.5), *curve), *unlike, *FAR) == pytest.approx(alone, abs=0.005)


def test_nothing_is_expected_beyond_what_there_is_to_gain() -> None:
    """A steep curve at its beginning: half of the errors may go."""
    steep = running((0.0, 0.9), 0.30, 0.85)
    assert learned(steep, *FAR, epochs=10).best == pytest.approx(0.925)
    falling = Lesson(
        place=(0.0, 0.9), backbone=0, split=0, course=Course(final=None, scores={1: 1.4, 2: 0.5})
    )
    loss = ScoreError(n_val=100, is_share=False)
    found = learn([falling, *FAR], epochs=10, maximize=False, error=loss)
    assert found is not None
    assert found.best == pytest.approx(-0.25)


@pytest.mark.parametrize("name", ["digits", "vehicles", "catsdogs", "superclasses"])
def test_on_recorded_trainings_nine_of_ten_end_within_two_deviations(name: str) -> None:
    """Guards the figures that a search begins with, on real curves."""
    table = Table.read(TABLES / f"{name}.npz").with_rates(*LEARNING_RATES)
    epochs = table.score.shape[-1]
    at = math.ceil(0.6 * epochs)
    curves = table.score[:, :-1].reshape(-1, epochs)
    curves = curves[np.isfinite(curves).all(1)]
    assert len(curves) >= 45
    ends = []
    for curve in curves:
        # Its own score is in front, so that it is the best one.
        low = [complete((1.0, 0.2), *[curve[at - 1] - 0.3] * epochs)] * 2
        found = learned(running((0.0, 0.5), *curve[:at]), *low, epochs=epochs)
        # In the response's unit, one for `near` points at the best.
        ends.append(abs(curve[-1] - found.best) / (found.errors[0] * found.near))
    # But for the chance that so many curves leave, its standard error.
    assert np.mean(np.array(ends) < 2) + math.sqrt(0.9 * 0.1 / len(ends)) >= 0.9


def test_draws_in_single_precision_score_as_in_double() -> None:
    known = learned(*(complete((depth, 0.5), 0.5, 0.9 - depth / 10) for depth in (0.0, 0.3, 0.6, 1.0)))
    draws = known.response.draws(np.array([[0.2, 0.5], [0.9, 0.1]]), 2000, seed=0)
    assert draws.dtype == known.scores(draws).dtype == np.float32
    np.testing.assert_allclose(known.scores(draws), known.scores(draws.astype(np.float64)), atol=1e-6)
