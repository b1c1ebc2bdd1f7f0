"""Images as a backbone wants them."""

from __future__ import annotations

from pathlib import Path

from depthsearch import DataSet, load_data
from depthsearch.data import Division, Source
from depthsearch.models.backbones import Backbone

__all__ = ["load_images"]


def load_images(
    source: str | Source, backbone: Backbone, division: Division = Division(), *, cache: Path | None = None
) -> DataSet:
    """Load images as a study does, at the size that a backbone sees them in."""
    seen = backbone.preprocessing
    return load_data(
        source,
        division,
        image_size=seen.image_size,
        crop_share=seen.crop_share,
        interpolation=seen.interpolation,
        cache=cache,
    )
