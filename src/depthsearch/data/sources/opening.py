"""Which kind of source a name means."""

from __future__ import annotations

from pathlib import Path

from depthsearch.data.listing import Listing
from depthsearch.data.samples import Columns
from depthsearch.data.sources.digits import list_digits
from depthsearch.data.sources.imagefolder import list_image_folder
from depthsearch.data.sources.manifest import MANIFEST_SUFFIXES, list_manifest
from depthsearch.data.sources.torchvision_sets import PREFIX, list_torchvision
from depthsearch.errors import DataError
from depthsearch.files import full_path, is_folder


def list_source(source: str | Path, columns: Columns, downloads: Path, *, skip_unreadable: bool) -> Listing:
    """List the images of a source.

    Args:
        source: See `loading`.
        columns: What a sample is made of; only tables can have samples of more than one image.
        downloads: Where data sets that torchvision downloads lie.
        skip_unreadable: Whether to go on where files that a table names are missing.

    Raises:
        DataError: If there is no such source, or it cannot be used.
    """
    path = Path(source)
    is_table = path.suffix.lower() in MANIFEST_SUFFIXES and not is_folder(full_path(path))
    if columns != Columns() and not is_table:
        option = "--image-columns" if columns.images != Columns().images else "--number-columns"
        raise DataError(
            f"{option} names columns of a table, and {str(source)!r} is none. Give --data samples.csv or "
            f".parquet, or leave {option} out."
        )
    if source == "digits":
        return list_digits()
    if str(source).startswith(PREFIX):
        return list_torchvision(str(source).removeprefix(PREFIX), folder=downloads)
    if is_table:
        return list_manifest(path, columns=columns, skip_missing=skip_unreadable)
    return list_image_folder(path, skip_missing=skip_unreadable)
