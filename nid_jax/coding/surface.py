"""Codes from oriented point clouds alone: no distance is measured, only a surface and its normals.

f(x) = bias + sum_e code[e] expert_e(x) is the signed distance of a solid, negative inside, perhaps
truncated. What a cloud of points x_i with outward unit normals n_i says of it:

    on       f(x_i) = 0
    normal   grad f(x_i) = n_i                        linear in the code, as grad f is
    off      f(x_i +- delta n_i) = T(+-delta)         where no other point of the cloud is nearer
    off      |f(y)| = T(distance of y to the cloud), y anywhere
    eikonal  |grad f(z)| = T'(distance), z near the surface

T is the truncation, such as min(distance, limit), with slope 1 at the surface.

The first three are linear, and so is the fourth where the nearest normals agree on which side y is
(Hoppe et al. 1992). Together with a Gaussian prior of the codes they are one linear system, whose
solution is the start of Gauss-Newton iterations on all of them. The terms are those of Gropp et al.
2020 (implicit geometric regularisation) and Sitzmann et al. 2020 (SIREN, section 4.2); the offset
points are those of Carr et al. 2001.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy.spatial import cKDTree

from nid_jax import numerics, platforms
from nid_jax.coding import gradient, gram
from nid_jax.coding.mixture_codes import of_matrix
from nid_jax.coding.prior import check_size
from nid_jax.coding.solution import Solution, finished
from nid_jax.errors import ArgumentError
from nid_jax.fields.dictionary import over_points

METHODS = ("gauss-newton", "gradient")
INITS = ("linear", "mean", "zero", "router")

LEAST_POINTS = 8
"""Fewer points do not tell a solid."""

# Nearest normals that must agree on the side of a point, and the least cosine that one says it by.
_VOTES = 3
_LEAST_COSINE = 0.2
# A point of the surface is within this many distances between neighbours from one of the cloud.
_GAPS = 2.0
# An offset point counts if no point of the cloud is nearer to it than this part of its offset.
_NEAREST_SHARE = 0.9
# Standard deviation of a bias of which the prior does not speak.
_FREE_BIAS = 1e2
# Error of a value where neither the prior nor the caller knows one.
_NOISE = 1e-2


class Terms(NamedTuple):
    """Weights of the squared residuals; those of gradients are per unit slope, of values length.

    A gradient is known about as well as a value over a length of sqrt(weight).
    """

    on: float = 1.0
    normal: float = 1e-2
    eikonal: float = 1e-3
    off: float = 1.0


class Samples(NamedTuple):
    """Where the terms of one signal are taken, and what is known there.

    near [2 Q, D]: offset points, their distances near_values [2 Q] and near_weights [2 Q], 0 where
    another point of the cloud is nearer. far [F, D]: anywhere in [-1, 1]^D, far_sizes [F] the
    unsigned distance, far_signs [F] the side: 1 outside, -1 inside, 0 not known. band [Q, D]: near
    the surface, for the eikonal term, and the slope there, steepness [Q].
    """

    near: np.ndarray
    near_values: np.ndarray
    near_weights: np.ndarray
    far: np.ndarray
    far_sizes: np.ndarray
    far_signs: np.ndarray
    band: np.ndarray
    steepness: np.ndarray


def cloud_samples(points, normals, delta, truncation, count, generator):
    """Samples about a cloud of points [Q, D] with unit normals [Q, D].

    delta: offset along the normals; truncation: `Truncation` of the distances; count: samples
    anywhere. generator: of numpy.
    """
    tree = cKDTree(points)
    near = np.concatenate([points + delta * normals, points - delta * normals])
    values = truncation(np.repeat([delta, -delta], len(points)))
    weights = tree.query(near)[0] >= _NEAREST_SHARE * delta
    far = generator.uniform(-1, 1, (count, points.shape[1]))
    reach = min(truncation.limit or math.inf, 5 * delta)
    offsets = generator.uniform(-reach, reach, len(points))
    band = points + offsets[:, None] * normals
    sizes, signs = _sides(tree, points, normals, far)
    steepness = truncation.slope(offsets)
    parts = (near, values, weights, far, truncation(sizes), signs, band, steepness)
    return Samples(*(part.astype(np.float32) for part in parts))


def _sides(tree, points, normals, x):
    """Unsigned distances of x [F, D] from the surface [F], and its side by the nearest normals [F].

    Of the way to the nearest point what is along its normal counts, and what is along the surface
    as far as it is longer than the gaps between points.
    """
    distances, nearest = tree.query(x, k=_VOTES)
    along = ((x[:, None] - points[nearest]) * normals[nearest]).sum(-1)
    cosines = along / np.maximum(distances, 1e-12)
    agreed = (cosines > _LEAST_COSINE).all(1).astype(int) - (cosines < -_LEAST_COSINE).all(1)
    # Nothing of the solid lies beyond the box around its surface.
    beyond = ((x < points.min(0)) | (x > points.max(0))).any(1)
    gap = _GAPS * np.median(tree.query(points, k=2)[0][:, 1])
    squares = np.maximum(distances[:, 0] ** 2 - gap**2, along[:, 0] ** 2)
    return np.sqrt(squares), np.where(beyond, 1, agreed)


class _Coordinates(NamedTuple):
    """Coefficients (code, bias) = mean + root s with s of unit variance: few, and well scaled.

    mean [E + 1], root [E + 1, R]; level [F] and slopes [F, R]: the same of the features that
    `_features` gives, so that f(x) = features(x) @ (level + slopes s).
    """

    mean: np.ndarray
    root: np.ndarray
    level: np.ndarray
    slopes: np.ndarray


def _coordinates(dictionary, prior):
    """Coordinates in which the prior is isotropic; without a prior the coefficients themselves.

    Directions of the code that do not change f are left at the prior's mean, which is where the
    most probable code has them: at most F + 1 coordinates where atoms are heads of F features.
    """
    experts = dictionary.num_experts
    mean, root = np.zeros(experts + 1), np.eye(experts + 1)
    if prior is not None:
        size = len(prior.mean)
        factor, diagonal = (np.asarray(part, np.float64) for part in prior[1:3])
        root[experts, experts] = _FREE_BIAS
        mean[:size] = prior.mean
        root[:size, :size] = np.linalg.cholesky(factor @ factor.T + np.diag(diagonal))
    heads = np.eye(experts + 1)
    if gram.is_shared(dictionary):
        heads = np.zeros((dictionary.num_features + 1, experts + 1))
        heads[:, :experts] = np.asarray(dictionary.heads())[..., 0]
        heads[-1, -1] = 1
        if len(heads) < len(root):
            root = root @ np.linalg.svd(heads @ root, full_matrices=False)[2].T
    root = root.astype(np.float32)
    parts = (mean, root, heads @ mean, heads @ root)
    return _Coordinates(*(part.astype(np.float32) for part in parts))


def _features(dictionary, x):
    """What f is linear in: a trunk's features or the atoms, and 1. x [P, D] -> [P, F]."""
    values = dictionary.features(x) if gram.is_shared(dictionary) else dictionary.basis(x)[..., 0]
    return jnp.concatenate([values, jnp.ones((len(x), 1), values.dtype)], 1)


def _slopes(dictionary, x):
    """Derivatives of `_features` along every axis, by forward mode. x [P, D] -> [P, D, F]."""

    def along(direction):
        tangent = jnp.broadcast_to(direction, x.shape)
        return jax.jvp(functools.partial(_features, dictionary), (x,), (tangent,))[1]

    return jnp.stack([along(axis) for axis in jnp.eye(x.shape[-1], dtype=x.dtype)], 1)


class _System(NamedTuple):
    """The objective of one signal in coordinates s [R], in float64.

    Linear terms are s A s - 2 b s + energy. band [K, D, R] and band_level [K, D] give grad f, far
    [F, R] and far_level [F] give f; steepness [K] is what |grad f| ought to be; sizes [F] the
    magnitude of f where only that is known, with unknown [F] their weights; eikonal [] the weight
    of that term, penalty [] that of |s|^2.
    """

    matrix: jax.Array
    moments: jax.Array
    energy: jax.Array
    band: jax.Array
    band_level: jax.Array
    steepness: jax.Array
    far: jax.Array
    far_level: jax.Array
    sizes: jax.Array
    unknown: jax.Array
    eikonal: jax.Array
    penalty: jax.Array

    def solve(self, matrix, right):
        """Solve with a positive semidefinite matrix [R, R]."""
        factor, scale, _, _ = numerics.scaled_cholesky(matrix, jnp.zeros((), matrix.dtype))
        return numerics.solve_scaled_cholesky(factor, scale, right[:, None])[:, 0]

    def linear(self):
        """The minimum of the linear terms and the penalty. -> s [R]."""
        return self.solve(self.matrix + self.penalty * jnp.eye(len(self.moments)), self.moments)

    def objective(self, s):
        """s [R] -> scalar."""
        linear = self.energy + s @ (self.matrix @ s - 2 * self.moments)
        excess, values = self._steepness(s)[0] - self.steepness, self.far_level + self.far @ s
        eikonal = self.eikonal * jnp.square(excess).sum()
        off = (self.unknown * jnp.square(jnp.abs(values) - self.sizes)).sum()
        return linear + eikonal + off + self.penalty * jnp.square(s).sum()

    def _steepness(self, s):
        """|grad f| in the band [K] and its direction [K, D]."""
        slope = self.band_level + numerics.einsum("kdr,r->kd", self.band, s)
        # Never zero, where the norm has no derivative.
        steepness = jnp.sqrt(jnp.square(slope).sum(-1) + 1e-12)
        return steepness, slope / steepness[:, None]

    def normal_equations(self, s):
        """Gauss-Newton's matrix [R, R] and half the descent direction [R] at s."""
        steepness, direction = self._steepness(s)
        rows = numerics.einsum("kdr,kd->kr", self.band, direction)
        values = self.far_level + self.far @ s
        misfit = values - jnp.where(values < 0, -1, 1) * self.sizes
        weighted = self.unknown[:, None] * self.far
        identity = jnp.eye(len(s))
        matrix = self.matrix + self.eikonal * rows.T @ rows + self.far.T @ weighted
        downhill = self.moments - self.matrix @ s - self.penalty * s
        downhill -= self.eikonal * rows.T @ (steepness - self.steepness) + weighted.T @ misfit
        return matrix + self.penalty * identity, downhill


class _Signal(NamedTuple):
    """One solid. cloud [Q, 2 D]: points and normals; start [F]: what f starts from, as weights of
    `_features`."""

    cloud: jax.Array
    samples: Samples
    start: jax.Array


class _Numbers(NamedTuple):
    """Weights of the objective, and of the descent; see `solvers.Surface`."""

    terms: Terms
    penalty: float
    learning_rate: float
    tolerance: float


class _Plan(NamedTuple):
    """What is compiled; see `solvers.Surface`. relative: whether the penalty is a part of the
    linear terms' mean eigenvalue."""

    relative: bool
    method: str
    init: str
    iterations: int
    steps: int


def _assemble(dictionary, signal, coordinates, numbers, relative):
    """The `_System` of one signal."""
    cloud, samples, _ = signal
    terms, penalty = numbers.terms, numbers.penalty
    dims = dictionary.dims
    points, normals = cloud[:, :dims], cloud[:, dims:]
    held = (dictionary.num_experts + dictionary.dims * coordinates.root.shape[1]) * 2
    chunk = max(32, platforms.sizes().chunk // held)
    level, slopes = gram.wide(coordinates.level, coordinates.slopes)

    def rows(function, x):
        """Rows [P, ..., R] and their values at s = 0 [P, ...]."""
        features = gram.wide(over_points(lambda p: function(dictionary, p), x, chunk))[0]
        return features @ slopes, features @ level

    on, on_level = rows(_features, points)
    normal, normal_level = rows(_slopes, points)
    near, near_level = rows(_features, samples.near)
    far, far_level = rows(_features, samples.far)
    band, band_level = rows(_slopes, samples.band)
    known = jnp.abs(samples.far_signs)
    sums = [
        _squares(on, -on_level, terms.on * jnp.ones(len(on))),
        _squares(
            normal.reshape(-1, normal.shape[-1]),
            (normals - normal_level).ravel(),
            terms.normal * jnp.ones(normals.size),
        ),
        _squares(near, samples.near_values - near_level, terms.off * samples.near_weights),
        _squares(far, samples.far_signs * samples.far_sizes - far_level, terms.off * known),
    ]
    matrix, moments, energy = jax.tree.map(lambda *parts: sum(parts), *sums)
    if relative:
        penalty = penalty * jnp.trace(matrix) / len(matrix)
    given = (samples.steepness, samples.far_sizes, terms.off * (1 - known), terms.eikonal, penalty)
    steepness, *rest = [jnp.asarray(value, matrix.dtype) for value in given]
    return _System(matrix, moments, energy, band, band_level, steepness, far, far_level, *rest)


def _squares(rows, targets, weights):
    """Weighted rows^T rows, rows^T targets and targets^2 of [P, R], [P], [P]."""
    weighted = weights[:, None] * rows
    return weighted.T @ rows, weighted.T @ targets, (weights * targets**2).sum()


class _State(NamedTuple):
    s: jax.Array
    damping: jax.Array
    objective: jax.Array
    done: jax.Array
    count: jax.Array
    history: jax.Array


def _gauss_newton(system, s, iterations, tolerance):
    """Levenberg-Marquardt iterations. -> s, converged, iterations, history [iterations + 1]."""
    value = system.objective(s)
    scale = jnp.trace(system.matrix) / len(s) + system.penalty

    def going(state):
        return (state.count < iterations) & ~state.done

    def step(state):
        matrix, downhill = system.normal_equations(state.s)
        damped = matrix + state.damping * scale * jnp.eye(len(s))
        moved = state.s + system.solve(damped, downhill)
        value = system.objective(moved)
        better = value < state.objective
        gain = numerics.safe_divide(state.objective - value, state.objective)
        # Damped beyond use: there is nothing left to gain.
        done = (better & (gain < tolerance)) | (~better & (state.damping > 1e3))
        value = jnp.where(better, value, state.objective)
        return _State(
            jnp.where(better, moved, state.s),
            jnp.where(better, state.damping / 10, 10 * jnp.maximum(state.damping, 1e-6)),
            value,
            done,
            state.count + 1,
            state.history.at[state.count + 1].set(value),
        )

    history = jnp.full(iterations + 1, value)
    done = jnp.asarray(iterations == 0)
    state = _State(s, jnp.zeros_like(value), value, done, jnp.int32(0), history)
    state = jax.lax.while_loop(going, step, state)
    # After the last iteration the curve goes on level.
    after = jnp.arange(iterations + 1) > state.count
    history = jnp.where(after, state.objective, state.history)
    return state.s, state.done, state.count, history


@functools.partial(jax.jit, static_argnames=("graphdef", "plan"))
def _solve(graphdef, state, signal, coordinates, numbers, plan):
    """One signal. -> code and bias [E + 1], mean of f^2 on the cloud, converged, count, curve."""
    solve = functools.partial(_solved, graphdef, plan=plan)
    return gram.in_float64(solve, jax.lax.stop_gradient(state), signal, coordinates, numbers)


def _solved(graphdef, state, signal, coordinates, numbers, plan):
    """`_solve` in the widest type of the scope."""
    dictionary = nnx.merge(graphdef, state)
    system = _assemble(dictionary, signal, coordinates, numbers, plan.relative)
    mean, root = gram.wide(coordinates.mean, coordinates.root)
    s = system.linear() if plan.init == "linear" else jnp.zeros(root.shape[1])
    if plan.init in ("zero", "router"):
        # The start in these coordinates: exact in f where the coordinates span it.
        slopes, level, given = gram.wide(coordinates.slopes, coordinates.level, signal.start)
        gap = slopes.T @ (given - level)
        s = system.solve(slopes.T @ slopes, gap)
    if plan.method == "gauss-newton":
        s, converged, count, history = _gauss_newton(system, s, plan.iterations, numbers.tolerance)
    else:
        s, history = gradient.descend(
            lambda s: system.objective(s)[None], s, plan.steps, numbers.learning_rate
        )
        history = history[:, 0]
        converged, count = jnp.isfinite(history[-1]), jnp.int32(plan.steps)
    coefficients = (mean + root @ s).astype(jnp.float32)
    features = _features(dictionary, signal.cloud[:, : dictionary.dims]).astype(s.dtype)
    slopes, level = gram.wide(coordinates.slopes, coordinates.level)
    residual = jnp.square(features @ (level + slopes @ s)).mean().astype(jnp.float32)
    return coefficients, residual, converged, count, history.astype(jnp.float32)


@functools.partial(jax.jit, static_argnames="graphdef")
def _evidences(graphdef, state, signal, coordinates, numbers, inside):
    """Of every component of a mixture in these coordinates [K], from the linear terms."""

    def measured(state, signal, coordinates, numbers):
        dictionary = nnx.merge(graphdef, state)
        system = _assemble(dictionary, signal, coordinates, numbers, False)
        matrix, moments = system.matrix, system.moments
        # B^T B is the matrix and B^T z the moments: as if B t had been measured.
        lift = max(1e-10, 4 * float(jnp.finfo(matrix.dtype).eps))
        level = lift * jnp.trace(matrix) * jnp.eye(len(matrix))
        factor = jnp.linalg.cholesky(matrix + level)
        z = jax.lax.linalg.triangular_solve(factor, moments[:, None], left_side=True, lower=True)
        return factor.T.astype(jnp.float32), z[:, 0].astype(jnp.float32)

    state = jax.lax.stop_gradient(state)
    root, z = gram.in_float64(measured, state, signal, coordinates, numbers)
    rest, values = jnp.zeros(1), jnp.full(1, len(z), jnp.float32)
    return of_matrix(root, z[None], inside, numbers.penalty, rest, values).evidences[0]


class _Components:
    """The components of a prior's mixture, in the coordinates of the prior itself.

    inside: the mixture of s, where the prior has zero mean and unit covariance.
    """

    def __init__(self, dictionary, prior, coordinates):
        self.dictionary, self.prior, self.known = dictionary, prior, {}
        mixture, experts = prior.mixture, dictionary.num_experts
        mean = np.asarray(mixture.mean, np.float64) - coordinates.mean[:experts]
        columns = np.concatenate([mean[:, None], mixture.basis, mixture.common], 1)
        columns = np.pad(columns, ((0, 1), (0, 1)))
        columns[-1, -1] = _FREE_BIAS  # of which components know no more than the prior
        root = coordinates.root.astype(np.float64)
        found = np.linalg.lstsq(root, columns, rcond=None)[0].astype(np.float32)
        basis, common = np.split(found[:, 1:], [mixture.basis.shape[1]], axis=1)
        self.inside = mixture._replace(mean=found[:, 0], basis=basis, common=common)

    def of(self, evidences):
        """Coordinates of the component of most evidence."""
        number = int(np.argmax(evidences))
        if number not in self.known:
            component = self.prior.component(number)
            self.known[number] = _coordinates(self.dictionary, component)
        return self.known[number]


def surface_codes(dictionary, clouds, prior, options, start=None) -> Solution:
    """Codes of S solids, each from its own oriented cloud of Q points.

    Args:
      dictionary: of one channel, in the clouds' D dimensions. It is frozen.
      clouds: [S, Q, 2 D]: points in [-1, 1], and normals that point outwards, whose length does not
        matter.
      prior: `prior.GaussianPrior` of codes, with or without the bias, or None. Of a mixture every
        solid takes the component under which the linear terms have most evidence.
      options: `solvers.Surface`, which says what is minimised.
      start: `routing.Gates` of the signals, for init 'router'.

    Returns:
      Solution; residual is the mean of f^2 on the cloud, history has 'objective' [n + 1, S], stats
      'points' of the cloud.

    Raises:
      ArgumentError: for clouds that are too small, not finite or without normals, for another
        dictionary's prior, and for a dictionary of several channels.
    """
    points, normals = _checked_cloud(dictionary, clouds)
    penalty = options.lam
    if prior is not None:
        check_size(prior, dictionary.num_experts, 1)
        penalty = (options.noise or math.sqrt(float(prior.noise)) or _NOISE) ** 2
    coordinates = _coordinates(dictionary, prior)
    mixture = _Components(dictionary, prior, coordinates) if prior and prior.mixture else None
    starts = _starts(dictionary, options.init, start, len(points))
    split = nnx.split(dictionary)
    numbers = _Numbers(options.terms, penalty, options.learning_rate, options.tolerance)
    plan = _Plan(prior is None, options.method, options.init, options.iterations, options.steps)
    solved = []
    for number, (x, n) in enumerate(zip(points, normals, strict=True)):
        generator = np.random.default_rng([options.seed, number])
        around = (options.delta, options.distances, options.samples, generator)
        taken = cloud_samples(x, n, *around)
        signal = _Signal(np.concatenate([x, n], 1).astype(np.float32), taken, starts[number])
        own = coordinates
        if mixture is not None:
            own = mixture.of(_evidences(*split, signal, coordinates, numbers, mixture.inside))
        solved.append(_solve(*split, signal, own, numbers, plan))
    coefficients, residual, converged, counts, history = (
        jnp.stack(part) for part in zip(*solved, strict=True)
    )
    experts = dictionary.num_experts
    return finished(
        coefficients[:, :experts],
        coefficients[:, experts:],
        residual,
        converged,
        counts,
        stats={"points": jnp.int32(points.shape[1])},
        history={"objective": history.T},
    )


def _starts(dictionary, init, start, count):
    """What f starts from, as weights of `_features` [S, F] (zeros where that is not asked for)."""
    experts = dictionary.num_experts
    coefficients = np.zeros((count, experts + 1))
    if init == "router":
        coefficients = np.concatenate([np.asarray(start.values), np.asarray(start.bias)], 1)
        if coefficients.shape != (count, experts + 1):
            shape = (count, experts + 1)
            raise ArgumentError("start", coefficients.shape, f"codes and bias of shape {shape}")
    if not gram.is_shared(dictionary):
        return coefficients.astype(np.float32)
    heads = np.asarray(dictionary.heads(), np.float64)[..., 0]
    folded = coefficients[:, :experts] @ heads.T
    folded[:, -1] += coefficients[:, experts]
    return folded.astype(np.float32)


def _checked_cloud(dictionary, clouds):
    """Points and unit normals in float64 [S, Q, D]. Raises ArgumentError for what is wrong."""
    if dictionary.channels != 1:
        allowed = "one of distances, 1 channel"
        raise ArgumentError("dictionary", f"{dictionary.channels} channels", allowed)
    clouds = np.asarray(clouds, np.float64)
    shape, wide = clouds.shape, 2 * dictionary.dims
    if len(shape) != 3 or shape[2] != wide or shape[1] < LEAST_POINTS:
        allowed = f"(signals, {LEAST_POINTS} or more, {wide}), points and normals"
        raise ArgumentError("clouds", shape, allowed)
    if not np.isfinite(clouds).all():
        raise ArgumentError("clouds", "NaN or infinity", "finite numbers")
    points, normals = np.split(clouds, 2, axis=-1)
    lengths = np.linalg.norm(normals, axis=-1, keepdims=True)
    if not (lengths > 1e-6).all():
        count = int((lengths <= 1e-6).sum())
        raise ArgumentError("clouds", f"{count} normals of length 0", "normals that point outwards")
    return points, normals / lengths
