"""From a source of images to a data set, in one call."""

import hashlib
import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import platformdirs
import torch
from numpy.typing import NDArray

from depthsearch.data.classmap import mapped
from depthsearch.data.classnames import check_names
from depthsearch.data.dataset import DataSet, ImageSet
from depthsearch.data.decode import Geometry
from depthsearch.data.listing import Listing, a_few
from depthsearch.data.ranges import NARROW, percent, range_notes
from depthsearch.data.samples import Columns
from depthsearch.data.sources.opening import list_source
from depthsearch.data.splits import assign_splits, check_shares, drawn, require_every_class
from depthsearch.data.store.ownsize import SmallImages
from depthsearch.data.store.pixelfile import Store, open_store
from depthsearch.files import full_path
from depthsearch.text import one_line

# To see whether all images of a set or class are dark or pale: of each class at least three, if it has them,
# and more of those that seem to be.
_N_LOOKED_AT = 200
_N_OF_A_CLASS = 3
_N_OF_A_DIM_CLASS = 30
_MOST_CLASSES = 1000


def load_data(
    source: str | Path,
    *,
    image_size: int,
    crop_share: float = 1.0,
    interpolation: str = "bicubic",
    channels: int = 3,
    val_share: float = 0.2,
    test_share: float = 0.2,
    subset: float = 1.0,
    seed: int = 0,
    classes_map: str | Path | None = None,
    image_columns: Sequence[str] = ("image",),
    number_columns: Sequence[str] = (),
    skip_unreadable: bool = False,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DataSet:
    """Load labelled images, decoded once and kept for every later call.

    Args:
        source: A folder, ``DIR/<class>/<image>``, ``DIR/{train,val,test}/<class>/<image>`` or
            ``DIR/<class>/{train,val,test}/<image>``, or with Hugging Face's ``metadata.csv``,
            ``.jsonl`` or ``.parquet``; a table, ``.csv`` or ``.parquet``, with the columns image (see
            ``image_columns``), label and optionally split;
            ``"torchvision:NAME"``, a set of torchvision's, downloaded if it is not there; or
            ``"digits"``, scikit-learn's handwritten digits (``"./digits"`` is a folder).
        image_size: Side of the square images in pixels.
        crop_share: Share of the shorter side that the square keeps, in (0, 1]; timm's ``crop_pct``.
            Digits are always kept whole.
        interpolation: Filter to resize with: nearest, box, bilinear, hamming, bicubic or lanczos.
        channels: 3 for colours, 1 for grey.
        val_share: Share of the training images taken for validation where there is no such folder.
        test_share: Share of the training images taken for the test where there is no such folder.
        subset: Share of the samples of each class in each split to keep, in (0, 1]; at least one of each.
        seed: Decides which images are taken.
        classes_map: A JSON file that gives each class a new name, several classes one if need be.
        image_columns: Columns of a table that name an image each: several make samples of as many.
        number_columns: Columns of a table with a number of each sample.
        skip_unreadable: Whether to leave out images that are missing or cannot be read, with their
            samples, instead of stopping.
        cache: Folder to keep decoded and downloaded images in; by default the user's cache folder.
        progress: Called with (done, total) after each image decoded; not called where all are kept.

    Returns:
        The data set, its images mapped from the cache.

    Raises:
        DataError: If the source, one of its images, the cache or an argument cannot be used.
    """
    geometry = Geometry(
        image_size=image_size, crop_share=crop_share, interpolation=interpolation, channels=channels
    )
    check_shares(val_share=val_share, test_share=test_share, subset=subset)
    columns = Columns(images=tuple(image_columns), numbers=tuple(number_columns))
    kept = cache or Path(platformdirs.user_cache_dir("depthsearch"))
    with warnings.catch_warnings():
        # Pillow warns of odd metadata and large sizes, of which the pixels tell nothing.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        listing = list_source(
            source, columns=columns, skip_unreadable=skip_unreadable, downloads=kept / "torchvision"
        )
    if classes_map is not None:
        listing = mapped(listing, full_path(classes_map))
    notes = (*listing.notes, *check_names(listing.classes, listing.source))
    splits = assign_splits(listing, val_share=val_share, test_share=test_share, seed=seed)
    if subset < 1:
        samples = drawn(listing, splits, share=subset, seed=seed)
        splits, listing = splits[listing.rows_of(samples)], listing.only(samples)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        store = open_store(
            listing,
            geometry,
            folder=kept / "images",
            skip_unreadable=skip_unreadable,
            progress=progress,
        )
    readable = np.array([digest is not None for digest in store.digests])
    each = columns.images_each
    whole = np.repeat(readable.reshape(-1, each).all(1), each)
    require_every_class(listing, splits, whole)

    def image_set(split: str) -> ImageSet:
        rows = np.flatnonzero((splits == split) & whole)
        samples = rows[::each]
        return ImageSet(
            images=store.images,
            rows=torch.from_numpy(rows),
            labels=torch.from_numpy(listing.labels[samples]),
            digests=store.digests,
            images_each=each,
            numbers=None if listing.numbers is None else torch.from_numpy(listing.numbers[samples // each]),
        )

    return DataSet(
        # It becomes part of a study's name.
        name=one_line(listing.name),
        source=listing.source,
        classes=listing.classes,
        train=image_set("train"),
        val=image_set("val"),
        test=image_set("test"),
        fingerprint=_fingerprint(listing, splits, store),
        skipped=tuple(listing.paths[row] for row in np.flatnonzero(~readable)),
        duplicates=_duplicates(listing, splits, store),
        paths=listing.paths,
        layout=listing.layout,
        notes=(
            *notes,
            *range_notes(store.ranges),
            *_brightness_notes(listing, store),
            *_contradiction_notes(listing, store),
        ),
        image_size=image_size,
        crop_share=1.0 if listing.keeps_whole else crop_share,
        interpolation=interpolation,
        columns=listing.columns,
        ranges=store.ranges,
    )


def _brightness_notes(listing: Listing, store: Store) -> Iterator[str]:
    """Tell of classes, or a set, of which all images are nearly of one brightness, by some of each."""
    readable = np.array([digest is not None for digest in store.digests])
    by_label = [
        np.flatnonzero((listing.labels == label) & readable)
        for label in range(min(len(listing.classes), _MOST_CLASSES))
    ]
    n_each = max(_N_OF_A_CLASS, _N_LOOKED_AT // len(by_label))
    ends = {
        listing.classes[label]: _ends(store, rows, n_each) for label, rows in enumerate(by_label) if len(rows)
    }
    if not ends:
        return
    low, high = min(low for low, _ in ends.values()), max(high for _, high in ends.values())
    if high - low < NARROW * 255:
        whose = "Images use"
    else:
        dim = {}
        for label, rows in enumerate(by_label):
            name = listing.classes[label]
            if len(rows) >= _N_OF_A_CLASS and _is_narrow(ends[name]):
                closer = _ends(store, rows, max(n_each, _N_OF_A_DIM_CLASS))
                if _is_narrow(closer):
                    dim[name] = closer
        if not dim:
            return
        low, high = min(low for low, _ in dim.values()), max(high for _, high in dim.values())
        whose = f"Images of {a_few(map(repr, dim))} use"
        if high - low >= NARROW * 255:
            yield (
                f"{whose} less than {percent(NARROW)} of their range, class by class: they are nearly of one "
                "brightness each. If that is not how they should look, scale their values to 0 to 255."
            )
            return
    yield (
        f"{whose} {percent((high - low) / 255)} of their range, {low} to {high} of 255: they are nearly of "
        "one brightness. If that is not how they should look, scale their values to 0 to 255."
    )


def _ends(store: Store, rows: NDArray[np.int64], n_images: int) -> tuple[int, int]:
    """Return the least and the greatest value of so many images, spread over some rows."""
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(n_images, len(rows))).astype(int))]
    images = store.images
    shown = [images.whole(row) if isinstance(images, SmallImages) else images[row] for row in chosen.tolist()]
    return min(int(pixels.min()) for pixels in shown), max(int(pixels.max()) for pixels in shown)


def _is_narrow(ends: tuple[int, int]) -> bool:
    return ends[1] - ends[0] < NARROW * 255


def _fingerprint(listing: Listing, splits: NDArray[np.str_], store: Store) -> str:
    known_by = listing.paths if listing.known_by is None else listing.known_by
    images = list(zip(known_by, splits.tolist(), store.digests, strict=True))
    each = listing.columns.images_each
    samples = [images[start : start + each] for start in range(0, len(images), each)]
    read = [i for i, sample in enumerate(samples) if all(image[-1] is not None for image in sample)]
    parts: list[object] = [listing.classes, [image for i in read for image in samples[i]]]
    if not listing.columns.is_plain:
        # Only here: that of images alone is what it was before there were samples.
        numbers = [] if listing.numbers is None else listing.numbers[read].tolist()
        parts += [{key: _keys(names) for key, names in listing.columns.as_json().items()}, numbers]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _keys(columns: Sequence[str]) -> list[str]:
    """Name columns as tables know them, whatever their case."""
    return [name.strip().lower() for name in columns]


def _contradiction_notes(listing: Listing, store: Store) -> Iterator[str]:
    """Tell of images that are the same to the byte and have several labels, in whichever splits."""
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
