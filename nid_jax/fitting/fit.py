"""A fit: signals that are known by their codes, and so everywhere.

    f(x) = bias + sum_e code[e] expert_e(x)      (+ a correction on a grid, where it was refined)

A `Fit` is what solving gives and what is drawn, differentiated, scored, saved and fitted further.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nid_jax import devices, metrics, notices
from nid_jax.coding import checks
from nid_jax.coding.low_rank import LowRank
from nid_jax.coding.operators import Operator
from nid_jax.coding.problem import Problem
from nid_jax.coding.solution import Solution
from nid_jax.coding.solvers import Gaussian, Solver
from nid_jax.coding.total_variation import TotalVariation
from nid_jax.coding.uncertainty import posterior_variance
from nid_jax.errors import ArgumentError
from nid_jax.fields.coordinates import grid
from nid_jax.fields.dictionary import Dictionary
from nid_jax.fields.routing import Gates
from nid_jax.fitting import refining, rendering, rounding, spread, stored
from nid_jax.fitting.measurements import as_array, as_floats, checked_operator

if TYPE_CHECKING:
    import trimesh


class _Fixed(NamedTuple):
    """What of a fit is no array: part of the type of its pytree."""

    grid_shape: tuple[int, ...]
    names: tuple[str, ...]


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """S signals as continuous functions of D coordinates in [-1, 1], with C channels.

    Arrays are NumPy's, or traced ones inside a transformation of JAX: `fit` is then differentiable
    through `render`, `at`, `codes` and `bias`.

    A pytree: an argument or result of a jitted function, and `jax.tree.map` goes through its
    arrays, those of the dictionary among them; grid_shape and names are part of its type. A fit
    that is made inside of a transformation does not keep its `problem`, nor times.
    """

    dictionary: Dictionary
    solution: Solution
    grid_shape: tuple[int, ...]
    """Of the signals: what `render` draws by default."""
    names: tuple[str, ...]
    solver: Solver | None = None
    problem: Problem | None = None
    """What was measured; None for a fit that was read from a file, or of a task's signals that were
    solved in batches."""
    correction: Float[np.ndarray, "S *grid C"] | None = None
    """What `refine` adds to what the codes render, on the signals' grid."""
    known_deviation: Float[np.ndarray, "S *grid C"] | None = None
    """`deviation` on the signals' grid, where it was asked for or stored."""
    seconds: float = 0.0
    """What solving and refining took, compilation included."""
    compile_seconds: float = 0.0

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], _Fixed]:
        """Fields by name, as `jax.tree_util` asks for them."""
        children = [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in _leafy()]
        return children, _Fixed(self.grid_shape, self.names)

    @classmethod
    def tree_unflatten(cls, fixed: _Fixed, children: Iterable[Any]) -> Fit:
        """Of fields that need not be arrays: transformations put their own things in."""
        fit = object.__new__(cls)
        for name, value in (*zip(_leafy(), children, strict=True), *fixed._asdict().items()):
            object.__setattr__(fit, name, value)
        return fit

    @property
    def codes(self) -> Float[Array | np.ndarray, "S E"]:
        """[S, E], zero where an expert is not used."""
        return self.solution.codes

    @property
    def bias(self) -> Float[Array | np.ndarray, "S C"]:
        """[S, C], added to every point."""
        return self.solution.bias

    @property
    def residual(self) -> Float[Array | np.ndarray, " S"]:
        """[S], mean squared difference from the measurements, per measured value."""
        return self.solution.residual

    @property
    def converged(self) -> Bool[Array | np.ndarray, " S"]:
        """[S], whether the solver's own stopping rule was met."""
        return self.solution.converged

    @property
    def iterations(self) -> Int[Array | np.ndarray, " S"]:
        """[S], steps that the solver took."""
        return self.solution.iterations

    @property
    def history(self) -> dict[str, Array | np.ndarray]:
        """Curves over the solver's steps, such as 'residual' [steps + 1, S]."""
        return self.solution.history

    @property
    def message(self) -> str:
        """What a person should know of how the codes were found; '' where that is not known."""
        return "" if self.solver is None else self.solver.describe(self.solution)

    @property
    def active(self) -> float:
        """Mean number of codes that are not zero."""
        return float((np.asarray(self.codes) != 0).sum(-1).mean())

    @property
    def channels(self) -> int:
        """C."""
        return self.dictionary.channels

    def __repr__(self) -> str:
        shape = notices.sides(self.grid_shape)
        solver = "stored codes" if self.solver is None else f"solved by {self.solver.name}"
        channels = f"{self.channels} channel{'s' * (self.channels != 1)}"
        return f"Fit({len(self)} signals of {shape}, {channels}, {solver})"

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, which: int | slice | Sequence[int]) -> Fit:
        """Some of the signals; an int keeps its axis, so that one signal is a fit of one.

        Raises IndexError for what they do not have.
        """
        try:
            chosen = np.arange(len(self))[which]
        except IndexError as error:
            allowed = f"{-len(self)} to {len(self) - 1}, slices, lists of such"
            # Still an IndexError, by which a loop over a fit ends.
            raise IndexError(str(ArgumentError("index", which, allowed))) from error
        chosen = np.atleast_1d(chosen)

        def rows(array):
            return None if array is None else array[chosen]

        curves = {name: curve[..., chosen] for name, curve in self.solution.history.items()}
        solution = jax.tree.map(rows, self.solution._replace(history={}))
        return dataclasses.replace(
            self,
            solution=solution._replace(history=curves),
            names=tuple(self.names[i] for i in chosen),
            problem=None if self.problem is None else self.problem.of_signals(chosen),
            correction=rows(self.correction),
            known_deviation=rows(self.known_deviation),
        )

    def __call__(
        self, points: Float[Array | np.ndarray, "P D"]
    ) -> Float[Array | np.ndarray, "S P C"]:
        """`at`: a fit is a function of points."""
        return self.at(points)

    # ---- the continuous signal --------------------------------------------------------------

    def at(
        self, points: Float[Array | np.ndarray, "P D"], chunk: int = 0
    ) -> Float[Array | np.ndarray, "S P C"]:
        """Values at any points [P, D]. chunk: points at a time; 0 chooses.

        Raises ArgumentError for points of another dimension, or not finite.
        """
        points, chunk = self._checked_points(points), checks.whole("chunk", chunk, 0)
        if checks.traced(self.dictionary, self.codes, points):
            values = self.dictionary.combine(points, self._gates())
        else:
            values = rendering.render_points(self.dictionary, self._gates(), points, chunk)
        if self.correction is None:
            return values
        if checks.traced(values, points):
            return values + rendering.interpolation(self.correction)(points)
        return values + rendering.interpolated(self.correction, points)

    def gradient_at(
        self, points: Float[Array | np.ndarray, "P D"], chunk: int = 0
    ) -> Float[Array | np.ndarray, "S P C D"]:
        """Derivatives of the values at points [P, D] along every axis, per unit of coordinate.

        chunk: points at a time; 0 chooses. Raises ArgumentError for points of another dimension, or
        not finite.
        """
        points, chunk = self._checked_points(points), checks.whole("chunk", chunk, 0)
        if checks.traced(self.dictionary, self.codes, points):
            slopes = rendering.derivatives(self.dictionary, self._gates(), points)
        else:
            slopes = rendering.render_derivatives(self.dictionary, self._gates(), points, chunk)
        if self.correction is None:
            return slopes
        return slopes + rendering.interpolated_derivatives(self.correction, points)

    def render(
        self,
        shape: Sequence[int] | None = None,
        window: Sequence[tuple[float, float]] | None = None,
        chunk: int = 0,
    ) -> Float[Array | np.ndarray, "S *shape C"]:
        """The signals on a grid of any shape; None: the signals' own.

        window: ((low, high), ...) for every axis, in [-1, 1] or beyond; None is all of it. chunk:
        points at a time; 0 chooses. Raises ArgumentError for a shape of another dimension, or of
        more samples than memory holds.
        """
        shape = self.grid_shape if shape is None else self._checked_shape(shape)
        checks.fits("shape", shape, math.prod(shape) * (len(shape) + len(self) * self.channels))
        if checks.traced(self.dictionary, self.codes):
            values = self.at(grid(shape, window), chunk)
            return values.reshape(len(self), *shape, self.channels)
        chunk = checks.whole("chunk", chunk, 0)
        values = rendering.render(self.dictionary, self._gates(), shape, window, chunk)
        if self.correction is None:
            return values
        return values + rendering.resampled(self.correction, shape, window)

    def measured_by(self, operator: Operator) -> Float[Array | np.ndarray, "S M C"]:
        """What an operator would measure of these signals. Raises ArgumentError for no operator."""
        checked_operator(operator)
        if self.correction is not None:
            return operator.measure(jnp.asarray(self.at(operator.points)))
        if checks.traced(self.dictionary, self.codes, operator):
            return operator.measure(self.dictionary.combine(operator.points, self._gates()))
        return rendering.measured(self.dictionary, self._gates(), operator)

    def deviation(self, shape: Sequence[int] | None = None) -> Float[np.ndarray, "S *shape C"]:
        """Standard deviation of what is rendered, given the measurements, under the prior.

        shape: of the grid; None: the signals' own. Of solver `Gaussian`, with the noise that it
        found, under the prior of all training codes, their mixture, or that of codes and biases as
        the solver took it. Raises ArgumentError for
        another solver, and where the measurements are no longer known.
        """
        if shape is None and self.known_deviation is not None:
            return self.known_deviation
        if not isinstance(self.solver, Gaussian):
            raise ArgumentError("solver", getattr(self.solver, "name", None), "gaussian")
        checks.values_known("deviation", self.dictionary, self.solution)
        problem = self._measured()
        checks.values_known("deviation", problem.operator, problem.weights)
        shape = self.grid_shape if shape is None else self._checked_shape(shape)
        noises = np.asarray(self.solution.stats["noise_variance"])
        prior, found = problem.prior._replace(codes=None), []
        prior = self.solver.taken(prior)
        if not np.isfinite(noises).all():
            raise ArgumentError("noise_variance", noises[~np.isfinite(noises)][0], "finite")
        # Signals solved in batches may have been given a noise each.
        distinct, number = np.unique(noises, return_inverse=True)
        for place, noise in enumerate(distinct):
            some = np.flatnonzero(number == place)
            variance = posterior_variance(
                self.dictionary,
                grid(shape),
                problem.of_signals(some).equations(self.solver.precision),
                prior,
                float(noise),
            )
            found.append((some, np.sqrt(variance).reshape(-1, *shape, self.channels)))
        deviation = np.empty((len(self), *shape, self.channels), np.float32)
        for some, values in found:
            deviation[some] = values
        return deviation

    def mesh(
        self,
        resolution: int = 128,
        window: Sequence[tuple[float, float]] | None = None,
        truncation: float | None = None,
    ) -> list[trimesh.Trimesh]:
        """The zero level of signals of three dimensions as S triangle meshes in [-1, 1]^3.

        resolution: samples along each axis; truncation: where distances were cut off, or None.
        Raises ArgumentError for signals of another dimension, for other than 1 channel, and for a
        surface that memory does not hold.
        """
        if self.dictionary.dims != 3 or self.channels != 1:
            raise ArgumentError(
                "dictionary",
                f"{self.dictionary.dims} coordinates and {self.channels} channels",
                "signed distances: 3 coordinates and 1 channel",
            )
        checks.values_known("mesh", self.dictionary, self.codes)
        # Libraries that only surfaces need, and that take long to come.
        from nid_jax.fitting import meshing

        return meshing.meshes_of(
            self.dictionary, self._gates(), resolution, window=window, truncation=truncation
        )

    def score(self, truth: Float[Array | np.ndarray, "S *grid C"]) -> dict[str, np.ndarray]:
        """PSNR in dB and, of pictures, SSIM against the truth, clipped to [0, 1]: values [S].

        truth [S, *grid] or [S, *grid, C]; the grid may be finer than that of the fit. Where it is
        NaN it is not known, which is said: PSNR is of the rest, and SSIM of whole pictures alone,
        nan of others. Raises ArgumentError for another number of signals or channels, infinite
        values, and where nothing is known.
        """
        checks.values_known("score", self.dictionary, self.solution, truth)
        known = np.asarray(as_floats(as_array(truth, "truth"), "truth"))
        dims = self.dictionary.dims
        known = known[..., None] if known.ndim == dims + 1 else known
        if known.ndim != dims + 2 or (len(known), known.shape[-1]) != (len(self), self.channels):
            raise ArgumentError("truth", known.shape, f"({len(self)}, *grid, {self.channels})")
        there = ~np.isnan(known)
        share = there.reshape(len(known), -1).mean(1)
        if not share.any():
            allowed = "1 or more values that are known, NaN where one is not"
            raise ArgumentError("truth", f"NaN in all of its {known.size} values", allowed)
        if np.isinf(known).any():
            allowed = f"finite numbers; signal {np.argwhere(np.isinf(known))[0][0]} holds others"
            raise ArgumentError("truth", known[np.isinf(known)][0], allowed)
        found = np.clip(self.render(known.shape[1:-1]), 0, 1)
        if not there.all():
            notices.say(
                f"truth: {1 - share.mean():.1%} of its values are NaN; scored where it is known, "
                "SSIM of whole pictures alone"
            )
        known = np.where(there, known, found)
        scores = {"psnr": np.asarray(metrics.psnr_from_mse(metrics.mse(found, known) / share))}
        if dims == 2:
            scores["ssim"] = np.where(share == 1, np.asarray(metrics.ssim(found, known)), np.nan)
        return scores

    def refine(self, refinement: TotalVariation | LowRank, on_grid: Operator | None = None) -> Fit:
        """The fit with what its dictionary cannot say solved for on the grid, as a correction.

        Codes, residual and message stay those of the codes alone.
        on_grid: the operator of the measurements on the signals' grid, where it is known already.
        Raises ArgumentError where the measurements are no longer known, ValueError where they are
        not what the refinement takes.
        """
        if not isinstance(refinement, TotalVariation | LowRank):
            raise ArgumentError("refinement", refinement, "nid.TotalVariation() or nid.LowRank()")
        checks.values_known("refine", self.dictionary, self.solution)
        problem = self._measured()
        checks.values_known("refine", problem.measurements)
        start = time.perf_counter()
        with devices.CompileTime() as compiling:
            found = refining.correction(
                refinement, problem, self._gates(), on_grid, self.grid_shape
            )
        spent = time.perf_counter() - start
        return dataclasses.replace(
            self,
            correction=found,
            seconds=self.seconds + spent,
            compile_seconds=self.compile_seconds + min(compiling.seconds, spent),
        )

    # ---- files ------------------------------------------------------------------------------

    def rounded(self, dtype: str) -> Fit:
        """The fit of codes as `save` stores them, in float32. Raises ArgumentError as `save`.

        Residual, message and history stay those of the codes that were solved for.
        """
        checks.values_known("rounded", self.codes)
        codes = rounding.rounded(self.codes, dtype).codes()
        return dataclasses.replace(self, solution=self.solution._replace(codes=codes))

    def save(self, path: str | Path, dtype: str = "float32") -> Path:
        """codes.npz: `codes` [S, E], `bias` [S, C], `names` [S]; no pickled objects.

        dtype: of the codes, one of float32, float16, int16, int8; of whole numbers there are also
        `step` [E] and `centre` [E]: code = centre + step * stored, and nan where stored is the
        least whole number.

        With `correction` [S, *grid, C] where the fit was refined, `deviation` of the same shape
        where it is known, and `dictionary`, the CRC-32 of the dictionary's arrays. Written whole or
        not at all. Raises ArgumentError for another suffix or dtype, and for codes beyond it.
        """
        path = checks.path("path", path)
        if path.suffix != ".npz":
            raise ArgumentError("path", str(path), "a file that ends in .npz")
        checks.values_known("save", self.codes)
        codes, bias = np.asarray(self.codes), np.asarray(self.bias)
        found = stored.Stored(codes, bias, self.names, self.correction, self.known_deviation)
        stored.write(path, found, self.dictionary, dtype)
        return path

    @classmethod
    def load(cls, path: str | Path, dictionary: Dictionary, grid_shape: Sequence[int]) -> Fit:
        """A fit that `save` wrote, of which only the codes are known.

        A dictionary of the same sizes whose arrays are others is said (`Notice`): one that was
        trained further, or rounded to fewer bits, renders other signals from these codes. Raises
        FileNotFoundError where there is none, ValueError where its file is damaged, was made with a
        dictionary of other sizes, or holds a signal whose numbers are not finite.
        """
        path = checks.path("path", path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such fit")
        found, dictionary = stored.read(path, dictionary)
        fit = cls.of_codes(dictionary, found.codes, found.bias, grid_shape, found.names)
        return dataclasses.replace(
            fit, correction=found.correction, known_deviation=found.deviation
        )

    @classmethod
    def of_codes(
        cls,
        dictionary: Dictionary,
        codes: Float[np.ndarray, "S E"],
        bias: Float[np.ndarray, "S C"],
        grid_shape: Sequence[int],
        names: Sequence[str] | None = None,
    ) -> Fit:
        """Signals of given codes, of which nothing else is known. Raises ArgumentError for codes
        of another number of experts."""
        if codes.shape[-1] != dictionary.num_experts or len(bias) != len(codes):
            raise ArgumentError("codes", codes.shape, f"({len(bias)}, {dictionary.num_experts})")
        names = [f"{number:05d}" for number in range(len(codes))] if names is None else names
        return cls(dictionary, _unknown(codes, bias), tuple(grid_shape), tuple(names))

    def _measured(self) -> Problem:
        if self.problem is None:
            raise ArgumentError(
                "fit",
                "without its measurements",
                "one that knows them: not read from a file, nor of a task's signals in batches",
            )
        return self.problem

    def _gates(self) -> Gates:
        if checks.traced(self.codes, self.bias):
            return Gates(jnp.asarray(self.codes), None, None, jnp.asarray(self.bias))
        return rendering.gates_of(self.codes, self.bias)

    def _checked_points(self, points):
        given = points
        if not isinstance(points, jax.Array):
            allowed = f"numbers (P, {self.dictionary.dims})"
            points = checks.as_array("points", points, allowed)
            if points.dtype.kind not in "fiu":
                raise ArgumentError("points", points.dtype, allowed)
            given = points
            with np.errstate(over="ignore"):
                points = points.astype(np.float32)
        if points.ndim != 2 or points.shape[1] != self.dictionary.dims:
            raise ArgumentError("points", points.shape, f"(P, {self.dictionary.dims})")
        if not checks.traced(points):
            places = np.asarray(points)
            bad = np.flatnonzero(~np.isfinite(places).all(1))
            if len(bad):
                allowed = f"finite numbers of float32; point {bad[0]} of {len(points)} has others"
                raise ArgumentError("points", np.asarray(given)[bad[0]].tolist(), allowed)
        return points

    def _checked_shape(self, shape):
        allowed = f"{self.dictionary.dims} whole numbers, each 1 or more"
        sides = np.atleast_1d(checks.as_array("shape", shape, allowed))
        whole = sides.dtype.kind in "iu" and sides.shape == (self.dictionary.dims,)
        if not whole or sides.min() < 1:
            raise ArgumentError("shape", shape, allowed)
        return tuple(int(side) for side in sides)


def _leafy() -> list[str]:
    """Fields of a `Fit` that are, or hold, arrays and numbers."""
    return [field.name for field in dataclasses.fields(Fit) if field.name not in _Fixed._fields]


def _unknown(codes: Float[np.ndarray, "S E"], bias: Float[np.ndarray, "S C"]) -> Solution:
    """A solution of which only the codes are known."""
    nothing = np.full(len(codes), np.nan)
    zero = np.zeros(len(codes), np.int32)
    return Solution(codes, bias, nothing, zero.astype(bool), zero, zero, {}, {})


def fit_problem(
    problem: Problem,
    solver: Solver,
    grid_shape: Sequence[int],
    names: Sequence[str] | None = None,
    count: int = 0,
) -> Fit:
    """Solve one problem, or of its signals the first `count`. -> `Fit`, in NumPy unless a
    transformation of JAX is looking on.

    Raises ArgumentError for what the solver cannot solve.
    """
    start = time.perf_counter()
    with devices.CompileTime() as compiling:
        solution, known = spread.solved(problem, solver, count)
        if not checks.traced(solution):
            solution = jax.device_get(solution)
    seconds = time.perf_counter() - start
    if names is None:
        names = [f"{number:05d}" for number in range(len(solution.codes))]
    if checks.traced(solution):
        # What was measured would be copied out with every call, and times are those of tracing.
        return Fit(problem.dictionary, solution, tuple(grid_shape), tuple(names), solver)
    return Fit(
        problem.dictionary,
        solution,
        tuple(grid_shape),
        tuple(names),
        solver,
        known,
        seconds=seconds,
        compile_seconds=min(compiling.seconds, seconds),
    )
