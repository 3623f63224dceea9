"""Fits as files: one function from measurements to codes and picture, that needs JAX alone.

Where neither the solver's choices nor the masks depend on the signals, codes are an affine map of
what was measured, and so is the picture. What that takes of dictionary, operator and prior is made
here, once and in float64 (`coding.conjugate`); what is written is float32 matrix products, the same
on every platform. With weights that come with the call there is no such map; conjugate gradients in
coordinates where the fully measured problem is the identity are products too.

The file is that of `jax.export`: StableHLO with its arrays, the number of signals open.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from nid_jax import numerics
from nid_jax.coding import checks, conjugate, conjugate_gradients, gram, operators
from nid_jax.coding.solvers import Gaussian, Ridge, Solver
from nid_jax.errors import ArgumentError, reason
from nid_jax.fields.coordinates import grid
from nid_jax.fields.dictionary import Dictionary, over_points, points_at_a_time
from nid_jax.fields.routing import Gates
from nid_jax.files import atomic_path
from nid_jax.fitting.measurements import (
    MOST_WEIGHT,
    Measurements,
    as_array,
    checked_operator,
    say_stretched,
)
from nid_jax.notices import say
from nid_jax.storage.models import Trained

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
AT_CALL = "at call"
"""Weights that are an argument of the exported function."""
BAKED_NUMBERS = 2**22
"""Atoms at the points of the picture that a file holds, 16 MB; where there are more of them, it
holds the dictionary and evaluates them with every call."""

_NEEDS_FLATBUFFERS = (
    "needs flatbuffers, as does whatever reads the file; pip install flatbuffers, or "
    "nid_jax[export]"
)
# Numbers of the map from measurements to codes: 1 GB; what files of jax.export can be is 2 GB.
_MOST_NUMBERS = 2**28
# Conjugate gradients: at most so many steps, and where they end. On faces of which a fifth of the
# pixels is seen 50 to 100 steps bring pictures to 1e-5.
_STEPS = 500
_TOLERANCE = 1e-7
_RAISED = 1.01


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ExportedFit:
    """A function from measurements to codes and picture, ready to be written. See `export`."""

    program: jax.export.Exported
    """As `jax.export` has it; `jax.export.deserialize` of the file gives it back."""

    @property
    def inputs(self) -> dict[str, Any]:
        """Shape and dtype of every argument, by name; S is any number of signals."""
        return jax.tree.unflatten(self.program.in_tree, self.program.in_avals)[1]

    @property
    def outputs(self) -> dict[str, Any]:
        """Shape and dtype of every result, by name."""
        return jax.tree.unflatten(self.program.out_tree, self.program.out_avals)

    def __call__(
        self,
        measurements: Float[Array | np.ndarray, "S *grid C"],
        weights: Float[Array | np.ndarray, "S ..."] | None = None,
    ) -> dict[str, Array]:
        """What the file's `call` gives, float32 as `inputs` and `outputs` say. weights: where the
        function was exported with weights at call. Outside of transformations of JAX it waits for
        the result, to look at the codes.

        Raises ArgumentError for other shapes or types, for weights that it does not take or lacks,
        and, where it looks, for numbers of which no finite codes come, such as NaN that is read."""
        given: dict[str, Any] = {"measurements": measurements, "weights": weights}
        if weights is not None and "weights" not in self.inputs:
            raise ArgumentError("weights", np.shape(weights), "None: it was exported with its own")
        signals = 0
        for name, wanted in self.inputs.items():
            given[name] = _taken(name, given[name], wanted, signals)
            signals = given[name].shape[0]
        found = self.program.call(**{name: given[name] for name in self.inputs})
        if not checks.traced(found):
            _check_found(found, {name: given[name] for name in self.inputs})
        return found

    def __repr__(self) -> str:
        sides = [
            ", ".join(f"{name} {aval.str_short(True)}" for name, aval in side.items())
            for side in (self.inputs, self.outputs)
        ]
        platforms = ", ".join(self.program.platforms)
        return f"ExportedFit({sides[0]} -> {sides[1]}; {platforms})"

    def serialize(self) -> bytes:
        """What `jax.export.deserialize` reads. ValueError where flatbuffers is not there."""
        try:
            return bytes(self.program.serialize())
        except ImportError as error:
            raise ValueError(f"nid.export: {_NEEDS_FLATBUFFERS}") from error

    def save(self, path: str | Path) -> Path:
        """Write `serialize()` to a file of any name, whole or not at all."""
        path = checks.path("path", path)
        with atomic_path(path) as temporary:
            temporary.write_bytes(self.serialize())
        return path

    @classmethod
    def load(cls, path: str | Path) -> "ExportedFit":
        """What `save` wrote. Raises FileNotFoundError where there is no file, and ValueError, in
        one line, for one that is damaged or no function of `export`."""
        path = checks.path("path", path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        content = bytearray(path.read_bytes())
        try:
            found = cls(jax.export.deserialize(content))
            # What holds the arrays is not looked at before the first call.
            found.program.mlir_module()
            names = {*found.inputs} | {*found.outputs}
        except ImportError as error:
            raise ValueError(f"{path}: {_NEEDS_FLATBUFFERS}") from error
        except Exception as error:  # flatbuffers and MLIR have no errors of their own
            # What they say of bytes and offsets would stand above the line that says which file.
            raise ValueError(
                f"{path}: damaged, or not what nid.export saves: {reason(error)}"
            ) from None
        if not {"measurements", "codes", "picture"} <= names:
            raise ValueError(
                f"{path}: a function of {sorted(names)}; allowed: what nid.export saves"
            )
        return found


def _taken(name, value, wanted, signals):
    """An argument of an exported function. signals: S where it is known, else 0."""
    each = ", ".join(map(str, wanted.shape[1:]))
    allowed = f"float32[{signals or 'S'}, {each}]" + ("" if signals else ", S signals, 1 or more")
    if value is None:
        raise ArgumentError(name, None, allowed)
    array = as_array(value, name)
    shown = f"{array.dtype}{list(array.shape)}"
    # Of NumPy's and of lists; JAX takes them so unless it computes in 64 bits.
    array = array.astype(np.float32) if array.dtype == np.float64 else array
    whole = array.shape[1:] == wanted.shape[1:] and array.dtype == wanted.dtype
    if not whole or not array.shape[0] or (signals and array.shape[0] != signals):
        raise ArgumentError(name, shown, allowed)
    return array


def _check_found(found, given):
    """Raise ArgumentError naming an argument of which no finite codes came: what the file itself
    cannot. Values of weight 0 are not read, whatever they are; weights that the file holds are not
    known here."""
    finite = [np.isfinite(found[name]) for name in ("codes", "error") if name in found]
    bad = np.flatnonzero(~np.all([one.reshape(len(one), -1).all(1) for one in finite], 0))
    if not len(bad):
        return
    signal, row = bad[0], {name: np.asarray(values[bad[0]]) for name, values in given.items()}
    read, others = row["measurements"], "others, or too large ones"
    if "weights" in row:
        weights, others = row["weights"], "others"
        good = (weights >= 0) & (weights <= MOST_WEIGHT)
        if not good.all():
            allowed = f"finite numbers, 0 to {MOST_WEIGHT:g}; signal {signal} holds others"
            raise ArgumentError("weights", weights[~good][0], allowed)
        read = read[weights != 0]
    odd = read[~np.isfinite(read)]
    if odd.size:
        allowed = f"finite numbers, but where the weight is 0; signal {signal} holds {others}"
        raise ArgumentError("measurements", odd[0], allowed)
    largest = np.abs(read).max(initial=0)
    allowed = f"values of which float32 computes finite codes, unlike those of signal {signal}"
    raise ArgumentError("measurements", f"up to {largest:g}", allowed)


def export(
    dictionary: Trained,
    shape: Sequence[int] | None = None,
    solver: Solver | None = None,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    *,
    operator: operators.Operator | None = None,
    weights: Float[Array | np.ndarray, " M"] | Bool[Array | np.ndarray, " M"] | str | None = None,
    render: Sequence[int] | None = None,
) -> ExportedFit:
    """One function from measurements of S signals to codes and picture, S left open.

    Its arguments go by name, float32: `measurements` [S, *shape, C], or [S, M, C] of an operator,
    and `weights` [S, *shape] or [S, M] where they come at call. It gives a dict of `codes` [S, E],
    `bias` [S, C] and `picture` [S, *render, C], and with weights at call `error` [S], what is left
    of the equations relative to their right-hand side. Values of weight 0 are not read.

    Args:
      dictionary: `NeuralDictionary`.
      shape: the grid that signals are sampled on where there is no operator, and that is drawn;
        None is that of the training signals.
      solver: `Ridge` with a number, or `Gaussian` with a noise and one Gaussian for all, or None,
        what `NeuralDictionary.fit` takes.
      platforms: of PLATFORMS, what the file runs on, whichever of them is here.
      operator: what measured the signals; None samples the grid.
      weights: of each measurement, as of one signal, 0 where it was not seen; None: all 1; or
        'at call': an argument of the function, for `Gaussian`.
      render: the grid that is drawn where that is not `shape`.

    Returns:
      `ExportedFit`.

    Raises:
      ValueError: naming the argument, for what cannot be exported (`ArgumentError` mostly).
    """
    if not isinstance(dictionary, Trained):
        raise ArgumentError("dictionary", dictionary, "what nid.learn or nid.load gives")
    _check_platforms(platforms)
    model, basis = dictionary.model, dictionary.model.dictionary
    shape = model.grid_shape if shape is None else _checked_grid("shape", shape, basis.dims)
    render = shape if render is None else _checked_grid("render", render, basis.dims)
    at_call = isinstance(weights, str)
    if at_call and weights != AT_CALL:
        raise ArgumentError("weights", weights, f"numbers or {AT_CALL!r}")
    if operator is None:
        advice = "signals cut to patches of that size, or resized, would not be"
        say_stretched(tuple(shape), model.grid_shape, "shape", advice)
    each = shape if operator is None else (checked_operator(operator).num_measurements,)
    _check_sizes(basis, each, render, "shape" if operator is None else "operator")
    given, known = _measured(model, each, operator, None if at_call else weights)
    partial = operator is not None or at_call or given.weights is not None
    penalty = _penalty(dictionary, solver, partial, at_call)
    shared, stats = conjugate.factorised(
        basis, given.operator, given.values, known, penalty, exact=True
    )
    _say_raised(stats)
    arrays = _Arrays.of(shared, known)
    coded = arrays.descended if at_call else arrays.mapped()
    drawn = _renderer(basis, render)
    return ExportedFit(_traced(coded, drawn, each, basis, platforms, at_call))


def _measured(model, each, operator, weights):
    """(`Measurements` of one signal that is 0, weights [M] of what was measured). Raises
    ArgumentError for weights of several signals."""
    nothing = np.zeros((1, *each, model.dictionary.channels), np.float32)
    given = Measurements.of(model, nothing, operator, None, weights)
    fixed = operators.combined_weights(given.operator, given.weights)
    if fixed is not None and fixed.ndim == 2:
        raise ArgumentError("weights", fixed.shape, f"those of one signal, or {AT_CALL!r}")
    return given, jnp.ones(given.values.shape[1], jnp.float32) if fixed is None else fixed


def _say_raised(stats):
    """That another lambda was taken than was asked for."""
    if "lam" in stats and stats["lam"] > _RAISED * stats["asked_lam"]:
        say(
            f"solver.lam: {float(stats['asked_lam']):.1e}, at which the normal equations are "
            f"singular; taken as {float(stats['lam']):.1e}"
        )


def _check_sizes(basis, each, render, name):
    """Raise ValueError for more than a file holds, before anything of that size is made.

    name: of the argument that says what each signal's measurements are.
    """
    numbers = math.prod(each) * basis.channels * (basis.num_experts + basis.channels)
    if numbers > _MOST_NUMBERS:
        raise ValueError(
            f"{name}: {numbers} numbers of the map; allowed: at most {_MOST_NUMBERS}, of fewer "
            "measurements, or of fewer atoms (first)"
        )
    if math.prod(render) * basis.dims > _MOST_NUMBERS:
        allowed = f"at most {_MOST_NUMBERS // basis.dims} points, whose coordinates the file holds"
        raise ArgumentError("render", render, allowed)


def _checked_grid(name, shape, dims):
    """A grid's shape of so many axes. Raises ArgumentError naming the argument."""
    allowed = f"{dims} whole numbers, each 1 or more"
    sides = np.atleast_1d(checks.as_array(name, shape, allowed))
    if sides.dtype.kind not in "iu" or sides.shape != (dims,) or sides.min() < 1:
        raise ArgumentError(name, shape, allowed)
    return tuple(int(side) for side in sides)


def _check_platforms(platforms):
    listed = isinstance(platforms, list | tuple) and len(platforms)
    if not listed or not set(platforms) <= set(PLATFORMS):
        raise ArgumentError("platforms", platforms, f"some of {', '.join(PLATFORMS)}")


def _penalty(dictionary, solver, partial, at_call):
    """What holds the codes, `conjugate.Penalty`. Raises ArgumentError for what has no map."""
    if solver is None:
        solver = Gaussian() if partial and dictionary.prior is not None else Ridge()
    if isinstance(solver, Ridge):
        if at_call:
            raise ArgumentError("solver", "ridge", f"Gaussian(noise=...) for weights {AT_CALL!r}")
        if isinstance(solver.lam, str) or np.ndim(solver.lam):
            raise ArgumentError("solver.lam", solver.lam, "one number, which needs no signals")
        return conjugate.Penalty(solver.lam)
    if not isinstance(solver, Gaussian):
        name = getattr(solver, "name", solver)
        raise ArgumentError("solver", name, "Ridge, Gaussian: codes that are a map of the measured")
    if dictionary.prior is None:
        raise ArgumentError("prior", None, "that of the training codes; or solver=Ridge()")
    if solver.neighbours:
        raise ArgumentError("solver.neighbours", solver.neighbours, "0: one Gaussian for all")
    if solver.level:
        raise ArgumentError("solver.level", True, "False: a free bias")
    if solver.mixes(dictionary.prior):
        raise ArgumentError("solver.mixture", True, "False: one Gaussian for all")
    if not solver.noise_known or np.ndim(solver.noise):
        allowed = "one number above 0, such as a fit's stats['noise_variance']**0.5"
        raise ArgumentError("solver.noise", solver.noise, allowed)
    return conjugate.Penalty(prior=dictionary.prior, noise=solver.noise**2)


class _Arrays(NamedTuple):
    """What the exported function holds, NumPy. basis Q [M C, N] and level [M C]; penalty [N, N];
    root [N, N] and mean [N], float64; weights [M C]."""

    basis: np.ndarray
    level: np.ndarray
    penalty: np.ndarray
    root: np.ndarray
    mean: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, shared, weights):
        """Of `conjugate.Factorised` and its weights [M]."""
        basis, level, penalty = map(np.asarray, shared[:3])
        root, mean = (np.add(*np.asarray(pair, np.float64)) for pair in (shared.root, shared.mean))
        values = np.repeat(np.asarray(weights), level.shape[1])
        return cls(basis.reshape(len(values), -1), level.ravel(), penalty, root, mean, values)

    def mapped(self):
        """A function y [S, M C] -> coefficients [S, N]: mean + L^-T Q^T w (y - level)."""
        weighted = self.basis * self.weights[:, None].astype(np.float64)
        kernel = (weighted @ self.root.T).astype(np.float32)
        mean, level, seen = self.mean.astype(np.float32), self.level, self.weights > 0

        def coded(values):
            centred = jnp.where(seen, values - level, 0)
            return {}, mean + numerics.einsum("sm,mn->sn", centred, jnp.asarray(kernel))

        return coded

    def descended(self, values, weights):
        """y [S, M C] and its weights [S, M] -> ({'error' [S]}, coefficients [S, N])."""
        weights = jnp.repeat(weights, len(self.weights) // weights.shape[1], 1) * self.weights
        basis, penalty, root, mean = (
            jnp.asarray(array, jnp.float32)
            for array in (self.basis, self.penalty, self.root, self.mean)
        )

        def gathered(values):
            return numerics.einsum("sm,mn->sn", values, basis)

        def apply(z):
            rendered = numerics.einsum("sn,mn->sm", z, basis)
            return gathered(weights * rendered) + numerics.einsum("sn,nk->sk", z, penalty)

        right = gathered(jnp.where(weights > 0, weights * (values - self.level), 0))
        found = conjugate_gradients.solve(
            apply, right, axis=-1, iterations=_STEPS, tolerance=_TOLERANCE
        )
        coefficients = mean + numerics.einsum("sk,nk->sn", found.x, root)
        return {"error": found.residual[:, 0]}, coefficients


@functools.partial(jax.jit, static_argnames="graphdef")
def _atoms(graphdef, state, points):
    """All atoms at points [P, D], [P, E, C]."""
    dictionary = nnx.merge(graphdef, state)
    return over_points(dictionary.basis, points, _at_a_time(dictionary))


def _at_a_time(dictionary):
    """Points of which everything on the way to all atoms is held at a time."""
    return points_at_a_time(max(*dictionary.sizes, dictionary.num_experts * dictionary.channels))


def _renderer(dictionary: Dictionary, shape: tuple[int, ...]) -> Callable[[Array, Array], Array]:
    """A function codes [S, E], bias [S, C] -> picture [S, *shape, C], its arrays NumPy."""
    points, channels = grid(shape), dictionary.channels
    graphdef, state = nnx.split(dictionary)
    state = jax.device_get(state)
    if len(points) * channels * dictionary.num_experts <= BAKED_NUMBERS:
        atoms = np.asarray(_atoms(graphdef, state, points)).swapaxes(1, 2)
        atoms = np.ascontiguousarray(atoms).reshape(-1, dictionary.num_experts)

        def baked(codes, bias):
            values = numerics.einsum("se,pe->sp", codes, jnp.asarray(atoms))
            values = values.reshape(codes.shape[0], len(points), channels) + bias[:, None]
            return values.reshape(codes.shape[0], *shape, channels)

        return baked

    # The cheapest order depends on the number of signals, which is open.
    order = "fold" if gram.is_shared(dictionary) else "evaluate"

    def evaluated(codes, bias):
        basis, gates = nnx.merge(graphdef, state), Gates(codes, None, None, bias)
        # Else XLA would evaluate the points' features while it compiles, one by one.
        x = jax.lax.optimization_barrier(jnp.asarray(points))
        values = over_points(
            lambda piece: basis.combine(piece, gates, order).swapaxes(0, 1), x, _at_a_time(basis)
        )
        return values.swapaxes(0, 1).reshape(codes.shape[0], *shape, channels)

    return evaluated


def _traced(coded, drawn, each, dictionary, platforms, at_call):
    """`jax.export.Exported` of what codes measurements and what draws them.

    each: the shape of one signal's measurements.
    """
    experts, channels = dictionary.num_experts, dictionary.channels

    def nid_jax_fit(measurements, **weights):
        count = measurements.shape[0]
        values = measurements.reshape(count, int(np.prod(each)) * channels)
        flat = [given.reshape(count, int(np.prod(each))) for given in weights.values()]
        extra, found = coded(values, *flat)
        codes, bias = found[:, :experts], found[:, experts:]
        return {"codes": codes, "bias": bias, "picture": drawn(codes, bias), **extra}

    (signals,) = jax.export.symbolic_shape("S")
    inputs = {"measurements": jax.ShapeDtypeStruct((signals, *each, channels), jnp.float32)}
    if at_call:
        inputs["weights"] = jax.ShapeDtypeStruct((signals, *each), jnp.float32)
    exporting = jax.export.export(jax.jit(nid_jax_fit), platforms=tuple(dict.fromkeys(platforms)))
    return exporting(**inputs)
