"""Tasks by name: a config in, a `Task` out."""

import difflib
import importlib

from ml_collections import ConfigDict

from nid_jax import settings
from nid_jax.files import local
from nid_jax.tasks.task import Baseline, Baselines, Extras, Measured, Task

__all__ = ["Baseline", "Baselines", "Extras", "Measured", "Task", "build", "has_surfaces"]

# Each is a module of this package, imported when a config asks for it.
TASKS = ("image", "inpainting", "video", "ct", "mri", "sdf", "fields")
OF_SURFACES = ("sdf",)
"""Those whose signals have a surface: `Task.surface`."""


def build(config: ConfigDict) -> Task:
    """The task of config.task. Raises ValueError naming a key of the config that is wrong."""
    if config.task not in TASKS:
        near = difflib.get_close_matches(str(config.task), TASKS, 1, 0.0)[0]
        raise ValueError(
            f"task: {config.task!r} is unknown, did you mean {near!r}? allowed: {', '.join(TASKS)}"
        )
    for key, text in _texts(config):
        local(text, key)
    settings.check(config)
    return importlib.import_module(f"nid_jax.tasks.{config.task}").build(config)


def has_surfaces(config: ConfigDict) -> bool:
    """Whether signals of config.task have a surface and are signed distances to it, as the task's
    `Task.surface` says. Of the config, that of any dictionary, nothing else is read."""
    return config.get("task") in OF_SURFACES


def _texts(group, path=""):
    """(dotted key, value) of every text of a config, paths among them."""
    for key, value in group.items():
        if isinstance(value, ConfigDict):
            yield from _texts(value, f"{path}{key}.")
        elif isinstance(value, str):
            yield f"{path}{key}", value
