"""What the frozen prefix makes of the images: computed once, kept within a budget, reused exactly."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
