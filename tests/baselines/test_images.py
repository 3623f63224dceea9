"""Pictures by themselves: which cosines are kept, and which holes are filled."""

import numpy as np
import pytest
import scipy.fft

from nid_jax.baselines import images


@pytest.mark.parametrize("shape", [(9, 7, 1), (8, 8, 3), (5, 6, 4, 1)])
def test_cosines_keep_so_many_numbers_and_all_of_them_are_the_signal(shape):
    signal = np.random.default_rng(0).normal(size=shape)
    np.testing.assert_allclose(images.cosines(signal, signal.size), signal, atol=1e-12)
    spectrum = scipy.fft.dctn(images.cosines(signal, 20), norm="ortho")
    assert (np.abs(spectrum) > 1e-9).sum() == 20
    kept = np.abs(spectrum) > 1e-9
    np.testing.assert_allclose(spectrum[kept], scipy.fft.dctn(signal, norm="ortho")[kept])
    # None that is left out is lower along every axis than one that is kept.
    assert kept.flat[0]
    for axis in range(len(shape)):
        assert (np.diff(kept.astype(int), axis=axis) <= 0).all()


def test_holes_are_filled_until_they_are_too_many(monkeypatch):
    seen = np.ones((3, 8, 8), bool)
    seen[:, 2:5, 3:5] = False
    assert images.affordable(seen) == 3
    monkeypatch.setattr(images, "_HIDDEN", 13)
    assert images.affordable(seen) == 2
    seen[1] = False
    assert images.affordable(seen) == 1


def test_a_plane_goes_on_through_a_hole_whatever_it_held():
    rows, columns = np.indices((9, 9))
    plane = (0.1 + 0.05 * rows + 0.03 * columns)[..., None]
    seen = np.ones((9, 9), bool)
    seen[3:6, 4:6] = False
    found = images.biharmonic(np.where(seen[..., None], plane, np.nan), seen)
    np.testing.assert_allclose(found, plane, atol=1e-8)
