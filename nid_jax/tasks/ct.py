"""Computed tomography: slices from few parallel-beam views."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from nid_jax import data, errors
from nid_jax.coding import grid_operator, operators
from nid_jax.tasks import image, showing
from nid_jax.tasks.task import Extras, Measured, Task


def build(config: ConfigDict) -> Task:
    """The tomography task that a config describes. Raises ValueError naming a key."""
    return dataclasses.replace(
        image.build(config),
        open=lambda split: open_split(config, split),
        learned_from=lambda collection: learned_from(collection, config),
        measure=lambda collection: measured(collection, config),
        layout=lambda collection: layout(collection, config),
        extras=functools.partial(extras, config=config),
    )


def open_split(config: ConfigDict, split: str) -> data.Collection:
    """Slices; or sinograms, where training sees projections only or a fit is given files of them.

    With config.train.views above 0 training signals are sinograms of so many views, and no pixel
    is seen. config.data.sinograms names a file to fit instead of config.data's test split.
    """
    if split == "test" and config.data.sinograms:
        sinograms, angles = data.read_sinograms(config.data.sinograms, config.data.angles)
        return Sinograms(sinograms, angles, config.data.sinograms)
    collection = data.open_collection(config.data, split, config.seed)
    if split == "train" and config.train.views:
        return Projected(collection, config)
    return collection


class Sinograms(data.ArrayCollection):
    """Measured sinograms [S, A, D] and their angles [A]; NaN is what was not measured."""

    def __init__(self, sinograms, angles, title):
        self.seen = ~np.isnan(sinograms)
        self.angles = angles
        names = [f"sinogram_{number:05d}" for number in range(len(sinograms))]
        super().__init__(np.nan_to_num(sinograms)[..., None], names, str(title))


class Projected:
    """The sinograms [A, D, 1] of a collection of slices, from config.train.views views."""

    def __init__(self, slices, config):
        views = config.train.views
        if views < 0:
            raise errors.ArgumentError("train.views", views, "0, or a number of views")
        angles = operators.checked_angles(int(views))
        self.grid_shape = tuple(slices.shape[:-1])
        self.operator = beam(config, self.grid_shape, angles)
        self._project = projector(slices, self.operator, angles, config)
        detectors = self.operator.num_measurements // len(angles)
        self.shape: tuple[int, ...] = (len(angles), detectors, slices.shape[-1])
        self.names, self.title = list(slices.names), slices.title

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        return self._project(index).reshape(self.shape)


def beam(config, grid_shape, angles):
    """The operator of config.operator.parallel_beam at given angles."""
    return _beam(grid_shape, angles, dict(config.operator.parallel_beam))


def _beam(grid_shape, angles, options):
    with errors.named("operator.parallel_beam"):
        return operators.parallel_beam(grid_shape, angles, **options)


def projector(slices, operator, angles, config):
    """Function from a slice's number to what is measured of it, [M, C], with config.data.noise.

    Phantoms that know their ellipses are projected in closed form, under config.data.closed_form;
    other slices as they are on their grid, linearly interpolated.
    """
    grid_shape, channels = tuple(slices.shape[:-1]), slices.shape[-1]
    if config.data.closed_form and hasattr(slices, "ellipses"):
        options = config.operator.parallel_beam
        placed = {"centre": tuple(options.centre), "offset": options.offset}
        detectors = operator.num_measurements // len(angles)

        def clean(index):
            return data.project(slices.ellipses(index), angles, detectors, grid_shape, **placed)
    else:
        on_grid = grid_operator.on_grid(operator, grid_shape)
        apply = jax.jit(type(on_grid).measure)

        def clean(index):
            return apply(on_grid, slices[index].reshape(-1, channels))

    def project(index):
        return image.noisy(np.asarray(clean(index)).reshape(-1, channels), config, index)

    return project


def learned_from(collection: Any, config: ConfigDict) -> Measured:
    """What training sees: pixels, or the views that its signals hold."""
    if not isinstance(collection, Projected):
        return image.sampled(collection)
    return Measured(
        collection.operator,
        collection.grid_shape,
        collection.shape[-1],
        values=lambda index: collection[index].reshape(-1, collection.shape[-1]),
        whole=False,
    )


def measured(collection: Any, config: ConfigDict) -> Measured:
    """Sinograms of config.fit.num_views evenly spaced views, or those of a file."""
    if isinstance(collection, Projected):
        return learned_from(collection, config)
    if isinstance(collection, Sinograms):
        side = collection.shape[1]
        grid_shape = data.configured_size(config.data) or (side, side)
        options = {"detectors": side, **dict(config.operator.parallel_beam)}
        if options["detectors"] not in (0, side):
            raise ValueError(
                f"operator.parallel_beam.detectors: {options['detectors']}, but "
                f"{collection.title} has {side}"
            )
        options["detectors"] = side
        return Measured(
            _beam(grid_shape, collection.angles, options),
            grid_shape,
            1,
            values=lambda index: collection[index].reshape(-1, 1),
            weights=_seen(collection),
            whole=False,
        )
    whole = image.sampled(collection)
    angles = data.even_angles(config.fit.num_views)
    operator = beam(config, whole.grid_shape, angles)
    project = projector(collection, operator, angles, config)
    return dataclasses.replace(whole, operator=operator, values=project, whole=False)


def _seen(collection):
    # One factorisation serves all where nothing is missing.
    if collection.seen.all():
        return None
    return lambda index: collection.seen[index].reshape(-1).astype("float32")


def layout(collection: Any, config: ConfigDict) -> dict[str, Any]:
    """How the collection's signals make up whole images, in JSON types."""
    if isinstance(collection, Sinograms):
        grid_shape = measured(collection, config).grid_shape
        return {"grid": list(grid_shape), "names": list(collection.names)}
    return image.layout(collection)


def extras(
    collection: Any,
    measured: Measured,
    fit: Any,
    reconstruction: Float[np.ndarray, "N H W C"],
    truth: Float[np.ndarray, "N H W C"] | None,
    config: ConfigDict,
) -> Extras:
    """What is shown of a fit: sinograms, what they give without a dictionary, and what is left."""
    count, unit = showing.shown_of(config, reconstruction), truth is not None
    if not count:
        return Extras(unit=unit)
    measured_only = isinstance(collection, Sinograms | Projected)
    views = collection.shape[0] if measured_only else config.fit.num_views
    before, after, shares = showing.measurements(fit, measured, count, views)
    some = None if truth is None else truth[:count]
    rows = showing.compared(reconstruction[:count], some, shares, unit)
    return Extras(panels=(*before, *rows, *showing.unsure(fit, count), *after), unit=unit)
