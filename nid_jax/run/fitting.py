"""Fitting: a frozen dictionary and measurements in, codes in WORKDIR/fits/NAME out."""

import dataclasses
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from nid_jax.coding.solving import solve
from nid_jax.run import monitoring, pictures, rendering, sharding
from nid_jax.run.artefacts import write_atomically, write_json

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

    @classmethod
    def from_codes(cls, codes, bias, names):
        """A fit read back from disk, of which only the codes are known."""
        unknown = np.full(len(codes), np.nan)
        return cls(codes, bias, unknown, unknown, unknown, "", {}, list(names), 0.0, 0.0)

    @property
    def active(self):
        """Mean number of non-zero codes."""
        return float((self.codes != 0).sum(-1).mean())


def solver_options(config_fit):
    """The options of config.fit that its solver takes, by the names `coding.solve` has for them."""
    options = config_fit.get(config_fit.solver, ConfigDict()).to_dict()
    return {**options, "top_k": config_fit.top_k}


def fit(task, model, collection, config, mesh=None, weights=None, prior=None):
    """Codes of every signal of a collection, in batches of one size.

    config: the whole config, of which `fit` is read (solver, top_k, batch_size, num_signals and
    the solver's own part). mesh: devices to deal signals out over. -> Fitted. Raises ValueError
    for an empty fit, an unknown solver, or signals whose channels are not the dictionary's.
    """
    grid_shape, channels = collection.shape[:-1], collection.shape[-1]
    if channels != model.dictionary.channels or len(grid_shape) != model.dictionary.dims:
        raise ValueError(
            f"data.name: signals of {collection.title} are {list(collection.shape)}, the "
            f"dictionary has {model.dictionary.dims} coordinates and {model.dictionary.channels} "
            "channels; data.gray=true turns colour to gray"
        )
    count = min(config.fit.num_signals or len(collection), len(collection))
    operator = task.operator(grid_shape)
    options = solver_options(config.fit)
    router = model.router if grid_shape == model.grid_shape else None
    size = min(config.fit.batch_size or count, count)
    solutions = []
    start = time.perf_counter()
    with monitoring.CompileTime() as compiling:
        for first in range(0, count, size):
            chosen = [min(index, count - 1) for index in range(first, first + size)]
            signals = np.stack([collection[index] for index in chosen])
            if mesh is not None and size % mesh.shape["data"] == 0:
                signals = sharding.place_batch(signals, mesh)
            measurements = signals.reshape(size, -1, channels)
            solution = solve(
                model.dictionary,
                operator,
                measurements,
                config.fit.solver,
                weights=weights,
                prior=prior,
                router=router,
                signals=signals,
                **options,
            )
            # The last batch is filled up with its last signal, so that it compiles nothing new.
            valid = min(size, count - first)
            message, history = solution.message, jax.device_get(solution.history)
            arrays = jax.device_get(solution._replace(message="", history={}))
            solutions.append((arrays, message, history, valid))
    seconds = time.perf_counter() - start
    return _joined(solutions, collection.names[:count], seconds, compiling.seconds)


def _joined(solutions, names, seconds, compile_seconds):
    def rows(field):
        return np.concatenate([np.asarray(getattr(s, field))[:n] for s, _, _, n in solutions])

    history = {
        key: np.concatenate([curves[key][:, :n] for _, _, curves, n in solutions], axis=1)
        for key in solutions[0][2]
    }
    return Fitted(
        codes=rows("codes"),
        bias=rows("bias"),
        residual=rows("residual"),
        converged=rows("converged"),
        iterations=rows("iterations"),
        message=solutions[0][1],
        history=history,
        names=list(names),
        seconds_total=seconds,
        seconds_compile=min(compile_seconds, seconds),
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
    """Reconstruction and truth of a fit as whole signals: NumPy [N, *grid, C] twice."""
    gates = rendering.gates_of(fitted.codes, fitted.bias)
    values = rendering.render(
        model.dictionary, gates, collection.shape[:-1], chunk=config.render.chunk
    )
    truth = np.stack([collection[index] for index in range(len(fitted.names))])
    layout = task.layout(collection)
    return task.assemble(values, layout), task.assemble(truth, layout)


def evaluate(task, model, collection, config, mesh=None):
    """Fit a collection and score it: {'psnr', 'ssim', ...} as means over whole signals."""
    fitted = fit(task, model, collection, config, mesh)
    scores = task.metrics(*reconstruct(task, model, fitted, collection, config))
    return {name: float(np.mean(values)) for name, values in scores.items()}


def write_fit(task, model, fitted, collection, config, workdir, name):
    """Score a fit and write WORKDIR/fits/NAME: codes.npz, metrics.json, pictures. -> the metrics.

    Pictures show at most config.fit.num_pictures signals.
    """
    folder = workdir.fit(name)
    reconstruction, truth = reconstruct(task, model, fitted, collection, config)
    layout = task.layout(collection)
    write_codes(folder / "codes.npz", fitted.codes, fitted.bias, fitted.names)
    shown = min(config.fit.num_pictures, len(truth))
    names = layout["names"][: len(truth)]
    if shown and truth.ndim == 4:
        pictures.comparison_sheet(
            folder / "comparison.png", truth, reconstruction, names=names, count=min(shown, 10)
        )
        for index in range(shown):
            safe = names[index].replace("/", "_")
            pictures.comparison_sheet(
                folder / "pictures" / f"{index:04d}_{safe}.png",
                truth[index : index + 1],
                reconstruction[index : index + 1],
                names=names[index : index + 1],
            )
    metrics = summarise(task, fitted, reconstruction, truth, collection, config)
    metrics["layout"] = layout
    write_json(folder / "metrics.json", metrics)
    return metrics


def summarise(task, fitted, reconstruction, truth, collection, config):
    """The metrics.json of a fit: quality, sparsity, time, and the config it was made with."""
    scores = task.metrics(reconstruction, truth)
    count = len(fitted.names)
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    return {
        "task": task.name,
        "dataset": collection.title,
        "solver": config.fit.solver,
        "signals": count,
        **means,
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
        "versions": monitoring.versions(),
        "config": config.to_dict(),
    }


def write_codes(path, codes, bias, names):
    """codes.npz: `codes` [S, E], `bias` [S, C], `names` [S]; no pickled objects."""
    arrays = {"codes": codes, "bias": bias, "names": np.asarray(names, dtype=np.str_)}
    return write_atomically(path, lambda file: np.savez_compressed(file, **arrays))


def read_codes(path):
    """-> (codes [S, E], bias [S, C], names). FileNotFoundError where there is no such fit."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such fit; --mode=fit makes one")
    with np.load(path, allow_pickle=False) as stored:
        return stored["codes"], stored["bias"], [str(name) for name in stored["names"]]
