"""Solvers: measurements in, codes out. One class each; its fields are its options.

    solution = Ridge(lam=1e-4).solve(Problem(dictionary, operator, measurements))

A new solver is one class (`base.Solver` says what it has) and one name in `SOLVERS`.
"""

import dataclasses
import difflib
from typing import Any

from nid_jax.coding import checks
from nid_jax.coding.gram import PRECISIONS
from nid_jax.coding.solvers.base import Solver, no_gradient
from nid_jax.coding.solvers.descent import Gradient
from nid_jax.coding.solvers.least_squares import Gaussian, Ridge
from nid_jax.coding.solvers.outliers import Robust
from nid_jax.coding.solvers.predicted import RouterCodes, RouterRidge
from nid_jax.coding.solvers.sparse import IHT, OMP, Lasso
from nid_jax.coding.solvers.surfaces import Surface
from nid_jax.errors import ArgumentError, named

__all__ = [
    "IHT",
    "OMP",
    "SOLVERS",
    "Gaussian",
    "Gradient",
    "Lasso",
    "Ridge",
    "Robust",
    "RouterCodes",
    "RouterRidge",
    "Solver",
    "Surface",
    "check_groups",
    "config_group",
    "no_gradient",
    "solver_from_config",
    "solver_kind",
]

SOLVERS: dict[str, type[Solver]] = {
    solver.name: solver
    for solver in (
        Ridge,
        Gaussian,
        Lasso,
        OMP,
        IHT,
        Robust,
        Gradient,
        RouterCodes,
        RouterRidge,
        Surface,
    )
}
"""fit.solver -> class."""


# Fields of many solvers, which are keys of `fit` itself.
_SHARED = ("top_k", "precision")


def config_group(name: str) -> str:
    """The key under which a config holds a solver's options: 'fit.ridge', 'fit.router_ridge'."""
    return f"fit.{name.replace('+', '_')}"


def solver_kind(name: str) -> type[Solver]:
    """The class of fit.solver. Raises ValueError, naming the key, for one that is not there."""
    if name not in SOLVERS:
        near = difflib.get_close_matches(str(name), SOLVERS, 1, 0.0)[0]
        raise ValueError(
            f"fit.solver: {name!r} is unknown, did you mean {near!r}? allowed: {', '.join(SOLVERS)}"
        )
    return SOLVERS[name]


def solver_from_config(config_fit: Any) -> Solver:
    """The solver of a config's section `fit`: fit.solver with fit.top_k and the group of its name.

    Raises ValueError, naming the key, for a solver that is not there, codes that it cannot give,
    and options that it does not take.
    """
    name = config_fit.solver
    kind = solver_kind(name)
    group, options, top_k = config_group(name), _options(config_fit, kind), config_fit.top_k
    options["precision"] = config_fit.get("precision", PRECISIONS[0])
    with named("fit"):
        _check_top_k(kind, top_k)
        checks.one_of("precision", options["precision"], kind.precisions)
    if not kind.dense_only:
        options["top_k"] = top_k
    with named(group):
        return kind(**options)


def check_groups(config_fit: Any) -> None:
    """Raise ArgumentError, naming the key, for an option that its solver cannot have, whichever is
    chosen. What options are beside one another only the chosen one has to say."""
    for name, kind in SOLVERS.items():
        given, options = {"top_k": 1} if kind.sparse else {}, _options(config_fit, kind)
        with named(config_group(name)):
            checks.one_by_one(kind, options, **given)


def _options(config_fit, kind):
    """A solver's options as a config has them; ArgumentError for one that it does not know."""
    group = config_group(kind.name)
    options = dict(config_fit.get(group.removeprefix("fit."), {}))
    fields = {field.name: field for field in dataclasses.fields(kind) if field.name not in _SHARED}
    for option in options:
        if option not in fields:
            raise ArgumentError(f"{group}.{option}", options[option], f"keys {', '.join(fields)}")
    return {key: _number(value, fields[key]) for key, value in options.items()}


def _check_top_k(kind, top_k):
    if kind.dense_only and top_k:
        others = ", ".join(name for name, other in SOLVERS.items() if not other.dense_only)
        raise ArgumentError(
            "top_k", top_k, f"0 (fit.solver={kind.name} gives dense codes), or fit.solver={others}"
        )
    checks.whole("top_k", top_k, 1 if kind.sparse else 0, f"with fit.solver={kind.name}")


def _number(value, field):
    """A number that was written as text, since command lines know no unions; else the value."""
    if isinstance(value, str) and isinstance(field.default, float):
        try:
            return float(value)
        except ValueError:
            return value
    return value
