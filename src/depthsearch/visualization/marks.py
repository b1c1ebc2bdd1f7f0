"""Trials as marks: where they stand, what is to be read of them, and which lie beyond the axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from depthsearch.models.cuts import Cut
from depthsearch.results.summary import Summary
from depthsearch.results.trials import StoredTrial
from depthsearch.visualization.style import COLOURS, Trace, hover, points
from depthsearch.visualization.words import STATES, frozen_share, setting_of, shown, state_of

# The kinds of trials, the first lowest, with what the legend calls them.
KINDS = {
    **{state: STATES[state] for state in ("fail", "pruned", "paused", "waiting")},
    "running": "running",
    "complete": "complete",
    "again": "trained again, another seed",
}


def kind_of(trial: StoredTrial) -> str:
    """Return the kind of mark of a trial: its state, or that it trained a setting again."""
    return "again" if trial.confirms is not None and trial.state == "complete" else trial.state


def trial_text(trial: StoredTrial) -> str:
    """Write what is to be read of a trial."""
    again = ", trained again" if trial.confirms is not None else ""
    return hover(
        f"Trial {trial.number}{again}: {shown(trial.score)}, {state_of(trial)}",
        cut_text(trial.cut),
        setting_of(trial),
    )


def cut_text(cut: Cut) -> str:
    """Write what is to be read of a cut."""
    return f"{cut}; {cut.kind}; {frozen_share(cut)}"


def trial_marks(
    trials: Sequence[StoredTrial],
    x: Callable[[StoredTrial], float],
    within: tuple[float, float],
    *,
    maximize: bool = True,
) -> Iterator[Trace]:
    """Draw trials by their scores, a trace for each kind.

    Those beyond the axis stand at its edge, with an arrow that points there; those without a score at the end
    where scores are worst.

    Args:
        trials: Which.
        x: Where each stands.
        within: Ends of the axis of scores.
        maximize: Whether a high score is good.
    """
    low, high = within
    inset = 0.03 * (high - low)
    worst = low + inset if maximize else high - inset
    for kind, name in KINDS.items():
        of_kind = [trial for trial in trials if kind_of(trial) == kind]
        scores = [worst if not _is_known(trial.score) else trial.score or 0.0 for trial in of_kind]
        yield points(
            name,
            kind,
            [x(trial) for trial in of_kind],
            [
                min(max(score, low + inset), high - inset) if not low <= score <= high else score
                for score in scores
            ],
            [trial_text(trial) for trial in of_kind],
            size=6 if kind == "again" else 8,
            customdata=[trial.number for trial in of_kind],
            cliponaxis=False,
        )
    beyond = [t for t in trials if _is_known(t.score) and not low <= (t.score or 0.0) <= high]
    is_below = [(trial.score or 0.0) < low for trial in beyond]
    yield {
        "type": "scatter",
        "mode": "markers",
        "name": "beyond the axis",
        "x": [x(trial) for trial in beyond],
        "y": [low if below else high for below in is_below],
        "marker": {
            "symbol": ["triangle-down" if below else "triangle-up" for below in is_below],
            "size": 7,
            "color": [COLOURS[kind_of(trial)] for trial in beyond],
        },
        "hoverinfo": "skip",
        "showlegend": False,
        "cliponaxis": False,
    }


def _is_known(score: float | None) -> bool:
    return score is not None and math.isfinite(score)


def best_mark(summary: Summary, x: float, y: float) -> Trace:
    """Draw the best trial of a search that was not confirmed."""
    assert summary.best is not None
    name = "best, one training"
    return points(
        name, "best", [x], [y], [trial_text(summary.best)], size=14, customdata=[summary.best.number]
    )
