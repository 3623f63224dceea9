"""Magnetic resonance imaging: pictures from a part of their Fourier transform."""

import dataclasses
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from nid_jax import data
from nid_jax.coding import operators
from nid_jax.tasks import describing, image
from nid_jax.tasks.task import Measured, Task

# A relative residual from which one is asked what the measurements are of. Of all frequencies of 32
# pixels a small dictionary leaves 0.23, another origin 0.53, a phase 0.65, another order 0.93.
UNEXPLAINED = 0.4


def build(config: ConfigDict) -> Task:
    """The task that a config describes. Raises ValueError naming a key."""
    task = image.build(config)
    return dataclasses.replace(
        task,
        open=lambda split: open_split(task, config, split),
        measure=lambda collection: measured(collection, config),
        layout=layout,
        advice=advice,
        describe=lambda collection, seen, count: describing.measured(
            collection,
            seen,
            count,
            "" if isinstance(collection, Scans) else describing.noise(config),
        ),
    )


def open_split(task: Task, config: ConfigDict, split: str) -> Any:
    """Pictures; or, to fit, the k-space of config.data.kspace in place of the test split."""
    if split != "test" or not config.data.kspace:
        return task.open(split)
    if config.operator.kind != "fourier":
        raise ValueError(f"operator.kind: {config.operator.kind!r}; with data.kspace: fourier")
    found = data.read_kspace(
        config.data.kspace,
        config.data.kspace_mask,
        config.data.kspace_centred,
        config.data.kspace_origin,
        config.data.kspace_scale,
    )
    return Scans(found, config.data.kspace)


class Scans(data.ArrayCollection):
    """Measured k-space, real and imaginary parts [S, H, W, 2], 0 where nothing was measured."""

    def __init__(self, found, title):
        self.measured = found.measured
        names = [f"scan_{number:05d}" for number in range(len(found.values))]
        parts = np.stack([found.values.real, found.values.imag], -1)
        super().__init__(parts, names, str(title))


def measured(collection: Any, config: ConfigDict) -> Measured:
    """Samples of config.operator, or those of a file."""
    if not isinstance(collection, Scans):
        return image.measured(collection, config)
    grid_shape = collection.shape[:2]
    kept = collection.measured.any(0)

    def values(index):
        return collection[index][kept].T.reshape(-1, 1)

    def weights(index):
        return np.tile(collection.measured[index][kept], 2).astype(np.float32)

    # One factorisation serves all that were sampled alike.
    alike = (collection.measured == kept).all()
    return Measured(
        (operators.fourier_samples(grid_shape, kept),),
        grid_shape,
        1,
        values=values,
        weights=None if alike else weights,
        whole=False,
    )


def layout(collection: Any) -> dict[str, Any]:
    """How the collection's signals make up whole images, in JSON types."""
    if isinstance(collection, Scans):
        return {"grid": list(collection.shape[:2]), "names": list(collection.names)}
    return image.layout(collection)


def advice(collection: Any, unexplained: float) -> str:
    """What a fit that explains little of a file of k-space may mean; '' for simulated samples."""
    if not (isinstance(collection, Scans) and unexplained > UNEXPLAINED):
        return ""
    return (
        "are samples in another order (data.kspace_centred, data.kspace_origin), on another scale "
        "(data.kspace_scale), of another mask, or of a picture with a phase?"
    )
