"""Computed tomography: slices from few parallel-beam views."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from nid_jax import data, errors
from nid_jax.baselines import tomography
from nid_jax.coding import grid_operator, operators
from nid_jax.notices import say
from nid_jax.tasks import describing, image
from nid_jax.tasks.task import Baseline, Measured, Task

# A relative residual from which one is asked what the measurements are of. Of sinograms of 32
# pixels right geometries leave 0.08, angles read as of another range or unit 0.25 and 0.27, an axis
# 3.5 detectors off 0.32, shares of an open beam 0.42, transposed ones 0.48.
UNEXPLAINED = 0.2
_SART = (
    "Simultaneous algebraic reconstruction (scikit-image): slices from 0 to 1, corrected view by "
    "view until they explain the sinogram. Nothing was learned. Views were gone through"
)


def build(config: ConfigDict) -> Task:
    """The tomography task that a config describes. Raises ValueError naming a key."""
    return dataclasses.replace(
        image.build(config),
        open=lambda split: open_split(config, split),
        learned_from=learned_from,
        measure=lambda collection: measured(collection, config),
        layout=layout,
        advice=advice,
        extras=functools.partial(
            image.extras, config=config, views=lambda collection: views_of(collection, config)
        ),
        baselines=lambda collection, seen, fit, prior, most: image.baselines_of(
            collection, seen, fit, prior, most, config, alone=algebraic(collection, config)
        ),
        describe=functools.partial(describe, config=config),
    )


def open_split(config: ConfigDict, split: str) -> data.Collection:
    """Slices; or sinograms, where training sees projections only or a fit is given files of them.

    With config.train.views above 0 training signals are sinograms of so many views, and no pixel
    is seen. config.data.sinograms names a file to fit instead of config.data's test split, and
    config.data.name='sinograms' a folder of sinograms of several geometries to learn from and fit.
    """
    if split == "test" and config.data.sinograms:
        return _read(config)
    if config.data.name == "sinograms":
        if config.train.views:
            raise ValueError(
                f"train.views: {config.train.views}; allowed: 0 for data.name=sinograms, which "
                "have views of their own"
            )
        given = data.completed(config.data)
        options = config.operator.parallel_beam
        with errors.named("operator.parallel_beam", only=("convention",)):
            return data.open_sinograms(
                given, split, config.seed, functools.partial(beam, config), options
            )
    collection = data.open_collection(config.data, split, config.seed)
    projected = config.train.views if split == "train" else True
    if projected and data.holed(collection):
        raise ValueError(
            f"data.name: {config.data.name!r} of {collection.title}, parts of which are missing, "
            "so that no ray is known; allowed: whole slices, or data.sinograms=FILE"
        )
    return Projected(collection, config) if split == "train" and projected else collection


def _read(config):
    """The sinograms of config.data, and what they make one doubt."""
    title, options = config.data.sinograms, config.operator.parallel_beam
    with errors.named("operator.parallel_beam", only=("convention",)):
        found = data.read_sinograms(
            title,
            config.data.angles,
            options.convention,
            config.data.angle_units,
            config.data.sinogram_layout,
            config.data.transmission,
            config.data.open_beam,
            config.data.pixel_size,
        )
    collection = Sinograms(found.values, found.degrees, title, _grid_shape(found.values, config))
    detectors = collection.shape[1]
    _, placed = operators.CONVENTIONS[options.convention].placed(collection.grid_shape, detectors)
    data.say_doubts(found, collection.grid_shape, placed, options.offset, str(title))
    return collection


def _grid_shape(values, config):
    """The pictures' (rows, columns): config.data.size where so many detectors suit it."""
    side, spacing = values.shape[-1], config.operator.parallel_beam.spacing
    size = data.configured_size(config.data)
    if size is None:
        return (side, side)
    # Detectors cover a picture from side to side, or to its corners; others see another one.
    if spacing != 1 or min(size) <= side <= math.hypot(*size) + 4:
        return size
    say(
        f"data.sinograms={str(config.data.sinograms)!r}: {side} detectors for pictures of "
        f"{size[0]}x{size[1]} (data.size); taken as of {side}x{side}, one detector a pixel; "
        "data.size, or operator.parallel_beam.spacing, say otherwise"
    )
    return (side, side)


class Sinograms(data.ArrayCollection):
    """Measured sinograms [S, A, D], their angles [A] in degrees, and the pictures' shape; NaN is
    what was not measured."""

    def __init__(self, sinograms, angles, title, grid_shape):
        self.seen = ~np.isnan(sinograms)
        self.angles = angles
        self.grid_shape = grid_shape
        names = [f"sinogram_{number:05d}" for number in range(len(sinograms))]
        super().__init__(np.nan_to_num(sinograms)[..., None], names, str(title))


class Projected:
    """The sinograms [A, D, 1] of a collection of slices, from config.train.views views."""

    def __init__(self, slices, config):
        views = config.train.views
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


def beam(config, grid_shape, degrees, detectors=0):
    """The operator of config.operator.parallel_beam at angles in degrees; detectors: of a file."""
    options = dict(config.operator.parallel_beam)
    options["detectors"] = detectors or options["detectors"]
    with errors.named("operator.parallel_beam"):
        known = operators.checked_convention(options["convention"])
        angles = np.deg2rad(degrees) if known.radians else degrees
        return operators.parallel_beam(grid_shape, angles, **options)


def projector(slices, operator, angles, config):
    """Function from a slice's number to what is measured of it, [M, C], with config.data.noise.

    Phantoms that know their ellipses are projected in closed form, under config.data.closed_form;
    other slices as they are on their grid, linearly interpolated.
    """
    grid_shape, channels = tuple(slices.shape[:-1]), slices.shape[-1]
    if config.data.closed_form and hasattr(slices, "ellipses"):
        options = config.operator.parallel_beam
        detectors = operator.num_measurements // len(angles)
        known = operators.CONVENTIONS[options.convention]
        centre, offset = known.placed(grid_shape, detectors)
        geometry = {
            "centre": np.add(centre, options.centre),
            "offset": offset + options.offset,
            "spacing": options.spacing,
        }

        def clean(index):
            return data.project(slices.ellipses(index), angles, detectors, grid_shape, **geometry)
    else:
        on_grid = grid_operator.on_grid(operator, grid_shape)
        apply = jax.jit(type(on_grid).measure)

        def clean(index):
            return apply(on_grid, slices[index].reshape(-1, channels))

    def project(index):
        return image.noisy(np.asarray(clean(index)).reshape(-1, channels), config, index)

    return project


def learned_from(collection: Any) -> Measured:
    """What training sees: pixels, or the views that its signals hold."""
    if not isinstance(collection, Projected):
        return image.sampled(collection)
    return Measured(
        (collection.operator,),
        collection.grid_shape,
        collection.shape[-1],
        values=lambda index: collection[index].reshape(-1, collection.shape[-1]),
        whole=False,
    )


def measured(collection: Any, config: ConfigDict) -> Measured:
    """Sinograms of config.fit.num_views evenly spaced views, or those of a file."""
    if isinstance(collection, Projected):
        return learned_from(collection)
    if hasattr(collection, "ways"):
        return image.sampled(collection)
    if isinstance(collection, Sinograms):
        side, wanted = collection.shape[1], config.operator.parallel_beam.detectors
        if wanted not in (0, side):
            raise ValueError(
                f"operator.parallel_beam.detectors: {wanted}, but {collection.title} has {side}"
            )
        return Measured(
            (beam(config, collection.grid_shape, collection.angles, side),),
            collection.grid_shape,
            1,
            values=lambda index: collection[index].reshape(-1, 1),
            weights=_seen(collection),
            whole=False,
        )
    whole = image.sampled(collection)
    angles = data.even_angles(config.fit.num_views)
    operator = beam(config, whole.grid_shape, angles)
    project = projector(collection, operator, angles, config)
    return dataclasses.replace(whole, ways=(operator,), values=project, whole=False)


def algebraic(collection: Any, config: ConfigDict) -> Callable | None:
    """Function that gives `Baseline` SART of sinograms; None where scikit-image has none of them.

    It knows parallel beams one pixel apart, as many as a side has pixels, and no missing rays.
    """
    options = config.operator.parallel_beam
    if hasattr(collection, "ways") or options.spacing != 1:
        return None
    measured_ones = isinstance(collection, Sinograms)
    if measured_ones and not collection.seen.all():
        return None
    views = views_of(collection, config)
    degrees = np.asarray(collection.angles) if measured_ones else data.even_angles(views)
    clip = (0.0, np.inf) if measured_ones else (0.0, 1.0)

    def baseline(given, scored):
        detectors = given.values.shape[1] // views
        if detectors < max(given.shape):
            return given.reconstruct(scored)
        known = operators.CONVENTIONS[options.convention]
        centre, offset = known.placed(given.shape, detectors)
        place = (np.add(centre, options.centre), offset + options.offset, clip)

        def make():
            sinograms = np.moveaxis(given.values, -1, 1).reshape(-1, views, detectors)
            slices = [
                tomography.placed_sart(one, degrees, given.shape, *place) for one in sinograms
            ]
            found = np.moveaxis(np.reshape(slices, (len(given.values), -1, *given.shape)), 1, -1)
            return found, scored(found)

        return Baseline("SART", f"{_SART} {tomography.passes(views)} times.", make)

    return baseline


def describe(collection: Any, seen: Measured, count: int, config: ConfigDict) -> str:
    """What was measured: views, detectors, line integrals, and their noise."""
    views = views_of(collection, config)
    how = ""
    if views:
        detectors = seen.operator.num_measurements // views
        how = f"line integrals along parallel rays, in pixel lengths, {views} views of {detectors}"
        how += " detectors"
    simulated = not (isinstance(collection, Sinograms) or hasattr(collection, "ways"))
    noise = describing.noise(config) if simulated else ""
    return describing.measured(collection, seen, count, noise, how=how)


def _seen(collection):
    # One factorisation serves all where nothing is missing.
    if collection.seen.all():
        return None
    return lambda index: collection.seen[index].reshape(-1).astype("float32")


def layout(collection: Any) -> dict[str, Any]:
    """How the collection's signals make up whole images, in JSON types."""
    if isinstance(collection, Sinograms):
        return {"grid": list(collection.grid_shape), "names": list(collection.names)}
    return image.layout(collection)


def advice(collection: Any, unexplained: float) -> str:
    """What a fit that explains little of a file of sinograms may mean; '' for simulated ones."""
    if unexplained <= UNEXPLAINED:
        return ""
    if not (isinstance(collection, Sinograms) or hasattr(collection, "ways")):
        return ""
    return (
        "are they of another program (operator.parallel_beam.convention=skimage), transposed "
        "(data.sinogram_layout), at angles in radians (data.angle_units), not logged "
        "(data.transmission), in other units (data.pixel_size), or turned about another centre "
        "(operator.parallel_beam.offset)?"
    )


def views_of(collection: Any, config: ConfigDict) -> int:
    """How many views a fit is given of every signal; 0 where they differ."""
    if hasattr(collection, "ways"):
        return 0
    if isinstance(collection, Sinograms | Projected):
        return collection.shape[0]
    return config.fit.num_views
