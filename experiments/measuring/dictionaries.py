"""Dictionaries to compare: trained into a folder or as they are drawn, with the prior of codes."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from nid_jax import tasks
from nid_jax.fields.model import build_model
from nid_jax.fitting import batched, priors
from nid_jax.storage.workdir import Workdir
from nid_jax.training import loop


class Fit(NamedTuple):
    """values [S, *grid, C], seconds of all signals without compilation, and the library's fit."""

    values: np.ndarray
    seconds: float
    fitted: batched.Fitted


class Dictionary(NamedTuple):
    """A model, the prior of its codes or None, and the config and the task that they come from.

    training: seconds of that, without compilation; seconds: of training and prior, data included.
    """

    config: Any
    model: Any
    prior: Any = None
    training: float = 0.0
    seconds: float = 0.0
    build: Callable = tasks.build

    @property
    def task(self):
        """The task of the config."""
        return self.build(self.config)

    def wanted(self, **changes):
        """config.fit, changed by flattened keys."""
        wanted = self.config.fit.copy_and_resolve_references()
        wanted.update_from_flattened_dict(changes)
        return wanted

    def fit(self, collection, wanted):
        """Fit a collection by config.fit = `wanted`, as main.py does. -> Fit."""
        config = self.config.copy_and_resolve_references()
        config.fit = wanted.copy_and_resolve_references()
        task = self.build(config)
        fitted = batched.fit(task, self.model, collection, config, prior=self.prior)
        values, _ = batched.reconstruct(task, self.model, fitted, collection, config)
        return Fit(values, fitted.seconds_total - fitted.seconds_compile, fitted)


def trained(config, folder, prior=True, build=tasks.build):
    """A Dictionary trained in a folder, or what it holds gone on with."""
    begun, task = time.perf_counter(), build(config)
    found = loop.train(task, config, Workdir(folder))
    learned = None
    if prior:
        learned = priors.learn_prior(task, found.model, task.open("train"), config)
    spent = time.perf_counter() - begun - found.summary["compile_seconds"]
    training = found.summary["train_seconds"]
    return Dictionary(config, found.model, learned, training, max(spent, training), build)


def untrained(config, prior=True, build=tasks.build):
    """The Dictionary of a config as it is drawn, with the prior of its own codes."""
    begun, task = time.perf_counter(), build(config)
    train = task.open("train")
    model = build_model(config, train.shape, len(train), config.seed)
    learned = priors.learn_prior(task, model, train, config) if prior else None
    return Dictionary(config, model, learned, 0.0, time.perf_counter() - begun, build)
