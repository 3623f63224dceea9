"""Sinograms from files, even angles, and the statistics of the noise."""

import numpy as np
import pytest

from nid_jax.data import sinograms


@pytest.fixture
def saved(tmp_path):
    """saved(values, name) -> the path of an .npy file that holds them."""

    def save(values, name="sinogram.npy"):
        np.save(tmp_path / name, values)
        return tmp_path / name

    return save


# Angles


@pytest.mark.parametrize("count", [1, 2, 7])
def test_even_angles_repeat_no_end_view(count):
    angles = sinograms.even_angles(count)
    np.testing.assert_allclose(angles, np.linspace(0, 180, count, endpoint=False))
    assert angles.dtype == np.float64


@pytest.mark.parametrize("count", [0, -3])
def test_no_views(count):
    with pytest.raises(ValueError, match=rf"fit\.num_views={count}: must be at least 1"):
        sinograms.even_angles(count)


# Files


def test_one_and_many_sinograms(saved):
    values = np.random.default_rng(0).normal(size=(3, 4, 5))
    angles = np.array([170.0, 0.0, 45.5, 90.0])
    read, found = sinograms.read_sinograms(saved(values), saved(angles, "angles.npy"))
    assert (read.dtype, found.dtype) == (np.float32, np.float64)
    np.testing.assert_array_equal(read, values.astype(np.float32))
    np.testing.assert_array_equal(found, angles)
    read, found = sinograms.read_sinograms(saved(values[0]), "")
    np.testing.assert_array_equal(read, values[:1].astype(np.float32))
    np.testing.assert_allclose(found, [0, 45, 90, 135])


def test_whole_numbers_and_missing_values(saved):
    read, _ = sinograms.read_sinograms(saved(np.arange(6).reshape(2, 3)))
    np.testing.assert_array_equal(read, np.arange(6, dtype=np.float32).reshape(1, 2, 3))
    read, _ = sinograms.read_sinograms(saved(np.array([[1.0, np.nan], [3.0, 4.0]])))
    np.testing.assert_array_equal(np.isnan(read), [[[False, True], [False, False]]])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones(4), r"shape \[4\]; expected \[A, D\] or \[S, A, D\]"),
        (np.ones((1, 2, 3, 4)), r"shape \[1, 2, 3, 4\]"),
        (np.ones((0, 5)), "1 sinograms of 0 views and 5 detectors"),
        (np.ones((2, 0)), "2 views and 0 detectors"),
        (np.array([[1.0, np.inf]]), "1 of 2 values are infinite"),
        (np.full((2, 2), np.nan), "sinogram 0 has no values"),
        (np.ones((2, 2), complex), "complex128; allowed: real numbers"),
        (np.array([["a"]]), "<U1"),
    ],
)
def test_what_a_sinogram_must_not_be(saved, values, message):
    with pytest.raises(ValueError, match=message) as complaint:
        sinograms.read_sinograms(saved(values))
    assert "data.sinograms='" in str(complaint.value)
    assert "\n" not in str(complaint.value)


@pytest.mark.parametrize(
    ("angles", "message"),
    [
        (np.arange(4.0), r"4 angles, but data\.sinograms='.*' has 3 views"),
        (np.zeros((3, 1)), r"shape \[3, 1\]; expected \[A\]"),
        (np.array([0.0, 90.0, 180.0]), r"an angle of 180; allowed: degrees in \[0, 180\)"),
        (np.array([0.0, -1.0, 5.0]), "an angle of -1"),
        (np.array([0.0, np.nan, 5.0]), "an angle of nan"),
        (np.array([30.0, 0.0, 30.0 + 1e-7]), "the angle 30 is there twice"),
    ],
)
def test_what_angles_must_not_be(saved, angles, message):
    with pytest.raises(ValueError, match=message) as complaint:
        sinograms.read_sinograms(saved(np.ones((3, 5))), saved(angles, "angles.npy"))
    assert str(complaint.value).startswith("data.angles='")
    assert "\n" not in str(complaint.value)


def test_files_that_are_missing_or_something_else(saved, tmp_path):
    good = saved(np.ones((3, 5)))
    with pytest.raises(FileNotFoundError, match=r"data\.sinograms='.*none\.npy': no such file"):
        sinograms.read_sinograms(tmp_path / "none.npy")
    with pytest.raises(FileNotFoundError, match=r"data\.angles='.*none\.npy': no such file"):
        sinograms.read_sinograms(good, tmp_path / "none.npy")
    (tmp_path / "text.npy").write_text("0 1 2")
    with pytest.raises(ValueError, match="cannot be read as an .npy file"):
        sinograms.read_sinograms(tmp_path / "text.npy")
    np.savez(tmp_path / "many.npz", a=np.ones((2, 2)))
    with pytest.raises(ValueError, match="is an .npz archive"):
        sinograms.read_sinograms(tmp_path / "many.npz")
    np.save(tmp_path / "objects.npy", np.array([[{}]], object), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot be read as an .npy file"):
        sinograms.read_sinograms(tmp_path / "objects.npy")


# Noise


def test_no_noise_changes_nothing():
    values = np.random.default_rng(1).random((2, 3, 4)).astype(np.float32)
    np.testing.assert_array_equal(sinograms.add_noise(values, "none", 5.0, 0), values)


def test_gaussian_noise_is_relative_to_the_largest_value():
    values = np.broadcast_to(np.linspace(0, 8, 400), (1, 300, 400))
    error = sinograms.add_noise(values, "gaussian", 0.05, 2) - values
    assert abs(error.mean()) < 5 * 0.4 / np.sqrt(error.size)
    np.testing.assert_allclose(error.std(axis=1).mean(), 0.4, rtol=0.01)
    np.testing.assert_allclose(error[..., :40].std(), error[..., -40:].std(), rtol=0.03)


def test_poisson_noise_counts_photons():
    """Through many photons noise is normal, of variance exp(mu s) / (photons mu^2)."""
    photons, levels = 20000.0, np.array([0.0, 2.0, 6.0])
    values = np.repeat(levels, 100_000).reshape(1, 3, -1)
    noisy = sinograms.add_noise(values, "poisson", photons, 3)[0].astype(float)
    mu = 4.0 / 6.0
    variance = np.exp(mu * levels) / photons / mu**2
    np.testing.assert_allclose(noisy.var(axis=1), variance, rtol=0.03)
    # The logarithm of a count is biased by half its relative variance.
    np.testing.assert_allclose(noisy.mean(axis=1), levels + mu * variance / 2, atol=1e-3)


def test_no_photon_counts_as_one():
    noisy = sinograms.add_noise(np.full((1, 1, 1000), 2.0), "poisson", 3.0, 0)
    np.testing.assert_allclose(noisy.max(), np.log(3.0) / 2.0, rtol=1e-6)


@pytest.mark.parametrize(("kind", "level"), [("gaussian", 0.1), ("poisson", 1000.0)])
def test_noise_is_seeded_per_signal_and_spares_the_missing(kind, level):
    values = np.random.default_rng(4).random((3, 5, 7)) * 9
    values[1, 2, 3] = np.nan
    noisy = sinograms.add_noise(values, kind, level, 1)
    assert noisy.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(noisy), np.isnan(values))
    np.testing.assert_array_equal(sinograms.add_noise(values[:2], kind, level, 1), noisy[:2])
    assert (sinograms.add_noise(values, kind, level, 2)[0] != noisy[0]).mean() > 0.5
    same = sinograms.add_noise(np.stack([values[0], values[0]]), kind, level, 1)
    assert (same[0] != same[1]).mean() > 0.5


def test_a_signal_of_zeros_attenuates_nothing():
    for kind, level in (("gaussian", 0.1), ("poisson", 100.0)):
        assert not sinograms.add_noise(np.zeros((1, 2, 3)), kind, level, 0).any()


@pytest.mark.parametrize(
    ("kind", "level", "message"),
    [
        ("salt", 0.1, r"data\.noise\.kind='salt': allowed: none, gaussian, poisson"),
        ("gaussian", -0.1, r"data\.noise\.level=-0\.1: must be 0 or more"),
        ("gaussian", float("nan"), r"data\.noise\.level=nan"),
        ("poisson", 0.5, r"data\.noise\.level=0\.5: must be photons per ray"),
        ("poisson", float("inf"), r"data\.noise\.level=inf"),
    ],
)
def test_noise_that_does_not_exist(kind, level, message):
    with pytest.raises(ValueError, match=message):
        sinograms.add_noise(np.ones((1, 2, 3)), kind, level, 0)
