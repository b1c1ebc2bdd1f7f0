"""The transfer curve of one backbone: a linear probe of the frozen features at several depths."""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from plotly.graph_objects import Figure

from depthsearch.errors import StudyError
from depthsearch.results.stored import StoredStudy
from depthsearch.results.summary import Summary
from depthsearch.training.outcomes import ProbePoint, plateau_start
from depthsearch.visualization.axes import depth_axis, stage_names
from depthsearch.visualization.marks import cut_text
from depthsearch.visualization.reading import read_part
from depthsearch.visualization.style import COLOURS, Trace, figure, hover, points
from depthsearch.visualization.words import with_error


def plot_transfer_curve(study: optuna.Study | StoredStudy, *, backbone: str | None = None) -> Figure:
    """Plot the accuracy of linear probes of the frozen features over depth.

    Args:
        study: Made by depthsearch, as Optuna has it or as it was read.
        backbone: Which of several; None: that of the answer.

    Raises:
        StudyError: If depthsearch did not make the study, or it has no transfer curve.
        SettingsError: If it has no such backbone.
    """
    summary = read_part(study, backbone)
    if not summary.curve:
        raise StudyError(
            f"Study {summary.study!r} has no transfer curve of {summary.backbone}: nothing was probed."
        )
    return draw_transfer_curve(summary)


def draw_transfer_curve(summary: Summary) -> Figure:
    """Draw the summary of one backbone that has a curve, see `plot_transfer_curve`."""
    curve = sorted(summary.curve, key=lambda point: point.cut)
    start = plateau_start(curve)
    helped = "" if start is None else f"pretrained layers stop helping a linear classifier at {start.layer}"
    lines, names = stage_names(summary)
    joined = {"mode": "lines+markers", "line": {"color": COLOURS["complete"], "width": 1.5}}
    return figure(
        (f"Transfer curve: {summary.backbone}", helped),
        (
            {**_probes(summary, curve, "linear probe ± standard error", "complete", 8), **joined},
            _probes(summary, [] if start is None else [start], "the first as good as the best", "best", 14),
        ),
        x=depth_axis(summary, "layer whose input is probed (deeper to the right)"),
        y={"title": "accuracy of a linear probe"},
        shapes=lines,
        annotations=names,
    )


def _probes(summary: Summary, curve: Sequence[ProbePoint], name: str, kind: str, size: float) -> Trace:
    texts = [
        hover(
            f"Linear probe: {with_error(point.score, point.standard_error)} from {point.n_features} features",
            f"features before {cut_text(summary.cuts[point.cut])}",
        )
        for point in curve
    ]
    scores, errors = [point.score for point in curve], [point.standard_error for point in curve]
    return points(name, kind, [point.cut for point in curve], scores, texts, size=size, errors=errors)
