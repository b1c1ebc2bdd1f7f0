"""The confusions of a test as a picture."""

from __future__ import annotations

from PIL import Image, ImageDraw

from depthsearch.classifier.figures import CONFIDENCE, Figures
from depthsearch.classifier.lettering import INK, PALE, write
from depthsearch.text import counted, percent

# The matrix is to be about so large; its squares between the smallest and the largest.
SIDE, SMALLEST, LARGEST = 1000, 6, 88
# Squares from so many pixels on have room for a name beside them, and for a count in them.
FOR_NAMES, FOR_COUNTS = 15, 26
MARGIN, TOP = 20, 96
# Most room for the names at the left; a letter takes about so much of it.
LEFT, LETTER = 190, 8
PAPER, RIGHT, WRONG = (255, 255, 255), (31, 102, 176), (200, 67, 11)


def confusion_picture(figures: Figures, noun: str = "image") -> Image.Image:
    """Draw a row for each true class and a column for each that is told, darker for a larger share of a row.

    Args:
        figures: Of the test.
        noun: What a sample is called.
    """
    names = [each.name for each in figures.classes]
    cell = max(SMALLEST, min(LARGEST, SIDE // max(1, len(names))))
    side = cell * len(names)
    left = min(LEFT, 16 + LETTER * max(map(len, names))) if cell >= FOR_NAMES else 0
    x, y = MARGIN + left, MARGIN + TOP
    sheet = Image.new("RGB", (max(x + side + MARGIN, 640), y + side + MARGIN), PAPER)
    low, high = figures.interval
    write(sheet, (MARGIN, MARGIN), f"Confusions on the test {noun}s", size=20, room=600)
    interval = f"{percent(CONFIDENCE)}: {low:.4f} to {high:.4f}"
    summary = f"accuracy {figures.accuracy:.4f} ({interval}), {counted(figures.n, noun)}"
    write(sheet, (MARGIN, MARGIN + 28), summary, room=600, colour=PALE)
    meaning = "a row for each true class, a column for what it is called; darker: a larger share of the row"
    write(sheet, (MARGIN, MARGIN + 46), meaning, room=610, colour=PALE)
    pen = ImageDraw.Draw(sheet)
    for place, row in enumerate(figures.confusion):
        top = y + place * cell
        if cell >= FOR_NAMES:
            write(sheet, (MARGIN, top + cell // 2 - 8), names[place], room=left - 10)
            if cell >= FOR_COUNTS:
                write(sheet, (x + place * cell + 3, y - 22), names[place], room=cell - 4)
        for column, n in enumerate(row):
            box = (x + column * cell, top, x + (column + 1) * cell - 2, top + cell - 2)
            share = n / sum(row) if n else 0.0
            pen.rectangle(box, fill=_colour(share, RIGHT if column == place else WRONG))
            if n and cell >= FOR_COUNTS:
                ink = INK if share < 0.5 else "#ffffff"
                write(sheet, (box[0] + 4, top + cell // 2 - 8), str(n), room=cell - 6, colour=ink)
    return sheet


def _colour(share: float, full: tuple[int, int, int]) -> tuple[int, int, int]:
    """Mix paper and colour: a few wrong ones of many are seen too."""
    strength = 0.12 + 0.88 * share if share else 0.03
    red, green, blue = (round(a + (b - a) * strength) for a, b in zip(PAPER, full, strict=True))
    return red, green, blue
