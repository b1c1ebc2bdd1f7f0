"""What single layers of a classifier see in an image, before and after fine-tuning."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
