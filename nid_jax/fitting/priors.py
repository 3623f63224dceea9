"""The Gaussian prior of a dictionary: learnt from the training signals' codes, kept beside it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from nid_jax import numerics
from nid_jax.coding import gram
from nid_jax.coding.canonical import Transform
from nid_jax.coding.prior import GaussianPrior, fit_prior
from nid_jax.coding.problem import Problem
from nid_jax.coding.solvers import Ridge
from nid_jax.errors import named
from nid_jax.fields.coordinates import grid
from nid_jax.fields.model import Model
from nid_jax.files import atomic_path
from nid_jax.fitting import rounds
from nid_jax.fitting.rounds import held_out
from nid_jax.storage import arrays

_KINDS: dict[str, arrays.Kind] = {
    "mean": ("f", 1),
    "factor": ("f", 2),
    "diagonal": ("f", 1),
    "noise": ("f", 0),
    "shrinkage": ("f", 0),
    "codes": ("f", 2),
}
FILE = "prior.npz"
"""Its name in a workdir. It is of the dictionary as the checkpoint holds it."""
_TRANSFORM: dict[str, arrays.Kind] = {
    "mixing": ("f", 2),
    "level": ("f", 2),
    "inverse": ("f", 2),
    "energies": ("f", 1),
    "step": ("iu", 0),
}
TRANSFORM_FILE = "canonical.npz"
"""What takes the last checkpoint's dictionary, and the prior, to canonical form. Checkpoints stay
as training left them: an interrupted or a longer one goes on from there, moments and all."""
# Numbers of training signals whose codes are solved at a time: 128 MB.
_BATCH_NUMBERS = 2**25


def learn_prior(task: Any, model: Model, collection: Any, config: ConfigDict) -> GaussianPrior:
    """Ridge codes of up to config.prior.num_signals training signals, and their Gaussian.

    Signals are taken evenly from the collection. Copies of one signal ('name/mirror', patches
    'name/3_4') are held out together when the shrinkage is chosen. Of signals that are not alike in
    what was measured of them, the Gaussian comes by rounds of expectation maximisation.
    -> GaussianPrior.
    """
    wanted = config.prior
    count = min(wanted.num_signals, len(collection))
    chosen = np.unique(np.linspace(0, len(collection) - 1, count).astype(int))
    seen = task.learned_from(collection)
    if not seen.alike:
        return _by_rounds(
            model.dictionary, seen, [collection.names[int(i)] for i in chosen], chosen
        )
    codes, residuals = [], []
    with named("prior"):
        solver = Ridge(lam=wanted.lam)
    size = max(1, _BATCH_NUMBERS // (seen.operator.num_measurements * seen.channels))
    for first in range(0, len(chosen), size):
        some = chosen[first : first + size]
        measurements = np.stack([seen.values(int(index)) for index in some])
        solution = solver.solve(Problem(model.dictionary, seen.operator, measurements))
        codes.append(np.asarray(solution.codes))
        residuals.append(np.asarray(solution.residual))
    names = [collection.names[int(index)] for index in chosen]
    return prior_of(np.concatenate(codes), np.concatenate(residuals), names, wanted)


def prior_of(
    codes: Float[np.ndarray, "S E"],
    residual: Float[np.ndarray, " S"],
    names: Sequence[str],
    wanted: ConfigDict,
) -> GaussianPrior:
    """The Gaussian of codes that are known: of config.prior.num_signals of them, evenly taken.

    residual [S]: mean squared; names: copies of one signal, 'name/copy', are held out together when
    the shrinkage is chosen; wanted: config.prior.
    """
    count = min(wanted.num_signals, len(codes))
    chosen = np.unique(np.linspace(0, len(codes) - 1, count).astype(int))
    originals = [names[index].split("/")[0] for index in chosen]
    with named("prior"):
        prior = fit_prior(
            codes[chosen],
            residual=residual[chosen],
            shrinkage=wanted.shrinkage or None,
            groups=np.unique(originals, return_inverse=True)[1],
        )
    return prior._replace(codes=codes[chosen]) if wanted.keep_codes else prior


class _AtomColumns:
    """The atoms themselves as columns of `rounds.Columns`: one block, rows of every channel."""

    blocks = 1

    def __init__(self, dictionary):
        self.dictionary = dictionary
        self.coefficients, self.channels = dictionary.num_experts, dictionary.channels

    def rows(self, operator):
        """(design [M C, E], the constants of the channels [M C, C])."""
        count = operator.num_measurements
        pieces, measure = gram.measured_features(self.dictionary, operator, min(count, 1024))
        values, constant = jax.lax.map(measure, pieces)
        values, constant = numerics.joined(values, count), numerics.joined(constant, count)
        atoms = gram.measured_atoms(self.dictionary, values, constant).swapaxes(1, 2)
        constants = constant[:, None, None] * jnp.eye(self.channels)
        rows = count * self.channels
        return gram.wide(atoms.reshape(rows, -1), constants.reshape(rows, -1))

    def values(self, measurements):
        """All channels one after another."""
        return measurements.reshape(len(measurements), -1, 1)


# Of signals measured each in its own way.
_ROUNDS = 8


def _by_rounds(dictionary, measured, names, chosen):
    """The Gaussian of codes by expectation maximisation, of which none is known by itself."""
    some = dataclasses.replace(
        measured,
        values=lambda index: measured.values(int(chosen[index])),
        weights=measured.weights and (lambda index: measured.weights(int(chosen[index]))),
        way=measured.way and (lambda index: measured.way(int(chosen[index]))),
    )
    columns = _AtomColumns(dictionary)
    # Atoms differ in size: a code varies the less, the larger its atom is.
    sizes = np.square(np.asarray(dictionary.basis(grid(some.grid_shape)))).mean((0, 2))
    found = rounds.learned(columns, some, held_out(names), sizes, _ROUNDS, None)
    gaussian, target = found.gaussian, np.asarray(found.target)[0]
    share = float(found.share or 0)
    values, vectors = np.linalg.eigh(np.asarray(gaussian.covariance[0]) - share * np.diag(target))
    parts = (
        gaussian.mean[0],
        vectors * np.sqrt(np.maximum(values, 0)),
        np.maximum(share, 1e-8) * target,
        gaussian.noise,
        share,
    )
    return GaussianPrior(*(jnp.asarray(np.asarray(part, np.float32)) for part in parts))


def save_prior(path: str | Path, prior: GaussianPrior) -> None:
    """Write a prior as .npz, whole or not at all."""
    held: dict[str, Any] = {name: np.asarray(value) for name, value in prior.arrays().items()}
    with atomic_path(path) as temporary:
        np.savez(temporary, **held)


def save_transform(path: str | Path, transform: Transform, step: int) -> None:
    """Write the way to canonical form of the dictionary of a step as .npz, whole or not at all."""
    with atomic_path(path) as temporary:
        np.savez(temporary, step=np.int64(step), **transform._asdict())


def load_transform(path: Path, step: int | None) -> Transform | None:
    """The transform at `path`; None where there is none, and of another step's dictionary.

    ValueError for a damaged file.
    """
    if not path.exists():
        return None
    found = arrays.read(path, _TRANSFORM)
    size = len(found["energies"])
    for name in ("mixing", "inverse", "level"):
        if found[name].shape[0] != size:
            shown = list(found[name].shape)
            raise ValueError(f"{path}: damaged: {name!r} is {shown}; allowed: {size} atoms")
    return Transform(**found) if int(found.pop("step")) == step else None


def load_prior(path: Path) -> GaussianPrior | None:
    """The prior at `path`, or None where there is none. ValueError for a damaged file."""
    if not path.exists():
        return None
    found = arrays.read(path, _KINDS, optional=("codes",))
    size = len(found["mean"])
    for name in ("factor", "diagonal"):
        if len(found[name]) != size:
            shown = list(found[name].shape)
            raise ValueError(f"{path}: damaged: {name!r} is {shown}; allowed: {size} coefficients")
    fields: dict[str, Any] = found
    return GaussianPrior(**fields)
