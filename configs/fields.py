"""Fields known at scattered points that differ from signal to signal: weather, soundings, probes.

    python main.py --config=configs/fields.py[:VARIANT] --workdir=DIR

VARIANT is cpu (the default: built-in weather stations that differ from day to day), own (your own
.csv, .parquet or .npz with columns of coordinates and values: --config.data.root=FILE_OR_FOLDER) or
smoke.
"""

from nid_jax.configs.parts import data, tasks


def get_config(variant="cpu"):
    """The config of a variant."""
    change = tasks.variant("fields", VARIANTS, variant)
    # stations (built in) or points (files)
    config = tasks.config("fields", data.signals("stations"))
    config.data.update({name: dict(data.SOURCES[name]) for name in ("points", "stations")})
    # of the points of every signal to fit, what is kept from the fit and scored
    config.fit.held_out = 0.2
    base(config)
    change(config)
    return config


def base(config):
    """Heads by rounds of expectation maximisation from each signal's own points, and their prior.

    Without a trunk: heads read cosines, () as many as suit the number of coordinates.
    """
    config.dictionary.update({"num_experts": 400, "num_layers": 1, "heads": "components"})
    config.dictionary.embedding.kind = "cosine"
    # Few points say little of many coefficients, and rounds go slowly.
    config.dictionary.components.rounds = 40
    config.train.update({"steps": 0, "batch_size": 100})
    config.fit.update({"solver": "gaussian", "uncertainty": True})
    # Levels go with seasons, and so do patterns.
    config.fit.gaussian.level = True


def cpu(config):
    """300 days of 60 stations each to learn from, 60 unseen days.

    Unseen days, everywhere, from all their stations 39.61 dB of the range, from 15 of them 35.76;
    kriging day by day 35.21 and 29.25 (experiments/gridless.py --contests=stations, nothing held
    out). Heads in 494 s on two cores (AMD EPYC) that had eight times as much to do, 2026-11-29, jax
    0.10.2.
    Departs from the paper: heads and codes are solved from scattered samples, nothing descends, no
    router.
    """


def own(config):
    """Your own files: columns by data.points where their names do not say what they are."""
    config.data.name = "points"


def smoke(config):
    """Seconds: does every part run?"""
    config.data.update({"size": (8, 8), "num_train": 12, "num_test": 3})
    config.data.stations.count = 12
    config.dictionary.num_experts = 16
    config.dictionary.embedding.counts = (5, 5)
    config.dictionary.components.rounds = 2
    config.train.batch_size = 6


VARIANTS = {"cpu": cpu, "own": own, "smoke": smoke}
