"""The model to take away: trained, tested, saved, loaded, explained.

What trains and judges a model is imported when first used, so that loading one needs no Optuna.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from depthsearch.classifier.model import Classifier, Prediction
from depthsearch.classifier.modelfolder import Description, load, save

if TYPE_CHECKING:
    from depthsearch.classifier.confusion import confusion_picture
    from depthsearch.classifier.figures import ClassFigures, Figures, figures_of
    from depthsearch.classifier.fitting import Fitted, TestReading, fit, refit
    from depthsearch.classifier.onnxfile import OnnxFile, export_onnx

_HOMES = {
    "ClassFigures": "figures",
    "Figures": "figures",
    "Fitted": "fitting",
    "OnnxFile": "onnxfile",
    "TestReading": "fitting",
    "confusion_picture": "confusion",
    "export_onnx": "onnxfile",
    "figures_of": "figures",
    "fit": "fitting",
    "refit": "fitting",
}

__all__ = [
    "ClassFigures",
    "Classifier",
    "Description",
    "Figures",
    "Fitted",
    "OnnxFile",
    "Prediction",
    "TestReading",
    "confusion_picture",
    "export_onnx",
    "figures_of",
    "fit",
    "load",
    "refit",
    "save",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
