"""Figures of a stored study, as Optuna names its own: each takes a study and returns a plotly figure."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from depthsearch.visualization.backbones import plot_backbones
    from depthsearch.visualization.depth import plot_score_by_depth
    from depthsearch.visualization.front import plot_front
    from depthsearch.visualization.learning import plot_learning_curves
    from depthsearch.visualization.settings import plot_learning_rate_by_depth
    from depthsearch.visualization.transfer import plot_transfer_curve

__all__ = [
    "plot_backbones",
    "plot_front",
    "plot_learning_curves",
    "plot_learning_rate_by_depth",
    "plot_score_by_depth",
    "plot_transfer_curve",
]

_HOMES = {
    "plot_backbones": "backbones",
    "plot_front": "front",
    "plot_learning_curves": "learning",
    "plot_learning_rate_by_depth": "settings",
    "plot_score_by_depth": "depth",
    "plot_transfer_curve": "transfer",
}


def __getattr__(name: str) -> Any:
    # The words of `words` are wanted where nothing is drawn: they do not wait for plotly.
    if name not in _HOMES:
        raise AttributeError(f"module 'depthsearch.visualization' has no attribute {name!r}")
    return getattr(import_module(f"depthsearch.visualization.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
