"""Find out which layers of a pretrained CNN should stay frozen.

The names below are imported when first used, so that ``depthsearch --help`` does not wait for PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from depthsearch.classifier.model import Classifier, Prediction
    from depthsearch.classifier.modelfolder import load
    from depthsearch.data import DataSet, Sample, load_data
    from depthsearch.devices import choose_device
    from depthsearch.errors import DepthsearchError
    from depthsearch.features import Budget, choose_budget
    from depthsearch.models.backbones import load_backbone
    from depthsearch.models.cuts import Cut, find_cut, list_cuts
    from depthsearch.models.freezing import Frozen, freeze_before
    from depthsearch.models.heads import make_head
    from depthsearch.models.split import Split, joined_state, split_at
    from depthsearch.options.study import StudyOptions
    from depthsearch.search import Point, SearchSpace
    from depthsearch.study import enqueue, request_stop
    from depthsearch.study.progress import Status, status
    from depthsearch.training import Objective, Recipe, Task, TransferCurve, transfer_curve

__version__ = "0.1.0"

# The public names of each module.
_NAMES = {
    "classifier.model": ("Classifier", "Prediction"),
    "classifier.modelfolder": ("load",),
    "data": ("DataSet", "Sample", "load_data"),
    "devices": ("choose_device",),
    "errors": ("DepthsearchError",),
    "features": ("Budget", "choose_budget"),
    "models.backbones": ("load_backbone",),
    "models.cuts": ("Cut", "find_cut", "list_cuts"),
    "models.freezing": ("Frozen", "freeze_before"),
    "models.heads": ("make_head",),
    "models.split": ("Split", "joined_state", "split_at"),
    "options.study": ("StudyOptions",),
    "search": ("Point", "SearchSpace"),
    "study": ("enqueue", "request_stop"),
    "study.progress": ("Status", "status"),
    "training": ("Objective", "Recipe", "Task", "TransferCurve", "transfer_curve"),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}

__all__ = [
    "Budget",
    "Classifier",
    "Cut",
    "DataSet",
    "DepthsearchError",
    "Frozen",
    "Objective",
    "Point",
    "Prediction",
    "Recipe",
    "Sample",
    "SearchSpace",
    "Split",
    "Status",
    "StudyOptions",
    "Task",
    "TransferCurve",
    "__version__",
    "choose_budget",
    "choose_device",
    "enqueue",
    "find_cut",
    "freeze_before",
    "joined_state",
    "list_cuts",
    "load",
    "load_backbone",
    "load_data",
    "make_head",
    "request_stop",
    "split_at",
    "status",
    "transfer_curve",
]


# Packages that are reached as ``depthsearch.study.run`` without an import of their own.
_ROOMS = ("results", "study", "visualization")


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"depthsearch.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'depthsearch' has no attribute {name!r}")
    return getattr(import_module(f"depthsearch.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
