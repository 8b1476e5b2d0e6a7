"""Fusion rules: from both models' next-token distributions to one token.

A rule is a value, `FusionRule`. `draft`, `vocabulary`, `relative`, `deepen` and `context` make the
library's. `__init__.pyi` lists the names; each is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
