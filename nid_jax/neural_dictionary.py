"""The object that people hold: a trained neural dictionary, with all that belongs to it.

faces = learn(images)                 # or load("runs/faces"), load("faces.safetensors"), or one
                                      # that comes with the package: load("faces")
fit = faces.fit(images, seen=mask)    # codes of signals that it has never seen
fit.render((512, 512))
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from nid_jax import data, tasks
from nid_jax.coding import checks as argument_checks
from nid_jax.coding import grid_operator
from nid_jax.coding.canonical import Transform, canonical_transform, is_canonical
from nid_jax.coding.drawing import drawn
from nid_jax.coding.low_rank import LowRank
from nid_jax.coding.operators import combined_weights
from nid_jax.coding.problem import Problem
from nid_jax.coding.solvers import Gaussian, Ridge, Solver, config_group, solver_from_config
from nid_jax.coding.total_variation import TotalVariation
from nid_jax.errors import ArgumentError, named
from nid_jax.fields.dictionary import Dictionary
from nid_jax.fields.model import Model
from nid_jax.fitting import apart, checks, priors, refining, ways
from nid_jax.fitting import fit as fits
from nid_jax.fitting.concatenate import concatenate
from nid_jax.fitting.fit import Fit
from nid_jax.fitting.measurements import (
    Measurements,
    say_no_distances,
    say_other_scale,
    say_stretched,
    say_vanishing,
    unstretched,
)
from nid_jax.notices import sides
from nid_jax.running import processes
from nid_jax.running.listening import Listener, nobody
from nid_jax.sharding import place_batch, places
from nid_jax.storage import bucket_copy, hub, models, one_file, shipped
from nid_jax.storage.models import Trained
from nid_jax.storage.workdir import Workdir
from nid_jax.tasks.task import Measured, Task


@dataclasses.dataclass(frozen=True, repr=False)
class NeuralDictionary(Trained):
    """A trained dictionary of continuous basis functions, and what is known of its signals.

    Made by `learn` and `load`. `dictionary` is the Flax module, for a training loop of your own.
    """

    mesh: Mesh | None = None
    """Devices that fits are dealt out over; None: the first. Where they are of several processes,
    all of these fit the same signals together, and each holds the model and gets all codes."""

    @property
    def dictionary(self) -> Dictionary:
        """The Flax NNX module: points [P, D] -> atoms [P, E, C]."""
        return self.model.dictionary

    @property
    def grid_shape(self) -> tuple[int, ...]:
        """Of the training signals."""
        return self.model.grid_shape

    @property
    def channels(self) -> int:
        """C."""
        return self.dictionary.channels

    @property
    def frame(self) -> data.Frame | None:
        """Coordinates and units of the training signals, where they have their own."""
        stored = self.signals.get("frame")
        return None if stored is None else data.Frame.of_json(stored)

    @property
    def num_experts(self) -> int:
        """E."""
        return self.dictionary.num_experts

    def __repr__(self) -> str:
        shape = sides(self.grid_shape)
        channels = f"{self.channels} channel{'s' * (self.channels != 1)}"
        return (
            f"NeuralDictionary({self.num_experts} experts, {self.dictionary.kind}; learned from "
            f"{self.signals.get('count')} signals of {shape}, {channels}, "
            f"{'with' if self.prior is not None else 'without'} a prior)"
        )

    def with_dictionary(self, dictionary: Dictionary) -> "NeuralDictionary":
        """The same with another dictionary in its place, such as one inside of a gradient.

        Router and prior stay, so it should be of the same experts. Raises ArgumentError for another
        number of experts, dimensions or channels.
        """
        mine = self.dictionary
        for name in ("num_experts", "dims", "channels"):
            if getattr(dictionary, name) != getattr(mine, name):
                raise ArgumentError(
                    f"dictionary.{name}", getattr(dictionary, name), getattr(mine, name)
                )
        model = Model(dictionary, self.model.router, self.model.top_k, self.model.grid_shape)
        return dataclasses.replace(self, model=model)

    def canonical(self) -> "NeuralDictionary":
        """The same in canonical form: orthonormal atoms, uncorrelated codes, by energy.

        On the grid of the training signals and under the prior, see `coding.canonical`. What codes
        render does not change, the codes do. `learn` gives dense dictionaries in this form. Raises
        ArgumentError where there is no prior, or a router, whose codes are of the atoms as they
        are.
        """
        if self.prior is None:
            raise ArgumentError("prior", None, "that of the training codes: prior.num_signals > 0")
        if self.model.router is not None:
            raise ArgumentError("router", type(self.model.router).__name__, "None: dense codes")
        transform = canonical_transform(self.dictionary, self.grid_shape, self.prior)
        return self.transformed(transform)

    def transformed(self, transform: Transform) -> "NeuralDictionary":
        """Atoms and prior under a transform of the codes, `coding.canonical_transform`'s."""
        mixed = self.with_dictionary(self.dictionary.mixed(transform.mixing, transform.level))
        prior = None if self.prior is None else transform.prior(self.prior)
        return dataclasses.replace(mixed, prior=prior)

    def first(self, numbers: int) -> "NeuralDictionary":
        """The same of a canonical dictionary's first atoms alone, which hold most of its signals.

        The noise of its prior is what these atoms leave of the training signals. Raises
        ArgumentError for more than there are, and where atoms are in no order.
        """
        numbers = argument_checks.whole("numbers", numbers, 1)
        if numbers > self.num_experts:
            raise ArgumentError("numbers", numbers, f"at most {self.num_experts}, the experts")
        if not is_canonical(self.dictionary, self.grid_shape):
            raise ArgumentError(
                "numbers", numbers, "all of a dictionary that is not canonical: no order of atoms"
            )
        model = Model(self.dictionary.first(numbers), None, self.model.top_k, self.model.grid_shape)
        prior = None if self.prior is None else self.prior.first(numbers)
        if self.prior is not None and prior is not None:
            # Atoms have a mean square of 1 over the grid, channels summed, and are orthogonal.
            left = self.prior.energies()[numbers:].sum() / self.channels
            prior = prior._replace(noise=prior.noise + left)
        # What is saved is read by its config.
        config = self.config.copy_and_resolve_references()
        with config.unlocked():
            config.dictionary.num_experts = model.dictionary.num_networks
            config.router.kind = "none"
        return dataclasses.replace(self, model=model, prior=prior, config=config)

    def fit(
        self,
        measurements: Float[Array | np.ndarray, "S *grid C"] | None = None,
        operator: Any = None,
        *,
        seen: Bool[Array | np.ndarray, "*grid"] | None = None,
        weights: Float[Array | np.ndarray, "S M"] | None = None,
        solver: Solver | None = None,
        clouds: Float[Array | np.ndarray, "S Q N"] | None = None,
        batch_size: int = 0,
    ) -> Fit:
        """Codes of signals from what was measured of them; the dictionary does not change.

        Args:
          measurements: [S, *grid] or [S, *grid, C] on a grid of any shape; with an operator what
            that measures of each signal, [S, M], [S, M, C] or any shape of M numbers such as
            [S, views, detectors]. Whole numbers of 8 bits are taken as 0 to 1. NaN is what was not
            measured.
          operator: one of `nid_jax.operators`; None samples the measurements' own grid.
          seen: bool, what was measured: as one signal's measurements, or with all signals in front.
          weights: not negative, of each measurement: [M] or [S, M], or shaped like `seen`.
          solver: one of `nid_jax.solvers`; None takes `Gaussian()` where something is missing or an
            operator is given and there is a prior, else `Ridge()`.
          clouds: [S, Q, 2 D], points on surfaces and their normals, for solver `Surface`.
          batch_size: signals solved at a time; 0: all.

        Returns:
          `Fit`. Inside jit, vmap or grad the values of the measurements are not looked at: give
          `seen` for what is missing.

        Raises:
          ArgumentError: naming the argument, for shapes, types and values that cannot be.
        """
        if measurements is None:
            if solver is None or clouds is None:
                raise ArgumentError(
                    "measurements", None, "an array, or clouds with solver=Surface()"
                )
            clouds = np.asarray(clouds)
            count, grid_shape = len(clouds), self.grid_shape

            def problem_of(chosen):
                return self._problem(None, None, None, clouds=clouds[chosen])
        else:
            given = Measurements.of(self.model, measurements, operator, seen, weights)
            count, grid_shape = len(given.values), given.grid_shape
            self._say_unlike(given, operator is None)
            if solver is None:
                partial = operator is not None or given.weights is not None
                solver = Gaussian() if partial and self.prior is not None else Ridge()

            def problem_of(chosen):
                own = given.weights
                own = own[chosen] if own is not None and own.ndim == 2 else own
                some = None if clouds is None else np.asarray(clouds)[chosen]
                values = given.values[chosen]
                signals = None
                if given.whole:
                    signals = values.reshape(len(values), *grid_shape, self.channels)
                return self._problem(given.operator, values, own, signals=signals, clouds=some)

        if not isinstance(solver, Solver):
            raise ArgumentError("solver", solver, "an object of nid.solvers, such as nid.Ridge()")
        solve = functools.partial(fits.fit_problem, solver=solver, grid_shape=grid_shape)
        found = self._in_batches(problem_of, count, batch_size, solve)
        far = self.mesh is not None and self.mesh.is_multi_process
        if found.problem is None and not far and not argument_checks.traced(found.solution):
            # In batches for the solver's sake; what was measured is in memory all the same.
            everyone = np.arange(count)
            if self.mesh is not None:
                everyone = everyone[places(self.mesh, count)]
            problem = problem_of(everyone).of_signals(slice(count))
            found = dataclasses.replace(found, problem=problem)
        return dataclasses.replace(found, names=tuple(f"{n:05d}" for n in range(count)))

    def _say_unlike(self, given, on_grid):
        """One line each where measurements are probably not what was learned from."""
        if on_grid:
            advice = "cut to patches of that size, or resized, it would not be"
            say_stretched(given.grid_shape, self.grid_shape, "measurements", advice)
        if given.operator.is_sampling:
            known = combined_weights(given.operator, given.weights)
            self._say_other_samples(given.values, known, "measurements")

    def _say_unlike_of(self, measured, collection, config):
        """The same of a collection's, whose config says how signals are read."""
        title = collection.title
        if measured.whole:
            shapes = measured.grid_shape, self.grid_shape
            say_stretched(*shapes, title, unstretched(config.data, *shapes))
        # In training it is not known yet what was learned.
        if self.signals:
            some, sampled = ways.some_measurements(measured, len(collection))
            # In the type that they came in, of which float32 may leave nothing.
            bounds = getattr(collection, "bounds", None)
            say_vanishing(np.array(bounds or ()), some, title)
            self._say_other_samples(some[sampled], None, title)

    def _say_other_samples(self, values, weights, what):
        """One line each where samples are of another scale than was learned, or no distances where
        these were."""
        say_other_scale(values, weights, self.signals.get("bounds"), what)
        if tasks.has_surfaces(self.config):
            say_no_distances(values, weights, what)

    def _in_batches(self, problem_of, count, batch_size, solve, told=nobody):
        """The fit of `count` signals, solved in batches of one size.

        problem_of: numbers of signals -> Problem, laid out over the devices, where the first come
        again at its end if they do not divide; solve: (Problem, count) -> Fit of its first signals;
        told: after each batch, how many are done of how many.
        """
        batch_size = argument_checks.whole("batch_size", batch_size, 0)
        if count < 1:
            raise ArgumentError("measurements", f"{count} signals", "1 or more")
        size = min(batch_size or count, count)
        parts = []
        told(0, count)
        for first in range(0, count, size):
            # The last batch is filled up, so that it compiles nothing new; with the first signals,
            # so that what signals choose together, such as a noise, is not chosen by one of them.
            chosen = np.arange(first, first + size) % count
            if self.mesh is not None:
                chosen = chosen[places(self.mesh, size)]
            problem = processes.together(functools.partial(problem_of, chosen))
            found = solve(problem, count=size)
            valid = min(size, count - first)
            parts.append(found if valid == size else found[:valid])
            told(first + valid, count)
        return concatenate(parts)

    def _problem(self, operator, values, weights, *, signals=None, clouds=None):
        """What was measured of signals, laid out over the devices.

        signals: on their grid where they were measured whole; clouds: where they are known.
        """

        def placed(rows):
            return rows if rows is None or self.mesh is None else place_batch(rows, self.mesh)

        if weights is not None and np.ndim(weights) == 2:
            weights = placed(weights)
        clouds = placed(clouds)
        looks_at_clouds = getattr(self.model.router, "reads", "") == "clouds"
        signals = clouds if looks_at_clouds else placed(signals)
        return Problem(
            self.dictionary,
            operator,
            placed(values),
            weights=weights,
            prior=self.prior,
            router=self.model.router,
            signals=signals,
            clouds=clouds,
        )

    def fit_measured(
        self,
        measured: Measured,
        names: Sequence[str],
        solver: Solver,
        *,
        batch_size: int = 0,
        refinement: TotalVariation | LowRank | None = None,
        uncertainty: bool = False,
        told: Listener = nobody,
    ) -> Fit:
        """Codes of signals that are read one by one, as a task gives them.

        names: of the signals to fit, the first of `measured`, which has their weights too.
        refinement: what `Fit.refine` takes; uncertainty: also `Fit.deviation`; told: how many
        signals are done of how many, after each batch and each way.
        The signals of at most one batch are in memory. Signals of one way share a
        factorisation; those that share none are solved in one program for each of few lengths, all
        in memory. -> `Fit`.
        """
        looked_at = getattr(self.model.router, "reads", "")
        on_clouds = "clouds" in (solver.reads, looked_at)
        if len(measured.ways) > 1:
            fit = functools.partial(
                self.fit_measured,
                solver=solver,
                batch_size=batch_size,
                refinement=refinement,
                uncertainty=uncertainty,
            )

            def solved(one, own):
                if not isinstance(one, ways.Stacked):
                    return fit(one, own)
                options = solver, measured.grid_shape, own, uncertainty
                return apart.fit_apart(self.model, self.prior, one, *options)

            together = refinement is None and not on_clouds
            return _by_ways(ways.by_way(measured, len(names), together), names, solved, told)
        on_grid = None
        if refinement is not None:
            on_grid = grid_operator.on_grid(measured.operator, measured.grid_shape)

        def solve(problem, count):
            found = fits.fit_problem(problem, solver, measured.grid_shape, count=count)
            if refinement is not None:
                found = found.refine(refinement, on_grid)
            if uncertainty:
                found = dataclasses.replace(found, known_deviation=found.deviation())
            return found

        problem_of = functools.partial(self._problem_of, measured, on_clouds)
        found = self._in_batches(problem_of, len(names), batch_size, solve, told)
        return dataclasses.replace(found, names=tuple(names))

    def _problem_of(self, measured, on_clouds, chosen):
        """What was measured of chosen signals of one way. on_clouds: whether their clouds are read
        too."""

        def stacked(known):
            return None if known is None else np.stack([known(int(index)) for index in chosen])

        values, weights = stacked(measured.values), stacked(measured.weights)
        signals = None
        if measured.whole and weights is None:
            signals = values.reshape(len(values), *measured.grid_shape, measured.channels)
        clouds = stacked(measured.cloud) if on_clouds else None
        return self._problem(measured.operator, values, weights, signals=signals, clouds=clouds)

    def fit_collection(
        self,
        task: Task,
        collection: data.Collection,
        config: ConfigDict,
        told: Listener = nobody,
    ) -> Fit:
        """Codes of a task's signals as config.fit asks for them. -> `Fit`.

        config: whole, of which `fit` is read: solver, top_k, batch_size, num_signals, refine,
        uncertainty, numbers and the solver's own part. told: how many signals are done of how many,
        as it goes on. Raises ValueError naming the key of what cannot be.
        """
        solver = solver_from_config(config.fit)
        measured = task.measure(collection)
        checks.check_signals(self.dictionary, measured, collection.title)
        checks.check_frame(self.frame, collection)
        self._say_unlike_of(measured, collection, config)
        # Of a signal in patches either all are fitted or none.
        pieces = task.layout(collection).get("pieces") or [1] * len(collection)
        count = sum(pieces[: config.fit.num_signals or None])
        fields = [field.name for field in dataclasses.fields(solver)]
        with named("fit"):
            numbers = argument_checks.whole("numbers", config.fit.numbers, 0)
            chosen = self.first(numbers) if numbers else self
        with named(config_group(solver.name), only=fields):
            return chosen.fit_measured(
                measured,
                collection.names[:count],
                solver,
                batch_size=config.fit.batch_size,
                refinement=refining.from_config(config.fit.get("refine")),
                uncertainty=config.fit.uncertainty,
                told=told,
            )

    def sample(self, count: int, seed: int = 0) -> Fit:
        """New signals, drawn from the prior of the training codes, or from their mixture.

        -> `Fit` of `count` signals. Raises ArgumentError where there is no prior.
        """
        if self.prior is None:
            allowed = "that of the training codes, which learning leaves: prior.num_signals above 0"
            raise ArgumentError("prior", None, allowed)
        codes, bias = drawn(self.prior, count, seed)
        return Fit.of_codes(self.dictionary, np.asarray(codes), np.asarray(bias), self.grid_shape)

    def load_fit(self, path: str | Path) -> Fit:
        """A fit that `Fit.save` wrote: its codes, to be rendered and scored.

        Raises FileNotFoundError, and ValueError for a damaged file or another dictionary's.
        """
        return Fit.load(path, self.dictionary, self.grid_shape)

    def save(self, path: str | Path, dtype: str = "float32") -> Path:
        """One .safetensors file with all of it; `load` reads it back. Whole or not at all.

        dtype: float32, float16 or bfloat16, of the weights. Raises ArgumentError for another suffix
        or dtype.
        """
        if argument_checks.path("path", path).suffix != ".safetensors":
            raise ArgumentError("path", str(path), "a file that ends in .safetensors")
        return one_file.write(path, self, dtype)

    def save_pretrained(self, folder: str | Path, **card: Any) -> Path:
        """FOLDER/model.safetensors and the card FOLDER/README.md, as repositories of the Hub have.

        card: dtype, repo_id, scores and pictures, see `storage.hub.save_pretrained`.
        """
        return hub.save_pretrained(folder, self, **card)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload it to the Hugging Face Hub. -> the address. Needs the extra 'hub'.

        options: message, private, token, and those of the card, see `storage.hub.push_to_hub`.
        Raises ValueError of one line where the Hub refuses.
        """
        return hub.push_to_hub(repo_id, self, **options)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, **options: Any) -> "NeuralDictionary":
        """What `save_pretrained` or `push_to_hub` wrote: a folder, or a repository of the Hub.

        options: revision, token and mesh, see `storage.hub.from_pretrained`. Raises ValueError or
        FileNotFoundError, in one line, for what is neither.
        """
        return cls._of(hub.from_pretrained(name_or_folder, **options), options.get("mesh"))

    @classmethod
    def _of(cls, trained, mesh):
        return cls(trained.model, trained.config, trained.signals, trained.prior, mesh)


def _by_ways(parts, names, solved, told):
    """The fit of signals that were measured in several ways, in the order of their names.

    parts: (what was measured of some, their numbers); solved: (that, their names) -> Fit.
    """
    found, done = [], 0
    told(0, len(names))
    for one, which in parts:
        found.append(solved(one, [names[i] for i in which]))
        done += len(which)
        told(done, len(names))
    order = np.argsort(np.concatenate([which for _, which in parts]))
    return concatenate(found)[order.tolist()]


def load(path: str | Path, step: str | int = "best", mesh: Mesh | None = None) -> NeuralDictionary:
    """A trained dictionary: the workdir of a run, one file that `save` wrote, a folder that
    `save_pretrained` wrote, or one that comes with the package, by its name: 'chairs', 'faces',
    'phantoms' or 'photos'. Of what is in a bucket, gs:// or s3://, a copy is read.

    A run, file or folder of such a name here comes first; './faces' is always a path. step: of a
    workdir's checkpoints, 'best', 'latest' or a number. mesh: devices to lay it out on.
    Reads no signals and executes nothing of the file. Raises FileNotFoundError or ValueError, in
    one line that names the file.
    """
    given = bucket_copy.downloaded(path, "path")
    path = argument_checks.path("path", given)
    path = shipped.located(given if isinstance(given, str) else path)
    if path.suffix == ".safetensors" or path.is_file():
        far = mesh is not None and mesh.is_multi_process
        return NeuralDictionary._of(one_file.read(path, None if far else mesh), mesh)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such workdir, and no such file")
    return open_workdir(Workdir(path, read_only=True, argument="path"), step, mesh)


def open_workdir(
    workdir: Workdir,
    step: str | int = "best",
    mesh: Mesh | None = None,
    with_prior: bool = True,
) -> NeuralDictionary:
    """`load` of a workdir that is open already; without its prior where none is wanted."""
    found = models.load_model(workdir, step=step, mesh=mesh)
    known, path = found.model.dictionary, workdir.root / priors.TRANSFORM_FILE
    prior = None
    if with_prior:
        prior = priors.load_prior(workdir.root / priors.FILE, known, found.step)
    dictionary = NeuralDictionary(found.model, found.config, found.signals, prior, mesh)
    transform = priors.load_transform(path, found.step)
    if transform is None:
        return dictionary
    try:
        return dictionary.transformed(transform)
    except ArgumentError as error:
        raise ValueError(f"{path}: {error}") from error
