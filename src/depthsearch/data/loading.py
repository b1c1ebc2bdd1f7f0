"""From a source of images to a data set, in one call."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import platformdirs
import torch
from numpy.typing import NDArray

from depthsearch.data.dataset import DataSet, ImageSet
from depthsearch.data.decode import Geometry, pillow_quiet
from depthsearch.data.listing import SPLITS, Listing
from depthsearch.data.ranges import NARROW, range_notes
from depthsearch.data.samples import column_key
from depthsearch.data.sources.opening import Source, list_source
from depthsearch.data.splits import Division, divide, require_every_class
from depthsearch.data.store.ownsize import SmallImages, Store
from depthsearch.data.store.pixelfile import open_store
from depthsearch.hashing import digest_of
from depthsearch.text import a_few, one_line, percent

# To see whether all images of a set or class are dark or pale: of each class at least three, if it has them,
# and more of those that seem to be.
_N_LOOKED_AT = 200
_N_OF_A_CLASS = 3
_N_OF_A_DIM_CLASS = 30
_MOST_CLASSES = 1000


def load_data(
    source: str | Path | Source | Listing,
    division: Division = Division(),
    *,
    image_size: int,
    crop_share: float = 1.0,
    interpolation: str = "bicubic",
    channels: int = 3,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DataSet:
    """Load labelled images, decoded once and mapped from a cache in every later call.

    Args:
        source: A folder, a table, ``torchvision:NAME`` or ``digits``; or a `Source`, which says more of how
            they are read; or what `check_source` has found there, which is not listed again.
        division: Which of them train, validate and test.
        image_size: Side of the square images in pixels.
        crop_share: Share of the shorter side that the square keeps, in (0, 1]; timm's ``crop_pct``.
        interpolation: Filter to resize with: nearest, box, bilinear, hamming, bicubic or lanczos.
        channels: 3 for colours, 1 for grey.
        cache: Folder for decoded and downloaded images; default: in the user's cache folder.
        progress: Called with (done, total) after each image decoded.

    Raises:
        DataError: If the source, one of its images, the cache or an argument cannot be used.
    """
    how = Geometry(
        image_size=image_size, crop_share=crop_share, interpolation=interpolation, channels=channels
    )
    folder = cache or Path(platformdirs.user_cache_dir("depthsearch"))
    listing, splits = divide(list_source(source, folder / "torchvision"), division)
    with pillow_quiet():
        store = open_store(listing, how, folder / "images", progress)
    return _data_set(listing, splits, store, how)


def _data_set(
    listing: Listing,
    splits: NDArray[np.str_],
    store: Store,
    geometry: Geometry,
) -> DataSet:
    """Put together what was listed, split and decoded."""
    each = listing.columns.images_each
    readable = np.array([digest is not None for digest in store.digests])
    # A sample counts if all its images can be read.
    whole = np.repeat(readable.reshape(-1, each).all(1), each)
    require_every_class(listing, splits, whole)
    train, val, test = (_image_set(listing, store, (splits == split) & whole) for split in SPLITS)
    return DataSet(
        # It becomes part of a study's name.
        name=one_line(listing.name),
        source=listing.source,
        classes=listing.classes,
        train=train,
        val=val,
        test=test,
        fingerprint=_fingerprint(listing, splits, store),
        skipped=tuple(listing.paths[row] for row in np.flatnonzero(~readable)),
        duplicates=_duplicates(listing, splits, store),
        paths=listing.paths,
        layout=listing.layout,
        notes=(
            *listing.notes,
            *range_notes(store.ranges),
            *_brightness_notes(listing, store),
            *_contradiction_notes(listing, store),
        ),
        image_size=geometry.image_size,
        crop_share=1.0 if listing.keeps_whole else geometry.crop_share,
        interpolation=geometry.interpolation,
        columns=listing.columns,
        ranges=store.ranges,
        val_is_drawn="val" not in listing.splits,
    )


def _image_set(listing: Listing, store: Store, is_in: NDArray[np.bool_]) -> ImageSet:
    """Select the images of one split."""
    each = listing.columns.images_each
    rows = np.flatnonzero(is_in)
    samples = rows[::each]
    return ImageSet(
        images=store.images,
        rows=torch.from_numpy(rows),
        labels=torch.from_numpy(listing.labels[samples]),
        digests=store.digests,
        images_each=each,
        numbers=None if listing.numbers is None else torch.from_numpy(listing.numbers[samples // each]),
    )


def _brightness_notes(listing: Listing, store: Store) -> Iterator[str]:
    """Write a line where all images of the set, or of classes, are nearly of one brightness."""
    readable = np.array([digest is not None for digest in store.digests])
    by_label = [
        np.flatnonzero((listing.labels == label) & readable)
        for label in range(min(len(listing.classes), _MOST_CLASSES))
    ]
    n_each = max(_N_OF_A_CLASS, _N_LOOKED_AT // len(by_label))
    ends = {label: _ends(store, rows, n_each) for label, rows in enumerate(by_label) if len(rows)}
    if not ends:
        return
    whose, used = "Images use", _around(ends.values())
    if not _is_narrow(used):
        dim = {}
        for label, found in ends.items():
            rows = by_label[label]
            if len(rows) >= _N_OF_A_CLASS and _is_narrow(found):
                closer = _ends(store, rows, max(n_each, _N_OF_A_DIM_CLASS))
                if _is_narrow(closer):
                    dim[listing.classes[label]] = closer
        if not dim:
            return
        whose, used = f"Images of {a_few(map(repr, dim))} use", _around(dim.values())
    step = "If that is not how they should look, scale their values to 0 to 255."
    low, high = used
    if _is_narrow(used):
        share = f"{percent((high - low) / 255)} of their range, {low} to {high} of 255"
        yield f"{whose} {share}: they are nearly of one brightness. {step}"
    else:
        share = f"less than {percent(NARROW)} of their range, class by class"
        yield f"{whose} {share}: they are nearly of one brightness each. {step}"


def _around(ends: Collection[tuple[int, int]]) -> tuple[int, int]:
    """Return the least and the greatest of several such pairs."""
    return min(low for low, _ in ends), max(high for _, high in ends)


def _ends(store: Store, rows: NDArray[np.int64], n_images: int) -> tuple[int, int]:
    """Return the least and the greatest value of so many images, spread over some rows."""
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(n_images, len(rows))).astype(int))]
    images = store.images
    shown = [images.whole(row) if isinstance(images, SmallImages) else images[row] for row in chosen.tolist()]
    return min(int(pixels.min()) for pixels in shown), max(int(pixels.max()) for pixels in shown)


def _is_narrow(ends: tuple[int, int]) -> bool:
    return ends[1] - ends[0] < NARROW * 255


def _fingerprint(listing: Listing, splits: NDArray[np.str_], store: Store) -> str:
    images = list(zip(listing.known_by, splits.tolist(), store.digests, strict=True))
    each = listing.columns.images_each
    samples = [images[start : start + each] for start in range(0, len(images), each)]
    read = [i for i, sample in enumerate(samples) if all(image[-1] is not None for image in sample)]
    parts: list[object] = [listing.classes, [image for i in read for image in samples[i]]]
    if not listing.columns.is_plain:
        # Only here: that of images alone is what it was before there were samples.
        numbers = [] if listing.numbers is None else listing.numbers[read].tolist()
        keys = {key: list(map(column_key, names)) for key, names in listing.columns.as_json().items()}
        parts += [keys, numbers]
    return digest_of(json.dumps(parts))


def _contradiction_notes(listing: Listing, store: Store) -> Iterator[str]:
    """Write a line on images that are the same to the byte and have several labels, in whichever splits."""
    if not listing.columns.is_plain:
        return  # of several images in a sample, one may be in all of them
    groups = [rows for rows in _same(store) if len({int(listing.labels[row]) for row in rows}) > 1]
    if groups:
        shown = a_few(
            " = ".join(listing.paths[row] for row in _one_each(listing, rows)[:3]) for rows in groups
        )
        noun = "image stands" if len(groups) == 1 else "images stand"
        yield (
            f"{len(groups)} {noun} byte for byte in several classes: {shown}. No model can learn both: "
            "remove the wrong ones."
        )


def _one_each(listing: Listing, rows: Sequence[int]) -> list[int]:
    """Keep the first of some rows of each class."""
    return sorted({int(listing.labels[row]): row for row in reversed(rows)}.values())


def _same(store: Store) -> list[list[int]]:
    """Group the images that are the same to the byte, two and more."""
    same = defaultdict(list)
    for row, digest in enumerate(store.digests):
        if digest is not None:
            same[digest].append(row)
    return [rows for rows in same.values() if len(rows) > 1]


def _duplicates(listing: Listing, splits: NDArray[np.str_], store: Store) -> tuple[tuple[str, ...], ...]:
    groups = [
        [listing.paths[row] for row in rows]
        for rows in _same(store)
        if len({splits[row] for row in rows}) > 1
    ]
    # An image may be in many samples: its path is told once.
    return tuple(tuple(group if listing.columns.is_plain else dict.fromkeys(group)) for group in groups)
