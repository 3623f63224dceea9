"""Signed distance functions: shapes from grids, samples, one side's view, or oriented points."""

import dataclasses
import functools
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from nid_jax import data, metrics, sharding
from nid_jax.coding import operators, surface
from nid_jax.fields.coordinates import grid
from nid_jax.geometry.truncation import Truncation
from nid_jax.reporting.panels import Score
from nid_jax.tasks import describing, shape_baselines
from nid_jax.tasks.showing import MISFIT
from nid_jax.tasks.task import Baselines, Measured, Task
from nid_jax.training import losses

SEEN = ("grid", "view", "cloud")
UPS = ("auto", "x", "y", "z")
SCORES = (
    Score(
        "iou",
        "IoU",
        about="Volume inside both over volume inside either; 1 where equal.",
        better="high",
    ),
    Score(
        "chamfer",
        "Chamfer",
        "of cube -1..1",
        "Mean distance from each surface to the other.",
        better="low",
    ),
    Score(
        "hausdorff",
        "Hausdorff",
        "of cube -1..1",
        "The largest distance between surfaces.",
        better="low",
    ),
    Score(
        "normal_consistency",
        "Normals",
        about="Mean cosine between normals of both surfaces.",
        better="high",
    ),
    Score(
        "fscore",
        "F-score",
        "of cube -1..1",
        "Of both surfaces, the share so near the other (harmonic mean).",
        better="high",
    ),
    Score(
        "sdf_error",
        "Distance error",
        about="Mean error of the signed distance on the grid.",
        better="low",
    ),
    Score("relative_residual", "Misfit", "%", MISFIT),
)
"""Lengths in units of the cube [-1, 1]^3."""
_FAR_WEIGHT = 0.02
# Of built-in shapes.
_BUILT_IN_UP = "y"


def build(config: ConfigDict) -> Task:
    """The task of shapes that a config describes. Raises ValueError naming a key."""
    check(config)
    return Task(
        name=config.task,
        open=lambda split: data.open_collection(config.data, split, config.seed),
        batches=lambda collection: batches(collection, config),
        learned_from=lambda collection: learned_from(collection, config),
        measure=lambda collection: measured(collection, config),
        objective=losses.Objective.from_config(config.loss),
        assemble=lambda values, layout, scale=1, first=0: values,
        layout=lambda collection: layout(collection, config),
        metrics=lambda found, truth, seen: volume_metrics(found, truth, config.data.truncation),
        ranked_by="iou",
        scores=_scores(config.fit.mesh.threshold),
        baselines=functools.partial(baselines_of, config=config),
        describe=functools.partial(describe, config=config),
        surface={
            "truncation": float(config.data.truncation),
            "up": _BUILT_IN_UP if config.data.up == "auto" else config.data.up,
        },
    )


def _scores(threshold):
    """`SCORES`, of which the F-score says what is near."""
    near = f"within {threshold:g} of cube -1..1"
    return tuple(dataclasses.replace(s, unit=near) if s.key == "fscore" else s for s in SCORES)


def check(config: ConfigDict) -> None:
    """Raise ValueError, naming the key, for measurements that cannot be."""
    wanted, signals = config.fit.samples, data.completed(config.data)
    if config.data.name not in data.SHAPES:
        raise ValueError(f"data.name: {config.data.name!r}; allowed: {', '.join(data.SHAPES)}")
    for key, value, allowed in (
        ("data.patch.size", signals.patch.size, 0),
        ("data.augment.mirror", signals.augment.mirror, False),
        ("data.augment.turns", signals.augment.turns, False),
        ("data.augment.shifts", signals.augment.shifts, 0),
        ("train.chunks", config.train.chunks, "random"),
    ):
        if value != allowed:
            raise ValueError(f"{key}: {value!r}; allowed for shapes: {allowed}")
    if wanted.seen not in SEEN:
        raise ValueError(f"fit.samples.seen: {wanted.seen!r}; allowed: {', '.join(SEEN)}")
    if wanted.cloud_points and wanted.cloud_points < surface.LEAST_POINTS:
        raise ValueError(
            f"fit.samples.cloud_points: {wanted.cloud_points}; allowed: 0 (all), "
            f"{surface.LEAST_POINTS} or more"
        )
    if config.data.up not in UPS:
        raise ValueError(f"data.up: {config.data.up!r}; allowed: {', '.join(UPS)}")
    if wanted.view not in data.VIEWS:
        raise ValueError(f"fit.samples.view: {wanted.view!r}; allowed: {', '.join(data.VIEWS)}")


def batches(collection: Any, config: ConfigDict) -> Any:
    """Points, values there and clouds of config.train.batch_size shapes a step.

    Where training learns from surfaces (train.codes=surface) no value is read. Raises ValueError
    naming prior.num_signals and train.codes where none is known, and train.cloud_points.
    """
    wanted = config.train
    sampling = data.Sampling(
        wanted.batch_size, config.seed, wanted.points, wanted.near, wanted.cloud_points
    )
    if config.data.name == "pointcloud" and config.prior.num_signals:
        raise ValueError(
            f"prior.num_signals: {config.prior.num_signals}; allowed for data.name=pointcloud, "
            "which holds no distances: 0"
        )
    if config.data.name == "pointcloud" and wanted.codes != "surface":
        raise ValueError(
            f"train.codes: {wanted.codes!r}; allowed for data.name=pointcloud, as point clouds "
            "hold no distances: surface"
        )
    if config.router.kind == "point" and wanted.cloud_points < 1:
        raise ValueError(
            f"train.cloud_points: {wanted.cloud_points}; router.kind=point wants 1 or more"
        )
    share = sharding.places_of(config)
    if wanted.codes == "surface":
        return data.cloud_batches(collection, sampling, share)
    return data.point_batches(collection, sampling, config.data.cache, share=share)


def learned_from(collection: Any, config: ConfigDict) -> Measured:
    """The grid, of which a random part stands for it where prior.points says so."""
    return _sampled(collection, config.prior.points)


def _sampled(collection, count):
    """Values at `count` grid points that all shapes share (0: all of them)."""
    grid_shape = tuple(collection.shape[:-1])
    points = grid(grid_shape)
    chosen = None
    if 0 < count < len(points):
        draw = np.random.default_rng([len(points), count])
        chosen = np.sort(draw.choice(len(points), count, replace=False))

    def values(index):
        flat = collection[index].reshape(-1, 1)
        return flat if chosen is None else flat[chosen]

    return Measured(
        (operators.sample(grid_shape if chosen is None else points[chosen]),),
        grid_shape,
        1,
        values=values,
        truth=collection.truth if hasattr(collection, "truth") else collection.__getitem__,
        whole=chosen is None,
        cloud=getattr(collection, "cloud", None),
        mesh=getattr(collection, "mesh", None),
    )


def measured(collection: Any, config: ConfigDict) -> Measured:
    """What config.fit.samples lets a fit see of every shape."""
    wanted = config.fit.samples
    count = max(1, round(wanted.fraction * np.prod(collection.shape[:-1])))
    if wanted.seen == "cloud":
        return _cloud_only(collection, config)
    seen = dataclasses.replace(
        _sampled(collection, 0 if wanted.fraction == 1 else count),
        cloud=_clouds(collection, config),
    )
    seen = _focused(seen, wanted.focus)
    if wanted.seen == "grid":
        return seen
    # A view leaves other points of every shape unseen.
    points = np.asarray(seen.operator.points)
    band = config.data.truncation or 0.1

    def weights(index):
        visible = data.visible_points(collection[index][..., 0], points, wanted.view, band)
        visible = visible.astype(np.float32)
        return visible if seen.weights is None else visible * seen.weights(index)

    return dataclasses.replace(seen, weights=weights, whole=False)


def _focused(seen, focus):
    """What was measured with weights of every shape's own; focus 0 leaves all samples alike."""
    if not focus:
        return seen
    return dataclasses.replace(
        seen, weights=lambda index: surface_weights(seen.values(index)[:, 0], focus)
    )


def surface_weights(distances, focus):
    """Weights of samples [P] by how near the surface they are: a Gaussian, above a floor.

    focus: its standard deviation. What counts is where a surface lies; far from it an error of the
    distance changes nothing, and a floor keeps its sign.
    """
    near = np.exp(-np.square(distances / focus) / 2)
    return (_FAR_WEIGHT + (1 - _FAR_WEIGHT) * near).astype(np.float32)


def _clouds(collection, config):
    """Function from a shape's number to its cloud of config.fit.samples.cloud_points points."""
    if not hasattr(collection, "cloud"):
        return None
    wanted = config.fit.samples.cloud_points

    def cloud(index):
        known = collection.cloud(index)
        if not wanted or wanted >= len(known):
            return known
        draw = np.random.default_rng([config.seed, 3, index])
        return known[draw.choice(len(known), wanted, replace=False)]

    return cloud


def _cloud_only(collection, config):
    """Oriented points on the surface and nothing else."""
    return Measured(
        (),
        tuple(collection.shape[:-1]),
        1,
        values=None,
        truth=collection.truth if hasattr(collection, "truth") else collection.__getitem__,
        whole=False,
        cloud=_clouds(collection, config),
        mesh=getattr(collection, "mesh", None),
    )


def layout(collection: Any, config: ConfigDict) -> dict[str, Any]:
    """The grid, names, and what a mesh of every shape needs to know, in JSON types."""
    count, up = len(collection), config.data.up
    return {
        "grid": list(collection.shape[:-1]),
        "names": list(collection.names),
        "surface": {
            "truncation": float(config.data.truncation),
            "denormalise": [collection.denormalise(i).tolist() for i in range(count)],
            # What the coordinates of written meshes are in, in words.
            "units": "; ".join(dict.fromkeys(collection.units(i) for i in range(count))),
            "up": [collection.up(i) if up == "auto" else up for i in range(count)],
        },
    }


def baselines_of(
    collection: Any, seen: Measured, fit: Any, prior: Any, most: int, config: ConfigDict
) -> Baselines | None:
    """The mean shape, the nearest training shape, and what no learning makes of the samples."""
    del collection
    count = min(most, len(fit))
    truth = seen.truths(count)
    if truth is None:
        return None
    truths = [seen.mesh(index) if seen.mesh else None for index in range(count)]
    # Libraries that only runs with surfaces need.
    from nid_jax.fitting import meshing
    from nid_jax.geometry.mesh import zero_levels

    def scored(volumes):
        found = volume_metrics(volumes, truth, config.data.truncation)
        return found | meshing.surface_scores(zero_levels(volumes), truths, config.fit.mesh)

    truncation = Truncation.from_config(config.data)
    shapes = shape_baselines.Shapes(seen, fit, prior, scored, truncation, count)
    return Baselines(count, shapes.methods())


def describe(collection: Any, seen: Measured, count: int, config: ConfigDict) -> str:
    """What was measured: samples of the signed distance, or points and normals."""
    del collection
    if seen.values is None:
        assert seen.cloud is not None
        points = [len(seen.cloud(index)) for index in range(min(count, describing.COUNTED))]
        least, most = min(points), max(points)
        number = str(most) if least == most else f"{least} to {most}"
        return (
            f"{count} shapes. Of each were measured: {number} points on the surface with normals."
        )
    words = describing.measured(None, seen, count, samples="samples of the signed distance")
    words = words.replace(" signals of ", " shapes of ", 1)
    if config.fit.samples.seen == "view":
        words += f" Only what is seen from the {config.fit.samples.view} was."
    limit, kind = config.data.truncation, config.data.truncation_kind
    if limit:
        how = "levelled out (tanh)" if kind == "tanh" else "cut off"
        words += f" Distances are {how} at {limit:g}, in units of the cube from -1 to 1."
    return words


def volume_metrics(reconstruction, truth, truncation):
    """Volumetric IoU of what is inside, and the mean absolute error, of every shape.

    Both [S, N, N, N, 1]; errors are in units of the cube [-1, 1]^3, of distances truncated alike.
    """
    found, true = reconstruction[..., 0], truth[..., 0]
    if truncation:
        found = np.clip(found, -truncation, truncation)
    return {
        "iou": metrics.iou(found, true),
        "sdf_error": metrics.sdf_error(found, true),
    }
