"""Several backbones, each at its best cut."""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from plotly.graph_objects import Figure

from depthsearch.results.stored import StoredStudy
from depthsearch.results.summary import Standing, Summary, standings, summarize
from depthsearch.visualization.axes import score_axis, score_range
from depthsearch.visualization.marks import cut_text, trial_marks
from depthsearch.visualization.style import Trace, figure, hover, plain, points
from depthsearch.visualization.words import setting_of, with_trainings


def plot_backbones(study: optuna.Study | StoredStudy) -> Figure:
    """Plot each backbone's best score against what an image takes to train, its trials behind it.

    Raises:
        StudyError: If depthsearch did not make the study.
    """
    summary = summarize(study)
    return draw_backbones(summary, standings(summary))


def draw_backbones(summary: Summary, compared: Sequence[Standing]) -> Figure:
    """Draw the backbones of a summary, see `plot_backbones`."""
    trials = [t for t in summary.searched if t.state == "complete"]
    low, high = score_range(summary, [t.score for t in trials], [standing.score for standing in compared])
    others = [standing for standing in compared if not standing.is_answer]
    answer = [standing for standing in compared if standing.is_answer]
    return figure(
        ("Backbones, each at its best cut",),
        (
            *trial_marks(trials, lambda t: t.cut.training_macs, (low, high), maximize=summary.maximize),
            _marks(others, "another backbone's best", "mean", 12),
            _marks(answer, "answer", "best", 15),
        ),
        x={
            "title": f"training MACs of {'an image' if summary.noun == 'image' else 'a sample'}",
            "exponentformat": "SI",
            "rangemode": "tozero",
        },
        y=score_axis(summary, low, high),
    )


def _marks(compared: Sequence[Standing], name: str, kind: str, size: float) -> Trace:
    texts = [
        hover(
            f"{standing.backbone}: "
            + with_trainings(standing.score, standing.standard_error, standing.n_trainings),
            cut_text(standing.trial.cut),
            setting_of(standing.trial),
        )
        for standing in compared
    ]
    macs = [standing.trial.cut.training_macs for standing in compared]
    scores, errors = [s.score for s in compared], [s.standard_error for s in compared]
    trace = points(name, kind, macs, scores, texts, size=size, errors=errors)
    names = {"text": [plain(s.backbone) for s in compared], "textposition": "top center"}
    pointed_at = {"hovertext": texts, "hovertemplate": "%{hovertext}<extra></extra>"}
    return {**trace, "mode": "markers+text", **names, **pointed_at}
