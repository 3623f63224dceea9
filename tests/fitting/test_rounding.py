"""Codes in fewer bits: off by at most half a step, and read back as they were rounded."""

import numpy as np
import pytest

from nid_jax.errors import ArgumentError
from nid_jax.fitting import rounding


@pytest.mark.parametrize(("dtype", "levels"), [("int8", 254), ("int16", 65534)])
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
    assert rounding.bits_per_signal(100, 3, "int8") == 8 * 100 + 96
