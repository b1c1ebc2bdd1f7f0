"""Which images, and how they are read: what a source's name means, and which of them there are."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path

from depthsearch.data.classmap import mapped
from depthsearch.data.classnames import check_names
from depthsearch.data.decode import pillow_quiet
from depthsearch.data.listing import Listing
from depthsearch.data.samples import Columns
from depthsearch.data.sources.digits import list_digits
from depthsearch.data.sources.imagefolder import list_image_folder
from depthsearch.data.sources.manifest import MANIFEST_SUFFIXES, list_manifest
from depthsearch.data.sources.torchvision_sets import PREFIX, list_torchvision
from depthsearch.errors import DataError
from depthsearch.files import full_path, is_folder


@dataclass(frozen=True, slots=True)
class Source:
    """Labelled images, and how they are read.

    They are in one of these:

    - a folder, ``DIR/<class>/<image>``, ``DIR/{train,val,test}/<class>/<image>`` or
      ``DIR/<class>/{train,val,test}/<image>``, or one with ``metadata.csv``, ``.jsonl`` or ``.parquet`` as
      Hugging Face's ``datasets`` lays it out;
    - a table, ``.csv`` or ``.parquet``, with columns of images, the column label and optionally split;
    - ``"torchvision:NAME"``, a set of torchvision's, downloaded if it is not there;
    - ``"digits"``, scikit-learn's handwritten digits, always kept whole (``"./digits"`` is a folder).

    Attributes:
        location: The folder, the table or the name.
        columns: What a sample is made of; only tables can have samples of more than one image.
        classes_map: A JSON file with a new name for each class; several may get one name.
        skip_unreadable: Whether to leave out samples of which an image is missing or cannot be read.
    """

    location: str | Path
    _: KW_ONLY
    columns: Columns = field(default_factory=Columns)
    classes_map: str | Path | None = None
    skip_unreadable: bool = False

    @classmethod
    def of(cls, source: str | Path | Source) -> Source:
        """Return a source, of which the location may be all that is given."""
        return source if isinstance(source, Source) else cls(source)


def list_source(source: str | Path | Source | Listing, downloads: Path) -> Listing:
    """List the images of a source.

    Args:
        source: The images; a listing is returned as it is.
        downloads: Where data sets that torchvision downloads lie.

    Raises:
        DataError: If there is no such source, or it cannot be used.
    """
    if isinstance(source, Listing):
        return source
    source = Source.of(source)
    with pillow_quiet():
        listing = _listed(source, downloads)
    if source.classes_map is not None:
        listing = mapped(listing, full_path(source.classes_map))
    notes = (*listing.notes, *check_names(listing.classes, listing.source))
    return replace(listing, notes=notes, skip_unreadable=source.skip_unreadable)


def _listed(source: Source, downloads: Path) -> Listing:
    location, columns, skips = source.location, source.columns, source.skip_unreadable
    path = Path(location)
    is_table = path.suffix.lower() in MANIFEST_SUFFIXES and not is_folder(full_path(path))
    if columns != Columns() and not is_table:
        option = "--image-columns" if columns.images != Columns().images else "--number-columns"
        raise DataError(
            f"{option} names columns of a table, and {str(location)!r} is none. Give --data samples.csv or "
            f".parquet, or leave {option} out."
        )
    if location == "digits":
        return list_digits()
    if str(location).startswith(PREFIX):
        return list_torchvision(str(location).removeprefix(PREFIX), folder=downloads)
    if is_table:
        return list_manifest(path, columns=columns, skip_missing=skips)
    return list_image_folder(path, skip_missing=skips)
