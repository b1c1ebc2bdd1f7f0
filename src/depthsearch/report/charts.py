"""Charts as SVG text: plain values in, a string out. Nothing here knows of studies.

Colours and fonts are the page's: every element carries a class and nothing else. A mark says what it stands
for in its ``<title>``, and once it is pointed at, tapped or focused also in the lines below the plot (class
``tip``), where no other mark can lie on top: that takes no script.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Area",
    "Axis",
    "Bars",
    "Border",
    "Chart",
    "Curve",
    "Layer",
    "Mark",
    "Pointer",
    "Rule",
    "Span",
    "draw",
    "draw_bars",
    "element",
    "escape",
    "log_ticks",
    "symbol",
    "ticks",
]

LINE_HEIGHT = 16
# A finger needs more than the few pixels that a mark shows.
TOUCH_RADIUS = 10
# A mark beyond an axis is drawn so far inside it.
BEYOND = 15
# Mean width of a letter, in font sizes.
LETTER = 0.56
# What XML cannot hold, not even escaped.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One direction of a chart.

    Attributes:
        low: Value at its start.
        high: Value at its end.
        ticks: Values to mark, with what to write there.
        label: What it shows.
        log: Whether it is logarithmic.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    label: str
    log: bool = False

    def share(self, value: float) -> float:
        """Give a value's place as a share of the axis; outside [0, 1] beyond its ends."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        place = math.log(value) if self.log else value
        return (place - low) / ((high - low) or 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A point.

    Attributes:
        shape: ``dot``, ``ring``, ``cross``, ``diamond`` or ``square``.
        x: Where, in the values of the axis.
        y: Where; a mark beyond the axis is drawn at its edge, with an arrow.
        lines: What it stands for.
        kind: Classes.
        radius: Its size in pixels.
        spread: Ends of an error bar.
        label: What stands beside it, on the side with more room.
    """

    shape: str
    x: float
    y: float
    lines: tuple[str, ...]
    kind: str = ""
    radius: float = 4.5
    spread: tuple[float, float] | None = None
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Points joined by a line.

    Attributes:
        points: By x.
        kind: Classes.
        lines: What it stands for; empty: it cannot be pointed at.
        end: Shape at its last point.
    """

    points: tuple[tuple[float, float], ...]
    kind: str = ""
    lines: tuple[str, ...] = ()
    end: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """A band: for each x from a lower to an upper value."""

    points: tuple[tuple[float, float, float], ...]
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A range of x, shaded over the whole height."""

    low: float
    high: float
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A horizontal line; its label stands in the right margin where there is room."""

    y: float
    label: str
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Border:
    """A vertical line that a range of x begins with; its label stands above the plot where it fits."""

    x: float
    end: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """A value of x that is pointed at from below, its label beside the arrow."""

    x: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Horizontal bars of named shares in [0, 1]."""

    shares: tuple[tuple[str, float], ...]


Layer = Area | Border | Curve | Mark | Pointer | Rule | Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A rectangle with two axes and what is drawn in it, the first layer lowest.

    Attributes:
        title: What it shows, for those who cannot see it.
        width: In pixels, margins included.
        height: Of the plot with its margins, without the lines below.
        x: Axis from left to right.
        y: Axis from bottom to top.
        layers: What to draw.
        n_lines: Most lines of text for the mark that is pointed at. They lie over what is below the chart.
        hint: What stands there before.
        margin_right: In pixels.
        reachable: Whether the marks can be reached with the tabulator key.
    """

    title: str
    width: int
    height: int
    x: Axis
    y: Axis
    layers: tuple[Layer, ...]
    n_lines: int = 0
    hint: str = ""
    margin_right: int = 14
    reachable: bool = False
    margin_left: int = 52
    margin_top: int = 40
    margin_bottom: int = 46

    @property
    def right(self) -> float:
        """Right end of the plot."""
        return self.width - self.margin_right

    @property
    def bottom(self) -> float:
        """Lower end of the plot."""
        return self.height - self.margin_bottom

    def at_x(self, value: float) -> float:
        """Place a value, within the plot."""
        share = min(1.0, max(0.0, self.x.share(value)))
        return self.margin_left + share * (self.right - self.margin_left)

    def at_y(self, value: float) -> float:
        """Place a value, within the plot."""
        share = min(1.0, max(0.0, self.y.share(value)))
        return self.bottom - share * (self.bottom - self.margin_top)


def escape(text: object) -> str:
    """Write a text so that neither HTML nor XML sees markup in it."""
    return html.escape(CONTROL.sub("\ufffd", str(text)))


def element(name: str, *children: str, **attributes: Any) -> str:
    """Write an element: attributes are escaped, ``class_`` is class, None is left out; children are not."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{written}>{''.join(children)}</{name}>"


def _number(value: Any) -> Any:
    """Write positions to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value


def ticks(low: float, high: float, n: int) -> tuple[tuple[float, str], ...]:
    """Choose about ``n`` round values from low to high, with the digits that tell them apart."""
    if not high > low:
        return ((low, f"{low:g}"),)
    raw = (high - low) / max(1, n)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    digits = max(0, -math.floor(math.log10(step) + 1e-9) + (step / power == 2.5))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return tuple((k * step, f"{k * step:.{digits}f}") for k in range(first, last + 1))


def log_ticks(low: float, high: float) -> tuple[tuple[float, str], ...]:
    """Choose the powers of ten from low to high, and their threefold where those are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
        found = [f * 10.0**power for power in powers for f in factors]
        found = [value for value in found if low * 0.999 <= value <= high * 1.001]
        if len(found) >= 3:
            break
    return tuple((value, f"{value:.2g}") for value in found)


def draw(chart: Chart) -> str:
    """Draw a chart as an ``<svg>`` element."""
    height = chart.height + (LINE_HEIGHT if chart.hint else 0)
    parts = [*_axes(chart), *_rule_labels(chart)]
    parts += [part for layer in chart.layers for part in _layer(chart, layer)]
    if chart.hint:
        parts.append(_text(chart.hint, chart.margin_left, chart.height + 8, "hint"))
    return _svg(chart.title, chart.width, height, parts)


def draw_bars(title: str, bars: Bars, *, width: int) -> str:
    """Draw named shares as horizontal bars, each with its label above it."""
    parts = []
    for row, (name, share) in enumerate(bars.shares):
        top = row * 40
        parts.append(_text(name, 0, top + 13, "name"))
        parts.append(_text(f"{share:.2f}", width, top + 13, "value", "end"))
        parts.append(element("rect", x=0, y=top + 20, width=width, height=8, rx=4, class_="groove"))
        full = max(3.0, width * share)
        parts.append(element("rect", x=0, y=top + 20, width=full, height=8, rx=4, class_="bar"))
    return _svg(title, width, 40 * len(bars.shares), parts)


def symbol(shape: str, kind: str) -> str:
    """Draw a mark's shape, or ``line``, by itself, for a legend."""
    if shape == "line":
        parts = [element("path", d="M0 7H20", class_=kind)]
    elif shape == "patch":
        parts = [element("rect", x=1, y=1, width=18, height=12, class_=kind)]
    else:
        parts = [element("g", _shape(shape, 10, 7, 4.5), class_=f"mark {kind}")]
    return element("svg", *parts, viewBox="0 0 20 14", width=20, height=14, aria_hidden="true")


def _svg(title: str, width: int, height: int, parts: Sequence[str]) -> str:
    return element("svg", *parts, viewBox=f"0 0 {width} {height}", role="group", aria_label=title)


def _text(content: str, x: float, y: float, kind: str, anchor: str | None = None) -> str:
    return element("text", escape(content), x=x, y=y, class_=kind, text_anchor=anchor)


def _axes(chart: Chart) -> Iterator[str]:
    left, right, bottom = chart.margin_left, chart.right, chart.bottom
    for value, label in chart.y.ticks:
        y = chart.at_y(value)
        yield element("path", d=f"M{left} {y:.1f}H{right:.1f}", class_="grid")
        yield _text(label, left - 8, y + 4, "tick", "end")
    for value, label in chart.x.ticks:
        x = chart.at_x(value)
        yield element("path", d=f"M{x:.1f} {bottom:.1f}v5", class_="axis")
        yield _text(label, x, bottom + 18, "tick", "middle")
    yield element("path", d=f"M{left} {bottom:.1f}H{right:.1f}", class_="axis")
    yield _text(chart.x.label, (left + right) / 2, bottom + 36, "label", "middle")
    yield _text(chart.y.label, 0, 11, "label")


def _layer(chart: Chart, layer: Layer) -> Iterator[str]:
    if isinstance(layer, Mark):
        yield _mark(chart, layer)
    elif isinstance(layer, Curve):
        yield _curve(chart, layer)
    elif isinstance(layer, Area):
        there = [(x, high) for x, _, high in layer.points]
        back = [(x, low) for x, low, _ in reversed(layer.points)]
        yield element("path", d=_path(chart, [*there, *back]) + "Z", class_=f"area {layer.kind}")
    elif isinstance(layer, Span):
        x, end = chart.at_x(layer.low), chart.at_x(layer.high)
        top, height = chart.margin_top, chart.bottom - chart.margin_top
        yield element("rect", x=x, y=top, width=max(2.0, end - x), height=height, class_=f"span {layer.kind}")
    elif isinstance(layer, Rule):
        y = chart.at_y(layer.y)
        line = f"M{chart.margin_left} {y:.1f}H{chart.right:.1f}"
        yield element("path", element("title", escape(layer.label)), d=line, class_=f"rule {layer.kind}")
    elif isinstance(layer, Pointer):
        x = chart.at_x(layer.x)
        yield element("path", d=f"M{x:.1f} {chart.margin_top}V{chart.bottom:.1f}", class_="pointer")
        arrow = f"M{x - 5:.1f} {chart.bottom:.1f}l5 -8l5 8Z"
        yield element("path", element("title", escape(layer.label)), d=arrow, class_="pointer arrow")
        yield _text(layer.label, x + 8, chart.bottom - 5, "pointed")
    else:
        yield from _border(chart, layer)


def _border(chart: Chart, border: Border) -> Iterator[str]:
    x, end = chart.at_x(border.x), chart.at_x(border.end)
    line = f"M{x:.1f} {chart.margin_top - 14}V{chart.bottom:.1f}"
    yield element("path", element("title", escape(border.label)), d=line, class_="border")
    if len(border.label) * 11 * LETTER + 4 < end - x:
        yield _text(border.label, x + 4, chart.margin_top - 5, "stage")


def _rule_labels(chart: Chart) -> Iterator[str]:
    """Write the labels of the rules in the right margin, one below the other where they would overlap."""
    if chart.margin_right < 60:
        return
    lowest = -math.inf
    for rule in sorted((r for r in chart.layers if isinstance(r, Rule)), key=lambda r: -r.y):
        y = max(chart.at_y(rule.y) + 4, lowest + 14)
        lowest = y
        yield _text(rule.label, chart.right + 6, y, f"rule-label {rule.kind}")


def _mark(chart: Chart, mark: Mark) -> str:
    x, y = chart.at_x(mark.x), chart.at_y(mark.y)
    parts = [_tip(chart, mark.lines)]
    if mark.spread is not None:
        low, high = (chart.at_y(value) for value in mark.spread)
        bar = f"M{x - 4:.1f} {low:.1f}h8M{x - 4:.1f} {high:.1f}h8M{x:.1f} {low:.1f}V{high:.1f}"
        parts.append(element("path", d=bar, class_="spread"))
    share = chart.y.share(mark.y)
    if not -1e-9 <= share <= 1 + 1e-9:
        down = 1 if share < 0 else -1
        y -= BEYOND * down
        arrow = f"M{x - 4:.1f} {y + 8 * down:.1f}l4 {4 * down}l4 {-4 * down}"
        parts.append(element("path", d=arrow, class_="beyond"))
    parts.append(element("circle", cx=x, cy=y, r=TOUCH_RADIUS, class_="touch"))
    parts.append(_shape(mark.shape, x, y, mark.radius))
    if mark.label:
        aside, anchor = (
            (mark.radius + 5, "start") if chart.x.share(mark.x) < 0.5 else (-mark.radius - 5, "end")
        )
        parts.append(element("text", escape(mark.label), x=x + aside, y=y - 6, text_anchor=anchor))
    return _pointed_at(chart, f"mark {mark.kind}", mark.lines, parts)


def _curve(chart: Chart, curve: Curve) -> str:
    line = _path(chart, curve.points)
    parts = [element("path", d=line, class_="line")]
    if curve.end:
        parts.append(_shape(curve.end, *_placed(chart, curve.points[-1]), 3.5))
    if not curve.lines:
        return element("g", *parts, class_=f"curve {curve.kind}".strip())
    parts = [_tip(chart, curve.lines), element("path", d=line, class_="touch"), *parts]
    return _pointed_at(chart, f"mark curve {curve.kind}", curve.lines, parts)


def _pointed_at(chart: Chart, kind: str, lines: Sequence[str], parts: Sequence[str]) -> str:
    title = element("title", escape("\n".join(lines)))
    # -1 can be tapped, but does not stand in the way of the tabulator key.
    index = 0 if chart.reachable else -1
    label = "; ".join(lines)
    return element("g", title, *parts, class_=kind.strip(), tabindex=index, role="img", aria_label=label)


def _tip(chart: Chart, lines: Sequence[str]) -> str:
    lines = lines[: chart.n_lines]
    first = chart.height + 12
    plate = element("rect", x=0, y=first - 17, width=chart.width, height=len(lines) * LINE_HEIGHT + 14, rx=6,
                    class_="plate")  # fmt: skip
    rows = [
        _text(line, 12, first + row * LINE_HEIGHT, "first" if not row else "more")
        for row, line in enumerate(lines)
    ]
    return element("g", plate, *rows, class_="tip", aria_hidden="true")


def _placed(chart: Chart, point: tuple[float, float]) -> tuple[float, float]:
    return chart.at_x(point[0]), chart.at_y(point[1])


def _path(chart: Chart, points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in (_placed(chart, point) for point in points))


def _shape(shape: str, x: float, y: float, r: float) -> str:
    if shape == "cross":
        return element("path", d=f"M{x - r:.1f} {y - r:.1f}l{2 * r} {2 * r}m0 {-2 * r}l{-2 * r} {2 * r}",
                       class_="cross")  # fmt: skip
    if shape == "diamond":
        r *= 1.3
        return element("path", d=f"M{x:.1f} {y - r:.1f}l{r:.1f} {r:.1f} {-r:.1f} {r:.1f} {-r:.1f} {-r:.1f}Z",
                       class_="diamond")  # fmt: skip
    if shape == "square":
        return element("rect", x=x - r, y=y - r, width=2 * r, height=2 * r, class_="square")
    return element("circle", cx=x, cy=y, r=r, class_=shape)
