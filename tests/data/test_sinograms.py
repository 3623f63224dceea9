"""Sinograms from files, even angles, and the statistics of the noise."""

import numpy as np
import pytest

from nid_jax.data import sinograms
from nid_jax.notices import Notice


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
    read = sinograms.read_sinograms(saved(values), saved(angles, "angles.npy"))
    assert (read.values.dtype, read.degrees.dtype, read.whole) == (np.float32, np.float64, "")
    np.testing.assert_array_equal(read.values, values.astype(np.float32))
    np.testing.assert_array_equal(read.degrees, angles)
    with pytest.warns(Notice, match=r"no angles; taken as even over \[0, 180\) degrees"):
        read = sinograms.read_sinograms(saved(values[0]), "")
    np.testing.assert_array_equal(read.values, values[:1].astype(np.float32))
    np.testing.assert_allclose(read.degrees, [0, 45, 90, 135])


def test_whole_numbers_and_missing_values(saved):
    angles = saved(np.array([0.0, 90.0]), "angles.npy")
    read = sinograms.read_sinograms(saved(np.arange(6, dtype=np.uint16).reshape(2, 3)), angles)
    assert read.whole == "uint16"
    np.testing.assert_array_equal(read.values, np.arange(6, dtype=np.float32).reshape(1, 2, 3))
    read = sinograms.read_sinograms(saved(np.array([[1.0, np.nan], [3.0, 4.0]])), angles)
    np.testing.assert_array_equal(np.isnan(read.values), [[[False, True], [False, False]]])


@pytest.mark.parametrize(
    "angles",
    [np.linspace(0, 180, 5), np.arange(5) * 90.0, [-69.0, -2, 3, 3, 66], [3, 3, 3, 400, 1e4]],
)
def test_any_angles(saved, angles):
    read = sinograms.read_sinograms(saved(np.ones((5, 4))), saved(angles, "angles.npy"))
    np.testing.assert_array_equal(read.degrees, angles)


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
        (np.ones((2, 2), bool), "bool; allowed: real numbers"),
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
        (np.arange(4.0), r"4 angles, but data\.sinograms='.*' has 3 views$"),
        (np.zeros((3, 2)), r"shape \[3, 2\]; expected \[A\]"),
        (np.array([0.0, np.nan, 5.0]), "an angle of nan"),
        (np.array([0.0, 1j, 5.0]), "complex128; allowed: real numbers"),
    ],
)
def test_what_angles_must_not_be(saved, angles, message):
    with pytest.raises(ValueError, match=message) as complaint:
        sinograms.read_sinograms(saved(np.ones((3, 5))), saved(angles, "angles.npy"))
    assert str(complaint.value).startswith("data.angles='")
    assert "\n" not in str(complaint.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"angle_units": "grad"}, "^data.angle_units='grad': allowed: degrees, radians"),
        ({"layout": "DX"}, "^data.sinogram_layout='DX': must be the letters S, A and D"),
        ({"layout": "DA"}, "3 angles, but .* has 5 views as .D, A.: transpose"),
        ({"pixel_size": 0.0}, r"^data.pixel_size=0\.0: must be above 0"),
        ({"transmission": True, "open_beam": -1.0}, r"^data.open_beam=-1\.0"),
    ],
)
def test_what_options_must_not_be(saved, options, message):
    files = saved(np.ones((3, 5))), saved(np.array([0.0, 60, 120]), "angles.npy")
    with pytest.raises(ValueError, match=message):
        sinograms.read_sinograms(*files, **options)


def test_files_that_are_missing_or_something_else(saved, tmp_path):
    good = saved(np.ones((3, 5)))
    with pytest.raises(FileNotFoundError, match=r"data\.sinograms='.*none\.npy': no such file"):
        sinograms.read_sinograms(tmp_path / "none.npy")
    with pytest.raises(FileNotFoundError, match=r"data\.angles='.*none\.npy': no such file"):
        sinograms.read_sinograms(good, tmp_path / "none.npy")


# Order of axes


@pytest.mark.parametrize(
    ("convention", "letters", "axes"),
    [
        ("ours", "AD", (1, 2)),
        ("ours", "SAD", (0, 1, 2)),
        ("skimage", "DA", (2, 1)),
        ("skimage", "AD", (1, 2)),
        ("skimage", "SDA", (0, 2, 1)),
        ("matlab", "DA", (2, 1)),
        ("astra", "AD", (1, 2)),
        ("tomopy", "ASD", (1, 0, 2)),
        ("tomopy", "SAD", (0, 1, 2)),
    ],
)
def test_a_convention_knows_its_order_of_axes(saved, convention, letters, axes):
    values = np.arange(2 * 4 * 5, dtype=np.float32).reshape(2, 4, 5)
    values = values if "S" in letters else values[:1]
    turned = (
        np.transpose(values, axes)
        if "S" in letters
        else np.transpose(values[0], [a - 1 for a in axes])
    )
    angles = saved(np.array([0.0, 50.5, 90, 135]), "angles.npy")
    read = sinograms.read_sinograms(saved(turned), angles, convention, "degrees")
    np.testing.assert_array_equal(read.values, values)


def test_a_transposed_sinogram_is_refused_and_read_by_its_letters(saved):
    values = np.arange(20.0).reshape(4, 5)
    files = saved(values.T[None]), saved(np.array([0.0, 50, 90, 135]), "angles.npy")
    message = (
        r"4 angles, but .* has 5 views as \[S, A, D\]: operator\.parallel_beam\.convention=skimage "
        r"where it is skimage's, or transpose it to that, or .*=SDA reads"
    )
    with pytest.raises(ValueError, match=message):
        sinograms.read_sinograms(*files)
    for layout in ("SDA", "sda".upper()):
        read = sinograms.read_sinograms(*files, layout=layout)
        np.testing.assert_array_equal(read.values[0], values)


def test_of_a_square_file_the_first_order_is_taken(saved):
    values = np.arange(16.0).reshape(4, 4)
    files = saved(values), saved(np.arange(4) * 45, "angles.npy")
    np.testing.assert_array_equal(sinograms.read_sinograms(*files).values[0], values)
    skimage = sinograms.read_sinograms(*files, "skimage").values[0]
    np.testing.assert_array_equal(skimage, values.T)


# Units of angles


@pytest.mark.parametrize(
    ("angles", "convention", "units", "factor", "said"),
    [
        (np.arange(24) * np.pi / 24, "ours", "", 180 / np.pi, "look like radians"),
        (np.arange(24) * np.pi / 12 - np.pi, "ours", "", 180 / np.pi, "look like radians"),
        (np.arange(24) * np.pi / 24, "ours", "degrees", 1, ""),
        (np.arange(24) * np.pi / 24, "astra", "", 180 / np.pi, ""),
        (np.arange(24) * 1.94, "astra", "", 180 / np.pi, ""),
        (np.arange(24) * 7.5, "astra", "", 1, "look like degrees"),
        (np.linspace(0, 360, 24), "tomopy", "", 1, "look like degrees"),
        (np.arange(24) * 7.5, "astra", "radians", 180 / np.pi, ""),
        (np.arange(6), "ours", "", 1, ""),
        (np.array([0.1, 0.2, 0.3]), "ours", "", 1, ""),
    ],
)
def test_units_of_angles(saved, recwarn, angles, convention, units, factor, said):
    files = saved(np.ones((len(angles), 40))), saved(angles, "angles.npy")
    read = sinograms.read_sinograms(*files, convention, units)
    np.testing.assert_allclose(read.degrees, np.asarray(angles) * factor)
    texts = [str(warning.message) for warning in recwarn]
    assert len(texts) == bool(said)
    assert all(said in text and "data.angle_units=" in text for text in texts)


# Shares and counts of an open beam


def test_transmission_becomes_line_integrals(saved, recwarn):
    values = np.random.default_rng(0).uniform(0, 3, (3, 5))
    angles = saved(np.array([0.0, 60, 120]), "angles.npy")
    read = sinograms.read_sinograms(saved(np.exp(-values)), angles, transmission=True)
    np.testing.assert_allclose(read.values[0], values, rtol=1e-5)
    counts = np.round(60000 * np.exp(-values)).astype(np.uint16)
    options = {"transmission": True, "open_beam": 60000.0, "pixel_size": 0.5}
    read = sinograms.read_sinograms(saved(counts), angles, **options)
    np.testing.assert_allclose(read.values[0], values / 0.5, atol=2e-3)
    assert not len(recwarn)
    counts[1, 2] = 0
    with pytest.warns(Notice) as said:
        read = sinograms.read_sinograms(saved(counts), angles, transmission=True)
    texts = [str(warning.message) for warning in said]
    assert any(f"largest value, {counts.max()}" in text for text in texts)
    assert any("1 of 15 values are 0 or less" in text for text in texts)
    assert np.isnan(read.values[0, 1, 2])
    assert np.nanmin(read.values) == 0


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


@pytest.mark.parametrize("ends", [(0, 150), (-60, 60)])
def test_part_of_a_turn_in_degrees_where_radians_are_usual(saved, ends):
    angles = np.linspace(*ends, 24)
    places, theta = np.arange(32) - 15.5, np.deg2rad(angles)
    centres = 5 * np.cos(theta) + 3 * np.sin(theta)
    values = np.exp(-np.square(places - centres[:, None]) / 8)
    with pytest.warns(Notice, match=r"look like degrees; taken as degrees"):
        read = sinograms.read_sinograms(saved(values), saved(angles, "angles.npy"), "astra")
    np.testing.assert_allclose(read.degrees, angles)


def test_negated_sinograms_are_said(saved):
    values = -np.exp(-np.square(np.arange(32) - 15.5) / 40) * np.ones((8, 1))
    read = sinograms.read_sinograms(saved(values), saved(np.arange(8.0), "angles.npy"))
    with pytest.warns(Notice, match=r"below 0 in sum, .*negated"):
        sinograms.say_doubts(read, (32, 32), 0, 0, "x")
