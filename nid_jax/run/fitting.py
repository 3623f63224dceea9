"""Fitting: a frozen dictionary and measurements in, codes in WORKDIR/fits/NAME out."""

import dataclasses
import time
import zipfile
import zlib

import jax
import numpy as np
from ml_collections import ConfigDict

from nid_jax.coding.solving import check_method, solve
from nid_jax.run import monitoring, pictures, rendering, sharding
from nid_jax.run.artefacts import atomic_folder, atomic_path, file_name, write_json

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
    options = solver_options(wanted)
    routed = [f"fit.solver={wanted.solver}"] if wanted.solver.startswith("router") else []
    routed += [f"fit.{wanted.solver}.{k}=router" for k, v in options.items() if v == "router"]
    if routed and router in ("codebook", "none"):
        raise ValueError(
            f"{routed[0]}: router.kind={router} predicts no codes of new signals; allowed: linear, "
            "conv, resnet"
        )
    for key in ("steps", "dense_steps", "learning_rate"):
        if options.get(key, 0) < 0:
            raise ValueError(f"fit.{wanted.solver}.{key}: {options[key]}; allowed: 0 or more")


def check_signals(model, collection):
    """Raise ValueError for signals that are no functions of the dictionary's kind."""
    dims, channels = len(collection.shape) - 1, collection.shape[-1]
    if (dims, channels) != (model.dictionary.dims, model.dictionary.channels):
        raise ValueError(
            f"data.name: signals of {collection.title} are {list(collection.shape)}, the "
            f"dictionary has {model.dictionary.dims} coordinates and {model.dictionary.channels} "
            "channels; data.gray=true turns colour to gray"
        )


def fit(task, model, collection, config, mesh=None, weights=None, prior=None):
    """Codes of every signal of a collection, in batches of one size.

    config: the whole config, of which `fit` is read (solver, top_k, batch_size, num_signals and
    the solver's own part). mesh: devices to deal signals out over. -> Fitted. Raises ValueError
    for an unknown solver, or signals whose channels are not the dictionary's.
    """
    check(config)
    check_signals(model, collection)
    grid_shape, channels = collection.shape[:-1], collection.shape[-1]
    # Of a signal in patches either all are fitted or none.
    pieces = task.layout(collection).get("per_signal", 1)
    count = min(config.fit.num_signals * pieces or len(collection), len(collection))
    operator = task.operator(grid_shape)
    options = solver_options(config.fit)
    size = min(config.fit.batch_size or count, count)
    if mesh is not None:
        size = -(-size // mesh.shape["data"]) * mesh.shape["data"]
    solutions = []
    seconds = compile_seconds = 0.0
    for first in range(0, count, size):
        chosen = [min(index, count - 1) for index in range(first, first + size)]
        signals = np.stack([collection[index] for index in chosen])
        if mesh is not None:
            signals = sharding.place_batch(signals, mesh)
        start = time.perf_counter()
        with monitoring.CompileTime() as compiling:
            solution = solve(
                model.dictionary,
                operator,
                signals.reshape(size, -1, channels),
                config.fit.solver,
                weights=weights,
                prior=prior,
                router=model.router,
                signals=signals,
                **options,
            )
            # The last batch is filled up with its last signal, so that it compiles nothing new.
            valid = min(size, count - first)
            message, history = solution.message, jax.device_get(solution.history)
            arrays = jax.device_get(solution._replace(message="", history={}))
        seconds += time.perf_counter() - start
        compile_seconds += compiling.seconds
        solutions.append((arrays, message, history, valid))
    return _joined(solutions, collection.names[:count], seconds, compile_seconds)


def _joined(solutions, names, seconds, compile_seconds):
    def rows(field):
        return np.concatenate([np.asarray(getattr(s, field))[:n] for s, _, _, n in solutions])

    history = {
        key: np.concatenate([curves[key][..., :n] for _, _, curves, n in solutions], axis=-1)
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

    The whole folder takes the place of an earlier fit of that name, or nothing does. Pictures show
    at most config.fit.num_pictures signals.
    """
    reconstruction, truth = reconstruct(task, model, fitted, collection, config)
    layout = task.layout(collection)
    metrics = summarise(task, fitted, reconstruction, truth, collection, config)
    metrics["layout"] = layout
    with atomic_folder(workdir.fit(name)) as folder:
        write_codes(folder / "codes.npz", fitted.codes, fitted.bias, fitted.names)
        _write_pictures(folder, truth, reconstruction, layout["names"], config.fit.num_pictures)
        write_json(folder / "metrics.json", metrics)
    return metrics


def _write_pictures(folder, truth, reconstruction, names, count):
    """comparison.png and pictures/: truth, reconstruction and error of the first `count`."""
    shown = min(count, len(truth))
    if not shown or truth.ndim != 4:
        return
    names = names[:shown]
    pictures.comparison_sheet(
        folder / "comparison.png", truth, reconstruction, names=names, count=min(shown, 10)
    )
    for index, name in enumerate(names):
        one = slice(index, index + 1)
        pictures.comparison_sheet(
            folder / "pictures" / f"{file_name(index, name)}.png",
            truth[one],
            reconstruction[one],
            names=names[one],
        )


def summarise(task, fitted, reconstruction, truth, collection, config):
    """The metrics.json of a fit: quality, sparsity, time, and the config it was made with."""
    scores = task.metrics(reconstruction, truth)
    count = len(truth)
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
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)
    return path


def read_codes(path):
    """-> (codes [S, E], bias [S, C], names).

    Raises FileNotFoundError where there is no such fit, ValueError where its file is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such fit; --mode=fit makes one")
    try:
        with np.load(path, allow_pickle=False) as stored:
            return stored["codes"], stored["bias"], [str(name) for name in stored["names"]]
    except (ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: cannot be read as the codes of a fit: {error}") from error
