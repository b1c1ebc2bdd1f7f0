"""What can be known of images before one is decoded, and before PyTorch is loaded."""

from __future__ import annotations

from pathlib import Path

from depthsearch.data.listing import Listing
from depthsearch.data.sources.opening import Source, list_source
from depthsearch.data.sources.torchvision_sets import PREFIX, known_set
from depthsearch.data.splits import Division, divide


def check_source(source: str | Path | Source, division: Division = Division()) -> Listing | None:
    """Refuse images that `load_data` would refuse before it decodes one; nothing is downloaded.

    Args:
        source: The images.
        division: How they are to be divided.

    Returns:
        What there is, as `load_data` takes it too; None of torchvision's sets, which loading may download.

    Raises:
        DataError: If there are none, or they cannot be used.
    """
    source = Source.of(source)
    if source.columns.is_plain and str(source.location).startswith(PREFIX):
        known_set(str(source.location).removeprefix(PREFIX))
        return None
    listing = list_source(source, downloads=Path())
    divide(listing, division)
    return listing
