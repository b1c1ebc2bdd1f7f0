"""What the settings did: learning rate and depth, and how much each parameter mattered."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from depthsearch.report.charts import (
    Axis,
    Bars,
    Chart,
    draw,
    draw_bars,
    element,
    log_ticks,
)
from depthsearch.report.document import Figure, Legend, Table
from depthsearch.report.plots.frame import (
    HINT,
    NARROW,
    SHAPES,
    WIDE,
    Layout,
    best_legend,
    by_prominence,
    depth_axis,
    kind_of,
    metric_of,
    scores_of,
    shown,
    stage_borders,
    state_legend,
    trial_mark,
)
from depthsearch.results.summary import Summary

N_SHADES = 6


def rate_figure(summary: Summary) -> Figure:
    """Draw each trial by depth and learning rate, its score as the darkness of the mark."""
    trials = [t for t in by_prominence(summary) if "learning_rate" in t.params and t.confirms is None]
    shade, legend = _shades(summary)
    rates = [trial.params["learning_rate"] for trial in trials] or [1e-3]
    low, high = min(rates) / 1.3, max(rates) * 1.3

    def chart(layout: Layout) -> Chart:
        marks = [
            trial_mark(
                trial,
                layout,
                float(trial.cut.index),
                trial.params["learning_rate"],
                f"{kind_of(trial, summary)} {shade(trial.score)}",
            )
            for trial in trials
        ]
        return Chart(
            title="learning rate and depth of each trial",
            width=layout.width,
            height=layout.height - 40,
            x=depth_axis(summary, layout),
            y=Axis(low=low, high=high, ticks=log_ticks(low, high), label="learning rate", log=True),
            layers=(*stage_borders(summary), *marks),
            n_lines=layout.n_lines,
            hint=HINT,
        )

    return Figure(
        wide=draw(chart(WIDE)),
        narrow=draw(chart(NARROW)),
        caption="Where good trials lie: the stronger the colour, the better the score.",
        legend=(*legend, *best_legend(summary), *state_legend(trials)),
    )


def _shades(summary: Summary) -> tuple[Callable[[float | None], str], tuple[Legend, ...]]:
    """Divide the scores from the worst tenth to the best into shades of one colour."""
    sign = 1.0 if summary.maximize else -1.0
    values = sorted(sign * s for s in scores_of(summary, *SHAPES) if math.isfinite(s))
    if not values:
        return (lambda _: "unscored"), ()
    low, high = values[len(values) // 10], values[-1]

    def shade(score: float | None) -> str:
        if score is None or not math.isfinite(score):
            return "unscored"
        share = (sign * score - low) / ((high - low) or 1.0)
        return f"shade-{min(N_SHADES - 1, max(0, int(share * N_SHADES)))}"

    patches = [
        element("rect", x=i * 14, y=1, width=14, height=12, class_=f"shade-{i}") for i in range(N_SHADES)
    ]
    width = 14 * N_SHADES
    ramp = element("svg", *patches, viewBox=f"0 0 {width} 14", width=width, height=14, aria_hidden="true")
    label = f"{metric_of(summary)}: {shown(sign * low)} or worse, to {shown(sign * high)}"
    return shade, (Legend(symbol=ramp, label=label),)


def importance_figure(importance: Mapping[str, float]) -> Figure:
    """Draw the share of the scores' variance that each parameter explains."""
    found = sorted(importance.items(), key=lambda pair: (-pair[1], pair[0]))
    bars = Bars(shares=tuple((name.replace("_", " "), share) for name, share in found))
    rows = tuple((name.replace("_", " "), f"{share:.2f}") for name, share in found)
    title = "share of the variance of the scores"
    return Figure(
        wide=draw_bars(title, bars, width=860),
        narrow=draw_bars(title, bars, width=340),
        caption="How much of what single parameters explain of the scores' variance each explains (fANOVA).",
        table=Table(headings=("parameter", "share"), rows=rows, numbers=frozenset({"share"})),
    )
