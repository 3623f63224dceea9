"""Dictionaries to compare, and what it took to learn them."""

from typing import NamedTuple

from measuring.command import clocked
from nid_jax import NeuralDictionary, learning
from nid_jax.storage.workdir import Workdir
from nid_jax.tasks import Task


class Learned(NamedTuple):
    """A dictionary and the task that it was learned for.

    training: seconds of that, without compilation; seconds: of training and prior, data included.
    """

    dictionary: NeuralDictionary
    task: Task
    training: float
    seconds: float


def learned(task, config, folder):
    """A dictionary learned in a folder, or what it holds gone on with. -> `Learned`."""
    (found, run), spent = clocked(learning.train, task, config, Workdir(folder))
    training = run.summary["train_seconds"]
    return Learned(found, task, training, max(spent - run.summary["compile_seconds"], training))


def changed(config, changes=(), **further):
    """A copy of a config with changes by flattened keys."""
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(dict(changes, **further))
    return config
