from .budget import Budget as Budget, choose_budget as choose_budget
from .images import ViewedImages as ViewedImages
from .parts import FrozenBackbone as FrozenBackbone
from .rule import Asks as Asks
from .sources import Boundaries as Boundaries, BoundarySource as BoundarySource
from .store import FeatureStore as FeatureStore, Spent as Spent
from .tiers.locks import remove_locks as remove_locks
from .tiers.nodes import local_folder as local_folder, node_folder as node_folder
from .tiers.rowfile import kept_files as kept_files
from .tiers.shared import remove_shared as remove_shared, shared_memory_folder as shared_memory_folder
