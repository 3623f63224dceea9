"""Neural implicit dictionaries: signals as sparse combinations of learned coordinate networks."""

__version__ = "0.1.0"
