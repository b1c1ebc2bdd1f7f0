"""What single layers of a classifier see in an image, before and after fine-tuning."""

from depthsearch.classifier.explain.gallery import Picture, draw_gallery, pick_photos, read_photos
from depthsearch.classifier.explain.layers import MapLayer, Subject, choose_layers, find_layers, subject_of
from depthsearch.classifier.explain.maps import (
    Comparison,
    Explanation,
    Insight,
    Photo,
    compare,
    explain,
    look,
    pretrained_classes,
)
from depthsearch.classifier.explain.picture import draw

__all__ = [
    "Comparison",
    "Explanation",
    "Insight",
    "MapLayer",
    "Photo",
    "Picture",
    "Subject",
    "choose_layers",
    "compare",
    "draw",
    "draw_gallery",
    "explain",
    "find_layers",
    "look",
    "pick_photos",
    "pretrained_classes",
    "read_photos",
    "subject_of",
]
