"""What a source of images holds, before any image is read."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from depthsearch.data.decode import Decoded, Geometry


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Listing:
    """The ``n`` images of a source in the order of their paths.

    Attributes:
        name: What to call the source.
        source: Where it is: a folder's full path, or the name of a set that a library carries.
        classes: Names of the classes, sorted; a label is a place in it.
        paths: Where each image stands in the source, with ``/`` between the parts.
        labels: ``(n,)``, int64.
        splits: ``(n,)``, ``"train"``, ``"val"`` or ``"test"`` as the source says; all ``"train"``
            where it says nothing.
        stamp: What differs when an image has changed, without reading any; goes into JSON.
        decode: Reads the image at one place of the listing.
        keeps_whole: Whether decoding keeps an image whole, whatever the crop share.
    """

    name: str
    source: str
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    splits: NDArray[np.str_]
    stamp: object
    decode: Callable[[int, Geometry], Decoded]
    keeps_whole: bool = False
