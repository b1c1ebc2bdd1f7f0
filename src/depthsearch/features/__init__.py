"""What the frozen prefix makes of the images: computed once, kept within a budget, reused exactly."""

from depthsearch.features.budget import Budget, choose_budget
from depthsearch.features.images import ViewedImages
from depthsearch.features.parts import FrozenBackbone
from depthsearch.features.rule import Asks
from depthsearch.features.sources import Boundaries, BoundarySource
from depthsearch.features.store import FeatureStore, Spent
from depthsearch.features.tiers.locks import remove_locks
from depthsearch.features.tiers.nodes import local_folder, node_folder
from depthsearch.features.tiers.rowfile import kept_files
from depthsearch.features.tiers.shared import remove_shared, shared_memory_folder

__all__ = [
    "Asks",
    "Boundaries",
    "BoundarySource",
    "Budget",
    "FeatureStore",
    "FrozenBackbone",
    "Spent",
    "ViewedImages",
    "choose_budget",
    "kept_files",
    "local_folder",
    "node_folder",
    "remove_locks",
    "remove_shared",
    "shared_memory_folder",
]
