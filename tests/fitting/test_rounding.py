"""Codes in fewer bits: off by at most half a step, and read back as they were rounded."""

import numpy as np
import pytest

from nid_jax.errors import ArgumentError
from nid_jax.fitting import rounding
from nid_jax.notices import Notice


@pytest.mark.parametrize(("dtype", "levels"), [("int8", 253), ("int16", 65533)])
def test_error_is_at_most_half_a_step(dtype, levels):
    draw = np.random.default_rng(0)
    codes = (draw.normal(size=(30, 6)) * 10.0 ** np.arange(-3, 3) + 5).astype(np.float32)
    codes[:, 2] = 7
    found = rounding.rounded(codes, dtype)
    assert found.values.dtype == dtype
    bound = np.ptp(codes.astype(np.float64), axis=0) / levels / 2 + 1e-6 * np.abs(codes).max(0)
    assert (np.abs(found.codes() - codes) <= bound).all()
    assert (found.codes()[:, 2] == 7).all()


def test_floats_and_what_is_refused():
    codes = np.float32([[0.1, 70000.0]])
    np.testing.assert_array_equal(rounding.rounded(codes, "float32").codes(), codes)
    with pytest.raises(ArgumentError, match="codes_dtype: 'float16'; allowed: one that holds"):
        rounding.rounded(codes, "float16")
    with pytest.raises(ArgumentError, match="codes_dtype: 'int4'; allowed: float32, float16"):
        rounding.rounded(codes, "int4")


@pytest.mark.parametrize("dtype", rounding.DTYPES)
def test_signals_that_are_not_finite_leave_others_as_they_are(dtype):
    codes = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
    alone = rounding.rounded(codes[[0, 2, 3]], dtype).codes()
    codes[1, 3], codes[4] = np.nan, np.inf
    with pytest.warns(Notice, match="codes of 2 of 5 signals are not finite; stored as"):
        found = rounding.rounded(codes, dtype).codes()
    if dtype.startswith("int"):
        assert np.isnan(found[[1, 4]]).all()
    else:
        np.testing.assert_array_equal(np.isfinite(found), np.isfinite(codes))
    np.testing.assert_array_equal(found[[0, 2, 3]], alone)


@pytest.mark.filterwarnings("ignore::nid_jax.notices.Notice")
def test_no_signal_at_all_is_finite():
    found = rounding.rounded(np.full((2, 3), np.nan, np.float32), "int8")
    assert np.isnan(found.codes()).all()
    assert np.isfinite(found.step).all()


@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_zeros_of_sparse_codes_stay_zero(dtype):
    draw = np.random.default_rng(2)
    codes = np.zeros((40, 64), np.float32)
    for row in codes:
        row[draw.permutation(64)[:4]] = draw.normal(1, 2, size=4)
    found = rounding.rounded(codes, dtype).codes()
    assert not found[codes == 0].any()
    # No number loses half of its levels because its range is not the same on both sides.
    bound = np.ptp(codes, axis=0) / (2 * np.iinfo(dtype).max - 1) / 2 * 1.001 + 1e-6
    assert (np.abs(found - codes) <= bound).all()


def test_bits():
    codes = np.zeros((3, 100), np.float32)
    codes[0, :5], codes[1, :7] = 1, 1
    assert rounding.bits_per_signal(codes, 3, "int8") == 8 * 100 + 96
    assert rounding.bits_per_signal(codes, 3, "int8", sparse=True) == 7 * (8 + 7) + 96
    assert rounding.bits_per_signal(codes + 1, 3, "int8", sparse=True) == 8 * 100 + 96
    assert rounding.shared_bits(100, "int8") == 6400
    assert rounding.shared_bits(100, "float16") == 0
