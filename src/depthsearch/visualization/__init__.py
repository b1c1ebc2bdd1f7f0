"""Figures of a stored study, as Optuna names its own: each takes a study and returns a plotly figure."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
