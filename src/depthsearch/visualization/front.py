"""The front of score and cost, where a study has two aims."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import optuna
from plotly.graph_objects import Figure

from depthsearch.errors import StudyError
from depthsearch.options.words import COSTS
from depthsearch.results.front import Front, FrontPoint, front_of
from depthsearch.results.stored import StoredStudy
from depthsearch.results.summary import Summary, summarize
from depthsearch.results.trials import StoredTrial
from depthsearch.text import counted
from depthsearch.visualization.axes import score_axis, score_range
from depthsearch.visualization.marks import cut_text, kind_of, trial_marks
from depthsearch.visualization.style import COLOURS, Trace, figure, hover, points
from depthsearch.visualization.words import millions, setting_of, with_trainings

# Above this ratio of the dearest to the cheapest the axis of costs is logarithmic.
WIDE_RANGE = 10


def plot_front(study: optuna.Study | StoredStudy) -> Figure:
    """Plot score against cost: every complete trial, the front as a step line, the answer.

    Raises:
        StudyError: If depthsearch did not make the study, or it has no front.
    """
    summary = summarize(study)
    front = front_of(summary)
    if front is None:
        reason = "it aims at the score alone" if summary.cost_aim is None else "no trial is complete yet"
        raise StudyError(f"Study {summary.study!r} has no front: {reason}.")
    return draw_front(summary, front)


def draw_front(summary: Summary, front: Front) -> Figure:
    """Draw the front of a summary, see `plot_front`."""
    how = "means over seeds" if front.is_confirmed else "single trainings, so too good"

    def cost_of(trial: StoredTrial) -> int:
        cost: int = getattr(trial, COSTS[front.cost])
        return cost

    on_it = set() if front.is_confirmed else {point.trial.number for point in front.every}
    trials = [t for t in summary.searched if kind_of(t) == "complete" and cost_of(t) > 0]
    behind = [trial for trial in trials if trial.number not in on_it]
    low, high = score_range(summary, [t.score for t in trials], [point.score for point in front.points])
    costs = [*map(cost_of, trials), *(point.cost for point in front.every)]
    answer = [point for point in front.every if point.is_answer]
    step = {"mode": "lines+markers", "line": {"shape": "hv", "color": COLOURS["mean"], "width": 2}}
    return figure(
        (f"Score against {front.cost_name}", f"{counted(summary.n_finished, 'trial')}; {how}"),
        (
            *trial_marks(behind, cost_of, (low, high), maximize=summary.maximize),
            _marks(front, front.others, "dominated", "pruned", 7),
            {**_marks(front, front.points, "front", "mean", 9), **step},
            _marks(front, answer, front.answer_word, "best", 14),
        ),
        x={"title": front.cost_name, **_scale(min(costs), max(costs))},
        y=score_axis(summary, low, high),
    )


def _scale(low: float, high: float) -> dict[str, Any]:
    """Describe an axis of costs, with round numbers at its ticks."""
    if high <= WIDE_RANGE * low:
        return {"exponentformat": "SI"}
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [factor * 10**power for power in powers for factor in (1, 2, 5)]
    ticks = [value for value in values if low / 1.3 <= value <= high * 1.3]
    return {"type": "log", "tickvals": ticks, "ticktext": [millions(value) for value in ticks]}


def _marks(front: Front, every: Sequence[FrontPoint], name: str, kind: str, size: float) -> Trace:
    texts = [
        hover(
            f"Trial {point.trial.number}: "
            + with_trainings(point.score, point.standard_error, point.n_trainings),
            f"{millions(point.cost)} {front.cost_name}",
            cut_text(point.trial.cut),
            setting_of(point.trial),
        )
        for point in every
    ]
    costs, scores = [point.cost for point in every], [point.score for point in every]
    errors = [point.standard_error for point in every]
    trace = points(name, kind, costs, scores, texts, size=size, errors=errors)
    return {**trace, "customdata": [point.trial.number for point in every]}
