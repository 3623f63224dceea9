"""Fitting: a frozen dictionary and measurements in, codes in WORKDIR/fits/NAME out."""

import dataclasses
import time
import zipfile
import zlib
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from nid_jax import devices, sharding
from nid_jax.coding.gram import normal_equations
from nid_jax.coding.prior import posterior_variance
from nid_jax.coding.solving import CLOUD_METHODS, check_method, solve
from nid_jax.fields.coordinates import grid
from nid_jax.fitting import meshing, refining, rendering
from nid_jax.storage.artefacts import atomic_path

SPLITS = ("train", "test")
# Steps whose PSNR a fit by gradient reports, as the paper's tables do; the last is always added.
REPORTED_STEPS = (0, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


@dataclasses.dataclass(frozen=True)
class Fitted:
    """Codes of a collection of signals, in NumPy, and how long they took."""

    codes: np.ndarray
    bias: np.ndarray
    residual: np.ndarray
    converged: np.ndarray
    iterations: np.ndarray
    message: str
    history: dict
    names: list
    seconds_total: float
    seconds_compile: float
    correction: np.ndarray | None = None
    """[S, *grid, C], what config.fit.refine adds to what the codes render."""
    deviation: np.ndarray | None = None
    """[S, *grid, C], standard deviation of what is rendered, given the measurements."""

    @classmethod
    def from_codes(cls, codes, bias, names, correction=None, deviation=None):
        """A fit read back from disk, of which only the codes are known."""
        unknown = np.full(len(codes), np.nan)
        return cls(
            codes,
            bias,
            unknown,
            unknown,
            unknown,
            "",
            {},
            list(names),
            0.0,
            0.0,
            correction,
            deviation,
        )

    @property
    def active(self):
        """Mean number of non-zero codes."""
        return float((self.codes != 0).sum(-1).mean())


def solver_options(config_fit):
    """The options of config.fit that its solver takes, by the names `coding.solve` has for them."""
    options = config_fit.get(config_fit.solver.replace("+", "_"), ConfigDict()).to_dict()
    return {**options, "top_k": config_fit.top_k}


def check(config):
    """Raise ValueError, naming the key, for a fit that cannot be, whatever the signals are."""
    wanted, router = config.fit, config.router.kind
    check_method(wanted.solver, wanted.top_k, config.dictionary.num_experts)
    if wanted.split not in SPLITS:
        raise ValueError(f"fit.split: {wanted.split!r}; allowed: {', '.join(SPLITS)}")
    for key in ("num_signals", "batch_size", "num_pictures"):
        if wanted[key] < 0:
            raise ValueError(f"fit.{key}: {wanted[key]}; allowed: 0 or more")
    refining.check(wanted)
    if "mesh" in wanted:
        meshing.check(wanted.mesh)
    if wanted.uncertainty and wanted.solver != "gaussian":
        raise ValueError(
            f"fit.uncertainty: true, but fit.solver={wanted.solver}; allowed: fit.solver=gaussian"
        )
    options = solver_options(wanted)
    routed = [f"fit.solver={wanted.solver}"] if wanted.solver.startswith("router") else []
    routed += [f"fit.{wanted.solver}.{k}=router" for k, v in options.items() if v == "router"]
    if routed and router in ("codebook", "none"):
        raise ValueError(
            f"{routed[0]}: router.kind={router} predicts no codes of new signals; allowed: linear, "
            "conv, resnet, point"
        )
    for key in ("steps", "dense_steps", "learning_rate"):
        if options.get(key, 0) < 0:
            raise ValueError(f"fit.{wanted.solver}.{key}: {options[key]}; allowed: 0 or more")


def check_measured(config, measured):
    """Raise ValueError, naming the key, for a fit that these measurements do not allow."""
    solver, on_clouds = config.fit.solver, config.fit.solver in CLOUD_METHODS
    if on_clouds and measured.cloud is None:
        raise ValueError(
            f"fit.solver: {solver} reads points on surfaces and their normals, which these signals "
            "lack"
        )
    routed = solver == "router" and config.router.kind == "point"
    if measured.values is None and not (on_clouds or routed):
        raise ValueError(
            f"fit.solver: {solver} needs measurements, of which there are none; allowed without: "
            f"{', '.join(CLOUD_METHODS)}, or router with router.kind=point"
        )
    refining.check_measured(config.fit, measured)


def check_signals(model, measured, title):
    """Raise ValueError for signals that are no functions of the dictionary's kind."""
    dims, channels = len(measured.grid_shape), measured.channels
    if (dims, channels) != (model.dictionary.dims, model.dictionary.channels):
        raise ValueError(
            f"data.name: signals of {title} are {[*measured.grid_shape, channels]}, the "
            f"dictionary has {model.dictionary.dims} coordinates and {model.dictionary.channels} "
            "channels; data.gray=true turns colour to gray"
        )


def fit(task, model, collection, config, mesh=None, weights=None, prior=None):
    """Codes of every signal of a collection, in batches of one size.

    config: the whole config, of which `fit` is read (solver, top_k, batch_size, num_signals, refine
    and the solver's own part). mesh: devices to deal signals out over. weights: None, [M] or
    [S, M], on top of those that the task's measurements have. -> Fitted. Raises ValueError for an
    unknown solver, or signals whose channels are not the dictionary's.
    """
    check(config)
    measured = task.measure(collection)
    check_signals(model, measured, collection.title)
    # Of a signal in patches either all are fitted or none.
    pieces = task.layout(collection).get("per_signal", 1)
    count = min(config.fit.num_signals * pieces or len(collection), len(collection))
    size = min(config.fit.batch_size or count, count)
    if mesh is not None:
        size = -(-size // mesh.shape["data"]) * mesh.shape["data"]
    correct = refining.build(config.fit.get("refine"), model.dictionary, measured)
    clouds = config.fit.solver in CLOUD_METHODS or getattr(model.router, "reads", "") == "clouds"
    solutions = []
    seconds = compile_seconds = 0.0
    for first in range(0, count, size):
        chosen = [min(index, count - 1) for index in range(first, first + size)]
        batch = _measurements(measured, chosen, weights, mesh, clouds)
        start = time.perf_counter()
        with devices.CompileTime() as compiling:
            solution = solve(
                model.dictionary,
                measured.operator,
                batch.values,
                config.fit.solver,
                weights=batch.weights,
                prior=prior,
                router=model.router,
                signals=batch.looked_at(model.router),
                clouds=batch.clouds,
                **solver_options(config.fit),
            )
            # The last batch is filled up with its last signal, so that it compiles nothing new.
            valid = min(size, count - first)
            message, history = solution.message, jax.device_get(solution.history)
            arrays = jax.device_get(solution._replace(message="", history={}))
            correction = None if correct is None else correct(arrays, batch.values, batch.weights)
            deviation = None
            if config.fit.uncertainty:
                deviation = _deviation(model, measured, batch, prior, config.fit.gaussian.noise)
        seconds += time.perf_counter() - start
        compile_seconds += compiling.seconds
        solutions.append((arrays, message, history, correction, deviation, valid))
    return _joined(solutions, collection.names[:count], seconds, compile_seconds)


class _Batch(NamedTuple):
    """values [S, M, C] or None; weights None, [M] or [S, M]; signals [S, *grid, C] or None;
    clouds [S, Q, 6] or None."""

    values: jax.Array | None
    weights: jax.Array | None
    signals: jax.Array | None
    clouds: jax.Array | None

    def looked_at(self, router):
        """What a router is given to look at, None where the measurements do not hold it."""
        return self.clouds if getattr(router, "reads", "") == "clouds" else self.signals


def _measurements(measured, chosen, weights, mesh, clouds=False):
    """What was measured of chosen signals. -> _Batch, laid out over the mesh."""

    def stacked(known):
        if known is None:
            return None
        rows = np.stack([known(index) for index in chosen])
        return rows if mesh is None else sharding.place_batch(rows, mesh)

    if weights is not None and np.ndim(weights) == 2:
        weights = np.stack([weights[index] for index in chosen])
    if measured.weights is not None:
        own = np.stack([measured.weights(index) for index in chosen])
        weights = own if weights is None else own * weights
    if mesh is not None and weights is not None and np.ndim(weights) == 2:
        weights = sharding.place_batch(weights, mesh)
    values, signals = stacked(measured.values), None
    if measured.whole and measured.weights is None:
        signals = values.reshape(len(chosen), *measured.grid_shape, measured.channels)
    return _Batch(values, weights, signals, stacked(measured.cloud) if clouds else None)


def _deviation(model, measured, batch, prior, noise):
    """Standard deviations on the signals' own grid under the Gaussian prior. -> [S, *grid, C]."""
    equations = normal_equations(model.dictionary, measured.operator, batch.values, batch.weights)
    points = grid(measured.grid_shape)
    variance = posterior_variance(
        model.dictionary, points, equations, prior, noise**2 or "estimate"
    )
    shape = (len(batch.values), *measured.grid_shape, measured.channels)
    return np.broadcast_to(np.sqrt(variance).reshape(-1, *shape[1:]), shape)


def _joined(solutions, names, seconds, compile_seconds):
    def rows(arrays):
        kept = zip(arrays, (s[-1] for s in solutions), strict=True)
        return np.concatenate([np.asarray(array)[:valid] for array, valid in kept])

    history = {
        key: np.concatenate([s[2][key][..., : s[-1]] for s in solutions], axis=-1)
        for key in solutions[0][2]
    }
    found = {
        field: rows([getattr(s[0], field) for s in solutions])
        for field in ("codes", "bias", "residual", "converged", "iterations")
    }
    further = {
        field: None if solutions[0][place] is None else rows([s[place] for s in solutions])
        for field, place in (("correction", 3), ("deviation", 4))
    }
    return Fitted(
        **found,
        message=solutions[0][1],
        history=history,
        names=list(names),
        seconds_total=seconds,
        seconds_compile=min(compile_seconds, seconds),
        **further,
    )


def psnr_per_step(history):
    """Mean PSNR over signals after 0, 5, 10, ... steps; {} where a solver took no steps.

    Of values that are not clipped, from the residual at every step.
    """
    if "residual" not in history:
        return {}
    residual = np.maximum(history["residual"], 1e-12)
    curve = -10 * np.log10(residual).mean(1)
    last = len(curve) - 1
    steps = [step for step in REPORTED_STEPS if step < last] + [last]
    return {str(step): float(curve[step]) for step in steps}


def reconstruct(task, model, fitted, collection, config):
    """Reconstruction and truth of a fit as whole signals: NumPy [N, *grid, C] twice.

    The truth is None where it is not known.
    """
    measured = task.measure(collection)
    gates = rendering.gates_of(fitted.codes, fitted.bias)
    values = rendering.render(
        model.dictionary, gates, measured.grid_shape, chunk=config.render.chunk
    )
    if fitted.correction is not None:
        values = values + fitted.correction
    layout = task.layout(collection)
    truth = measured.truths(len(fitted.names))
    return task.assemble(values, layout), None if truth is None else task.assemble(truth, layout)


def evaluate(task, model, collection, config, mesh=None, prior=None):
    """Fit a collection and score it: {'psnr', 'ssim', ...} as means over whole signals."""
    fitted = fit(task, model, collection, config, mesh, prior=prior)
    reconstruction, truth = reconstruct(task, model, fitted, collection, config)
    if truth is None:
        return {"psnr": float(-10 * np.log10(np.maximum(fitted.residual, 1e-12)).mean())}
    scores = task.metrics(reconstruction, truth, task.measure(collection))
    return {name: float(np.mean(values)) for name, values in scores.items()}


def summarise(task, fitted, reconstruction, truth, collection, config):
    """The metrics.json of a fit: quality, sparsity, time, and the config it was made with."""
    scores = {}
    if truth is not None:
        scores = task.metrics(reconstruction, truth, task.measure(collection))
    count = len(reconstruction)
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    return {
        "task": task.name,
        "dataset": collection.title,
        "solver": config.fit.solver,
        "signals": count,
        **means,
        "residual": float(np.mean(fitted.residual)),
        "active_experts": fitted.active,
        "numbers_per_signal": fitted.active * (2 if config.fit.top_k else 1)
        + fitted.bias.shape[-1],
        "seconds_total": fitted.seconds_total,
        "seconds_compile": fitted.seconds_compile,
        "seconds_per_signal": (fitted.seconds_total - fitted.seconds_compile) / count,
        "converged": float(np.mean(fitted.converged)),
        "iterations": float(np.mean(fitted.iterations)),
        "message": fitted.message,
        "psnr_per_step": psnr_per_step(fitted.history),
        **{f"{name}_per_signal": values.tolist() for name, values in scores.items()},
        "versions": devices.versions(),
        "config": config.to_dict(),
    }


def write_codes(path, fitted):
    """codes.npz: `codes` [S, E], `bias` [S, C], `names` [S]; no pickled objects.

    With `correction` [S, *grid, C] where a fit was refined on the grid, and `deviation` of the same
    shape where config.fit.uncertainty asked for it.
    """
    arrays = {
        "codes": fitted.codes,
        "bias": fitted.bias,
        "names": np.asarray(fitted.names, dtype=np.str_),
    }
    for field in ("correction", "deviation"):
        if getattr(fitted, field) is not None:
            arrays[field] = getattr(fitted, field)
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)
    return path


def read_codes(path):
    """-> (codes [S, E], bias [S, C], names, correction, deviation [S, *grid, C] or None).

    Raises FileNotFoundError where there is no such fit, ValueError where its file is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such fit; --mode=fit makes one")
    try:
        with np.load(path, allow_pickle=False) as stored:
            names = [str(name) for name in stored["names"]]
            further = (stored.get("correction"), stored.get("deviation"))
            return stored["codes"], stored["bias"], names, *further
    except (ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: cannot be read as the codes of a fit: {error}") from error
