"""One picture of an explanation: depth from left to right, before and after from top to bottom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from plotly.colors import sequential

from depthsearch.classifier.explain.layers import MapLayer
from depthsearch.classifier.explain.maps import Comparison, Explanation, Insight
from depthsearch.classifier.lettering import INK, PALE, write

N_CHANNELS = 4
CELL, GAP, MARGIN, LEFT = 168, 12, 16, 184
LINE = 17
COLUMN_HEADER = 4 * LINE + 14
PAPER = "#ffffff"
FROZEN, TRAINED, RIGHT, WRONG = "#3b7fb6", "#d9660a", "#2a7f3b", "#c0262d"
# How much of the colour covers the grey photo, from no evidence to the strongest.
THINNEST, THICKEST = 0.15, 0.75
# Of these, equal steps look equal, also in grey.
VIRIDIS, INFERNO = sequential.Viridis, sequential.Inferno


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One row: what stands at its left, and a square for each layer (None: nothing to show)."""

    title: str
    lines: tuple[str, ...]
    cells: tuple[Image.Image | None, ...]


def draw(comparison: Comparison, explanation: Explanation) -> Image.Image:
    """Draw an explanation as an RGB picture of at most about 1,300 x 1,200 pixels.

    Feature maps are those of the channels that vary most after fine-tuning, the same ones on the same scale
    before. A pretrained model without its own classifier gets no Grad-CAM.
    """
    layers = comparison.layers
    rows = list(_rows(comparison, explanation))
    top = MARGIN + CELL + GAP
    width = MARGIN + LEFT + len(layers) * (CELL + GAP) - GAP + MARGIN
    height = top + COLUMN_HEADER + len(rows) * (CELL + GAP) + LINE + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    sheet.paste(_square(explanation.photo.pixels), (MARGIN, MARGIN))
    _draw_words(sheet, comparison, explanation)
    for column, layer in enumerate(layers):
        _draw_column_header(sheet, comparison, layer, _left(column), top)
    for place, row in enumerate(rows):
        _draw_row(sheet, row, top + COLUMN_HEADER + place * (CELL + GAP))
    _draw_cut(sheet, comparison, top, height - LINE - MARGIN)
    _draw_note(sheet, comparison, explanation, height - LINE - MARGIN // 2)
    return sheet


def class_name(names: Sequence[str], label: int) -> str:
    """Name a class, or give its number where it has no name."""
    return names[label] if label < len(names) else f"class #{label}"


def shown_channels(explanation: Explanation, layer: MapLayer) -> list[int]:
    """List the channels of a layer that vary most over the image after fine-tuning, the most varied first."""
    spread = explanation.after.maps[layer.name].flatten(1).std(1)
    return spread.argsort(descending=True, stable=True)[:N_CHANNELS].tolist()


def _rows(comparison: Comparison, explanation: Explanation) -> Iterator[_Row]:
    layers, before, after = comparison.layers, explanation.before, explanation.after
    if before is not None:
        yield _map_row("pretrained", before, explanation, layers)
        if comparison.before_classes is not None:
            name = class_name(comparison.before_classes, before.predicted)
            yield _heat_row("pretrained", before, before.predicted, name, explanation, layers)
    yield _map_row("fine-tuned", after, explanation, layers)
    name = class_name(comparison.classes, after.predicted)
    yield _heat_row("fine-tuned", after, after.predicted, name, explanation, layers)
    true = explanation.photo.true
    if true is not None and true != after.predicted:
        name = f"{class_name(comparison.classes, true)} (true)"
        yield _heat_row("fine-tuned", after, true, name, explanation, layers)


def _map_row(title: str, insight: Insight, explanation: Explanation, layers: Sequence[MapLayer]) -> _Row:
    cells = tuple(_mosaic(insight, explanation, layer) for layer in layers)
    return _Row(title=title, lines=("feature maps",), cells=cells)


def _heat_row(
    title: str, insight: Insight, target: int, name: str, explanation: Explanation, layers: Sequence[MapLayer]
) -> _Row:
    heats = insight.heats[target]
    return _Row(
        title=title,
        lines=("Grad-CAM for", name, f"{float(insight.probabilities[target]):.2f}"),
        cells=tuple(
            _overlay(explanation.photo.pixels, heats[layer.name]) if layer.name in heats else None
            for layer in layers
        ),
    )


def _mosaic(insight: Insight, explanation: Explanation, layer: MapLayer) -> Image.Image | None:
    """Tile the shown channels two by two, each on one scale for before and after."""
    if layer.name not in insight.maps:
        return None
    both = [i for i in (explanation.before, explanation.after) if i is not None and layer.name in i.maps]
    tile = (CELL - 2) // 2
    square = Image.new("RGB", (CELL, CELL), PAPER)
    for place, channel in enumerate(shown_channels(explanation, layer)):
        values = torch.stack([i.maps[layer.name][channel] for i in both])
        low, high = float(values.min()), float(values.max())
        scaled = (insight.maps[layer.name][channel] - low) / ((high - low) or 1.0)
        coloured = Image.fromarray(_coloured(scaled.numpy(), VIRIDIS).round().astype(np.uint8))
        at = (place % 2 * (CELL - tile), place // 2 * (CELL - tile))
        square.paste(coloured.resize((tile, tile), Image.Resampling.NEAREST), at)
    return square


def _overlay(pixels: torch.Tensor, heat: torch.Tensor) -> Image.Image:
    """Lay a heat ``(h, w)`` in [0, 1] over the photo in grey, the thicker the stronger."""
    grey = np.asarray(_square(pixels).convert("L").convert("RGB"), dtype=np.float32)
    smooth = Image.fromarray(heat.float().numpy()).resize((CELL, CELL), Image.Resampling.BILINEAR)
    strength = np.asarray(smooth).clip(0, 1)
    cover = (THINNEST + (THICKEST - THINNEST) * strength)[..., None]
    mixed = grey * (1 - cover) + _coloured(strength, INFERNO) * cover
    return Image.fromarray(mixed.round().astype(np.uint8))


def _coloured(values: NDArray[np.float32], colours: Sequence[str]) -> NDArray[np.float64]:
    """Colour values ``(h, w)`` in [0, 1]: ``(h, w, 3)`` in [0, 255]."""
    table = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colours], dtype=np.float64)
    places = np.linspace(0, 1, len(table))
    return np.stack([np.interp(values, places, table[:, channel]) for channel in range(3)], axis=-1)


def _square(pixels: torch.Tensor) -> Image.Image:
    return Image.fromarray(pixels.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()).resize(
        (CELL, CELL), Image.Resampling.BICUBIC
    )


def _left(column: int) -> int:
    return MARGIN + LEFT + column * (CELL + GAP)


def _draw_words(sheet: Image.Image, comparison: Comparison, explanation: Explanation) -> None:
    """Write at the top what the image is and what both models predict."""
    x, y = MARGIN + LEFT, MARGIN
    room = sheet.width - x - MARGIN
    photo, after, before = explanation.photo, explanation.after, explanation.before
    write(sheet, (x, y), "/".join(Path(photo.name).parts[-2:]), size=20, room=room)
    prediction = f"fine-tuned: {class_name(comparison.classes, after.predicted)} {after.probability:.2f}"
    if explanation.right is None:
        verdict, colour = "the true class is not known", PALE
    elif explanation.right:
        verdict, colour = "right", RIGHT
    else:
        true = photo.true or 0
        share = float(after.probabilities[true])
        verdict, colour = f"wrong: it is {class_name(comparison.classes, true)} ({share:.2f})", WRONG
    end = write(sheet, (x, y + 30), prediction + "  ", size=16, room=room)
    write(sheet, (end, y + 30), verdict, size=16, room=sheet.width - MARGIN - end, colour=colour)
    if before is not None:
        pretrained = "pretrained: its weights came without their classifier"
        if comparison.before_classes is not None:
            name = class_name(comparison.before_classes, before.predicted)
            pretrained = f"pretrained: {name} {before.probability:.2f}"
        write(sheet, (x, y + 54), pretrained, size=16, room=room)
    if comparison.cut is not None:
        write(sheet, (x, y + 86), f"trained from {comparison.cut}; frozen before it", room=room, colour=PALE)
    scales = (
        (VIRIDIS, "feature maps: the four channels that vary most, from their least to their greatest value"),
        (INFERNO, "Grad-CAM: what speaks for a class, from nothing to the strongest in its square"),
    )
    for place, (colours, meaning) in enumerate(scales):
        at = y + CELL - (2 - place) * (LINE + 6)
        ramp = _coloured(np.tile(np.linspace(0, 1, 96, dtype=np.float32), (12, 1)), colours)
        sheet.paste(Image.fromarray(ramp.round().astype(np.uint8)), (x, at + 2))
        write(sheet, (x + 104, at), meaning, room=room - 104, colour=PALE)


def _draw_column_header(sheet: Image.Image, comparison: Comparison, layer: MapLayer, x: int, y: int) -> None:
    frozen = comparison.is_frozen(layer)
    state, colour = {None: ("", PALE), True: ("frozen", FROZEN), False: ("trained", TRAINED)}[frozen]
    write(sheet, (x, y), f"layer {layer.number}", size=16, room=CELL)
    names = [layer.keras_name, layer.name] if layer.keras_name else [layer.name]
    for place, name in enumerate(names):
        write(sheet, (x, y + 3 + (place + 1) * LINE), name, room=CELL, colour=PALE if place else INK)
    end = write(sheet, (x, y + 3 + 3 * LINE), f"{state}  " if state else "", room=CELL, colour=colour)
    shape = f"{layer.channels} ch, {layer.height} x {layer.width} px"
    write(sheet, (end, y + 3 + 3 * LINE), shape, room=CELL + x - end, colour=PALE)
    ImageDraw.Draw(sheet).rectangle(
        (x, y + COLUMN_HEADER - 7, x + CELL - 1, y + COLUMN_HEADER - 4), fill=colour
    )


def _draw_row(sheet: Image.Image, row: _Row, y: int) -> None:
    write(sheet, (MARGIN, y), row.title, size=16, room=LEFT - GAP)
    for place, line in enumerate(row.lines):
        write(sheet, (MARGIN, y + 22 + place * LINE), line, room=LEFT - GAP, colour=PALE)
    for column, cell in enumerate(row.cells):
        if cell is not None:
            sheet.paste(cell, (_left(column), y))


def _draw_cut(sheet: Image.Image, comparison: Comparison, top: int, bottom: int) -> None:
    """Draw the border between the frozen and the trained columns."""
    states = [comparison.is_frozen(layer) for layer in comparison.layers]
    for column, (left, right) in enumerate(pairwise(states), start=1):
        if left is True and right is False:
            x = _left(column) - GAP // 2
            ImageDraw.Draw(sheet).line((x, top, x, bottom), fill=TRAINED, width=2)


def _draw_note(sheet: Image.Image, comparison: Comparison, explanation: Explanation, y: int) -> None:
    frozen = [layer for layer in comparison.layers if comparison.is_frozen(layer)]
    if explanation.before is None or not frozen:
        return
    same = all(explanation.unchanged(layer) for layer in frozen)
    note = (
        "Frozen layers have the same feature maps before and after; their Grad-CAM differs with what follows."
    )
    other = "Not all frozen layers have the same feature maps before and after: these are other weights."
    write(sheet, (MARGIN, y), note if same else other, room=2000, colour=PALE if same else WRONG)
