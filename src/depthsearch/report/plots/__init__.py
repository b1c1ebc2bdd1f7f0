"""The charts of a study, each drawn for a wide window and for a telephone."""

from depthsearch.report.plots.backbones import backbones_figure
from depthsearch.report.plots.depth import depth_figure, end_score
from depthsearch.report.plots.frame import (
    HINT,
    NARROW,
    WIDE,
    Layout,
    marked_lines,
    metric_of,
    names_of,
    score_axis,
    shown,
    stages,
    state_of,
    trial_mark,
)
from depthsearch.report.plots.learning import learning_figure
from depthsearch.report.plots.settings import importance_figure, rate_figure
from depthsearch.report.plots.transfer import transfer_figure

__all__ = [
    "HINT",
    "NARROW",
    "WIDE",
    "Layout",
    "backbones_figure",
    "depth_figure",
    "end_score",
    "importance_figure",
    "learning_figure",
    "marked_lines",
    "metric_of",
    "names_of",
    "rate_figure",
    "score_axis",
    "shown",
    "stages",
    "state_of",
    "transfer_figure",
    "trial_mark",
]
