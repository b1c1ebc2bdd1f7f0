"""Folders of images for tests of what is read of them."""

from pathlib import Path

import numpy as np
from PIL import Image

NOISE = np.random.default_rng(0)


def fill(root: Path, counts: dict[str, int]) -> Path:
    """Make folders with so many images each, all of them different."""
    for name, n in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for place in range(n):
            pixels = NOISE.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{place:02d}.png")
    return root
