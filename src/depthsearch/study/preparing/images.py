"""A study's images, checked before anything is loaded."""

from __future__ import annotations

from depthsearch.data.checking import check_source
from depthsearch.options.study import StudyOptions


def check_images(options: StudyOptions) -> None:
    """Refuse a study's images as far as that is known before one is decoded.

    Raises:
        DataError: If there are none, or they cannot be used.
    """
    check_source(
        options.data or "digits",
        val_share=options.val_share,
        test_share=options.test_share,
        seed=options.seed,
        classes_map=options.classes_map,
        image_columns=options.image_columns,
        number_columns=options.number_columns,
        skip_unreadable=options.skip_unreadable,
    )
