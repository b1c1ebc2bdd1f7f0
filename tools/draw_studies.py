"""Draw the pictures of the README and of docs/which-layers.md from kept results: real studies and sweeps.

    python tools/draw_studies.py

Means and their errors are read from the tables of `studies/results/*/report.md`, single trainings from
`benchmarks/search/tables`. Nothing is trained.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
RESULTS = ROOT / "studies" / "results"
TABLES = ROOT / "benchmarks" / "search" / "tables"

LIGHT = {"ground": "#ffffff", "ink": "#24292f", "faint": "#8b949e", "grid": "#e3e6ea"}
DARK = {"ground": "#15181c", "ink": "#e6edf3", "faint": "#8b949e", "grid": "#30363d"}
BLUE, GREEN, ORANGE = "#2b83c6", "#009e73", "#d55e00"
# From the lowest learning rate to the highest, dark enough for light grounds and light enough for dark ones.
RATES = ("#7a6fd0", "#2b83c6", "#009e73", "#b07d00", "#d55e00")
PANEL_WIDTH, PANEL_HEIGHT = 300, 210
LEFT, TOP, RIGHT, BOTTOM = 46, 58, 14, 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Scores along the depth: ``y`` at places ``x``, with a standard error each or none."""

    x: Sequence[float]
    y: Sequence[float]
    colour: str
    errors: Sequence[float] = ()
    name: str = ""
    is_joined: bool = True
    size: float = 3.5
    best: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One chart: title, a line below it, curves, and what stands at some places of the depth axis."""

    title: str
    note: str
    curves: Sequence[Curve]
    ticks: Sequence[tuple[float, str]]
    label: str = "first trainable layer (more frozen →)"
    unit: str = "accuracy"
    steps: Sequence[float] = field(default=())


def scored(study: str, backbone: str = "") -> list[tuple[int, float, float, bool]]:
    """Read what each cut of a backbone scored: layer, mean, its standard error, whether it is the answer.

    A head alone that is solved comes to the same score each time: there is one, and no error.
    """
    text = (RESULTS / study / "report.md").read_text(encoding="utf-8")
    section = text.split("## Score against depth\n")[1].split("\n## ")[0]
    row = re.compile(r"\| (\**)(\d+)\** \| (.+?) \| \d+ \| ([\d.]+) \| ([\d.]*)(?: ± ([\d.]+))? \|")
    return [
        (int(layer), float(mean or once), float(error or 0), bool(mark))
        for mark, layer, name, once, mean, error in row.findall(section)
        if name.startswith(backbone)
    ]


def study_panel(study: str, title: str, note: str, backbone: str = "") -> Panel:
    """Draw the means of a study, its answer as a star."""
    rows = scored(study, backbone)
    x = list(range(len(rows)))
    shown = {0, len(rows) - 1, next(i for i, row in enumerate(rows) if row[3])}
    answer = next(i for i, row in enumerate(rows) if row[3])
    curve = Curve(
        x=x, y=[row[1] for row in rows], errors=[row[2] for row in rows], colour=GREEN, size=5, best=answer
    )
    return Panel(title=title, note=note, curves=[curve], ticks=[(i, str(rows[i][0])) for i in sorted(shown)])


def three_answers() -> list[Panel]:
    """Draw three studies with three answers."""
    return [
        study_panel(
            "vgg16_catsdogs_pool", "The head alone", "EfficientNet-Lite0 (ImageNet), cats, dogs; n = 2"
        ),
        study_panel(
            "densenet_blocks_binary",
            "Hard to tell",
            "DenseNet121 (CIFAR-100), cats, dogs, grey; n = 2",
            "densenet121",
        ),
        study_panel("densenet_vehicles", "Everything", "DenseNet121 (CIFAR-100), vehicles; n = 3"),
    ]


def by_rate() -> list[Panel]:
    """Draw a recorded table: the score of each learning rate of a usual search along the depth."""
    with np.load(TABLES / "vehicles.npz") as table:
        about = json.loads(table["about"].tobytes())
        score = table["score"][:, :, -len(RATES) :, -1]
    layers = [cut["layer"] for cut in about["cuts"]]
    about = about["about"]
    rates = [float(rate) for rate in about["learning_rates"][-len(RATES) :]]
    curves = [
        Curve(
            x=range(len(layers)),
            y=[float(value) for value in score[:, :, k].mean(axis=0)],
            colour=RATES[k],
            name=f"rate {rate:.2g}",
            best=int(score[:, :, k].mean(axis=0).argmax()),
        )
        for k, rate in enumerate(rates)
    ]
    note = f"EfficientNet-Lite0, vehicles, mean of {len(score)} seeds; ★ best cut of a rate"
    ticks = [(i, str(layer)) for i, layer in enumerate(layers)]
    return [Panel(title="The best cut depends on the learning rate", note=note, curves=curves, ticks=ticks)]


def sweeps() -> list[Panel]:
    """Draw two sweeps of every candidate: each training a dot, their mean at each cut a line."""
    return [
        _sweep("catsdogs", "Cats and dogs, every cut"),
        _sweep("vehicles", "Vehicles, every cut"),
    ]


def _sweep(name: str, title: str) -> Panel:
    table = json.loads((TABLES / f"{name}.json").read_text(encoding="utf-8"))
    scores: dict[int, list[float]] = {}
    for run in table["runs"]:
        scores.setdefault(run["cut"], []).append(run["scores"][-1])
    cuts = sorted(scores)
    layers = {probe["cut"]: probe["layer"] for probe in table["probe"]}
    dots = Curve(
        x=[cut for cut in cuts for _ in scores[cut]],
        y=[score for cut in cuts for score in scores[cut]],
        colour=BLUE,
        is_joined=False,
        size=1.8,
        name="one training",
    )
    means = [fmean(scores[cut]) for cut in cuts]
    line = Curve(x=cuts, y=means, colour=ORANGE, size=0, name="mean of four at a cut")
    ticks = [(cut, str(layers[cut])) for cut in (0, 12, 24, 36, 49)]
    return Panel(
        title=title, note="EfficientNet-Lite0, 64 px, 3 learning rates", curves=[dots, line], ticks=ticks
    )


def epoch_cost() -> list[Panel]:
    """Draw what an epoch costs, by the share of the network that is frozen."""
    shares = [k / 20 for k in range(21)]
    plain = Curve(
        x=shares, y=[p + 3 * (1 - p) for p in shares], colour=ORANGE, size=0, name="frozen layers run"
    )
    kept = Curve(x=shares, y=[3 * (1 - p) for p in shares], colour=GREEN, size=0, name="features kept")
    ticks = [(p, f"{p:.0%}") for p in (0, 0.25, 0.5, 0.75, 1)]
    return [
        Panel(
            title="Cost of an epoch",
            note="forward pass = 1; full fine-tuning = 3",
            curves=[plain, kept],
            ticks=ticks,
            label="share of the network that is frozen (MACs)",
            unit="forward passes",
            steps=(0, 1, 2, 3),
        )
    ]


def svg(
    panels: Sequence[Panel], colours: dict[str, str] | None, title: str, *, width: int = PANEL_WIDTH
) -> str:
    """Draw panels side by side; without colours they follow the reader's browser, light or dark."""
    whole = width * len(panels)
    parts = [part for i, panel in enumerate(panels) for part in _panel(panel, i * width, width)]
    style = _style(colours or LIGHT)
    if colours is None:
        style += f"@media (prefers-color-scheme: dark) {{ {_style(DARK)} }}"
    height = TOP + PANEL_HEIGHT + BOTTOM
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole} {height}" width="{whole}" '
            f'height="{height}" role="img" font-family="system-ui, sans-serif" font-size="11">',
            f"<title>{escape(title)}</title>",
            f"<style>{style}</style>",
            f'<rect width="{whole}" height="{height}" class="ground"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _style(colours: dict[str, str]) -> str:
    return (
        f".ground {{ fill: {colours['ground']}; }} text {{ fill: {colours['ink']}; }} "
        f".faint {{ fill: {colours['faint']}; }} .grid {{ stroke: {colours['grid']}; }} "
        f".axis {{ stroke: {colours['faint']}; }}"
    )


def _panel(panel: Panel, offset: float, width: float) -> Iterable[str]:
    x_low, x_high = panel.ticks[0][0], panel.ticks[-1][0]
    steps = panel.steps or _steps(panel.curves)
    low, high = steps[0], steps[-1]

    def across(x: float) -> float:
        inner = width - LEFT - RIGHT - 16
        return offset + LEFT + 8 + inner * (x - x_low) / (x_high - x_low)

    def down(y: float) -> float:
        return TOP + PANEL_HEIGHT * (high - y) / (high - low)

    yield _text(offset + LEFT, 20, panel.title, 'font-size="14" font-weight="600"')
    yield _text(offset + LEFT, 36, panel.note, 'class="faint"')
    yield _text(offset + LEFT, 51, panel.unit, 'class="faint" font-size="10"')
    for step in steps:
        y = down(step)
        yield f'<path class="grid" d="M{offset + LEFT:.1f} {y:.1f}H{offset + width - RIGHT:.1f}"/>'
        yield _text(offset + LEFT - 6, y + 4, f"{step:.2f}".rstrip("0").rstrip("."), 'text-anchor="end"')
    floor = TOP + PANEL_HEIGHT
    yield f'<path class="axis" d="M{offset + LEFT:.1f} {floor}H{offset + width - RIGHT:.1f}"/>'
    for x, text in panel.ticks:
        yield _text(across(x), floor + 15, text, 'text-anchor="middle"')
    yield _text(
        offset + (LEFT + width - RIGHT) / 2, floor + 31, panel.label, 'text-anchor="middle" class="faint"'
    )
    for curve in panel.curves:
        yield from _curve(curve, across, down)
    named = [curve for curve in panel.curves if curve.name]
    for i, curve in enumerate(named):
        x = offset + LEFT + i * (width - LEFT - RIGHT) / len(named)
        yield f'<circle cx="{x + 4:.1f}" cy="{floor + 48}" r="4" fill="{curve.colour}"/>'
        yield _text(x + 12, floor + 52, curve.name)


def _curve(curve: Curve, across: Any, down: Any) -> Iterable[str]:
    places = [(across(x), down(y)) for x, y in zip(curve.x, curve.y, strict=True)]
    if curve.is_joined:
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        yield f'<path d="M{line}" fill="none" stroke="{curve.colour}" stroke-width="1.6" opacity="0.8"/>'
    for (x, _), y, error in zip(places, curve.y, curve.errors or [0.0] * len(places), strict=True):
        if error:
            bar = f"M{x:.1f} {down(y - error):.1f}V{down(y + error):.1f}"
            yield f'<path d="{bar}" stroke="{curve.colour}" stroke-width="1.6"/>'
    for i, (x, y) in enumerate(places):
        if i == curve.best:
            yield (
                f'<text x="{x:.1f}" y="{y + 6:.1f}" text-anchor="middle" font-size="19" '
                f'style="fill: {ORANGE if curve.errors else curve.colour}">★</text>'
            )
        elif curve.size:
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{curve.size}" fill="{curve.colour}"/>'


def _steps(curves: Sequence[Curve]) -> list[float]:
    """Choose round values that hold all scores with their errors."""
    ends = [
        y + sign * error
        for curve in curves
        for y, error in zip(curve.y, curve.errors or [0.0] * len(curve.y), strict=True)
        for sign in (-1, 1)
    ]
    width = 0.1 if max(ends) - min(ends) > 0.3 else 0.05 if max(ends) - min(ends) > 0.12 else 0.02
    first, last = int(np.floor(min(ends) / width)), int(np.ceil(max(ends) / width))
    return [round(k * width, 4) for k in range(first, last + 1)]


def _text(x: float, y: float, text: str, attributes: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{escape(text)}</text>'


def pictures() -> dict[str, str]:
    """Draw all of them, by file name."""
    answers = three_answers()
    title = "Three studies with three answers: validation accuracy against the first trainable layer"
    return {
        "three-answers-light.svg": svg(answers, LIGHT, title),
        "three-answers-dark.svg": svg(answers, DARK, title),
        "three-answers.svg": svg(answers, None, title),
        "by-rate.svg": svg(by_rate(), None, "Accuracy of five learning rates along the depth", width=640),
        "sweeps.svg": svg(sweeps(), None, "Fifty cuts of a network, trained four times each", width=400),
        "epoch-cost.svg": svg(
            epoch_cost(), None, "Cost of an epoch with and without kept features", width=420
        ),
    }


if __name__ == "__main__":
    for name, text in pictures().items():
        (PICTURES / name).write_text(text, encoding="utf-8")
