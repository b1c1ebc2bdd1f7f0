"""Find out which layers of a pretrained image model should stay frozen.

Here and in the packages below, the names listed in ``__init__.pyi`` are imported when first used, so that
what needs no PyTorch does not wait for it.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
