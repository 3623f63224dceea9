"""What was measured of signals, and with what: all that a solver needs to know of them."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nid_jax import notices, platforms
from nid_jax.coding import checks, conjugate, gram
from nid_jax.coding.orthonormal import OrthonormalEquations, orthonormal_equations
from nid_jax.errors import ArgumentError
from nid_jax.fields.routing import Codebook, Gates


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Measurements of S signals, the dictionary to find their codes in, and what else is known.

    A pytree of its fields: it may be an argument of a jitted function, and be mapped over.
    Raises ArgumentError, naming the field, for arrays that do not fit together.
    """

    dictionary: Any
    """`fields.dictionary.Dictionary`, frozen."""
    operator: Any = None
    """`coding.operators.Operator`; None where clouds are all there is."""
    measurements: Float[Array | np.ndarray, "S M C"] | None = None
    """[S, M, C], float32. Values of weight 0 are not read and may be NaN."""
    weights: Float[Array | np.ndarray, "..."] | None = None
    """None, [M] or [S, M], on top of those of the operator."""
    prior: Any = None
    """`coding.prior.GaussianPrior` or None."""
    router: Any = None
    """`fields.routing.Router` or None."""
    signals: Float[Array | np.ndarray, "S ..."] | None = None
    """What a router looks at: [S, *grid, C], the measurements where all was sampled, or clouds."""
    clouds: Float[Array | np.ndarray, "S Q N"] | None = None
    """[S, Q, 2 D], points of a surface and its outward normals."""

    def __post_init__(self):
        if self.measurements is not None:
            values = jnp.asarray(self.measurements, jnp.float32)
            object.__setattr__(self, "measurements", values)
            self._check_measurements(values.shape)
        if self.clouds is not None:
            shape, wide = np.shape(self.clouds), 2 * self.dictionary.dims
            if len(shape) != 3 or shape[2] != wide:
                raise ArgumentError("clouds", shape, f"(signals, points, {wide}), points, normals")

    def _check_measurements(self, shape):
        if self.operator is None:
            raise ArgumentError("operator", None, "the operator of the measurements given")
        count, channels = self.operator.num_measurements, self.dictionary.channels
        if len(shape) != 3 or shape[1:] != (count, channels):
            raise ArgumentError("measurements", shape, f"(signals, {count}, {channels})")
        if self.weights is not None and np.shape(self.weights) not in ((count,), shape[:2]):
            raise ArgumentError("weights", np.shape(self.weights), f"({count},) or {shape[:2]}")
        if self.signals is not None and np.shape(self.signals)[:1] != shape[:1]:
            raise ArgumentError("signals", np.shape(self.signals), f"those of {shape[0]} signals")

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], None]:
        """Fields by name, as `jax.tree_util` asks for them."""
        names = [field.name for field in dataclasses.fields(self)]
        return [(jax.tree_util.GetAttrKey(n), getattr(self, n)) for n in names], None

    @classmethod
    def tree_unflatten(cls, _: None, fields: Iterable[Any]) -> "Problem":
        """Of fields that need not be arrays: transformations put their own things in."""
        problem = object.__new__(cls)
        for field, value in zip(dataclasses.fields(cls), fields, strict=True):
            object.__setattr__(problem, field.name, value)
        return problem

    def equations(self, precision: str = "float32") -> OrthonormalEquations | gram.NormalEquations:
        """The equations of these measurements by a square root, or, 'float64', the normal ones.
        Raises ArgumentError for another precision."""
        checks.one_of("precision", precision, gram.PRECISIONS)
        if precision == "float32":
            return orthonormal_equations(*self.measured())
        if not platforms.has_float64():
            notices.say(
                "precision: 'float64', which a TPU has not; equations are summed and solved in "
                "float32; fit.precision=float32, by a square root, is more exact there"
            )
        return gram.normal_equations(*self.measured())

    def measured(self) -> tuple[Any, Any, Any, Any]:
        """(dictionary, operator, measurements, weights)."""
        return self.dictionary, self.operator, self.measurements, self.weights

    def of_signals(self, which: Any) -> "Problem":
        """The same of some of the signals, by indices or a slice."""

        def rows(array):
            return None if array is None else array[which]

        weights = self.weights
        operator = None if self.operator is None else self.operator.of_signals(which)
        return dataclasses.replace(
            self,
            operator=operator,
            measurements=rows(self.measurements),
            weights=rows(weights) if weights is not None and np.ndim(weights) == 2 else weights,
            signals=rows(self.signals),
            clouds=rows(self.clouds),
        )

    def own_weights(self) -> bool:
        """Whether weights differ from signal to signal such that no Gram matrices are needed."""
        return conjugate.applies(self.dictionary, self.operator, self.weights)

    def check_router(self) -> None:
        """Raise ArgumentError where there is no router that predicts codes of these signals."""
        if self.router is None or isinstance(self.router, Codebook):
            kind = None if self.router is None else "codebook"
            allowed = "linear, conv, resnet, point: of new signals; this dictionary has none; "
            raise ArgumentError("router", kind, f"{allowed}learn it with router.kind=linear")
        if self.signals is None:
            raise ArgumentError("signals", None, "whole signals on the router's own grid")

    def routed(self, top_k: int) -> Gates:
        """The router's prediction. top_k: 0 is dense. Raises ArgumentError as `check_router`."""
        self.check_router()
        return self.router.gates(None, self.signals, top_k=top_k)
