"""Pretrained backbones with the provenance of their weights and their preprocessing.

Where they come from, a module each: timm, torchvision, Hugging Face's transformers, a function in a file.
Weights are read without unpickling code; only a file that is named as a backbone is ever run.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
