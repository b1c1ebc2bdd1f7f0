"""What the settings did: learning rate and depth, and how much each parameter mattered."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna
from plotly.graph_objects import Figure

from depthsearch.results.stored import StoredStudy
from depthsearch.results.summary import Summary
from depthsearch.results.trials import StoredTrial
from depthsearch.visualization.axes import depth_axis, stage_names, title_of_score
from depthsearch.visualization.marks import KINDS, best_mark, kind_of, trial_text
from depthsearch.visualization.reading import read_part
from depthsearch.visualization.style import COLOURS, SYMBOLS, Trace, figure, marker, plain, points

# From the worst score to the best: apart for colour-blind readers, and seen on white and on black.
SCALE = ((0.0, "#3f6fb5"), (0.5, "#978a90"), (1.0, "#e08214"))


def plot_learning_rate_by_depth(study: optuna.Study | StoredStudy, *, backbone: str | None = None) -> Figure:
    """Plot each trial by depth and learning rate, its score as the colour of the mark.

    Args:
        study: Made by depthsearch, as Optuna has it or as it was read.
        backbone: Which of several; None: that of the answer.

    Raises:
        StudyError: If depthsearch did not make the study.
        SettingsError: If it has no such backbone.
    """
    return draw_learning_rate_by_depth(read_part(study, backbone))


def draw_learning_rate_by_depth(summary: Summary) -> Figure:
    """Draw the summary of one backbone, see `plot_learning_rate_by_depth`."""
    trials = [t for t in summary.trials if "learning_rate" in t.params and t.confirms is None]
    lines, names = stage_names(summary)
    worst, _ = _ends(summary)
    traces: list[Trace] = []
    for kind, name in KINDS.items():
        traces += _coloured(name, kind, [trial for trial in trials if kind_of(trial) == kind], worst)
    best = summary.best
    if best is not None and summary.evidence is None and "learning_rate" in best.params:
        mark = best_mark(summary, best.cut.index, best.params["learning_rate"])
        ring = {"symbol": "circle-open", "line": {"width": 2.5, "color": COLOURS["best"]}}
        traces.append({**mark, "name": "best", "marker": marker("best", 17) | ring})
    return figure(
        (f"Learning rate and depth: {summary.backbone}",),
        traces,
        x=depth_axis(summary),
        y={"title": "learning rate", "type": "log", "tickformat": ".0e", "dtick": 1},
        shapes=lines,
        annotations=names,
        coloraxis=_colours(summary),
    )


def _coloured(name: str, kind: str, trials: Sequence[StoredTrial], worst: float) -> Iterator[Trace]:
    """Draw trials of one kind in the colours of their scores; those without one in that of the worst."""
    scores = [t.score if t.score is not None and math.isfinite(t.score) else worst for t in trials]
    colours = {"color": scores, "coloraxis": "coloraxis"}
    # A grey outline shows the palest and the darkest on any ground; marks that are all line have none.
    line = {"width": 1, "color": COLOURS["line"]} if kind == "complete" else {"width": 2, **colours}
    trace = points(
        name,
        kind,
        [trial.cut.index for trial in trials],
        [trial.params["learning_rate"] for trial in trials],
        [trial_text(trial) for trial in trials],
        customdata=[trial.number for trial in trials],
        cliponaxis=False,
        showlegend=False,
    )
    # The legend has the shape alone: plotly.js has no colour for it.
    if trials:
        grey = {"color": COLOURS["line"], "line": {"width": 1.6, "color": COLOURS["line"]}}
        shape = {"x": [None], "y": [None], "marker": marker(kind, 9) | grey}
        yield {"type": "scatter", "mode": "markers", "name": plain(name), **shape}
    yield {**trace, "marker": {"symbol": SYMBOLS[kind], "size": 10, **colours, "line": line}}


def _ends(summary: Summary) -> tuple[float, float]:
    """Return the score of the worst tenth, and the best."""
    sign = 1.0 if summary.maximize else -1.0
    scores = sorted(sign * t.score for t in summary.trials if t.score is not None and math.isfinite(t.score))
    return (sign * scores[len(scores) // 10], sign * scores[-1]) if scores else (0.0, 1.0)


def _colours(summary: Summary) -> dict[str, Any]:
    """Spread the scores over a scale that is orange for the best."""
    ends = _ends(summary)
    return {
        "colorscale": SCALE,
        "reversescale": not summary.maximize,
        "cmin": min(ends),
        "cmax": max(ends),
        "colorbar": {
            "title": {"text": plain(title_of_score(summary)), "side": "top", "font": {"size": 11}},
            "orientation": "h",
            "thickness": 10,
            "len": 0.6,
            "x": 0,
            "xanchor": "left",
            "y": 1.1,
            "yanchor": "bottom",
            "tickfont": {"size": 10},
        },
    }


def draw_importance(importance: Mapping[str, float]) -> Figure:
    """Draw the share of the scores' variance that each parameter explains, the largest on top."""
    ranked = sorted(importance.items(), key=lambda pair: (pair[1], pair[0]))
    shares = [share for _, share in ranked]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": shares,
        "y": [plain(name.replace("_", " ")) for name, _ in ranked],
        "text": [f"{share:.2f}" for share in shares],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": COLOURS["complete"]},
        "hovertemplate": "%{y}: %{text}<extra></extra>",
    }
    return figure(
        ("What mattered",),
        [bars],
        x={"title": "share of the variance of the scores", "range": [0, 1.08]},
        y={"title": "", "showgrid": False},
        height=110 + 34 * len(ranked),
    )
