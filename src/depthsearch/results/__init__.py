"""A stored study in values, and what they say."""

from depthsearch.results.evidence import Evidence, Expected, Settled, promising, weigh
from depthsearch.results.front import Front, FrontPoint, front_of
from depthsearch.results.importance import importance_of
from depthsearch.results.stored import ConfirmationPlan, StoredBackbone, StoredData, StoredStudy, Wanted
from depthsearch.results.summary import Cost, Standing, Summary, standings, summarize
from depthsearch.results.trials import StoredTrial, UnsetTrial, rank

__all__ = [
    "ConfirmationPlan",
    "Cost",
    "Evidence",
    "Expected",
    "Front",
    "FrontPoint",
    "Settled",
    "Standing",
    "StoredBackbone",
    "StoredData",
    "StoredStudy",
    "StoredTrial",
    "Summary",
    "UnsetTrial",
    "Wanted",
    "front_of",
    "importance_of",
    "promising",
    "rank",
    "standings",
    "summarize",
    "weigh",
]
