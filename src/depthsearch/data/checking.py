"""What can be known of images before one is decoded, and before PyTorch is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from depthsearch.data.classmap import mapped
from depthsearch.data.classnames import check_names
from depthsearch.data.decode import pillow_quiet
from depthsearch.data.listing import Listing
from depthsearch.data.samples import Columns
from depthsearch.data.sources.opening import list_source
from depthsearch.data.sources.torchvision_sets import PREFIX, known_set
from depthsearch.data.splits import assign_splits, check_shares
from depthsearch.files import full_path


def check_source(
    source: str | Path,
    *,
    val_share: float = 0.2,
    test_share: float = 0.2,
    seed: int = 0,
    classes_map: str | Path | None = None,
    image_columns: Sequence[str] = ("image",),
    number_columns: Sequence[str] = (),
    skip_unreadable: bool = False,
) -> None:
    """Refuse images that `load_data` would refuse before it decodes one; nothing is downloaded.

    Args:
        source: See `load_data`, as for the other arguments.
        val_share: Likewise.
        test_share: Likewise.
        seed: Likewise.
        classes_map: Likewise.
        image_columns: Likewise.
        number_columns: Likewise.
        skip_unreadable: Likewise.

    Raises:
        DataError: If there are none, or they cannot be used.
    """
    columns = Columns(images=tuple(image_columns), numbers=tuple(number_columns))
    if columns.is_plain and str(source).startswith(PREFIX):
        known_set(str(source).removeprefix(PREFIX))
        return
    divided_listing(
        source,
        columns,
        Path(),
        val_share=val_share,
        test_share=test_share,
        seed=seed,
        classes_map=classes_map,
        skip_unreadable=skip_unreadable,
    )


def divided_listing(
    source: str | Path,
    columns: Columns,
    downloads: Path,
    *,
    val_share: float,
    test_share: float,
    seed: int,
    classes_map: str | Path | None,
    skip_unreadable: bool,
) -> tuple[Listing, NDArray[np.str_], tuple[str, ...]]:
    """List the images of a source, and divide them into splits.

    Args:
        source: See `load_data`.
        columns: What a sample is made of.
        downloads: Where data sets that torchvision downloads lie.
        val_share: Share of the training images to validate on where the source has no such split.
        test_share: Likewise.
        seed: Decides which images these are.
        classes_map: A JSON file with a new name for each class.
        skip_unreadable: Whether files that a table names may be missing.

    Returns:
        The images, the split of each, and what the user should know of the classes' names, a line each.

    Raises:
        DataError: If there are none, or they cannot be used.
    """
    check_shares(val_share=val_share, test_share=test_share)
    with pillow_quiet():
        listing = list_source(source, columns, downloads, skip_unreadable=skip_unreadable)
    if classes_map is not None:
        listing = mapped(listing, full_path(classes_map))
    notes = check_names(listing.classes, listing.source)
    return listing, assign_splits(listing, val_share=val_share, test_share=test_share, seed=seed), notes
