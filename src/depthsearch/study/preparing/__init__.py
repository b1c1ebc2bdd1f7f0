"""Loading what a study needs, from its options: backbones, images, device and workers."""

from depthsearch.study.preparing.again import prepare_again, stored_options
from depthsearch.study.preparing.executors import check_executor, started_executor
from depthsearch.study.preparing.places import cache_folder, existing, is_stored
from depthsearch.study.preparing.tasks import load_backbones, load_tasks, provenance_of, whole_modules

__all__ = [
    "cache_folder",
    "check_executor",
    "existing",
    "is_stored",
    "load_backbones",
    "load_tasks",
    "prepare_again",
    "provenance_of",
    "started_executor",
    "stored_options",
    "whole_modules",
]
