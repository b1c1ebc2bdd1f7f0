"""Several backbones, each at its best cut."""

from __future__ import annotations

from collections.abc import Sequence

from depthsearch.report.charts import (
    Axis,
    Chart,
    Mark,
    draw,
    symbol,
    ticks,
)
from depthsearch.report.document import Figure, Legend
from depthsearch.report.plots.frame import (
    HINT,
    NARROW,
    WIDE,
    Layout,
    by_prominence,
    marked_lines,
    metric_of,
    score_axis,
    score_or,
    scores_of,
    shown,
    trial_mark,
)
from depthsearch.report.text import setting_of
from depthsearch.results.summary import Standing, Summary


def backbones_figure(summary: Summary, found: Sequence[Standing]) -> Figure:
    """Draw each backbone's best score against what an image takes to train, its trials behind it."""
    trials = [t for t in by_prominence(summary) if t.state == "complete" and t.confirms is None]
    most = max([t.cut.training_macs for t in trials] or [1])
    unit, name = (1e9, "G") if most >= 1e9 else (1e6, "M")
    scores = [standing.score for standing in found if standing.score is not None]

    def chart(layout: Layout) -> Chart:
        behind = [
            trial_mark(trial, layout, trial.cut.training_macs / unit, score_or(trial.score, 0.0), trial.state)
            for trial in trials
        ]
        best = [_standing_mark(standing, layout, unit) for standing in found if standing.score is not None]
        high = most / unit
        return Chart(
            title=f"{metric_of(summary)} against the cost of training, by backbone",
            width=layout.width,
            height=layout.height - 40,
            x=Axis(
                low=-0.03 * high,
                high=1.05 * high,
                ticks=ticks(0.0, high, layout.n_x),
                label=f"training MACs of an image ({name})",
            ),
            y=score_axis(scores_of(summary, "complete"), scores, layout, summary),
            layers=(*behind, *best),
            n_lines=layout.n_lines,
            hint=HINT,
        )

    return Figure(
        wide=draw(chart(WIDE)),
        narrow=draw(chart(NARROW)),
        caption="Large diamonds are the backbones at their best cuts, small marks all complete trials.",
        legend=(
            Legend(symbol=symbol("diamond", "confirmed best"), label="answer"),
            Legend(symbol=symbol("diamond", "confirmed"), label="another backbone's best"),
            Legend(symbol=symbol("dot", "complete"), label="trial"),
        ),
    )


def _standing_mark(standing: Standing, layout: Layout, unit: float) -> Mark:
    score, error, cut = standing.score or 0.0, standing.standard_error, standing.trial.cut
    behind = f" ± {error:.4f}, mean of {standing.n_trainings} seeds" if error is not None else ""
    return Mark(
        shape="diamond",
        x=cut.training_macs / unit,
        y=score,
        lines=marked_lines(
            layout,
            f"{standing.backbone}: {shown(score)}{behind}",
            str(cut),
            setting_of(standing.trial.params),
        ),
        kind="confirmed best" if standing.is_answer else "confirmed",
        radius=6.0,
        spread=None if error is None else (score - error, score + error),
        label=standing.backbone,
    )
