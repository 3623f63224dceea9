"""Normal equations of a dictionary and measurements, accumulated over chunks of measurements.

With the dictionary fixed, measurements are linear in code and bias: y = (A B) a + (A 1) b. The
constant's response A 1 (all ones where the operator samples) is projected out of atoms and
measurements, which eliminates the bias; what is left is quadratic in the code alone.

The atoms of a shared dictionary are E combinations of F features, so the products over points may
be those of the features, [F, F], with the heads applied once at the end: cheaper for many points.
Products of the atoms themselves are cheaper for few. Either way the basis [P, E, C] never exists as
a whole.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from nid_jax import numerics, platforms
from nid_jax.coding import checks, operators
from nid_jax.errors import ArgumentError

PRECISIONS = ("float32", "float64")
"""What products may be summed in, and equations solved."""


class NormalEquations(NamedTuple):
    """All that a quadratic solver needs to know of a dictionary, an operator and measurements.

    gram [E, E], or [S, E, E] where every signal has its own weights; moments [S, E]; energy [S];
    atom_mean [E, C] or [S, E, C]; target_mean [S, C]; count [] or [S]: the sum of weights, which is
    the number of measurements per channel; bias_weight [] or [S]: the weight of the bias in the
    squared error of one channel, equal to count where the operator samples.
    gram_low, moments_low: what float32 rounded off, or None: gram + gram_low is known to 1e-14;
    zeros where a TPU summed.
    Atoms of a trunk are nearly dependent, and much of a good fit lies in what float32 rounds off.

    With Phi, y free of the constant: gram = sum w Phi Phi^T, moments = sum w Phi y,
    energy = sum w y^2, summed over measurements and channels.
    """

    gram: jax.Array
    moments: jax.Array
    energy: jax.Array
    atom_mean: jax.Array
    target_mean: jax.Array
    count: jax.Array
    bias_weight: jax.Array
    gram_low: jax.Array | None = None
    moments_low: jax.Array | None = None

    @property
    def shared(self):
        """Whether all signals have one Gram matrix."""
        return self.gram.ndim == 2

    def products(self, exact=False):
        """These, as `orthonormal.OrthonormalEquations.products` gives them: as exactly as known."""
        return self

    def of_signals(self, which):
        """The equations of some signals, chosen by a slice or indices."""
        own = {"moments", "energy", "target_mean", "moments_low"}
        if not self.shared:
            own |= {"gram", "gram_low", "atom_mean", "count", "bias_weight"}
        fields = {name: getattr(self, name) for name in own}
        return self._replace(
            **{name: value[which] for name, value in fields.items() if value is not None}
        )

    def of_experts(self, indices):
        """The equations of codes that are zero but for some experts of each signal's own.

        indices int [S, K] -> NormalEquations of codes [S, K]: gram [S, K, K], atom_mean [S, K, C].
        """
        rows = jnp.arange(len(indices))[:, None]

        def of_pairs(gram):
            if self.shared:
                return gram[indices[:, :, None], indices[:, None, :]]
            return gram[rows[..., None], indices[:, :, None], indices[:, None, :]]

        signals = jnp.ones_like(self.energy)
        low = {} if self.gram_low is None else {"gram_low": of_pairs(self.gram_low)}
        if self.moments_low is not None:
            low["moments_low"] = self.moments_low[rows, indices]
        return self._replace(
            gram=of_pairs(self.gram),
            moments=self.moments[rows, indices],
            atom_mean=self.atom_mean[indices] if self.shared else self.atom_mean[rows, indices],
            count=self.count * signals,
            bias_weight=self.bias_weight * signals,
            **low,
        )

    def bias(self, codes):
        """The best bias of given codes. codes [S, E] -> [S, C]."""
        one = "ec" if self.shared else "sec"
        return self.target_mean - numerics.einsum(f"se,{one}->sc", codes, self.atom_mean)

    def wide(self):
        """(gram, moments) as exactly as they are known: float64 inside `working_precision`."""
        pairs = ((self.gram, self.gram_low), (self.moments, self.moments_low))
        return tuple(
            wide(high)[0] if low is None else jnp.add(*wide(high, low)) for high, low in pairs
        )

    def residual(self, codes):
        """Weighted sum of squared residuals, with the best bias. codes [S, E] -> [S].

        In float32, for objectives; `exact_residual` is the one to report.
        """
        value = self.energy + numerics.einsum(
            "se,se->s", codes, self.apply(codes) - 2 * self.moments
        )
        return jnp.maximum(value, 0)

    def exact_residual(self, codes):
        """`residual` in float64: codes of nearly dependent atoms are large and cancel.

        No gradient flows through it.
        """
        return _exact_residual(self, codes)

    def mean_residual(self, codes, exact=False):
        """Mean squared residual per measured value. codes [S, E] -> [S]. exact: in float64."""
        total = self.exact_residual(codes) if exact else self.residual(codes)
        values = self.count * self.target_mean.shape[-1] * jnp.ones_like(self.energy)
        return numerics.safe_divide(total, values)

    def apply(self, codes):
        """gram @ code, in float32. codes [S, E] -> [S, E]."""
        return _apply(self.gram, codes)


def _apply(gram, codes):
    one = "ef" if gram.ndim == 2 else "sef"
    return numerics.einsum(f"se,{one}->sf", codes, gram)


def working_precision(precision):
    """The scope in which float64 exists ('float64') or not ('float32').

    Inside a jitted function float64 may be used within the scope and float32 returned from it. No
    derivative may pass through it, and `vmap` only where the function is `batched_by_map`.
    """
    return jax.enable_x64(precision == "float64")


def in_float64(function: Callable, *arrays: Any) -> Any:
    """function(*arrays) in the scope of float64, and in float32 where a TPU is to run it.

    A TPU has float64 in emulation alone, and no factorisation of it. arrays: pytrees. The function
    computes in what `wide` gives; what it returns is of the same types in both.
    """

    def double(*arrays):
        with working_precision("float64"):
            return function(*arrays)

    def single(*arrays):
        # A TPU's own products of float32 have the 8 bits of bfloat16.
        with working_precision("float32"), jax.default_matmul_precision("highest"):
            return function(*arrays)

    return platforms.by_float64(double, single, *arrays)


def batched_by_map(function: Callable, static: Sequence[str] = ()) -> Callable:
    """Jit a function that has a float64 scope inside; `vmap` goes through it as a loop.

    `vmap` would trace the function's operations again, outside of the scope. So it is given a rule
    of its own: one call after another. static: names of arguments that are not arrays.
    """
    compiled = jax.jit(function, static_argnames=tuple(static))
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args, **kwargs):
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        fixed = {name: value for name, value in given.arguments.items() if name in static}
        arrays = {name: value for name, value in given.arguments.items() if name not in static}
        if not checks.transforming():
            return compiled(**fixed, **arrays)
        arrays = jax.tree.map(_constant, arrays)
        return jax.custom_batching.sequential_vmap(lambda a: compiled(**fixed, **a))(arrays)

    call.lower = compiled.lower
    return call


def _constant(leaf):
    """Without derivatives, which no float64 scope lets through."""
    return jax.lax.stop_gradient(leaf) if isinstance(leaf, jax.core.Tracer) else leaf


@batched_by_map
def _exact_residual(equations, codes):
    def residual(equations, codes):
        gram, moments = equations.wide()
        codes, energy = wide(codes, equations.energy)
        product = _apply(gram, codes)
        value = energy + numerics.einsum("se,se->s", codes, product - 2 * moments)
        return jnp.maximum(value, 0).astype(jnp.float32)

    return in_float64(residual, equations, jax.lax.stop_gradient(codes))


def wide(*arrays):
    """Arrays in the widest floating-point type of the scope, as a tuple."""
    dtype = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
    return tuple(array.astype(dtype) for array in arrays)


def split(array):
    """array -> its float32 rounding and the float32 rounding of the rest."""
    high = array.astype(jnp.float32)
    return high, (array - high).astype(jnp.float32)


def normal_equations(
    dictionary, operator, measurements, weights=None, chunk=0, precision="float64"
):
    """The normal equations of measurements [S, M, C] in a dictionary.

    Args:
      dictionary: `fields.dictionary.Dictionary`; a shared one is reduced through its trunk.
      operator: `coding.operators.Operator`; its own weights (a mask) multiply `weights`.
      measurements: [S, M, C]. Values of weight 0 are not read and may be NaN.
      weights: None, [M], or [S, M]: a Gram matrix for every signal then, S E^2 numbers.
      chunk: measurements held at a time; 0 chooses. Memory is that of one chunk and the result.
      precision: 'float64' sums products in it and keeps what float32 cannot hold in `gram_low`;
        'float32' is up to four times as fast and good for regularisation above 1e-4.

    Returns:
      NormalEquations. No gradient flows through it.

    Raises:
      ArgumentError: shapes that do not fit together, or an unknown precision.
    """
    if precision not in PRECISIONS:
        raise ArgumentError("precision", precision, ", ".join(PRECISIONS))
    measurements, weights = checked(dictionary, operator, measurements, weights)
    graphdef, state = nnx.split(dictionary)
    # Without a float64 scope `vmap` may go through as it is.
    compute = _normal_equations if precision == "float64" else _single_equations
    return compute(
        graphdef, state, operator, measurements, weights, chunk=chunk, precision=precision
    )


def checked(dictionary, operator, measurements, weights):
    """Measurements [S, M, C] as float32, and the operator's weights with those of the caller.

    Raises ArgumentError for shapes that do not fit together.
    """
    measurements = jnp.asarray(measurements, jnp.float32)
    expected = (operator.num_measurements, dictionary.channels)
    if measurements.ndim != 3 or measurements.shape[1:] != expected:
        allowed = f"(signals, {expected[0]}, {expected[1]})"
        raise ArgumentError("measurements", measurements.shape, allowed)
    weights = operators.combined_weights(operator, weights)
    if weights is not None and weights.ndim == 2 and weights.shape[0] != len(measurements):
        allowed = f"those of {len(measurements)} signals, as the measurements are"
        raise ArgumentError("weights", weights.shape, allowed)
    return measurements, weights


def _equations(graphdef, state, operator, measurements, weights, chunk, precision):
    # Derivatives would leave the float64 scope below; variable projection needs none.
    state, operator, measurements = jax.lax.stop_gradient((state, operator, measurements))
    if weights is None:
        weights = jnp.ones(operator.num_measurements, jnp.float32)
    measurements = jnp.where(weights[..., None] > 0, measurements, 0)

    def summed(state, operator, measurements, weights):
        dictionary = nnx.merge(graphdef, state)
        sums, shift, target_shift = _accumulate(dictionary, operator, measurements, weights, chunk)
        return _centred(dictionary, sums, shift, target_shift)

    arrays = (state, operator, measurements, weights)
    if precision == "float64":
        return in_float64(summed, *arrays)
    with working_precision("float32"):
        return summed(*arrays)._replace(gram_low=None, moments_low=None)


_STATIC = ("graphdef", "chunk", "precision")
_normal_equations = batched_by_map(_equations, _STATIC)
_single_equations = jax.jit(_equations, static_argnames=_STATIC)


def is_shared(dictionary):
    """Whether the atoms are heads of features that are computed as a whole."""
    return dictionary.kind == "shared" and not dictionary.local


def through_trunk(dictionary, count):
    """Whether products of trunk features cost less than those of atoms, for M measurements."""
    if not is_shared(dictionary):
        return False
    width, experts = dictionary.num_features, dictionary.num_experts
    heads = dictionary.channels * experts * width * (width + experts)
    return count * width**2 + heads < count * dictionary.channels * experts**2


def features(dictionary, x, trunk):
    """What products are summed over. x [P, D] -> [P, 1, F] of a shared trunk, else [P, C, E]."""
    if trunk:
        return dictionary.features(x)[:, None, :]
    return dictionary.basis(x).swapaxes(1, 2)


def measured_features(dictionary, operator, chunk, trunk=None):
    """Cut a local operator into chunks: (pieces, function), function(piece) -> features, constant.

    pieces: arrays [N, m, ...] for `lax.scan`; the last piece is padded. features [m, A, F], of the
    trunk or of the atoms (None: of the trunk where there is one), and the response to the constant
    [m], both measured by the operator.
    """
    trunk = is_shared(dictionary) if trunk is None else trunk
    count, length = operator.num_measurements, operator.run_length
    if length is None:
        values = features(dictionary, operator.points, trunk)
        flat = operator.measure(values.reshape(len(values), -1))
        constant = operator.measure(jnp.ones((len(values), 1), flat.dtype))
        return (
            numerics.cut(flat.reshape(count, *values.shape[1:]), chunk),
            numerics.cut(constant[:, 0], chunk),
        ), lambda piece: piece

    points = numerics.cut(operator.points.reshape(count, -1), chunk)
    factors = operator.factors
    if factors is None:
        factors = jnp.ones((count, length), operator.points.dtype)
    factors = numerics.cut(factors, chunk)

    def measure(piece):
        x, factor = piece
        values = features(dictionary, x.reshape(-1, operator.points.shape[-1]), trunk)
        flat = values.reshape(len(values), -1)
        if length > 1 or operator.factors is not None:
            flat = operators.reduce_runs(flat, factor, length)
        return flat.reshape(len(x), *values.shape[1:]), factor.sum(-1)

    return (points, factors), measure


def numbers_per_point(dictionary, trunk=None):
    """Numbers of `features` at one point; None: of the trunk where there is one."""
    trunk = is_shared(dictionary) if trunk is None else trunk
    return dictionary.num_features if trunk else dictionary.num_experts * dictionary.channels


def measured_atoms(dictionary, values, constant):
    """Atoms [m, E, C] from what `measured_features` gives: features [m, A, F] and constant [m]."""
    if not is_shared(dictionary):
        return values.swapaxes(1, 2)
    atoms = numerics.einsum("mh,hce->mec", values[:, 0], dictionary.head_kernel[...])
    return atoms + constant[:, None, None] * dictionary.head_bias[...]


def _chunk_size(dictionary, operator, trunk, signals, chunk):
    """Measurements of a chunk, where the caller leaves it open."""
    if chunk == 0:
        numbers = numbers_per_point(dictionary, trunk)
        numbers *= max(operator.run_length or 1, signals)
        chunk = max(16, platforms.sizes().chunk // numbers)
    return numerics.even_size(operator.num_measurements, chunk)


class _Sums(NamedTuple):
    """Weighted sums over measurements of features t, the constant's response u, and targets y.

    With p the signals' axis where every signal has its own weights: gram t t [p, F, F]; cross t y
    [S, F, C] of a shared trunk, else [S, E]; features u t [p, A, F]; targets u y [S, C]; energy
    y y [S]; constant u u [p]; count 1 [p].
    """

    gram: jax.Array
    cross: jax.Array
    features: jax.Array
    targets: jax.Array
    energy: jax.Array
    constant: jax.Array
    count: jax.Array


def _accumulate(dictionary, operator, measurements, weights, chunk):
    """-> (_Sums of shifted features and targets, the shifts [A, F] and [S, C])."""
    per_signal = weights.ndim == 2
    trunk = through_trunk(dictionary, operator.num_measurements)
    own = len(measurements) if per_signal else 1
    size = _chunk_size(dictionary, operator, trunk, own, chunk)
    pieces, measure = measured_features(dictionary, operator, size, trunk)
    targets = numerics.cut(measurements.swapaxes(0, 1), size)
    weights = numerics.cut(weights.T if per_signal else weights, size)

    # Any rough mean as origin keeps the sums free of cancellation when the true one is removed.
    def rough_mean(values, constant):
        values, constant = wide(values, constant)
        total = numerics.einsum("m...,m->...", values, constant)
        return numerics.safe_divide(total, (constant**2).sum())

    first, constant = measure(jax.tree.map(lambda piece: piece[0], pieces))
    shift, target_shift = rough_mean(first, constant), rough_mean(targets[0], constant)

    def products(piece):
        values, w, y = piece
        t, u, w, y = wide(*measure(values), w.T, y.swapaxes(0, 1))
        t = t - u[:, None, None] * shift
        y = y - u[:, None] * target_shift[:, None]
        return _products(t, u, w, y, trunk)

    def step(sums, piece):
        return jax.tree.map(jnp.add, sums, products(piece)), None

    inputs = (pieces, weights, targets)
    shapes = jax.eval_shape(products, jax.tree.map(lambda piece: piece[0], inputs))
    start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(step, start, inputs)[0], shift, target_shift


def _products(t, u, w, y, trunk):
    """The sums of one chunk: t [m, A, F], u [m], w [m] or [S, m], y [S, m, C]."""
    p = "s" if w.ndim == 2 else ""
    wt = w[..., None, None] * t
    if trunk:
        cross = numerics.einsum(f"{p}mf,smc->sfc", wt[..., 0, :], y)
    else:
        cross = numerics.einsum(f"{p}mcf,smc->sf", wt, y)
    return _Sums(
        gram=numerics.einsum(f"{p}maf,mag->{p}fg", wt, t),
        cross=cross,
        features=numerics.einsum(f"{p}maf,m->{p}af", wt, u),
        targets=numerics.einsum(f"{p}m,m,smc->sc", w, u, y),
        energy=numerics.einsum(f"{p}m,smc,smc->s", w, y, y),
        constant=numerics.einsum(f"{p}m,m->{p}", w, u * u),
        count=w.sum(-1),
    )


def _centred(dictionary, sums, shift, target_shift):
    """Project the constant out of the sums, apply the heads, and round to float32."""
    p = "" if sums.count.ndim == 0 else "s"
    total = sums.constant
    mean = numerics.safe_divide(sums.features, total[..., None, None])
    target_mean = numerics.safe_divide(sums.targets, total[..., None])
    scaled = total[..., None, None] * mean
    gram = sums.gram - numerics.einsum(f"{p}af,{p}ag->{p}fg", scaled, mean)
    energy = sums.energy - (total[..., None] * target_mean**2).sum(-1)
    mean_there = mean + shift
    if sums.cross.ndim == 3:
        moments = sums.cross - numerics.einsum(f"{p}f,sc->sfc", scaled[..., 0, :], target_mean)
        kernel, bias = wide(dictionary.head_kernel[...], dictionary.head_bias[...])
        gram = apply_heads(kernel, gram)
        moments = numerics.einsum("hce,shc->se", kernel, moments)
        atom_mean = numerics.einsum(f"{p}h,hce->{p}ec", mean_there[..., 0, :], kernel) + bias
    else:
        moments = sums.cross - numerics.einsum(f"{p}ce,sc->se", scaled, target_mean)
        atom_mean = mean_there.swapaxes(-1, -2)
    gram = (gram + gram.swapaxes(-1, -2)) / 2
    rest = (jnp.maximum(energy, 0), atom_mean, target_mean + target_shift, sums.count, total)
    high, low = split(gram)
    moments, moments_low = split(moments)
    single = [value.astype(jnp.float32) for value in rest]
    return NormalEquations(high, moments, *single, gram_low=low, moments_low=moments_low)


def apply_heads(kernel, features_gram):
    """Gram matrix of the atoms from that of the features they are heads of.

    kernel [H, C, E], features_gram [..., H, H] -> [..., E, E].
    """
    half = numerics.einsum("...hg,gcf->...hcf", features_gram, kernel)
    return numerics.einsum("hce,...hcf->...ef", kernel, half)
