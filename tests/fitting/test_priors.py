"""Priors and their files."""

import numpy as np
import pytest

from nid_jax.coding.drawing import level_of
from nid_jax.coding.mixture import fit_mixture
from nid_jax.coding.prior import fit_prior
from nid_jax.fitting.priors import load_prior, save_prior

EXPERTS, CHANNELS = 4, 2


def prior(mixture=False, codes=False):
    generator = np.random.default_rng(0)
    values = generator.normal(size=(30, EXPERTS)) / np.arange(1, EXPERTS + 1)
    values[:15] += 5
    found = fit_prior(values, residual=np.full(30, 0.1), shrinkage=0.1)
    found = found._replace(level=level_of(found, values, generator.normal(size=(30, CHANNELS))))
    if mixture:
        found = found._replace(mixture=fit_mixture(values, 2))
    return found._replace(codes=values.astype(np.float32)) if codes else found


@pytest.mark.parametrize("kinds", [{}, {"codes": True}, {"mixture": True}])
def test_what_was_saved_comes_back(tmp_path, kinds):
    wanted = prior(**kinds)
    save_prior(tmp_path / "prior.npz", wanted)
    found = load_prior(tmp_path / "prior.npz")
    held = wanted.arrays()
    assert held.keys() == found.arrays().keys()
    for name, value in found.arrays().items():
        np.testing.assert_array_equal(value, held[name])


def test_what_is_not_understood_is_one_line(tmp_path):
    path = tmp_path / "prior.npz"
    assert load_prior(path) is None
    held = {"form": "mixture"} | prior(mixture=True).arrays()
    cases = [
        ({"form": "copula"}, "prior has the form 'copula'; allowed: gaussian, mixture"),
        ({"form": "gaussian"}, "the form 'gaussian', its arrays another"),
        ({"form": None}, "damaged: it has no array 'form'"),
        ({"mixture.common": None}, "mixture.common is missing"),
        ({"level.slope": np.zeros((3, 2), np.float32)}, r"level.slope is float32\[3, 2\]; allowed"),
        ({"diagonal": np.zeros(9, np.float32)}, r"diagonal is float32\[9\]; allowed: float32\[4\]"),
        ({"factor": np.zeros((4, 4))}, r"factor is float64\[4, 4\]"),
    ]
    for changes, line in cases:
        changed = {name: value for name, value in (held | changes).items() if value is not None}
        np.savez(path, **changed)
        with pytest.raises(ValueError, match=line) as raised:
            load_prior(path)
        assert str(raised.value).startswith(f"{path}: ")
