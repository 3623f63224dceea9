"""Images from measurements alone agree with independent computations in float64."""

import numpy as np
import pytest

from nid_jax.baselines import least_squares, tomography
from nid_jax.coding import operators


def phantom(side):
    rows, columns = np.indices((side, side)) - (side - 1) / 2
    disc = (np.hypot(rows, columns) < side / 3) * 0.6
    return disc + 0.3 * (np.hypot(rows - 2, columns + 1) < side / 8)


def test_beams_give_back_what_they_passed_through():
    truth = phantom(24)
    operator = operators.parallel_beam((24, 24), 40)
    values = np.asarray(operators.parallel_beam((24, 24), 40).measure(at(operator, truth)))[None]
    found = tomography.sirt(operator, (24, 24), values)
    assert found.shape == (1, 24, 24, 1)
    assert found.min() >= 0
    assert np.sqrt(np.mean(np.square(found[0, ..., 0] - truth))) < 0.07
    # What was not measured has no say.
    weights = np.ones(values.shape[:2])
    weights[:, ::7] = 0
    nonsense = np.where(weights[..., None] > 0, values, 1e3)
    some = tomography.sirt(operator, (24, 24), nonsense, weights)
    assert np.sqrt(np.mean(np.square(some[0, ..., 0] - truth))) < 0.07
    alike = tomography.sirt(operator, (24, 24), nonsense, weights[0])
    np.testing.assert_allclose(alike, some, atol=1e-5)


def at(operator, image):
    """Values of an image, linearly interpolated, at an operator's points. -> [Q, 1]."""
    from scipy.ndimage import map_coordinates

    places = (np.asarray(operator.points).T + 1) / 2 * (len(image) - 1)
    return map_coordinates(image, places, order=1, mode="nearest")[:, None].astype(np.float32)


def test_fourier_samples_leave_zeros_elsewhere():
    truth = phantom(16)
    operator = operators.fourier((16, 16), share=0.2)
    values = np.asarray(operator.measure(truth.reshape(-1, 1).astype(np.float32)))[None]
    found = least_squares.reconstruct(operator, (16, 16), values)
    kept = np.zeros(256, bool)
    kept[np.asarray(operator.kept)] = True
    kept = kept.reshape(16, 16)
    # A real picture says the same at a frequency and at its negative.
    kept |= np.roll(kept[::-1, ::-1], 1, (0, 1))
    expected = np.fft.ifft2(np.where(kept, np.fft.fft2(truth), 0)).real
    np.testing.assert_allclose(found[0, ..., 0], expected, atol=1e-4)


def test_large_problems_take_fewer_steps(monkeypatch):
    operator = operators.parallel_beam((8, 8), 4)
    taken = []
    monkeypatch.setattr(
        tomography, "_iterated", lambda *given: taken.append(given[-1]) or np.zeros(64)
    )
    for work in (1, 10**9):
        monkeypatch.setattr(tomography, "_WORK", work)
        tomography.sirt(operator, (8, 8), np.ones((1, 32, 1)))
    assert taken == [8, 30]


@pytest.mark.parametrize("solve", [least_squares.reconstruct, tomography.sirt])
def test_an_operator_that_no_grid_has_is_refused(solve):
    with pytest.raises(ValueError, match="operator"):
        solve(operators.matrix(np.eye(4)), (2, 2), np.ones((1, 4, 1)))
