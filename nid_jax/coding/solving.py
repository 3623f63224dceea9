"""One door to all solvers: measurements in, codes out."""

import dataclasses
import difflib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nid_jax.coding import conjugate, gradient, greedy, lasso, ridge, robust, surface, trimmed
from nid_jax.coding.gram import normal_equations
from nid_jax.coding.neighbours import local_gaussian
from nid_jax.coding.operators import Sample
from nid_jax.coding.prior import gaussian
from nid_jax.coding.solution import CodeSolution
from nid_jax.fields.routing import Codebook, expert_weights
from nid_jax.geometry.truncation import Truncation


@dataclasses.dataclass(frozen=True)
class Problem:
    """What was measured, and with what: the arguments of `solve`."""

    dictionary: Any
    operator: Any
    measurements: jax.Array
    weights: jax.Array | None = None
    top_k: int = 0
    prior: Any = None
    router: Any = None
    signals: jax.Array | None = None
    """What a router looks at: [S, *grid, C], the measurements where all was sampled, or clouds."""
    clouds: jax.Array | None = None
    """[S, Q, 6], points of a surface and its outward normals."""

    def equations(self):
        """The normal equations of these measurements."""
        return normal_equations(self.dictionary, self.operator, self.measurements, self.weights)

    def own_weights(self):
        """Whether weights differ from signal to signal such that no Gram matrices are needed."""
        return conjugate.applies(self.dictionary, self.operator, self.weights)

    def weighted(self):
        """What `conjugate.weighted_codes` begins with."""
        return self.dictionary, self.operator, self.measurements, self.weights

    def routed(self):
        """The router's prediction. Raises ValueError where there is none that takes signals."""
        if self.router is None or isinstance(self.router, Codebook):
            kind = "none" if self.router is None else "codebook"
            raise ValueError(
                f"router.kind: {kind} predicts no codes for new signals, which this fit asks for; "
                "allowed: linear, conv, resnet, point"
            )
        if self.signals is None:
            raise ValueError("a router needs whole signals on its own grid, not partial ones")
        return self.router.gates(None, self.signals, top_k=self.top_k)


def solve(dictionary, operator, measurements, method, /, **arguments):
    """Codes of S signals from what was measured of them, with the dictionary frozen.

    dictionary, operator: see `fields.dictionary` and `coding.operators`; measurements [S, M, C];
    both are None where the method is one of `CLOUD_METHODS` (and not read there); method: one of
    `METHODS`. Further arguments are those of `Problem` (weights [M] or [S, M], top_k, prior,
    router, signals, clouds) and the method's own options. -> CodeSolution. Raises ValueError naming
    fit.solver for an unknown method, and for what the method lacks.
    """
    check_method(method, arguments.get("top_k", 0), dictionary.num_experts)
    fields = {field.name for field in dataclasses.fields(Problem)}
    given = {name: arguments.pop(name) for name in list(arguments) if name in fields}
    if operator is None or measurements is None:
        # A router may have read a cloud; the others say themselves what they lack.
        routed = method == "router" and given.get("clouds") is not None
        if method not in CLOUD_METHODS and not routed:
            raise ValueError(
                f"fit.solver: {method} needs measurements; allowed with clouds alone: "
                f"{', '.join(CLOUD_METHODS)}, router"
            )
    else:
        measurements = jnp.asarray(measurements)
    problem = Problem(dictionary, operator, measurements, **given)
    return METHODS[method](problem, **arguments)


def check_method(method, top_k, num_experts):
    """Raise ValueError, naming the key, for a method that is not there or cannot give such codes.

    top_k: active experts, 0 for dense codes.
    """
    if method not in METHODS:
        near = difflib.get_close_matches(str(method), METHODS, 1, 0.0)[0]
        raise ValueError(
            f"fit.solver: {method!r} is unknown, did you mean {near!r}? "
            f"allowed: {', '.join(METHODS)}"
        )
    if method in _DENSE and top_k:
        others = ", ".join(name for name in METHODS if name not in _DENSE)
        raise ValueError(
            f"fit.top_k: {top_k}, but fit.solver={method} gives dense codes; "
            f"allowed: fit.top_k=0, or fit.solver={others}"
        )
    if method in _SPARSE and not 1 <= top_k <= num_experts:
        raise ValueError(
            f"fit.top_k: {top_k}; fit.solver={method} takes 1 to {num_experts} experts"
        )
    if not 0 <= top_k <= num_experts:
        raise ValueError(f"fit.top_k: {top_k}; allowed: 0 (dense) to {num_experts} experts")


def _ridge(problem, lam=ridge.LAMBDA, per_signal=False):
    """lam: a number, or 'gcv'; see `ridge.ridge`."""
    lam = _number_or(lam, "gcv", "fit.ridge.lam")
    if lam != "gcv" and problem.own_weights():
        return conjugate.weighted_codes(*problem.weighted(), lam=lam)
    return ridge.ridge(problem.equations(), lam, per_signal)


def _gaussian(problem, noise=0.0, neighbours=0, blend=0.1):
    """noise: standard deviation of the measurements' noise; 0 estimates it. neighbours: 0, or the
    training codes that make up each signal's own prior, with a share `blend` of all."""
    if problem.prior is None:
        raise ValueError(
            "fit.solver: 'gaussian' needs the prior that training leaves beside the dictionary "
            "(prior.npz); train with prior.num_signals above 0, or use fit.solver=ridge"
        )
    if noise > 0 and not neighbours and problem.own_weights():
        return conjugate.weighted_codes(*problem.weighted(), known=problem.prior, noise=noise**2)
    noise = noise**2 or "estimate"
    if neighbours:
        return local_gaussian(problem.equations(), problem.prior, noise, neighbours, blend)
    return gaussian(problem.equations(), problem.prior._replace(codes=None), noise)


def _lasso(problem, fraction=0.01, weights_base=1.0, tolerance=1e-3, steps=1000):
    """fraction: penalty, as a part of the one that makes every code zero; weights_base: expert e
    costs weights_base ** -e."""
    equations = problem.equations()
    weights = expert_weights(equations.moments.shape[-1], weights_base)
    return lasso.lasso(
        equations, fraction=fraction, weights=weights, tolerance=tolerance, steps=steps
    )


def _omp(problem, lam=ridge.LAMBDA, atoms_per_step=1, criterion="correlation"):
    """Supports by matching pursuit, then ridge on them."""
    equations = problem.equations()
    top_k = problem.top_k
    chosen = greedy.omp_codes(
        equations, top_k, atoms_per_step=min(atoms_per_step, top_k), criterion=criterion
    )
    places = jnp.where(chosen.chosen, chosen.indices, -1)
    codes = ridge.solve_on_support(equations, places, lam)
    count = chosen.chosen.sum(-1, dtype=jnp.int32)
    message = f"{top_k} experts by matching pursuit"
    return ridge.as_solution(equations, codes, count == top_k, message, count)


def _iht(problem, steps=30):
    """Supports by hard thresholding pursuit."""
    return greedy.iht(problem.equations(), problem.top_k, steps=steps)


def _robust(
    problem,
    loss="l1",
    lam=1e-4,
    use_prior=True,
    delta=0.0,
    noise=0.0,
    steps=500,
    trim=0.0,
    reach=0.0,
    trim_noise=0.0,
):
    """loss: 'l1' or 'huber'; use_prior: take the Gaussian prior where there is one; delta, noise: 0
    estimates them; trim: 0, or solve again without what is so many medians off, of residuals
    averaged over `reach` in coordinates, with a prior for a noise of standard deviation
    `trim_noise` (0: that of the prior)."""
    prior = problem.prior if use_prior else None
    problem = dataclasses.replace(problem, prior=prior)
    pilot = robust.robust_solve(
        problem.dictionary,
        problem.operator,
        problem.measurements,
        weights=problem.weights,
        loss=loss,
        lam=lam,
        prior=None if prior is None else _square_root(problem),
        delta=delta or None,
        noise=noise or None,
        steps=steps,
    )
    if not trim:
        return pilot
    return trimmed.trimmed_solve(
        problem.dictionary,
        problem.operator,
        problem.measurements,
        pilot,
        weights=problem.weights,
        trim=trim,
        reach=reach,
        prior=None if prior is None else prior._replace(codes=None),
        noise=trim_noise**2 or None,
        lam=lam,
    )


class _SquareRoot(NamedTuple):
    """A Gaussian prior of the codes alone, as codes = mean + factor t with t of unit variance."""

    mean: jax.Array
    factor: jax.Array


def _square_root(problem):
    experts = problem.dictionary.num_experts
    factor, diagonal = (np.asarray(part, np.float64)[:experts] for part in problem.prior[1:3])
    covariance = factor @ factor.T + np.diag(diagonal)
    return _SquareRoot(problem.prior.mean[:experts], np.linalg.cholesky(covariance).astype("f4"))


def _router(problem):
    gates = problem.routed()
    if problem.operator is None:
        residual = _off_surface(problem, gates)
    else:
        residual = gradient.mean_residual(problem.equations(), gates.values, gates.bias)
    return _finished(gates.values, gates.bias, residual, 0, "predicted by the router")


def _off_surface(problem, gates):
    """Mean square of what codes render at the points of clouds, where it should be zero. -> [S]."""
    found = []
    for number, cloud in enumerate(jnp.asarray(problem.clouds)):
        one = jax.tree.map(lambda leaf, at=number: leaf[at : at + 1], gates)
        values = problem.dictionary.combine(cloud[:, : problem.dictionary.dims], one)
        found.append(jnp.square(values).mean())
    return jnp.stack(found)


def _router_ridge(problem, lam=ridge.LAMBDA):
    """The router chooses the support, ridge solves on it."""
    top_k = problem.top_k
    gates = problem.routed()
    equations = problem.equations()
    codes = ridge.solve_on_support(equations, gates.indices, lam)
    good = jnp.isfinite(codes).all(-1)
    message = f"ridge on the {top_k} experts that the router chose"
    return ridge.as_solution(equations, codes, good, message)


def _gradient(
    problem,
    steps=100,
    learning_rate=0.003,
    init="zero",
    variables="codes",
    dense_steps=0,
    data="l2",
):
    """init: 'zero' or 'router'; variables: 'codes' or 'router'; data: 'l2' or 'l1'."""
    _check("fit.gradient.init", init, ("zero", "router"))
    _check("fit.gradient.variables", variables, gradient.VARIABLES)
    _check("fit.gradient.data", data, ("l2", "l1"))
    equations = problem.equations()
    if variables == "router":
        problem.routed()
        graphdef, params, rest = nnx.split(problem.router, nnx.Param, ...)
        codes, bias, history = gradient.descend_router(
            graphdef,
            params,
            rest,
            problem.signals,
            equations,
            steps,
            learning_rate,
            top_k=problem.top_k,
        )
        return _finished(codes, bias, history[-1], steps, "", {"residual": history})
    signals, experts = equations.moments.shape
    codes, bias = jnp.zeros((signals, experts)), jnp.zeros_like(equations.target_mean)
    if init == "router":
        gates = problem.routed()
        codes, bias = gates.values, gates.bias
    settings = {"top_k": problem.top_k, "dense_steps": dense_steps}
    if data == "l2":
        codes, history = gradient.descend_codes(
            equations, codes, bias, steps, learning_rate, **settings
        )
        return ridge.as_solution(
            equations, codes, jnp.isfinite(codes).all(-1), f"{steps} steps taken", steps
        )._replace(history={"residual": history})
    if problem.weights is not None or not isinstance(problem.operator, Sample):
        raise ValueError("fit.gradient.data: 'l1' takes whole samples; use fit.solver=robust")
    graphdef, state = nnx.split(problem.dictionary)
    codes, bias, history, residual = gradient.descend_absolute(
        graphdef,
        state,
        problem.operator.points,
        problem.measurements,
        codes,
        bias,
        steps,
        learning_rate,
        **settings,
    )
    return _finished(codes, bias, residual, steps, "", {"absolute": history})


_TERMS = surface.Terms()


def _surface(
    problem,
    on=_TERMS.on,
    normal=_TERMS.normal,
    eikonal=_TERMS.eikonal,
    off=_TERMS.off,
    truncation=0.0,
    truncation_kind="clip",
    noise=0.0,
    **options,
):
    """on, normal, eikonal, off: weights of the terms; truncation: 0, or the largest distance,
    and its kind; noise: 0 takes the prior's. The rest as in `surface.surface_codes`."""
    if problem.clouds is None:
        raise ValueError(
            "fit.solver: surface needs clouds of points and normals, and there are none"
        )
    clouds = np.asarray(problem.clouds)
    dims = problem.dictionary.dims
    if clouds.ndim != 3 or clouds.shape[2] != 2 * dims:
        raise ValueError(
            f"clouds have shape {clouds.shape}; allowed: (signals, points, {2 * dims}), points and "
            "normals"
        )
    start = problem.routed() if options.get("init") == "router" else None
    return surface.surface_codes(
        problem.dictionary,
        clouds[..., :dims],
        clouds[..., dims:],
        problem.prior,
        truncation=Truncation(truncation, truncation_kind),
        terms=surface.Terms(on, normal, eikonal, off),
        noise=noise or None,
        start=start,
        **options,
    )


def _finished(codes, bias, residual, iterations, message, history=None):
    count = codes.shape[0]
    return CodeSolution(
        codes,
        bias,
        residual,
        jnp.isfinite(residual),
        jnp.full((count,), iterations, jnp.int32),
        message or f"{iterations} steps taken",
        history or {},
    )


def _check(key, value, allowed):
    if value not in allowed:
        raise ValueError(f"{key}: {value!r} is unknown; allowed: {', '.join(allowed)}")


def _number_or(value, word, key):
    """A number, also written as text (command lines know no unions), or the word."""
    if value == word:
        return value
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{key}: {value!r}; allowed: a number of 0 or more, {word!r}") from None


METHODS = {
    "ridge": _ridge,
    "gaussian": _gaussian,
    "lasso": _lasso,
    "omp": _omp,
    "iht": _iht,
    "robust": _robust,
    "gradient": _gradient,
    "router": _router,
    "router+ridge": _router_ridge,
    "surface": _surface,
}
# Methods that only ever give dense codes, and those that only ever give K-sparse ones.
_DENSE = ("ridge", "gaussian", "lasso", "robust", "surface")
_SPARSE = ("omp", "iht", "router+ridge")
# Methods that look at oriented points on surfaces, `Problem.clouds`.
CLOUD_METHODS = ("surface",)
