"""What may be tried, and what to try next."""

from depthsearch.options.words import COSTS
from depthsearch.search.firsts import ANCHOR_DEPTHS, ANCHOR_LEARNING_RATES, count_exhaustive, first_settings
from depthsearch.search.pareto import hypervolume, non_dominated
from depthsearch.search.sampling import PRUNERS, SAMPLERS, make_pruner, make_sampler, resolve
from depthsearch.search.space import BACKBONE, FIXABLE, Point, SearchSpace, cut_parameter

__all__ = [
    "ANCHOR_DEPTHS",
    "ANCHOR_LEARNING_RATES",
    "BACKBONE",
    "COSTS",
    "FIXABLE",
    "PRUNERS",
    "SAMPLERS",
    "Point",
    "SearchSpace",
    "count_exhaustive",
    "cut_parameter",
    "first_settings",
    "hypervolume",
    "make_pruner",
    "make_sampler",
    "non_dominated",
    "resolve",
]
