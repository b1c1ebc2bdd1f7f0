from .backbone import (
    Backbone as Backbone,
    Preprocessing as Preprocessing,
    PreprocessingOptions as PreprocessingOptions,
    WeightsOrigin as WeightsOrigin,
    state_digest as state_digest,
)
from .loading import check_size as check_size, load_backbone as load_backbone, make_model as make_model
