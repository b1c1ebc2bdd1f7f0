"""The transfer curve: a linear probe of the frozen features at several depths."""

from __future__ import annotations

from depthsearch.report.charts import (
    Axis,
    Chart,
    Curve,
    Mark,
    draw,
    symbol,
    ticks,
)
from depthsearch.report.document import Figure, Legend, Table
from depthsearch.report.plots.frame import (
    HINT,
    NARROW,
    WIDE,
    Layout,
    depth_axis,
    marked_lines,
    names_of,
    shown,
    stage_borders,
)
from depthsearch.results.summary import Summary
from depthsearch.training.probe import plateau_start


def transfer_figure(summary: Summary) -> Figure:
    """Draw the accuracy of linear probes of the frozen features over depth."""
    points = sorted(summary.curve, key=lambda point: point.cut)
    start = plateau_start(points)
    ends = [(point.score - point.standard_error, point.score + point.standard_error) for point in points]

    def chart(layout: Layout) -> Chart:
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        pad = (high - low) * 0.07
        marks = tuple(
            Mark(
                shape="dot",
                x=float(point.cut),
                y=point.score,
                lines=marked_lines(
                    layout,
                    f"Linear probe: {shown(point.score)} ± {point.standard_error:.4f} "
                    f"from {point.n_features} features",
                    f"features before {summary.cuts[point.cut]}",
                ),
                kind="probe best" if point is start else "probe",
                radius=6.0 if point is start else 4.0,
                spread=spread,
            )
            for point, spread in zip(points, ends, strict=True)
        )
        line = Curve(points=tuple((float(point.cut), point.score) for point in points), kind="probe")
        return Chart(
            title="accuracy of a linear probe of the frozen features against depth",
            width=layout.width,
            height=layout.height - 70,
            x=depth_axis(summary, layout),
            y=Axis(
                low=low - pad,
                high=high + pad,
                ticks=tuple(t for t in ticks(low - pad, high + pad, layout.n_y) if t[0] <= 1 + 1e-9),
                label="accuracy of a linear probe",
            ),
            layers=(*stage_borders(summary), line, *marks),
            n_lines=layout.n_lines - 1,
            hint=HINT,
        )

    rows = tuple(
        (
            str(point.layer),
            names_of(summary.cuts[point.cut]),
            str(point.n_features),
            shown(point.score),
            f"{point.standard_error:.4f}",
        )
        for point in points
    )
    headings = ("layer", "features before", "features", "accuracy", "standard error")
    numbers = frozenset(headings) - {"features before"}
    marked = points.index(start) if start is not None else None
    return Figure(
        wide=draw(chart(WIDE)),
        narrow=draw(chart(NARROW)),
        caption="Bars are binomial standard errors.",
        table=Table(headings=headings, rows=rows, numbers=numbers, marked=marked),
        legend=(
            Legend(symbol=symbol("dot", "probe"), label="linear probe"),
            Legend(symbol=symbol("dot", "probe best"), label="the first that is as good as the best"),
        ),
    )
