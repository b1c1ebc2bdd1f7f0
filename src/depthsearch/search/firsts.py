"""What a study tries first: both ends of each backbone, then a spread over depth, or every candidate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from depthsearch.search.origins import Origin
from depthsearch.search.space import BACKBONE, Point, SearchSpace, cut_parameter

ANCHOR_DEPTHS = (0.25, 0.5, 0.75, 0.9)
# Good learning rates fall as more layers learn. On four recorded sets of images (EfficientNet-Lite0 and
# DenseNet121, AdamW) 1e-3 is best or nearly so at all but the first fifth of the cuts.
ANCHOR_LEARNING_RATES = (5e-4, 2e-3)


def first_settings(
    space: SearchSpace,
    *,
    exhaustive: bool = False,
    learning_rates: Sequence[float] = (),
    only_heads: bool = False,
) -> list[tuple[dict[str, Any], Origin]]:
    """Choose what a study tries first, with its origin: a ``baseline``, an ``anchor``, or ``exhaustive``.

    Head only and everything of each backbone come first, then a spread over depth, the backbones in turn;
    or all other candidates, from the head on; or nothing more than the head only.
    """
    chosen: dict[tuple[str, int], Origin] = {
        cut: "baseline" for depth in ((1,) if only_heads else (1, 0)) for cut in _at_depth(space, depth)
    }
    rest: list[tuple[str, int]] = []
    if exhaustive:
        rest = [(cut.backbone, cut.index) for cut in reversed(space.cuts)]
    elif not only_heads:
        rest = [cut for depth in ANCHOR_DEPTHS for cut in _at_depth(space, depth)]
    for cut in rest:
        chosen.setdefault(cut, "exhaustive" if exhaustive else "anchor")
    changes: list[dict[str, Any]] = [{"learning_rate": rate} for rate in learning_rates] or [{}]
    return [
        ({**sensible_setting(space, *cut), **change}, origin)
        for cut, origin in chosen.items()
        for change in changes
    ]


def _at_depth(space: SearchSpace, depth: float) -> list[tuple[str, int]]:
    """Find the cut of each backbone at a depth in [0, 1], by backbone and index."""
    return [(name, round(depth * (len(space.cuts_of(name)) - 1))) for name in space.backbones]


def count_exhaustive(space: SearchSpace, learning_rates: Sequence[float] = ()) -> int:
    """Count the first trials of an exhaustive search."""
    return len(space.cuts) * max(1, len(learning_rates))


def sensible_rate(depth: float) -> float:
    """Return a sensible learning rate at a depth in [0, 1]: the smaller the more layers learn."""
    low, high = ANCHOR_LEARNING_RATES
    rate: float = low * (high / low) ** depth
    return rate


def sensible_setting(space: SearchSpace, backbone: str, index: int) -> dict[str, Any]:
    """Choose a sensible setting at a depth: a linear head, a smaller learning rate the more layers learn."""
    cuts = space.cuts_of(backbone)
    # Where there is one cut, it says nothing of how much is learned anew: the middle.
    depth = index / (len(cuts) - 1) if len(cuts) > 1 else 0.5
    point = Point(cut=cuts[index], learning_rate=sensible_rate(depth))
    params: dict[str, Any] = {}
    for name, distribution in space.distributions(backbone).items():
        named: dict[str, Any] = {BACKBONE: backbone, cut_parameter(backbone): index}
        value = named[name] if name in named else getattr(point, name)
        if isinstance(distribution, CategoricalDistribution):
            params[name] = value if value in distribution.choices else distribution.choices[0]
        elif isinstance(distribution, IntDistribution | FloatDistribution):
            params[name] = min(max(value, distribution.low), distribution.high)
    return params
