"""Fits of signals measured in one way share a factorisation: the codes of ridge."""

import numpy as np
import pytest

from nid_jax.coding import gram, operators, ridge
from nid_jax.coding.factorisation import Factorisation
from tests.coding.test_ridge import make_dictionary, measure


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("weighted", [False, True])
def test_factorisation(held, weighted):
    dictionary, operator = make_dictionary(), operators.sample((9, 7))
    weights = np.random.default_rng(5).integers(0, 3, 63) if weighted else None
    factorisation = Factorisation(
        dictionary, operator, weights, lam=1e-5, map_numbers=2**27 if held else 0
    )
    for seed in (0, 1):
        y = measure(dictionary, operator, seed=seed, scale=10.0**seed)
        direct = ridge.ridge(gram.normal_equations(dictionary, operator, y, weights), 1e-5)
        if weighted:
            y[:, np.asarray(weights) == 0] = np.nan
        reused = factorisation.solve(y)
        for name in ("codes", "bias", "residual"):
            expected = np.asarray(getattr(direct, name))
            np.testing.assert_allclose(
                getattr(reused, name), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
            )
    with pytest.raises(ValueError, match="allowed"):
        factorisation.solve(y[:, :5])


def test_factorisation_of_masks_is_refused():
    dictionary, operator = make_dictionary(), operators.sample((9, 7))
    with pytest.raises(ValueError, match="share no factorisation"):
        Factorisation(dictionary, operator, np.ones((3, 63)))
