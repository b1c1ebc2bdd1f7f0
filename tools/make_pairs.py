"""Write a table of samples of several photos each, from a folder of classes: an example of such data.

Each sample is some photos of one class, as one would photograph a thing from several sides, and the sizes of
their files, numbers that tell a little of how much is to be seen. No photo stands in two samples.

    python tools/make_pairs.py data/catsdogs --out data/catsdogs_pairs.csv
"""

from __future__ import annotations

import argparse
import csv
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path


def samples(folder: Path, *, n_images: int, seed: int) -> Iterator[tuple[str, str, list[Path]]]:
    """Yield split, class and photos of each sample; left-over photos are in none.

    Args:
        folder: ``train/<class>/<photo>`` and ``test/<class>/<photo>``.
        n_images: Photos in a sample.
        seed: Decides which photos go together.
    """
    for split in ("train", "test"):
        for place in sorted(path for path in (folder / split).iterdir() if path.is_dir()):
            photos = sorted(path for path in place.iterdir() if path.is_file())
            random.Random(seed).shuffle(photos)
            for start in range(0, len(photos) - n_images + 1, n_images):
                yield split, place.name, photos[start : start + n_images]


def row(photos: Sequence[Path], folder: Path) -> list[str]:
    """List the photos' paths from a folder, then the size of each file in KiB."""
    paths = [os.path.relpath(photo, folder) for photo in photos]
    return [*paths, *(f"{photo.stat().st_size / 1024:.2f}" for photo in photos)]


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--out", type=Path, required=True, help="the table; paths in it count from its folder"
    )
    parser.add_argument("--images", type=int, default=2, help="photos in a sample (2)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    numbers = range(1, arguments.images + 1)
    header = [*(f"photo_{n}" for n in numbers), *(f"kib_{n}" for n in numbers), "label", "split"]
    with arguments.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for split, label, photos in samples(arguments.folder, n_images=arguments.images, seed=arguments.seed):
            writer.writerow([*row(photos, arguments.out.parent), label, split])


if __name__ == "__main__":
    main()
