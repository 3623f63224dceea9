"""Tasks by name: a config in, a `Task` out."""

import difflib

from nid_jax.tasks import ct, image, inpainting, sdf, video
from nid_jax.tasks.task import Task

__all__ = ["Task", "build"]

TASKS = {
    "image": image.build,
    "inpainting": inpainting.build,
    "video": video.build,
    "ct": ct.build,
    "sdf": sdf.build,
}


def build(config):
    """The task of config.task. Raises ValueError naming a key of the config that is wrong."""
    if config.task not in TASKS:
        near = difflib.get_close_matches(str(config.task), TASKS, 1, 0.0)[0]
        raise ValueError(
            f"task: {config.task!r} is unknown, did you mean {near!r}? allowed: {', '.join(TASKS)}"
        )
    return TASKS[config.task](config)
