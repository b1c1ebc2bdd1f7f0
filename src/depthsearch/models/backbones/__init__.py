"""Pretrained backbones with the provenance of their weights and their preprocessing.

Where they come from, a module each: timm, torchvision, Hugging Face's transformers, a function in a file.
Weights are read without unpickling code; only a file that is named as a backbone is ever run.
"""

from depthsearch.models.backbones.backbone import (
    Backbone,
    Preprocessing,
    PreprocessingOptions,
    WeightsOrigin,
    state_digest,
)
from depthsearch.models.backbones.loading import check_size, load_backbone, make_model, rebuild

__all__ = [
    "Backbone",
    "Preprocessing",
    "PreprocessingOptions",
    "WeightsOrigin",
    "check_size",
    "load_backbone",
    "make_model",
    "rebuild",
    "state_digest",
]
