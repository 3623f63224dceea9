"""Codes: operators and what they measure, the equations of a fit, and the solvers of it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["operators", "solvers"])
