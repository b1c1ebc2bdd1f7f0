"""Text in pictures."""

from __future__ import annotations

from contextlib import suppress
from functools import cache

from PIL import Image, ImageDraw, ImageFont

SYSTEM_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "Arial Unicode.ttf",
    "arial.ttf",
)
INK, PALE = "#1a1a1a", "#6b6b6b"


@cache
def _font(size: int, *, ascii_only: bool) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's font, which has ASCII only, or a font of the system's for other letters."""
    for name in () if ascii_only else SYSTEM_FONTS:
        with suppress(OSError):
            return ImageFont.truetype(name, size)
    return ImageFont.load_default(size)


def write(
    sheet: Image.Image, at: tuple[int, int], text: str, *, room: int, size: int = 13, colour: str = INK
) -> int:
    """Write a line, its middle left out where it does not fit; return where it ends."""
    font = _font(size, ascii_only=text.isascii())
    shown, n_left_out = text, 0
    while font.getlength(shown) > room and n_left_out < len(text):
        n_left_out += 1
        keep = len(text) - n_left_out
        shown = f"{text[: keep // 3]}...{text[len(text) - (keep - keep // 3) :]}"
    ImageDraw.Draw(sheet).text(at, shown, fill=colour, font=font)
    return at[0] + round(font.getlength(shown))
