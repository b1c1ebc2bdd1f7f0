"""The figures of a report, each with its caption and the table of its values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from depthsearch.report.page.tables import depth_table, importance_table, learning_table, transfer_table
from depthsearch.report.page.values import Plot
from depthsearch.results.front import Front, front_of
from depthsearch.results.importance import importance_of
from depthsearch.results.stored import StoredStudy
from depthsearch.results.summary import Summary, standings
from depthsearch.search.beliefs.verdict import COVERED
from depthsearch.text import percent
from depthsearch.visualization.backbones import draw_backbones
from depthsearch.visualization.depth import draw_score_by_depth
from depthsearch.visualization.front import draw_front
from depthsearch.visualization.learning import draw_learning_curves
from depthsearch.visualization.settings import draw_importance, draw_learning_rate_by_depth
from depthsearch.visualization.transfer import draw_transfer_curve


@dataclass(frozen=True, slots=True, kw_only=True)
class Plots:
    """The figures of a report.

    Attributes:
        backbones: None with one backbone.
        front: None where there is no front.
        learning: None before any epoch.
        importance: None where it was not estimated.
        depth: By backbone, as are the two below; those of which nothing is known are left out.
        transfer: By backbone.
        rates: By backbone.
    """

    backbones: Plot | None
    front: Plot | None
    learning: Plot | None
    importance: Plot | None
    depth: dict[str, Plot]
    transfer: dict[str, Plot]
    rates: dict[str, Plot]

    def __iter__(self) -> Iterator[Plot]:
        """Go through those that there are."""
        yield from (plot for plot in (self.backbones, self.front, self.learning, self.importance) if plot)
        for by_backbone in (self.depth, self.transfer, self.rates):
            yield from by_backbone.values()


def plots_of(summary: Summary, stored: StoredStudy) -> Plots:
    """Draw what there is of a study."""
    compared, front = standings(summary), front_of(summary)
    importance = importance_of(stored)
    begun = [part for part in summary.each if part.trials]
    return Plots(
        backbones=Plot(
            name="backbones",
            title="Backbones, each at its best cut",
            figure=draw_backbones(summary, compared),
            caption="Large marks are the backbones at their best cuts, the star is the answer, small "
            "marks are all complete trials.",
        )
        if summary.parts and compared
        else None,
        front=None if front is None else _front(summary, front),
        learning=Plot(
            name="learning-curves",
            title="Learning curves",
            figure=draw_learning_curves(summary),
            caption="A line a trial; the best is the thick one, those pruned end with a cross.",
            table=learning_table(summary),
        )
        if any(trial.scores for trial in summary.trials)
        else None,
        importance=Plot(
            name="what-mattered",
            title="What mattered",
            figure=draw_importance(importance),
            caption="How much of what single parameters explain of the scores' variance each explains "
            "(fANOVA).",
            table=importance_table(importance),
        )
        if importance
        else None,
        depth={part.backbone: _depth(summary, part) for part in begun},
        transfer={part.backbone: _transfer(summary, part) for part in summary.each if part.curve},
        rates={part.backbone: _rates(summary, part) for part in begun},
    )


def figure_name(kind: str, summary: Summary, part: Summary) -> str:
    """Name a figure of a backbone: by its kind alone where there is only one."""
    # Letters, digits, dots, hyphens and underscores are what the dashboard takes in a name.
    return re.sub(r"[^A-Za-z0-9_.-]", "-", f"{kind}-{part.backbone}") if summary.parts else kind


def _depth(summary: Summary, part: Summary) -> Plot:
    drawn = draw_score_by_depth(part)
    return Plot(
        name=figure_name("score-against-depth", summary, part),
        title="Score against depth",
        figure=drawn,
        caption=_depth_caption(part, *drawn.layout.yaxis.range),
        table=depth_table(part),
    )


def _depth_caption(summary: Summary, low: float, high: float) -> str:
    parts = ["Each mark is a trial; the layers before its cut were frozen."]
    n_beyond = sum(trial.score is not None and not low <= trial.score <= high for trial in summary.trials)
    if n_beyond:
        marks = "mark lies" if n_beyond == 1 else "marks lie"
        parts.append(f"{n_beyond} {marks} beyond the axis, drawn at its edge as an arrowhead.")
    if any(trial.score is None for trial in summary.trials):
        parts.append(f"Trials without any score stand at the {'bottom' if summary.maximize else 'top'}.")
    if summary.evidence is not None:
        parts.append(
            "Large diamonds are means of further trainings, with standard errors; the star is the answer; "
            "the line is the score expected at each depth with its best setting, in a band of "
            f"{percent(0.95)}; shaded depths are those among which the best one is, with "
            f"{percent(COVERED)} probability."
        )
    if summary.marked:
        parts.append("Vertical lines point out layers that were asked for.")
    return " ".join(parts)


def _transfer(summary: Summary, part: Summary) -> Plot:
    return Plot(
        name=figure_name("transfer-curve", summary, part),
        title="Accuracy of a linear probe of the frozen features against depth",
        figure=draw_transfer_curve(part),
        caption="Bars are binomial standard errors; the star is the first that is as good as the best.",
        table=transfer_table(part),
    )


def _rates(summary: Summary, part: Summary) -> Plot:
    return Plot(
        name=figure_name("learning-rate-and-depth", summary, part),
        title="Learning rate and depth of each trial",
        figure=draw_learning_rate_by_depth(part),
        caption="Where good trials lie: from blue for the worst score to orange for the best. The values are "
        "in the table of every trial.",
    )


def _front(summary: Summary, front: Front) -> Plot:
    return Plot(
        name="score-against-cost",
        title=f"Score against {front.cost_name}",
        figure=draw_front(summary, front),
        caption="The line is the front: the best score that a cost buys. "
        + ("Large marks are means over seeds." if front.is_confirmed else "Each mark is one training."),
    )
