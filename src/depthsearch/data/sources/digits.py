"""Scikit-learn's handwritten digits: real images that need no download.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998; the test part, as ``sklearn.datasets.load_digits`` carries it.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from depthsearch.data.decode import Decoded, Geometry, cut_square
from depthsearch.data.listing import Listing
from depthsearch.data.ranges import ValueRange
from depthsearch.hashing import digest_of

_INK_LEVELS = 16


def list_digits() -> Listing:
    """List the 1,797 greyscale images of 8 x 8 pixels in 10 classes.

    A digit fills its image, so decoding keeps it whole: the crop share does not apply.
    """
    # Imported here because a folder of images does not need it.
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.argsort(digits.target, kind="stable")
    ink = digits.images[order]
    grey = np.round(ink * (255 / _INK_LEVELS)).astype(np.uint8)
    labels = digits.target[order].astype(np.int64)
    paths = tuple(f"{label}/{place:04d}" for label, place in zip(labels, order, strict=True))

    def decode(index: int, geometry: Geometry | None, _: Sequence[ValueRange]) -> Decoded:
        image = Image.fromarray(grey[index]).convert("RGB")
        digest = digest_of(grey[index].tobytes())
        if geometry is None:
            return Decoded(pixels=np.asarray(image).transpose(2, 0, 1), digest=digest)
        return Decoded(pixels=cut_square(image, replace(geometry, crop_share=1.0)), digest=digest)

    return Listing(
        name="digits",
        source="digits",
        classes=tuple(str(name) for name in digits.target_names),
        paths=paths,
        labels=labels,
        splits=np.full(len(labels), "train"),
        stamp=digest_of(grey.tobytes()),
        decode=decode,
        known_by=paths,
        keeps_whole=True,
    )
