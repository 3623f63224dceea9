"""Collections of signals: opening them by name, cutting them into patches, loading batches.

The public names stand in __init__.pyi; each is imported when it is first used: one task's names
would keep every command waiting.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
