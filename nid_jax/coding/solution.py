"""What every solver gives back."""

from typing import NamedTuple

import jax


class CodeSolution(NamedTuple):
    """Codes of S signals and how well they were found."""

    codes: jax.Array
    """[S, E], zero where an expert is not used."""
    bias: jax.Array
    """[S, C], added to every point."""
    residual: jax.Array
    """[S], mean squared difference between model and measurements, per measured value."""
    converged: jax.Array
    """bool [S]: whether the solver's own stopping rule was met."""
    iterations: jax.Array
    """int32 [S]."""
    message: str = ""
    """What a person should know: why it stopped, an escalation, a regularisation chosen."""
    history: dict[str, jax.Array] = {}
    """Curves over the iterations, such as 'residual' [steps + 1, S]; empty for direct solvers."""
