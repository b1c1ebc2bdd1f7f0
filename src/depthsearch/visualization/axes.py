"""The axes of figures: depth with the stages of a backbone, and the range of scores.

Depth is the position among the candidate cuts: there they lie evenly, and their layer numbers stand at the
ticks.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from depthsearch.models.cuts import Cut
from depthsearch.results.summary import Summary
from depthsearch.visualization.style import COLOURS, plain
from depthsearch.visualization.words import metric_of

N_TICKS = 12
# Scores so far (in interquartile ranges) from the middle half would flatten all others.
FENCE = 3.0
MOST_STAGES = 24
# Width of the narrowest plots, and of a letter, in pixels: the name of a stage stands where it fits.
NARROW_PIXELS, WIDE_PIXELS, LETTER_PIXELS = 290, 540, 6.3


def depth_axis(
    summary: Summary, title: str = "first trainable layer (more frozen to the right)"
) -> dict[str, Any]:
    """Lay the candidate cuts out evenly, with the layer numbers of some."""
    last = len(summary.cuts) - 1
    step = max(1, math.ceil(last / (N_TICKS - 1)))
    # Evenly, and the last one: there nothing but the head learns.
    places = [*(place for place in range(0, last, step) if place + step / 2 < last), last]
    pad = max(0.4, last * 0.015)
    return {
        "title": title,
        "range": [-pad, last + pad],
        "tickmode": "array",
        "tickvals": places,
        "ticktext": [str(summary.cuts[place].layer) for place in places],
        "showgrid": False,
        "ticks": "outside",
    }


def stages(cuts: Sequence[Cut]) -> list[tuple[int, int, str]]:
    """Find the stages of a backbone in its module paths: first index, the index behind the last, name.

    A stage is a run of cuts with the same first component (``layer3``), or, where that makes fewer than
    three, with the same first two (``features.denseblock3``, ``blocks.4``).
    """
    one, two = (_path_runs(cuts, n_parts) for n_parts in (1, 2))
    for runs, fewest in ((one, 3), (two, 3), (one, 2)):
        if fewest <= sum(end - start > 1 for start, end, _ in runs) and len(runs) <= MOST_STAGES:
            return runs
    return []


def _path_runs(cuts: Sequence[Cut], n_parts: int) -> list[tuple[int, int, str]]:
    """Find the runs of cuts whose module paths have the same first components."""
    keys = ((cut.kind == "head", *cut.name.split(".")[:n_parts]) for cut in cuts)
    runs = []
    for (_, *parts), run in groupby(enumerate(keys), key=lambda pair: pair[1]):
        places = [place for place, _ in run]
        runs.append((places[0], places[-1] + 1, _stage_name(parts)))
    return runs


def _stage_name(parts: Sequence[str]) -> str:
    """Return the last component, or both where that is only a number."""
    return ".".join(parts) if parts[-1].isdecimal() else parts[-1]


def stage_names(summary: Summary) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Draw where the stages of the backbone begin.

    Returns:
        A vertical line for each, and their names above the plot: those that fit into a narrow one are called
        ``stage``, those that want a wider one ``wide stage``; others are left out.
    """
    lines, names = [], []
    last = len(summary.cuts) - 1
    span = last + 2 * max(0.4, last * 0.015)
    for start, end, name in stages(summary.cuts):
        place = {"x": start - 0.5, "yref": "paper"}
        ends = {"x0": start - 0.5, "x1": start - 0.5, "yref": "paper", "y0": 0, "y1": 1.03}
        line = {"color": COLOURS["line"], "width": 1, "dash": "dot"}
        if start:
            lines.append({"type": "line", **ends, "line": line, "opacity": 0.6, "layer": "below"})
        needed = len(name) * LETTER_PIXELS + 8
        share = (end - start) / span
        if needed > share * WIDE_PIXELS:
            continue
        names.append(
            {
                **place,
                "y": 1.0,
                "yanchor": "bottom",
                "xanchor": "left",
                "text": plain(name),
                "name": "stage" if needed <= share * NARROW_PIXELS else "wide stage",
                "showarrow": False,
                "font": {"size": 11, "color": COLOURS["line"]},
            }
        )
    return lines, names


def score_range(
    summary: Summary, values: Iterable[float | None], kept: Iterable[float | None] = ()
) -> tuple[float, float]:
    """Choose the range of an axis of scores: all of ``kept``, and what is no outlier of ``values``."""
    every = _finite([*values, *(trial.score for trial in summary.trials)])
    inside = [*_finite(kept), *without_outliers(_finite(values))] or [0.0, 1.0]
    low, high = min(inside), max(inside)
    pad = (high - low) * 0.07 or abs(high) * 0.05 or 0.5
    # Marks beyond an end stand apart from those near it.
    beyond = 2.5 * pad
    below = beyond if min(every, default=low) < low else pad
    above = beyond if max(every, default=high) > high else pad
    return low - below, high + above


def _finite(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def without_outliers(values: Sequence[float]) -> list[float]:
    """Leave out what would take more than half of the range for itself."""
    if len(values) < 4:
        return list(values)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    reach = FENCE * (high - low)
    inside = [value for value in values if low - reach <= value <= high + reach]
    if max(values) - min(values) > 2 * (max(inside) - min(inside)) > 0:
        return inside
    return list(values)


def score_axis(summary: Summary, low: float, high: float) -> dict[str, Any]:
    """Describe an axis of scores."""
    return {"title": title_of_score(summary), "range": [low, high]}


def title_of_score(summary: Summary) -> str:
    """Name the score, and say so where a low one is good."""
    return metric_of(summary) + ("" if summary.maximize else " (lower is better)")
