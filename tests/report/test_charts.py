"""Charts as SVG: every drawing is parsed as XML, and its marks are found where their values say."""

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from depthsearch.report.charts import (
    Area,
    Axis,
    Bars,
    Border,
    Chart,
    Curve,
    Mark,
    Rule,
    Span,
    draw,
    draw_bars,
    element,
    escape,
    log_ticks,
    symbol,
    ticks,
)

NASTY = "<img src=x onerror=\"alert(1)\"> & '|' \x00 \ud800 \x1b[0m"


@pytest.fixture
def chart() -> Chart:
    """Make an empty chart: x from 0 to 10, y from 0 to 1."""
    return Chart(
        title="scores",
        width=400,
        height=300,
        x=Axis(low=0, high=10, ticks=((0, "0"), (10, "10")), label="depth"),
        y=Axis(low=0, high=1, ticks=((0, "0"), (1, "1")), label="score"),
        layers=(),
        n_lines=2,
        hint="point",
    )


def parsed(chart: Chart, *layers) -> ElementTree.Element:
    return ElementTree.fromstring(draw(replace(chart, layers=layers)))


def of_class(root: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    return (e for e in root.iter() if name in e.get("class", "").split())


def mark_at(x: float, y: float, **more) -> Mark:
    return Mark(**{"shape": "dot", "x": x, "y": y, "lines": ("a mark",), **more})


# --- ticks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (0.9802, 0.9911), (-3, 17), (1e-6, 3e-6), (0, 2.5e6), (0.123, 0.124), (99.5, 100.5)],
)
def test_ticks_are_even_within_the_range_and_tell_their_values_apart(low: float, high: float) -> None:
    found = ticks(low, high, 6)
    values, labels = [value for value, _ in found], [label for _, label in found]
    steps = [b - a for a, b in pairwise(values)]
    assert 3 <= len(found) <= 8
    assert low - 1e-9 <= values[0]
    assert values[-1] <= high * (1 + 1e-9)
    assert max(steps) == pytest.approx(min(steps))
    assert len(set(labels)) == len(labels)
    assert [float(label) for label in labels] == pytest.approx(values, abs=steps[0] * 1e-6)


def test_a_range_of_nothing_has_one_tick() -> None:
    assert ticks(0.5, 0.5, 6) == ((0.5, "0.5"),)


@pytest.mark.parametrize(("low", "high"), [(1e-5, 1e-2), (3e-4, 3e-3), (8e-4, 1.2e-3), (1e-3, 1e-3)])
def test_log_ticks_lie_within_the_range(low: float, high: float) -> None:
    found = [value for value, _ in log_ticks(low / 1.3, high * 1.3)]
    assert found
    assert all(low / 1.3 * 0.99 <= value <= high * 1.3 * 1.01 for value in found)


def test_decades_are_marked_by_their_powers_of_ten() -> None:
    assert [label for _, label in log_ticks(1e-5, 1e-2)] == ["1e-05", "0.0001", "0.001", "0.01"]


def test_a_logarithmic_axis_has_the_geometric_mean_in_its_middle() -> None:
    axis = Axis(low=1e-4, high=1e-2, ticks=(), label="", log=True)
    assert axis.share(1e-3) == pytest.approx(0.5)


# --- drawing ------------------------------------------------------------------------------------


def test_marks_stand_where_their_values_say(chart) -> None:
    root = parsed(chart, mark_at(0, 0), mark_at(10, 1), mark_at(5, 0.25))
    dots = [(float(e.get("cx")), float(e.get("cy"))) for e in of_class(root, "dot")]
    left, right, bottom = chart.margin_left, chart.right, chart.bottom
    assert dots[0] == (left, bottom)
    assert dots[1] == (right, chart.margin_top)
    assert dots[2] == ((left + right) / 2, bottom - 0.25 * (bottom - chart.margin_top))


@pytest.mark.parametrize(("y", "arrows"), [(0.5, 0), (0.0, 0), (1.0, 0), (-3.0, 1), (7.0, 1)])
def test_a_mark_beyond_the_axis_is_drawn_inside_with_an_arrow(chart, y: float, arrows: int) -> None:
    root = parsed(chart, mark_at(5, y))
    (dot,) = of_class(root, "dot")
    assert len(list(of_class(root, "beyond"))) == arrows
    assert chart.margin_top <= float(dot.get("cy")) <= chart.bottom


@pytest.mark.parametrize("shape", ["dot", "ring", "cross", "diamond", "square"])
def test_each_shape_is_another_and_has_its_symbol_in_the_legend(chart, shape: str) -> None:
    assert len(list(of_class(parsed(chart, mark_at(1, 0.5, shape=shape)), shape))) == 1
    assert len(list(of_class(ElementTree.fromstring(symbol(shape, "complete")), shape))) == 1


def test_a_mark_tells_what_it_stands_for_in_every_way(chart) -> None:
    root = parsed(chart, mark_at(1, 0.5, lines=("Trial 3: 0.9", "layer 7", "left out: too long")))
    (mark,) = of_class(root, "mark")
    assert mark.find("title").text == "Trial 3: 0.9\nlayer 7\nleft out: too long"
    assert mark.get("aria-label") == "Trial 3: 0.9; layer 7; left out: too long"
    assert [e.text for tip in of_class(root, "tip") for e in tip.iter("text")] == ["Trial 3: 0.9", "layer 7"]


@pytest.mark.parametrize(("reachable", "index"), [(True, "0"), (False, "-1")])
def test_marks_can_be_focused_and_where_wanted_reached_by_key(chart, reachable: bool, index: str) -> None:
    (mark,) = of_class(parsed(replace(chart, reachable=reachable), mark_at(1, 0.5)), "mark")
    assert mark.get("tabindex") == index


def test_an_error_bar_has_the_height_of_its_spread(chart) -> None:
    (bar,) = of_class(parsed(chart, mark_at(1, 0.5, spread=(0.25, 0.75))), "spread")
    low, high = (float(y) for y in re.search(r" (\S+)V(\S+)$", bar.get("d")).groups())
    assert low - high == pytest.approx(0.5 * (chart.bottom - chart.margin_top), abs=0.11)


def test_a_curve_goes_through_its_points_and_ends_with_its_shape(chart) -> None:
    curve = Curve(points=((1, 0.1), (2, 0.4), (3, 0.3)), lines=("Trial 1",), end="cross")
    root = parsed(chart, curve)
    (line,) = of_class(root, "line")
    assert len(re.findall(r"[ML]", line.get("d"))) == 3
    (cross,) = of_class(root, "cross")
    x, y = (float(v) + 3.5 for v in re.match(r"M(\S+) (\S+?)l", cross.get("d")).groups())
    assert (x, y) == pytest.approx((chart.at_x(3), chart.at_y(0.3)), abs=0.2)


def test_bands_spans_rules_and_borders_are_drawn(chart) -> None:
    band = Area(points=((0, 0.2, 0.4), (10, 0.3, 0.5)), kind="expected")
    layers = (
        band,
        Span(low=2, high=4, kind="level"),
        Rule(y=0.5, label="head only"),
        Border(x=2, end=9, label="s1"),
    )
    root = parsed(chart, *layers)
    assert [len(list(of_class(root, name))) for name in ("area", "span", "rule", "border")] == [1, 1, 1, 1]
    (span,) = of_class(root, "span")
    assert float(span.get("width")) == pytest.approx(0.2 * (chart.right - chart.margin_left), abs=0.1)


@pytest.mark.parametrize(("end", "n"), [(9, 1), (2.5, 0)])
def test_the_name_of_a_stage_stands_only_where_it_fits(chart, end: float, n: int) -> None:
    root = parsed(chart, Border(x=2, end=end, label="layer3"))
    assert len(list(of_class(root, "stage"))) == n
    assert [e.find("title").text for e in of_class(root, "border")] == ["layer3"]


def test_labels_of_lines_close_to_each_other_do_not_overlap(chart) -> None:
    rules = [Rule(y=0.5 + k * 1e-3, label=f"line {k}") for k in range(3)]
    root = parsed(replace(chart, margin_right=100), *rules)
    heights = sorted(float(e.get("y")) for e in of_class(root, "rule-label"))
    assert len(heights) == 3
    assert all(b - a >= 13.9 for a, b in pairwise(heights))
    assert not list(of_class(parsed(chart, *rules), "rule-label"))


def test_a_bar_is_as_long_as_its_share() -> None:
    root = ElementTree.fromstring(
        draw_bars("shares", Bars(shares=(("cut", 0.75), ("rate", 0.25))), width=200)
    )
    assert [float(e.get("width")) for e in of_class(root, "bar")] == [150, 50]
    assert [e.text for e in root.iter("text")] == ["cut", "0.75", "rate", "0.25"]


# --- escaping -----------------------------------------------------------------------------------


def test_no_text_can_be_markup(chart) -> None:
    layers = (
        mark_at(1, 0.5, lines=(NASTY,)),
        Curve(points=((0, 0.0), (1, 1.0)), lines=(NASTY,)),
        Rule(y=0.5, label=NASTY),
        Border(x=0, end=10, label=NASTY),
    )
    svg = draw(replace(chart, title=NASTY, layers=layers, margin_right=100))
    assert {e.tag for e in ElementTree.fromstring(svg).iter()} <= {
        "svg",
        "g",
        "path",
        "circle",
        "rect",
        "text",
        "title",
    }
    svg.encode()


def test_attributes_are_escaped_and_nothing_is_left_out() -> None:
    made = element("p", escape("a < b"), class_="x", data_a='"><script>', title=None)
    assert made == '<p class="x" data-a="&quot;&gt;&lt;script&gt;">a &lt; b</p>'


def test_positions_are_written_to_a_tenth() -> None:
    assert element("circle", cx=math.pi, cy=2.0) == '<circle cx="3.1" cy="2"></circle>'
