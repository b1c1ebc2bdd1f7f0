"""Which settings of a candidate may be its best."""

from __future__ import annotations

import numpy as np
import pytest

from depthsearch.search.beliefs.response import Observation, Response
from depthsearch.search.beliefs.verdict import SOLVED, _best_places, _quantiles

HEAD, LOW, HIGH = SOLVED, (0.5, 0.3), (0.0, 0.9)


@pytest.fixture
def response() -> Response:
    scores = {HEAD: 0.0, LOW: 0.1, HIGH: -0.1, (0.2, 0.6): 0.05}
    return Response([Observation(place=place, score=score) for place, score in scores.items()])


def test_a_solved_head_shares_its_learning_rate_with_no_other_cut(response) -> None:
    places = _best_places(response, [0] * 5, [HEAD, LOW, HIGH])
    assert {tuple(place) for place in places[-1]} == {HEAD}
    assert set(places[:-1, :, 1].ravel()) <= {0.3, 0.9}


def test_without_a_solved_head_all_cuts_share_what_was_tried(response) -> None:
    places = _best_places(response, [0] * 5, [LOW, HIGH])
    assert set(places[-1, :, 1]) == {0.3, 0.9}
    assert np.allclose(places[:, 0, 0], np.linspace(0, 1, 5))


def test_where_only_heads_were_trained_nothing_else_is_known(response) -> None:
    places = _best_places(response, [0] * 5, [HEAD])
    assert places.shape == (5, 1, 2)


def test_a_head_with_hidden_layers_counts_for_the_head_alone(response) -> None:
    """The solved head and one with a hidden layer: both are what the head alone was tried with."""
    hidden = (1.0, 0.8)
    places = _best_places(response, [0] * 5, [HEAD, hidden, LOW])
    assert {tuple(place) for place in places[-1]} == {HEAD, hidden}
    assert set(places[:-1, :, 1].ravel()) <= {0.3, 0.8}


def test_each_of_two_backbones_has_a_head(response) -> None:
    places = _best_places(response, [0, 0, 1, 1], [HEAD, LOW])
    assert [float(rate) for rate in places[:, 0, 1]] == [0.3, 0.5, 0.3, 0.5]


def test_quantiles_are_those_of_each_candidate() -> None:
    draws = np.random.default_rng(0).standard_normal((101, 7), dtype=np.float32)
    expected = np.quantile(draws, (0.1, 0.5), axis=0)
    np.testing.assert_array_equal(_quantiles(draws.copy(), (0.1, 0.5)), expected)
