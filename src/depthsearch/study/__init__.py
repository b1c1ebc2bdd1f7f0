"""Studies: opened in a storage, searched and confirmed by one coordinator."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
