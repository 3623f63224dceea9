"""PSNR and SSIM against float64 versions written with numpy, scipy and scikit-image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from nid_jax import metrics


def _pair(seed, shape, noise=0.1):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0, 1, shape)
    return (truth + noise * rng.standard_normal(shape)).astype(np.float32), truth.astype(np.float32)


def _ssim_zero(prediction, truth):
    """Full two-dimensional convolution in float64, what lies outside taken as zero."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def blur(x):
        return signal.convolve2d(x, window, mode="same")

    values = []
    for c in range(truth.shape[-1]):
        x, y = prediction[..., c].astype(np.float64), truth[..., c].astype(np.float64)
        mx, my = blur(x), blur(y)
        vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
        values.append(
            ((2 * mx * my + 1e-4) * (2 * cov + 9e-4)) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
        )
    return np.mean(values)


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4)),
    noise=st.floats(1e-3, 2.0),
)
def test_psnr_is_that_of_scikit_image(seed, shape, noise):
    prediction, truth = _pair(seed, shape, noise)
    expected = [
        peak_signal_noise_ratio(t.astype(np.float64), p.astype(np.float64), data_range=1)
        for p, t in zip(prediction, truth, strict=True)
    ]
    np.testing.assert_allclose(metrics.psnr(prediction, truth), expected, rtol=2e-5, atol=2e-5)


def test_psnr_over_other_axes_and_other_grids():
    prediction, truth = _pair(0, (2, 5, 4, 6, 3))
    error = np.square(prediction.astype(np.float64) - truth)
    np.testing.assert_allclose(
        metrics.psnr(prediction, truth, axes=(2, 3, 4)),
        -10 * np.log10(error.mean((2, 3, 4))),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        metrics.psnr(prediction, truth, axes=-1), -10 * np.log10(error.mean(-1)), rtol=1e-4
    )


def test_clip_counts_only_what_a_picture_shows():
    truth = np.array([[0.0, 1.0, 0.5]], np.float32)
    prediction = np.array([[-3.0, 4.0, 0.6]], np.float32)
    np.testing.assert_allclose(
        metrics.psnr(prediction, truth, clip=True), -10 * np.log10(0.01 / 3), rtol=1e-5
    )
    assert metrics.psnr(prediction, truth)[0] < -7


def test_identical_images_give_the_cap_and_one():
    truth = np.random.default_rng(1).uniform(0, 1, (2, 16, 13, 3)).astype(np.float32)
    np.testing.assert_allclose(metrics.psnr(truth, truth), 120, rtol=1e-6)
    one_exact = metrics.psnr(truth, truth + np.array([0, 0.1], np.float32)[:, None, None, None])
    np.testing.assert_allclose(one_exact.mean(), (120 + 20) / 2, rtol=1e-4)
    for padding in ("valid", "zero"):
        np.testing.assert_allclose(metrics.ssim(truth, truth, padding=padding), 1, atol=1e-6)


def test_nan_is_seen_in_its_own_signal_only():
    prediction, truth = _pair(2, (3, 14, 14, 1))
    prediction[1, 3, 3, 0] = np.nan
    for values in (metrics.psnr(prediction, truth), metrics.ssim(prediction, truth)):
        assert list(np.isnan(values)) == [False, True, False]


@pytest.mark.parametrize("shape", [(2, 25, 25, 1), (3, 32, 19, 3), (1, 11, 40, 2)])
def test_ssim_is_that_of_scikit_image(shape):
    prediction, truth = _pair(sum(shape), shape)
    expected = [
        structural_similarity(
            t.astype(np.float64),
            p.astype(np.float64),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
            channel_axis=-1,
        )
        for p, t in zip(prediction, truth, strict=True)
    ]
    np.testing.assert_allclose(jax.jit(metrics.ssim)(prediction, truth), expected, atol=2e-6)


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**31), offset=st.sampled_from([0.0, 0.3, -1.0]))
def test_ssim_with_zero_padding(seed, offset):
    prediction, truth = _pair(seed, (2, 24, 15, 3))
    prediction = prediction + np.float32(offset)
    expected = [_ssim_zero(p, t) for p, t in zip(prediction, truth, strict=True)]
    np.testing.assert_allclose(metrics.ssim(prediction, truth, padding="zero"), expected, atol=5e-6)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 30), (10, 7)])
def test_ssim_of_small_images_uses_the_largest_odd_window(height, width):
    prediction, truth = _pair(height, (2, height, width, 1))
    sizes = [min(11, n if n % 2 else n - 1) for n in (height, width)]
    windows = [signal.windows.gaussian(n, 1.5) for n in sizes]
    window = np.outer(*[w / w.sum() for w in windows])

    def blur(x):
        return signal.convolve2d(x, window, mode="valid")

    for index in range(2):
        x, y = (a[index, ..., 0].astype(np.float64) for a in (prediction, truth))
        mx, my = blur(x), blur(y)
        vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
        expected = np.mean(
            (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
        )
        np.testing.assert_allclose(metrics.ssim(prediction, truth)[index], expected, atol=3e-5)


def test_ssim_has_a_gradient_that_points_at_the_truth():
    prediction, truth = _pair(5, (1, 16, 16, 1))
    slope = jax.grad(lambda p: metrics.ssim(p, jnp.asarray(truth)).sum())(jnp.asarray(prediction))
    assert float(jnp.vdot(slope, truth - prediction)) > 0


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 5\).*\(2, 6\)"):
        metrics.psnr(np.zeros((2, 5)), np.zeros((2, 6)))
    with pytest.raises(ValueError, match="allowed: 'valid', 'zero'"):
        metrics.ssim(np.zeros((1, 12, 12, 1)), np.zeros((1, 12, 12, 1)), padding="same")
    with pytest.raises(ValueError, match=r"\[S, H, W, C\]"):
        metrics.ssim(np.zeros((12, 12)), np.zeros((12, 12)))
