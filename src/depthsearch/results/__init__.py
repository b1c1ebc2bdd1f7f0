"""A stored study in values, and what they say."""

from depthsearch.results.evidence import Confirmed, Evidence, Expected, promising, weigh
from depthsearch.results.front import Front, FrontPoint, front_of
from depthsearch.results.importance import importance_of
from depthsearch.results.stored import ConfirmationPlan, StoredBackbone, StoredData, StoredStudy, Wanted
from depthsearch.results.summary import Cost, Standing, Summary, standings, summarize
from depthsearch.results.trials import StoredTrial, UnsetTrial, rank

__all__ = [
    "ConfirmationPlan",
    "Confirmed",
    "Cost",
    "Evidence",
    "Expected",
    "Front",
    "FrontPoint",
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
