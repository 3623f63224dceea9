"""Priors and their files."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from nid_jax.coding.canonical import transform_of
from nid_jax.coding.drawing import level_of
from nid_jax.coding.mixture import fit_mixture
from nid_jax.coding.prior import fit_prior
from nid_jax.fitting.priors import (
    PriorError,
    load_prior,
    load_transform,
    save_prior,
    save_transform,
)
from nid_jax.notices import Notice

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


def turned(known):
    """A prior whose mixture is not in the leading coordinates themselves."""
    matrix = np.random.default_rng(1).normal(size=(EXPERTS, EXPERTS))
    return known._replace(mixture=known.mixture.transformed(matrix))


@pytest.mark.parametrize("kinds", [{}, {"codes": True}, {"mixture": True}, {"turned": True}])
def test_what_was_saved_comes_back(tmp_path, kinds):
    wanted = turned(prior(mixture=True)) if "turned" in kinds else prior(**kinds)
    save_prior(tmp_path / "prior.npz", wanted, 3)
    found = load_prior(tmp_path / "prior.npz")
    held = wanted.arrays()
    assert held.keys() == found.arrays().keys()
    for name, value in found.arrays().items():
        np.testing.assert_array_equal(value, held[name])
    if wanted.mixture is not None:
        np.testing.assert_array_equal(found.mixture.basis, wanted.mixture.basis)


def test_the_leading_coordinates_themselves_are_no_array_of_a_file(tmp_path):
    path, wanted = tmp_path / "prior.npz", prior(mixture=True)
    save_prior(path, wanted, 3)
    with np.load(path) as file:
        stored = dict(file)
    assert "mixture.basis" not in stored
    # As files had it before.
    np.savez(path, **stored, **{"mixture.basis": np.asarray(wanted.mixture.basis)})
    np.testing.assert_array_equal(load_prior(path).mixture.basis, np.eye(EXPERTS))
    # Fewer coefficients than coordinates, as `first` leaves.
    save_prior(path, wanted.first(2), 3)
    np.testing.assert_array_equal(load_prior(path).mixture.basis, np.eye(2, EXPERTS))
    save_prior(path, turned(wanted), 3)
    with np.load(path) as file:
        assert "mixture.basis" in file


def test_what_is_not_understood_is_one_line(tmp_path):
    path = tmp_path / "prior.npz"
    assert load_prior(path) is None
    held = {"form": "mixture", "step": 3} | prior(mixture=True).arrays()
    cases = [
        ({"form": "copula"}, "prior has the form 'copula'; allowed: gaussian, mixture"),
        ({"form": "gaussian"}, "the form 'gaussian', its arrays another"),
        ({"form": None}, "damaged: it has no array 'form'"),
        ({"mixture.common": None}, "mixture.common is missing"),
        ({"level.slope": np.zeros((3, 2), np.float32)}, r"level.slope is float32\[3, 2\]; allowed"),
        ({"diagonal": np.zeros(9, np.float32)}, r"diagonal is float32\[9\]; allowed: float32\[4\]"),
        ({"factor": np.zeros((4, 4))}, r"factor is float64\[4, 4\]"),
        ({"mean": np.full(4, np.nan, np.float32)}, "mean holds NaN or infinity; allowed: finite"),
        ({"mean": np.full(4, 3e38, np.float32)}, r"mean holds 3e\+38; allowed: at most 9.2e\+18"),
        ({"diagonal": -np.ones(4, np.float32)}, "diagonal holds -1; allowed: 0 or more"),
        ({"shrinkage": np.float32(2)}, "shrinkage holds 2; allowed: 0 to 1"),
        ({"mixture.weights": np.zeros(2, np.float32)}, "mixture.weights holds 0; allowed: 0 or"),
    ]
    for changes, line in cases:
        changed = {name: value for name, value in (held | changes).items() if value is not None}
        np.savez(path, **changed)
        with pytest.raises(PriorError, match=line) as raised:
            load_prior(path)
        assert str(raised.value).startswith(f"{path}: ")


def test_a_prior_of_another_step_is_said(tmp_path):
    path = tmp_path / "prior.npz"
    save_prior(path, prior(), 30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_prior(path, step=30) is not None
    with pytest.warns(Notice, match="is of step 30, the checkpoint that is opened of step 10"):
        assert load_prior(path, step=10) is not None


def test_a_prior_of_other_experts_is_one_line(tmp_path):
    path = tmp_path / "prior.npz"
    save_prior(path, prior(codes=True), 3)
    for experts, channels in ((EXPERTS, CHANNELS), (EXPERTS - 1, 1)):
        known = SimpleNamespace(num_experts=experts, channels=channels)
        if experts == EXPERTS:
            assert load_prior(path, known) is not None
            continue
        with pytest.raises(PriorError, match=r"prior.npz: codes is float32\[30, 4\], its config"):
            load_prior(path, known)


def test_damaged_ways_to_canonical_form_are_one_line(tmp_path):
    path, draw = tmp_path / "canonical.npz", np.random.default_rng(1)
    root, half = draw.normal(size=(2, EXPERTS, EXPERTS))
    whole = transform_of(root @ root.T, draw.normal(size=(EXPERTS, 1)), half @ half.T)
    save_transform(path, whole, 3)
    assert load_transform(path, 2) is None
    np.testing.assert_array_equal(load_transform(path, 3).mixing, whole.mixing)
    for changes, line in (
        ({"mixing": 0 * whole.mixing}, "'mixing' is all 0; allowed: atoms"),
        ({"inverse": np.full((4, 4), np.nan)}, "'inverse' holds NaN; allowed: finite numbers"),
        ({"mixing": np.ones((4, 3))}, r"'mixing' is \[4, 3\]; allowed: 4 atoms"),
        ({"energies": -whole.energies}, "'energies' holds numbers below 0; allowed: 0 or more"),
    ):
        save_transform(path, whole._replace(**changes), 3)
        with pytest.raises(ValueError, match=line) as raised:
            load_transform(path, 3)
        assert str(raised.value).startswith(f"{path}: damaged: ")
