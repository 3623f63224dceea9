"""The Gaussian prior of a dictionary: learnt from the training signals' codes, kept beside it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from nid_jax import numerics
from nid_jax.coding import gram
from nid_jax.coding.canonical import Transform, canonical_transform
from nid_jax.coding.drawing import level_of, level_of_moments
from nid_jax.coding.mixture import Mixture, fit_mixture
from nid_jax.coding.prior import Coded, GaussianPrior, fit_prior
from nid_jax.coding.problem import Problem
from nid_jax.coding.solvers import Ridge
from nid_jax.data.originals import held_out, originals
from nid_jax.errors import named
from nid_jax.fields.coordinates import grid
from nid_jax.fields.dictionary import Dictionary
from nid_jax.fields.model import Model
from nid_jax.files import atomic_path
from nid_jax.fitting import rounds
from nid_jax.notices import say
from nid_jax.running import processes
from nid_jax.storage import arrays, prior_arrays

_KINDS: dict[str, arrays.Kind] = {
    "form": ("U", 0),
    "step": ("iu", 0),
    **{name: ("f", len(axes)) for name, axes in prior_arrays.AXES.items()},
}
FILE = "prior.npz"
"""Its name in a workdir. It is of the dictionary as the last checkpoint holds it."""
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
    """Ridge codes of up to config.prior.num_signals training signals, and their Gaussian, or the
    mixture of config.prior.components of them.

    Signals are taken evenly from the collection. Copies of one signal ('name/mirror', patches
    'name/3_4') are held out together when the shrinkage, or the number of components, is chosen. Of
    signals that are not alike in what was measured of them, the Gaussian comes by rounds of
    expectation maximisation.
    """
    wanted = config.prior
    count = min(wanted.num_signals, len(collection))
    chosen = np.unique(np.linspace(0, len(collection) - 1, count).astype(int))
    seen = task.learned_from(collection)
    names = [collection.names[int(index)] for index in chosen]
    if not seen.alike:
        given = model.dictionary, seen, names, chosen, wanted.shrinkage or None
        return processes.once(lambda: _by_rounds(*given))
    with named("prior"):
        solver = Ridge(lam=wanted.lam)

    def solved():
        mine = chosen[list(processes.own_part(len(chosen)))]
        return _solved(model.dictionary, seen, mine, solver)

    # Codes of one signal do not depend on the others.
    parts = [part for own in processes.gathered(solved) for part in own]
    codes, bias, residual = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    coded = Coded(codes, bias, residual, names)
    return processes.once(lambda: prior_of(model, coded, wanted))


def _solved(dictionary, seen, chosen, solver):
    """(codes, bias, residual) of as many of the chosen signals at a time as memory takes."""
    size = max(1, _BATCH_NUMBERS // (seen.operator.num_measurements * seen.channels))
    found = []
    for first in range(0, len(chosen), size):
        some = chosen[first : first + size]
        measurements = np.stack([seen.values(int(index)) for index in some])
        solution = solver.solve(Problem(dictionary, seen.operator, measurements))
        found.append(tuple(map(np.asarray, (solution.codes, solution.bias, solution.residual))))
    return found


def prior_of(model: Model, coded: Coded, wanted: ConfigDict) -> GaussianPrior:
    """The Gaussian of codes that are known, or their mixture: of config.prior.num_signals of them,
    evenly taken.

    Copies of one signal, 'name/copy', are held out together when the shrinkage, or the number of
    components, is chosen. wanted: config.prior.
    """
    count = min(wanted.num_signals, len(coded.codes))
    chosen = np.unique(np.linspace(0, len(coded.codes) - 1, count).astype(int))
    groups = originals([coded.names[index] for index in chosen])
    codes = coded.codes[chosen]
    with named("prior"):
        prior = fit_prior(
            codes,
            residual=coded.residual[chosen],
            shrinkage=wanted.shrinkage or None,
            groups=groups,
        )
        prior = prior._replace(level=level_of(prior, codes, coded.bias[chosen]))
        counts = wanted.components or None
        if counts != 1:
            prior = prior._replace(mixture=mixture_of(model, prior, codes, counts, groups))
    return prior._replace(codes=codes) if wanted.keep_codes else prior


def mixture_of(
    model: Model,
    prior: GaussianPrior,
    codes: Float[np.ndarray, "S E"],
    counts: int | Sequence[int] | None = None,
    groups: Int[np.ndarray, " S"] | None = None,
) -> Mixture | None:
    """The mixture of codes of a model's dictionary, in the coordinates of which the prior speaks.

    Which codes are alike is decided by what they render, in canonical coordinates. counts and
    groups as in `coding.mixture.fit_mixture`; None where one Gaussian is as good.
    """
    transform = canonical_transform(model.dictionary, model.grid_shape, prior)
    canonical = np.asarray(codes, np.float64) @ transform.inverse.T
    found = fit_mixture(canonical, counts, groups)
    return None if found is None else found.transformed(transform.mixing)


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


def _by_rounds(dictionary, measured, names, chosen, shrinkage):
    """The Gaussian of codes by expectation maximisation, of which none is known by itself."""
    some = dataclasses.replace(
        measured,
        values=lambda index: measured.values(int(chosen[index])),
        weights=measured.weights and (lambda index: measured.weights(int(chosen[index]))),
        way=measured.way and (lambda index: measured.way(int(chosen[index]))),
    )
    columns = _AtomColumns(dictionary)
    # Atoms differ in size: a code varies the less, the larger its atom is.
    spectrum = 1 / _mean_squares(dictionary, some.grid_shape)
    found = rounds.learned(columns, some, held_out(names), spectrum, _ROUNDS, shrinkage)
    assert found.target is not None  # rounds with covariances have one
    gaussian, target = found.gaussian, np.asarray(found.target.variances)[0]
    share = float(found.shrinkage or 0)
    covariance = np.asarray(gaussian.covariance[0])
    values, vectors = np.linalg.eigh(covariance - share * np.diag(target))
    prior = GaussianPrior.single(
        gaussian.mean[0],
        vectors * np.sqrt(np.maximum(values, 0)),
        np.maximum(share, 1e-8) * target,
        gaussian.noise,
        share,
    )
    known = rounds.levels(columns, some, gaussian, len(names))
    level = level_of_moments(covariance, known.mean, known.covariance, known.slope[0])
    return prior._replace(level=level)


def _mean_squares(dictionary, grid_shape):
    """Of every atom on a grid [E], of one that is nowhere a little of the mean one."""
    points = grid(grid_shape)
    size = max(1, _BATCH_NUMBERS // (dictionary.num_experts * dictionary.channels))
    total = np.zeros(dictionary.num_experts)
    for first in range(0, len(points), size):
        values = np.asarray(dictionary.basis(points[first : first + size]), np.float64)
        total += np.square(values).sum((0, 2))
    found = total / (len(points) * dictionary.channels)
    return np.maximum(found, 1e-6 * found.mean() + np.finfo(np.float32).tiny)


def save_prior(path: str | Path, prior: GaussianPrior, step: int) -> None:
    """Write the prior of the dictionary of a step as .npz, whole or not at all."""
    held: dict[str, Any] = {name: np.asarray(value) for name, value in prior.arrays().items()}
    with atomic_path(path) as temporary:
        form = np.asarray(prior_arrays.form_of(prior))
        np.savez(temporary, form=form, step=np.int64(step), **held)


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
    for name, wanted in (("mixing", [size] * 2), ("inverse", [size] * 2), ("level", [size])):
        shown = list(found[name].shape)
        if shown[: len(wanted)] != wanted:
            raise ValueError(f"{path}: damaged: {name!r} is {shown}; allowed: {size} atoms")
    for name in ("energies", "mixing", "inverse", "level"):
        if not np.isfinite(found[name]).all():
            raise ValueError(f"{path}: damaged: {name!r} holds NaN; allowed: finite numbers")
    for name in ("mixing", "inverse"):
        # Without energies there are no atoms.
        if found["energies"].any() and not found[name].any():
            raise ValueError(f"{path}: damaged: {name!r} is all 0; allowed: atoms")
    if (found["energies"] < 0).any():
        raise ValueError(f"{path}: damaged: 'energies' holds numbers below 0; allowed: 0 or more")
    return Transform(**found) if int(found.pop("step")) == step else None


class PriorError(ValueError):
    """A file of a prior is damaged, or of another dictionary; everything else may be sound."""


def load_prior(
    path: Path, dictionary: Dictionary | None = None, step: int | None = None
) -> GaussianPrior | None:
    """The prior at `path`, or None where there is none.

    dictionary: whose codes it should be of, of a step; that the prior is of another step is said.
    Raises PriorError for a damaged file, or another dictionary's.
    """
    if not path.exists():
        return None
    try:
        found = arrays.read(path, _KINDS, optional=prior_arrays.OPTIONAL)
    except ValueError as error:
        raise PriorError(str(error)) from error
    form, own = str(found.pop("form")), int(found.pop("step"))
    if step is not None and step != own:
        say(
            f"{path}: is of step {own}, the checkpoint that is opened of step {step}, whose codes "
            "differ from what it knows; step='latest' opens the last one"
        )
    try:
        if dictionary is not None:
            prior_arrays.check_sizes(found, dictionary.num_experts, dictionary.channels)
        return prior_arrays.prior_of(form, found)
    except ValueError as error:
        raise PriorError(f"{path}: {error}") from error
