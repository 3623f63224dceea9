"""The groups that all tasks have, put together."""

import difflib

from ml_collections import ConfigDict

from nid_jax.configs.parts import fitting, model, training


def config(task, data):
    """The config of a task whose `data` group is given, with the values that tasks share."""
    return ConfigDict(
        {
            # what nid_jax.tasks has of this name
            "task": task,
            # of everything that is drawn
            "seed": 0,
            # compiled programs are kept for the next run: '' in the user's cache folder, off, or a
            # folder
            "compilation_cache": "",
            "data": data,
            "dictionary": model.dictionary(),
            "numerics": model.numerics(),
            "router": model.router(),
            "loss": model.loss(),
            "train": training.train(),
            "eval": training.evaluation(),
            "prior": training.prior(),
            "checkpoint": training.checkpoint(),
            "fit": fitting.fit(),
            "render": fitting.render(),
            "sample": fitting.sample(),
            "mesh": training.mesh(),
        }
    )


def variant(config, variants, name, ways=()):
    """The function of a config's variant among `variants`, a dict.

    ways: further words that a variant may go on with, for the message. Raises ValueError with the
    nearest name.
    """
    if name in variants:
        return variants[name]
    near = difflib.get_close_matches(name, variants, 1, 0.0)[0]
    then = f", then -{', -'.join(ways)}" if ways else ""
    allowed = ", ".join(variants) + then
    raise ValueError(f"{config}: no variant {name!r}, did you mean {near!r}? allowed: {allowed}")
