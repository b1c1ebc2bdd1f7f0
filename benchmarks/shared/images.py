"""Images as a backbone wants them."""

from __future__ import annotations

from typing import Any

from depthsearch import DataSet, load_data
from depthsearch.models.backbones import Backbone

__all__ = ["load_images"]


def load_images(source: str, backbone: Backbone, **more: Any) -> DataSet:
    """Load images as a study does, at the size that a backbone sees them in; more is for `load_data`."""
    seen = backbone.preprocessing
    size = {"image_size": seen.image_size, "crop_share": seen.crop_share, "interpolation": seen.interpolation}
    return load_data(source, **size, **more)
