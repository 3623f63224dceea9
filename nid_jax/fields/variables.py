"""Variable types: what is frozen and what is fitted is decided by type, never by name."""

from flax import nnx


class Basis(nnx.Param):
    """A weight of the dictionary: frozen when codes are fitted."""


class Kernel(Basis):
    """A kernel [in, out] between layers, or a stack of them [E, in, out]: what Muon may turn."""


class Code(nnx.Param):
    """A stored code, such as a codebook row: one signal's coefficients or bias."""


class RouterParam(nnx.Param):
    """A weight of a router network, which predicts codes from signals."""


class Constant(nnx.Variable):
    """A number drawn once and never trained, such as fixed frequencies; saved with the rest."""
