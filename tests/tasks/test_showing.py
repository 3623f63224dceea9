"""What is shown of a fit: measurements as pictures, ranges that are said, and no truth invented."""

import numpy as np
import pytest

from nid_jax.coding import operators
from nid_jax.tasks import showing
from nid_jax.tasks.showing import _Layout, _range, _round_above


def laid_out(operator, values, shape, views=0, seen=None):
    layout = _Layout.of(operator, shape, views)
    seen = np.ones(values.shape[:2], bool) if seen is None else seen
    return layout.panel(values, seen), layout.residual(values, seen, ["1%"] * len(values))


def test_a_sinogram_has_a_row_for_each_view_and_nothing_where_nothing_was_seen():
    operator = operators.parallel_beam((4, 4), 3, detectors=5)
    values = np.arange(15.0).reshape(1, 15, 1)
    seen = np.ones((1, 15), bool)
    seen[0, 7] = False
    panel, residual = laid_out(operator, values, (4, 4), 3, seen)
    np.testing.assert_array_equal(panel.images[0][0, :, 0], np.arange(5))
    assert np.isnan(panel.images[0][1, 2, 0])
    assert np.isnan(panel.images[0]).sum() == 1
    assert not panel.square
    assert panel.kept
    assert "in pixel lengths; black 0, white 1" in panel.note
    assert (residual.low, residual.high) == (-20, 20)
    assert residual.captions == ["1%"]


def test_frequencies_stand_about_the_middle_with_their_negatives():
    operator = operators.fourier((6, 8), share=0.2)
    image = np.random.default_rng(0).normal(size=(6, 8))
    values = np.asarray(operator.measure(image.reshape(-1, 1).astype(np.float32)))[None]
    panel, residual = laid_out(operator, values, (6, 8))
    expected = np.fft.fftshift(np.abs(np.fft.fft2(image, norm="ortho")))
    shown = panel.images[0][..., 0]
    known = ~np.isnan(shown)
    assert known[3, 4]
    assert known.sum() >= len(operator.kept)
    np.testing.assert_allclose(10 ** shown[known], expected[known], rtol=1e-4)
    np.testing.assert_allclose(residual.images[0][..., 0][known], expected[known], rtol=1e-4)


@pytest.mark.parametrize("kind", ["sample", "mask", "downsample", "blur"])
def test_what_is_measured_of_a_constant_is_a_picture_of_it(kind):
    operator = operators.KINDS[kind]((6, 8))
    values = np.full((2, operator.num_measurements, 3), 0.25)
    panel, _ = laid_out(operator, values, (6, 8))
    assert (panel.low, panel.high) == (0, 1)
    image = panel.images[1]
    assert image.shape == ((3, 4, 3) if kind == "downsample" else (6, 8, 3))
    assert set(np.unique(image)) == {0.25}
    assert not np.isnan(image).any()


def test_a_mask_puts_values_where_they_were_measured():
    seen = np.zeros((5, 4), bool)
    seen[1, 2] = seen[3, 0] = True
    operator = operators.mask((5, 4), seen)
    values = np.arange(20.0).reshape(1, 20, 1)
    panel, _ = laid_out(operator, values, (5, 4), seen=seen.reshape(1, 20))
    shown = panel.images[0][..., 0]
    np.testing.assert_array_equal(~np.isnan(shown), seen)
    assert (shown[1, 2], shown[3, 0]) == (6, 12)


def test_measurements_that_are_no_picture_are_not_drawn():
    for operator in (operators.point_derivatives((4, 4)), operators.matrix(np.eye(16))):
        assert _Layout.of(operator, (4, 4), 0) is None
    assert _Layout.of(operators.parallel_beam((4, 4), 3), (4, 4), 0) is None


def test_without_truth_there_is_a_reconstruction_and_what_it_leaves():
    found = np.linspace(0, 0.02, 32).reshape(2, 4, 4, 1)
    (row,) = showing.compared(found, None, [0.123, 0.004], unit=False)
    assert row.name == "reconstruction"
    assert row.captions == ["misfit 12.3%", "misfit 0.4%"]
    assert (row.low, row.high) == (0, pytest.approx(0.02, rel=0.01))
    assert row.note == f"black 0, white {row.high:.3g}"
    truth, row, error = showing.compared(found, found + 0.1)
    assert [panel.name for panel in (truth, row, error)] == ["truth", "reconstruction", "error"]
    assert row.captions == ["20.0 dB", "20.0 dB"]
    assert (row.low, row.high) == (0, 1)
    assert error.high == pytest.approx(0.1) or error.high == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 1.0], (0, 1)),
        ([-0.05, 1.0], (0, 1)),
        ([3, 4], (3, 4)),
        ([-2, 2], (-2, 2)),
        ([], (0, 1)),
    ],
)
def test_the_range_shown(values, expected):
    np.testing.assert_allclose(_range([np.repeat(values, 1000)]), expected, atol=1e-6)


@pytest.mark.parametrize(("largest", "scale"), [(0.004, 0.005), (0.15, 0.2), (7, 10), (0, 1e-6)])
def test_the_scale_is_a_round_number_above_most(largest, scale):
    assert _round_above(np.linspace(0, largest, 1000)) == pytest.approx(scale)
