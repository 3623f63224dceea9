"""Evaluation: fits of a task's signals, put together as whole signals and scored."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from nid_jax import devices, metrics
from nid_jax.fitting.fit import Fit
from nid_jax.fitting.ways import operator_of
from nid_jax.notices import say
from nid_jax.storage import config_json

# Steps whose PSNR a fit by gradient reports, as the paper's tables do; the last is always added.
REPORTED_STEPS = (0, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


def reconstruct(
    task: Any, fit: Fit, collection: Any, chunk: int = 0
) -> tuple[np.ndarray, np.ndarray | None]:
    """Reconstruction and truth of a fit as whole signals: [N, *grid, C] twice.

    The truth is None where it is not known. chunk: points rendered at a time; 0 chooses.
    """
    measured = task.measure(collection)
    values = fit.render(measured.grid_shape, chunk=chunk)
    layout = task.layout(collection)
    truth = measured.truths(len(fit))
    return task.assemble(values, layout), None if truth is None else task.assemble(truth, layout)


def evaluate(task: Any, fit: Fit, collection: Any, chunk: int = 0) -> dict[str, float]:
    """Scores of a fit as means over whole signals, such as 'psnr'; of the measurements where the
    truth is not known."""
    reconstruction, truth = reconstruct(task, fit, collection, chunk)
    scores = scored(task, fit, reconstruction, truth, collection)
    if not scores:
        return {"psnr": float(np.mean(metrics.psnr_from_mse(fit.residual)))}
    return means_of(scores)


def scored(
    task: Any, fit: Fit, reconstruction: Any, truth: Any | None, collection: Any
) -> dict[str, Any]:
    """Values per signal by name, or one number of all: against the truth where that is known, and
    at measurements that were held out where the task has some."""
    measured, scores = task.measure(collection), {}
    if truth is not None:
        scores = dict(task.metrics(reconstruction, truth, measured))
    if task.held_out is not None:
        scores |= task.held_out(collection, measured, fit)
    return scores


def means_of(scores: Mapping[str, Any]) -> dict[str, float]:
    """Means over the signals of which a score is known."""
    known = {name: np.asarray(values)[~np.isnan(values)] for name, values in scores.items()}
    return {name: float(np.mean(values)) for name, values in known.items() if values.size}


def per_signal(scores: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """NAME_per_signal of scores that every signal has, None where it is not known."""
    rows = {name: values for name, values in scores.items() if np.ndim(values)}
    return {
        f"{name}_per_signal": [None if np.isnan(one) else float(one) for one in values]
        for name, values in rows.items()
    }


def relative_residual(fit: Fit, measured: Any) -> float:
    """||A x - y|| / ||y|| over the fit's signals, weighted as they were; nan without measurements.

    measured: `tasks.Measured`, whose first signals these are. Of what the fit renders: where it was
    refined, the correction measures with it.
    """
    if measured.values is None:
        return float("nan")
    left = size = 0.0
    refined = fit.correction is not None
    for index, residual in enumerate(fit.residual):
        values = np.asarray(measured.values(index), np.float64)
        weights = np.ones(len(values)) if measured.weights is None else measured.weights(index)
        operator = operator_of(measured, index)
        if operator.weights is not None:
            own = np.asarray(operator.weights)
            weights = weights * (own if own.ndim == 1 else own[index])
        weights = np.where(weights > 0, weights, 0)[:, None]
        values = np.where(weights > 0, values, 0)
        if refined:
            found = fit[index].measured_by(operator.of_signals(slice(index, index + 1)))
            left += float((weights * np.square(np.asarray(found)[0] - values)).sum())
        else:
            left += float(residual) * float(weights.sum()) * values.shape[1]
        size += float((weights * np.square(values)).sum())
    return float(np.sqrt(left / size)) if size > 0 else float("nan")


def psnr_per_step(history: Mapping[str, Any]) -> dict[str, float]:
    """Mean PSNR over signals after 0, 5, 10, ... steps; {} where a solver took no steps.

    Of values that are not clipped, from the residual at every step.
    """
    if "residual" not in history:
        return {}
    curve = np.asarray(metrics.psnr_from_mse(history["residual"])).mean(1)
    last = len(curve) - 1
    steps = [step for step in REPORTED_STEPS if step < last] + [last]
    return {str(step): float(curve[step]) for step in steps}


def summarise(
    task: Any,
    fit: Fit,
    reconstruction: np.ndarray,
    truth: np.ndarray | None,
    collection: Any,
    config: ConfigDict,
) -> dict[str, Any]:
    """The metrics.json of a fit: quality, sparsity, time, and the config it was made with."""
    measured = task.measure(collection)
    scores = scored(task, fit, reconstruction, truth, collection)
    unexplained = relative_residual(fit, measured)
    question = task.advice(collection, unexplained) if task.advice else ""
    if question:
        say(
            f"{collection.title}: the fit leaves {unexplained:.0%} of the measurements unexplained "
            f"(relative residual): {question}"
        )
    count = len(reconstruction)
    return {
        "task": task.name,
        "dataset": collection.title,
        "solver": config.fit.solver,
        "precision": fit.solver.precision if fit.solver and fit.solver.precisions[1:] else None,
        "signals": count,
        **means_of(scores),
        "residual": float(np.mean(fit.residual)),
        **({} if measured.values is None else {"relative_residual": unexplained}),
        "active_experts": fit.active,
        "numbers_per_signal": fit.active * (2 if config.fit.top_k else 1) + fit.channels,
        "seconds_total": fit.seconds,
        "seconds_compile": fit.compile_seconds,
        "seconds_per_signal": (fit.seconds - fit.compile_seconds) / count,
        "converged": float(np.mean(fit.converged)),
        "iterations": float(np.mean(fit.iterations)),
        "message": fit.message,
        "psnr_per_step": psnr_per_step(fit.history),
        **per_signal(scores),
        "versions": devices.versions(),
        "config": config_json.encoded(config_json.located(config)),
    }
