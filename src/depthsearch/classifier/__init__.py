"""The model to take away: trained, tested, saved, loaded, explained.

What trains and judges a model is imported when first used, so that loading one needs no Optuna.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
