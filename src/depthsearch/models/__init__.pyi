from .backbones import (
    Backbone as Backbone,
    Preprocessing as Preprocessing,
    WeightsOrigin as WeightsOrigin,
    load_backbone as load_backbone,
)
from .candidates import list_cuts as list_cuts
from .cuts import Cut as Cut, find_cut as find_cut
from .freezing import Frozen as Frozen, freeze_before as freeze_before
from .heads import make_head as make_head, with_head as with_head
from .numbering import (
    Numbered as Numbered,
    keras_architecture as keras_architecture,
    number_layers as number_layers,
)
from .pixels import Normalisation as Normalisation
from .split import (
    Prefix as Prefix,
    Split as Split,
    Suffix as Suffix,
    joined_state as joined_state,
    split_at as split_at,
)
from .tracing.graph import Layer as Layer, LayerGraph as LayerGraph
from .tracing.trace import trace as trace
