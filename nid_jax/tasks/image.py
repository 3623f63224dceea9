"""Image regression: every pixel is measured, and the picture is what comes back."""

import jax
import numpy as np

from nid_jax import data, losses, metrics
from nid_jax.coding.operators import sample
from nid_jax.tasks.task import Task


def build(config):
    """The image task that a config describes. Raises ValueError naming a key that is wrong."""
    return Task(
        name="image",
        open=lambda split: data.open_collection(config.data, split, config.seed),
        batches=lambda collection: data.batches(
            collection,
            config.train.batch_size,
            config.seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        ),
        operator=lambda grid_shape: sample(tuple(grid_shape)),
        objective=losses.Objective.from_config(config.loss),
        assemble=assemble,
        layout=layout,
        metrics=image_metrics,
    )


def layout(collection):
    """How the collection's signals make up whole images, in JSON types."""
    if isinstance(collection, data.PatchCollection):
        return {
            "grid": list(collection.grid_shape),
            "patch": list(collection.size),
            "overlap": collection.overlap,
            "per_signal": collection.per_signal,
            "names": list(collection.collection.names),
        }
    return {"grid": list(collection.shape[:-1]), "names": list(collection.names)}


def assemble(values, layout, scale=1):
    """Whole images from values [S, *grid, C] of signals, each rendered `scale` times as fine."""
    if "patch" not in layout:
        return values
    count = layout["per_signal"]
    scaled = [[side * scale for side in layout[key]] for key in ("grid", "patch")]
    pieces = (values[i : i + count] for i in range(0, len(values), count))
    return np.stack([data.stitch(piece, *scaled, layout["overlap"] * scale) for piece in pieces])


def image_metrics(reconstruction, truth):
    """PSNR and SSIM of every image, clipped to [0, 1] as it would be saved."""
    clipped = np.clip(reconstruction, 0, 1)
    return {
        "psnr": np.asarray(metrics.psnr(clipped, truth)),
        "ssim": np.asarray(metrics.ssim(clipped, truth)),
    }
