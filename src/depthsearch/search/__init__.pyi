from .firsts import (
    ANCHOR_DEPTHS as ANCHOR_DEPTHS,
    ANCHOR_LEARNING_RATES as ANCHOR_LEARNING_RATES,
    count_exhaustive as count_exhaustive,
    first_settings as first_settings,
)
from .pareto import hypervolume as hypervolume, non_dominated as non_dominated
from .sampling import (
    PRUNERS as PRUNERS,
    SAMPLERS as SAMPLERS,
    make_pruner as make_pruner,
    make_sampler as make_sampler,
    resolve as resolve,
)
from .space import (
    BACKBONE as BACKBONE,
    FIXABLE as FIXABLE,
    Point as Point,
    SearchSpace as SearchSpace,
    cut_parameter as cut_parameter,
)
