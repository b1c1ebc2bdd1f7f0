"""One torch module: loaded, traced, numbered, cut, split and frozen."""

from depthsearch.models.backbones import Backbone, Preprocessing, WeightsOrigin, load_backbone
from depthsearch.models.cuts import Cut, find_cut, list_cuts
from depthsearch.models.freezing import Frozen, freeze_before
from depthsearch.models.heads import make_head, with_head
from depthsearch.models.numbering import Numbered, keras_architecture, number_layers
from depthsearch.models.pixels import Normalisation
from depthsearch.models.split import Prefix, Split, Suffix, joined_state, split_at
from depthsearch.models.tracing.graph import Layer, LayerGraph
from depthsearch.models.tracing.trace import trace

__all__ = [
    "Backbone",
    "Cut",
    "Frozen",
    "Layer",
    "LayerGraph",
    "Normalisation",
    "Numbered",
    "Prefix",
    "Preprocessing",
    "Split",
    "Suffix",
    "WeightsOrigin",
    "find_cut",
    "freeze_before",
    "joined_state",
    "keras_architecture",
    "list_cuts",
    "load_backbone",
    "make_head",
    "number_layers",
    "split_at",
    "trace",
    "with_head",
]
