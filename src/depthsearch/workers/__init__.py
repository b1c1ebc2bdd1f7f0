"""Where jobs run: in this process, in several of this machine, or on a cluster. Workers only train."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
