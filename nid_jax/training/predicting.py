"""Routers in closed form: on its own grid, the ridge code of a signal is an affine map of it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nid_jax.coding import gram, operators, ridge
from nid_jax.coding.factorisation import Factorisation
from nid_jax.fields.dictionary import Dictionary
from nid_jax.fields.routing import Router

SUPPORT_LAMBDAS = (0.03, 0.1, 0.3, 1.0, 3.0)
"""What a router of supports chooses its regularisation from."""

# Training signals that choose it.
_SIGNALS = 128


@dataclasses.dataclass(frozen=True)
class AffineCodes:
    """Ridge codes as a map of what was measured: code = y . kernel, bias = y . bias_kernel."""

    kernel: Float[Array, "M C E"]
    bias_kernel: Float[Array, "M C C"]
    lam: float
    """As used: `Factorisation`."""


def affine_codes(dictionary: Dictionary, operator: operators.Operator, lam: float) -> AffineCodes:
    """The map from measurements [M, C] to ridge codes [E] and their bias [C].

    lam: as `coding.ridge`. There is no constant term: a signal of zeros has the code zero.
    """
    # The router holds as many numbers, so the map is never streamed.
    values = operator.num_measurements * dictionary.channels * dictionary.num_experts
    known = Factorisation(dictionary, operator, lam=lam, map_numbers=2 * values)
    return AffineCodes(*known.affine(), known.lam)


def support_lambda(dictionary: Dictionary, measured: Any, count: int, top_k: int) -> float:
    """The regularisation whose ridge codes choose the best supports.

    Least squares codes of dependent atoms cancel, and their largest are not those that matter; much
    regularisation leaves correlations, which take many atoms for the same part of a signal. Of
    `SUPPORT_LAMBDAS` the one is taken whose K largest leave least of signals of the collection, in
    the mean of the logarithm, when solved for again.

    measured: operator and values(i) [M, C] of `count` signals; top_k: K.
    """
    which = np.unique(np.linspace(0, count - 1, min(count, _SIGNALS)).astype(int))
    values = np.stack([measured.values(int(index)) for index in which])
    equations = gram.normal_equations(dictionary, measured.operator, values)

    def left(lam):
        codes = ridge.solve_dense(equations, lam).codes
        _, places = jax.lax.top_k(jnp.abs(codes), top_k)
        solved = ridge.solve_on_support(equations, places.astype(jnp.int32))
        return np.maximum(equations.mean_residual(solved), np.finfo(np.float32).tiny)

    return min(SUPPORT_LAMBDAS, key=lambda lam: float(np.mean(np.log(left(lam)))))


def find_router(
    router: Router, dictionary: Dictionary, measured: Any, count: int, lam: float, top_k: int = 0
) -> str:
    """Give a router that can be any affine map the one of ridge codes. -> words on it.

    measured: operator and values(i) of the collection's `count` signals; lam: of dense codes,
    train.lam; top_k: K of sparse ones, whose regularisation is `support_lambda`. The map is made
    for one of them: that of a fit, fit.router_ridge.lam, is of codes on the supports that it
    proposes, and changes neither it nor them.
    """
    words = "ridge codes in closed form"
    if top_k:
        lam = support_lambda(dictionary, measured, count, top_k)
        words = f"supports of {top_k} by ridge codes in closed form"
    found = affine_codes(dictionary, measured.operator, lam)
    router.take_affine(found.kernel, found.bias_kernel)
    return f"{words}, lambda {found.lam:.1e}"
