"""Two aims at once, as numbers: which points are on the front, and how much they dominate.

A point is a score, of which more is better, and a cost, of which less is. ``n`` points.

Source: Zitzler and Thiele, Multiobjective Evolutionary Algorithms: A Comparative Case Study and the Strength
Pareto Approach, IEEE Trans. Evol. Comput. 3(4), 1999, for the hypervolume.
"""

from __future__ import annotations

from collections.abc import Sequence


def non_dominated(points: Sequence[tuple[float, float]]) -> list[int]:
    """Find the points that no other beats: as good in both score and cost, and better in one.

    Args:
        points: Score and cost of each ``(n,)``.

    Returns:
        Their places, by rising cost, and so by rising score. Of equal points all are there.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][1], -points[i][0]))
    front: list[int] = []
    for i in order:
        if not front or points[i][0] > points[front[-1]][0] or points[i] == points[front[-1]]:
            front.append(i)
    return front


def hypervolume(points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Measure the area of scores and costs that some point is at least as good as.

    Args:
        points: Score and cost of each.
        reference: Where the area ends: the lowest score and the highest cost that count.
    """
    lowest, highest = reference
    inside = [point for point in points if point[0] > lowest and point[1] < highest]
    front = [inside[i] for i in non_dominated(inside)]
    ends = [*(cost for _, cost in front), highest][1:]
    return sum((score - lowest) * (end - cost) for (score, cost), end in zip(front, ends, strict=True))
