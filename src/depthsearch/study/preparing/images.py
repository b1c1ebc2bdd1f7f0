"""A study's images: which its options name, and whether they can be used, before anything is loaded."""

from __future__ import annotations

from depthsearch.data.checking import check_source
from depthsearch.data.listing import Listing
from depthsearch.data.samples import Columns
from depthsearch.data.sources.opening import Source
from depthsearch.data.splits import Division
from depthsearch.options.commands import InitOptions
from depthsearch.options.study import StudyOptions


def source_of(options: StudyOptions | InitOptions) -> Source:
    """Return the images that options name, and how they are read."""
    return Source(
        options.data or "digits",
        columns=Columns(images=options.image_columns, numbers=options.number_columns),
        classes_map=options.classes_map if isinstance(options, StudyOptions) else None,
        skip_unreadable=options.skip_unreadable,
    )


def division_of(options: StudyOptions) -> Division:
    """Return how a study's images are divided."""
    return Division(
        val_share=options.val_share, test_share=options.test_share, subset=options.subset, seed=options.seed
    )


def check_images(options: StudyOptions) -> Listing | None:
    """Refuse a study's images as far as that is known before one is decoded.

    Returns:
        What there is; None of sets that loading may download.

    Raises:
        DataError: If there are none, or they cannot be used.
    """
    return check_source(source_of(options), division_of(options))
