"""Operators by the name that a config gives them."""

import difflib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from nid_jax import errors
from nid_jax.coding.operators.base import Operator
from nid_jax.coding.operators.beams import fan_beam, parallel_beam
from nid_jax.coding.operators.frequencies import fourier, nonuniform_fourier
from nid_jax.coding.operators.runs import blur, downsample
from nid_jax.coding.operators.sampling import point_derivatives, random_mask, sample

KINDS: dict[str, Callable[..., Operator]] = {
    "sample": sample,
    "mask": random_mask,
    "point_derivatives": point_derivatives,
    "parallel_beam": parallel_beam,
    "fan_beam": fan_beam,
    "downsample": downsample,
    "blur": blur,
    "fourier": fourier,
    "nonuniform_fourier": nonuniform_fourier,
}
"""operator.kind -> function(grid shape, options) -> operator. A user's own are added to it."""


def build_operator(config: Any, shape: Sequence[int]) -> Operator:
    """The operator of config.operator for signals on a grid [*shape].

    config: `kind`, and under its name the options that the kind's function takes. Raises
    ArgumentError naming operator.kind, or the option that is wrong as operator.KIND.OPTION.
    """
    if config.kind not in KINDS:
        near = difflib.get_close_matches(str(config.kind), KINDS, 1, 0.0)[0]
        raise errors.ArgumentError(
            "operator.kind", config.kind, f"{', '.join(KINDS)}; did you mean {near!r}?"
        )
    make = KINDS[config.kind]
    options = dict(config.get(config.kind, {}))
    # The first argument is the grid's shape.
    _, *parameters = inspect.signature(make).parameters.values()
    allowed = [parameter.name for parameter in parameters]
    needed = [p.name for p in parameters if p.default is inspect.Parameter.empty]
    with errors.named(f"operator.{config.kind}"):
        for name in options:
            if name not in allowed:
                takes = f"the options of {config.kind}: {', '.join(allowed) or 'none'}"
                raise errors.ArgumentError(name, options[name], takes)
        for name in needed:
            if name not in options:
                raise errors.ArgumentError(name, None, "a value; this kind needs one")
        return make(tuple(shape), **options)
