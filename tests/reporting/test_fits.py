"""What is said of a stored fit's size."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict

from nid_jax.notices import Notice
from nid_jax.reporting import fits


class Stored(SimpleNamespace):
    """As much of a fit as its size needs."""

    def __len__(self):
        return len(self.codes)


def storage(signals, dtype, correction=None, top_k=0):
    """Of codes [S, 50], of which 4 are not zero."""
    codes = np.zeros((signals, 50), np.float32)
    codes[:, :4] = 1
    dictionary = SimpleNamespace(num_experts=50)
    fit = Stored(codes=codes, channels=1, correction=correction, dictionary=dictionary)
    config = ConfigDict({"fit": {"codes_dtype": dtype, "top_k": top_k}, "render": {"chunk": 0}})
    return fits._storage(None, fit, fit, None, None, config)


def test_bits_are_of_codes_of_what_is_shared_and_of_the_correction():
    found = storage(10, "int8", np.zeros((10, 6, 6, 1), np.float32))
    assert found["bits_per_signal"] == 8 * 50 + 32
    assert found["shared_bits_per_signal"] == 64 * 50 / 10
    assert found["correction_bits_per_signal"] == 32 * 36
    words = fits.storage_line(found | {"rounding_loss": 0.0124})
    assert words == (
        "codes in int8: 432 bits a signal + 320 of what signals share + 1152 of the correction, "
        "0.012 dB lost"
    )
    assert fits.storage_line(found) == ""
    assert storage(10, "int8", top_k=4)["bits_per_signal"] == 4 * (8 + 6) + 32
    plain = storage(1, "float32")
    assert plain["bits_per_signal"] == 32 * 51
    assert plain["shared_bits_per_signal"] == 0


def test_whole_numbers_for_few_signals_save_nothing():
    for signals, dtype in ((1, "int8"), (2, "int8"), (4, "int16")):
        with pytest.warns(Notice, match=f"fit.codes_dtype: {dtype}: .* {signals} of them take no"):
            storage(signals, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        storage(3, "int8")
        storage(5, "int16")
