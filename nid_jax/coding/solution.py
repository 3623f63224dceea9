"""What every solver gives back: arrays alone, so that a solution passes through jit and vmap."""

import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


class Result(enum.IntEnum):
    """How the solve of a signal ended."""

    sentence: str
    """The same in words."""

    def __new__(cls, value: int, sentence: str) -> "Result":
        """A code and what it says."""
        member = int.__new__(cls, value)
        member._value_, member.sentence = value, sentence
        return member

    FOUND = 0, "The solver's own stopping rule was met."
    RAISED = 1, "Rounding of the equations hides the regularisation asked for, which was raised."
    STOPPED = 2, "The iterations ended before the stopping rule was met."
    INEXACT = 3, "The linear system was not solved to the accuracy that was asked for."
    FEWER = 4, "Fewer experts were of use than were asked for."
    NOT_FINITE = 5, "The codes are not finite."


class Solution(NamedTuple):
    """Codes of S signals and how well they were found."""

    codes: Float[Array | np.ndarray, "S E"]
    """[S, E], zero where an expert is not used."""
    bias: Float[Array | np.ndarray, "S C"]
    """[S, C], added to every point."""
    residual: Float[Array | np.ndarray, " S"]
    """[S], mean squared difference between model and measurements, per measured value."""
    converged: Bool[Array | np.ndarray, " S"]
    """bool [S]: whether the solver's own stopping rule was met."""
    iterations: Int[Array | np.ndarray, " S"]
    """int32 [S]."""
    result: Int[Array | np.ndarray, " S"]
    """int32 [S], a `Result` each."""
    stats: dict[str, Array | np.ndarray]
    """Numbers [S] that the solver found on its way, such as 'lam' or 'noise_variance'."""
    history: dict[str, Array | np.ndarray]
    """Curves over the iterations, such as 'residual' [steps + 1, S]; empty for direct solvers."""


def finished(
    codes: jax.Array,
    bias: jax.Array,
    residual: jax.Array,
    converged: jax.Array,
    iterations: Any,
    *,
    otherwise: Result = Result.STOPPED,
    stats: dict | None = None,
    history: dict | None = None,
) -> Solution:
    """A Solution of codes [S, E], bias [S, C], residual [S] and converged bool [S].

    iterations: [] or [S]. otherwise: the result where a signal has not converged. stats: numbers
    [] or [S].
    """
    shape = codes.shape[:1]
    finite = jnp.isfinite(codes).all(-1)
    result = jnp.where(converged, Result.FOUND, otherwise)
    return Solution(
        codes=codes,
        bias=bias,
        residual=residual,
        converged=converged,
        iterations=jnp.broadcast_to(jnp.asarray(iterations, jnp.int32), shape),
        result=jnp.where(finite, result, Result.NOT_FINITE).astype(jnp.int32),
        stats={name: jnp.broadcast_to(value, shape) for name, value in (stats or {}).items()},
        history=history or {},
    )


def troubles(result: Any) -> list[str]:
    """In words, how many signals ended in each way that a person should know of. result [S]."""
    result = np.asarray(result)
    found = []
    for kind in (Result.STOPPED, Result.INEXACT, Result.FEWER, Result.NOT_FINITE):
        count = int((result == kind).sum())
        if count:
            sentence = kind.sentence[0].lower() + kind.sentence[1:-1]
            found.append(f"{count} of {result.size} signals: {sentence}")
    return found
