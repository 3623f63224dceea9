"""What tells the signals that rounds are kept for from others."""

from types import SimpleNamespace

import numpy as np
from ml_collections import ConfigDict

from nid_jax.coding import operators
from nid_jax.fitting import rounds
from nid_jax.training import heads


def measured_of(values, points, weights=None):
    return SimpleNamespace(
        ways=[operators.sample(points)],
        way_of=lambda index: 0,
        values=values.__getitem__,
        weights=None if weights is None else weights.__getitem__,
    )


def checksum(values, points, weights=None, start=1):
    return heads._checksum(measured_of(values, points, weights), len(values), start)


def test_any_change_of_what_was_measured_is_another_checksum():
    draw = np.random.default_rng(2)
    values = draw.normal(size=(4, 5, 1)).astype(np.float32)
    points, weights = draw.uniform(-1, 1, (5, 2)), np.ones((4, 5), np.float32)
    changed = values.copy()
    changed[3, 4, 0] = np.nextafter(changed[3, 4, 0], np.inf)
    less = weights.copy()
    less[2, 1] = 0
    found = [
        checksum(values, points),
        checksum(changed, points),
        checksum(values, points + 1e-3),
        checksum(values, points, weights),
        checksum(values, points, less),
        checksum(values, points, start=2),
        checksum(values[::-1], points),
    ]
    assert len(set(found)) == len(found)
    assert checksum(values.copy(), points.copy()) == found[0]


def test_another_schedule_of_rounds_is_another_run(monkeypatch):
    """Rounds that were stopped have, or would have, another target: they are not gone on with."""
    draw = np.random.default_rng(3)
    measured = measured_of(draw.normal(size=(4, 5, 1)), draw.uniform(-1, 1, (5, 2)))
    collection = SimpleNamespace(names=list("abcd"), title="letters")
    config = ConfigDict({"dictionary": {"components": {"rounds": 4}}, "data": {}, "seed": 0})
    before = heads._number_of(measured, collection, config)
    assert heads._number_of(measured, collection, config) == before
    monkeypatch.setattr(rounds, "SPECTRUM_ROUNDS", rounds.SPECTRUM_ROUNDS + 1)
    assert heads._number_of(measured, collection, config) != before
