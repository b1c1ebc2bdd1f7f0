from .again import prepare_again as prepare_again, stored_options as stored_options
from .executors import check_executor as check_executor, started_executor as started_executor
from .places import cache_folder as cache_folder, existing as existing, is_stored as is_stored
from .tasks import (
    load_backbones as load_backbones,
    load_tasks as load_tasks,
    provenance_of as provenance_of,
    whole_modules as whole_modules,
)
