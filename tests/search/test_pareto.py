"""Fronts and areas, against what counting every pair and every cell says."""

import numpy as np
import pytest

from depthsearch.search.pareto import hypervolume, non_dominated


def beaten(point: tuple[float, float], by: tuple[float, float]) -> bool:
    return by[0] >= point[0] and by[1] <= point[1] and by != point


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_no_pair_beats(seed: int) -> None:
    """Whole numbers, so that scores and costs are often equal."""
    rng = np.random.default_rng(seed)
    points = [(float(s), float(c)) for s, c in rng.integers(0, 6, (15, 2))]
    found = non_dominated(points)
    assert sorted(found) == [i for i, p in enumerate(points) if not any(beaten(p, q) for q in points)]
    assert [points[i] for i in found] == sorted((points[i] for i in found), key=lambda p: (p[1], p[0]))


@pytest.mark.parametrize("seed", range(5))
def test_the_area_is_that_of_the_cells_that_some_point_reaches(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = [(float(s), float(c)) for s, c in rng.integers((-2, 0), (10, 12), (6, 2))]
    cells = [
        (score, cost)
        for score in range(10)
        for cost in range(10)
        if any(p[0] >= score + 1 and p[1] <= cost for p in points)
    ]
    assert hypervolume(points, (0.0, 10.0)) == len(cells)


def test_what_lies_beyond_the_reference_has_no_area() -> None:
    assert hypervolume([(0.5, 3.0), (0.9, 12.0)], (0.5, 10.0)) == 0
    assert hypervolume([], (0.0, 1.0)) == 0
