"""Which kind of source a name means."""

from __future__ import annotations

from pathlib import Path

from depthsearch.data.digits import list_digits
from depthsearch.data.imagefolder import list_image_folder
from depthsearch.data.listing import Listing
from depthsearch.data.manifest import MANIFEST_SUFFIXES, list_manifest
from depthsearch.data.torchvision_sets import PREFIX, list_torchvision


def list_source(source: str | Path, *, skip_unreadable: bool, downloads: Path) -> Listing:
    """List the images of a source.

    Args:
        source: See `load_data`.
        skip_unreadable: Whether to go on where files that a table names are missing.
        downloads: Where data sets that torchvision downloads lie.

    Raises:
        DataError: If there is no such source, or it cannot be used.
    """
    if source == "digits":
        return list_digits()
    if str(source).startswith(PREFIX):
        return list_torchvision(str(source).removeprefix(PREFIX), folder=downloads)
    path = Path(source).expanduser()
    if path.suffix.lower() in MANIFEST_SUFFIXES and not path.is_dir():
        return list_manifest(path, skip_missing=skip_unreadable)
    return list_image_folder(path, skip_missing=skip_unreadable)
