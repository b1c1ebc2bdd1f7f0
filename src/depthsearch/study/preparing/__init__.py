"""Loading what a study needs, from its options: backbones, images, device and workers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
