"""K-space from files, however its frequencies, origin and scale are."""

import numpy as np
import pytest

from nid_jax.data import kspace, phantoms
from nid_jax.notices import Notice

SHAPE = (24, 33)


@pytest.fixture(scope="module")
def pictures():
    """Two heads, [2, H, W] in [0, 1]."""
    generator = np.random.default_rng(0)
    ellipses = np.stack([phantoms.random_ellipses(generator) for _ in range(2)])
    return phantoms.draw(ellipses, SHAPE, 2)


@pytest.fixture
def saved(tmp_path):
    """saved(values, name) -> the path of an .npy file that holds them."""

    def save(values, name="k.npy"):
        np.save(tmp_path / name, values)
        return tmp_path / name

    return save


def transformed(pictures, centred=False, origin="corner", norm="ortho"):
    """The Fourier transform of pictures as other programs have it."""
    if origin == "middle":
        pictures = np.fft.ifftshift(pictures, axes=(1, 2))
    found = np.fft.fft2(pictures, norm=norm)
    return np.fft.fftshift(found, axes=(1, 2)) if centred else found


def lines(rows=SHAPE[0], columns=SHAPE[1]):
    """Columns of a scanner in the order of numpy.fft, bool [W]: those next to zero and every
    third."""
    column = np.abs(np.fft.fftfreq(columns) * columns)
    return (column < 4) | (np.arange(columns) % 3 == 0)


KEYS = {"centred": "true", "origin": "corner", "scale": 1.0}


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("origin", ["corner", "middle"])
@pytest.mark.parametrize("norm", ["ortho", "backward", "forward"])
@pytest.mark.parametrize("sampled", [False, True])
def test_every_order_is_guessed_and_said(saved, pictures, centred, origin, norm, sampled):
    values = transformed(pictures, centred, origin, norm)
    if sampled:
        values = values * (np.fft.fftshift(lines()) if centred else lines())
    with pytest.warns(Notice) as said:
        found = kspace.read_kspace(saved(values))
    (line,) = [str(warning.message) for warning in said]
    assert ("in the middle" in line) == centred
    assert f"from the {origin}" in line
    assert repr(norm) in line
    expected = np.fft.fft2(pictures, norm="ortho") * (lines() if sampled else 1)
    np.testing.assert_allclose(found.values, expected, atol=1e-4)
    assert found.measured[:, :, lines()].mean() > 0.99
    assert found.measured.mean() < (0.6 if sampled else 1.01)


def test_keys_say_it_without_a_notice(saved, pictures, recwarn):
    scale = float(np.sqrt(np.prod(SHAPE)))
    values = saved(transformed(pictures, True, "middle", "backward").astype(np.complex64))
    found = kspace.read_kspace(values, "", "true", "middle", scale)
    np.testing.assert_allclose(found.values, transformed(pictures), atol=1e-4)
    assert not len(recwarn)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128, np.float32, np.float64])
def test_complex_and_real_parts_of_one_and_many(saved, pictures, dtype):
    values = transformed(pictures)
    if np.dtype(dtype).kind == "f":
        values = np.stack([values.real, values.imag], -1)
    values = values.astype(dtype)
    keys = ("", "false", "corner", 1.0)
    many = kspace.read_kspace(saved(values), *keys)
    one = kspace.read_kspace(saved(values[0]), *keys)
    np.testing.assert_allclose(many.values, transformed(pictures), atol=1e-4)
    np.testing.assert_array_equal(one.values, many.values[:1])


@pytest.mark.parametrize("form", ["columns", "grid", "signals", "rows", "beside"])
def test_masks(saved, tmp_path, pictures, form):
    values = np.fft.fftshift(transformed(pictures), axes=(1, 2))
    if form == "rows":
        mask = np.fft.fftshift(lines(*SHAPE[::-1]))[:, None]
    else:
        mask = np.fft.fftshift(lines())
    seen = np.broadcast_to(mask, values.shape).copy()
    if form in ("signals", "beside"):
        seen[1] = True
        mask = seen.astype(np.uint8)
    mask = seen[0].astype(float) if form == "grid" else mask
    if form == "beside":
        np.savez(tmp_path / "k.npz", kspace=values, mask=mask)
        found = kspace.read_kspace(tmp_path / "k.npz", "", **KEYS)
    else:
        found = kspace.read_kspace(saved(values), saved(mask, "mask.npy"), **KEYS)
    seen = np.fft.ifftshift(seen, axes=(1, 2))
    np.testing.assert_array_equal(found.measured, seen)
    np.testing.assert_allclose(found.values, np.where(seen, transformed(pictures), 0), atol=1e-4)


def test_missing_samples_are_not_measured_and_masked_zeros_are(saved, pictures):
    values = transformed(pictures)
    values[0, 3, 4], values[0, 5, 6] = np.nan, 0
    keys = ("false", "corner", 1.0)
    found = kspace.read_kspace(saved(values), "", *keys)
    assert not found.measured[0, 3, 4]
    assert not found.measured[0, 5, 6]
    assert found.measured.sum() == values.size - 2
    found = kspace.read_kspace(saved(values), saved(np.ones(SHAPE), "mask.npy"), *keys)
    assert not found.measured[0, 3, 4]
    assert found.measured[0, 5, 6]


def said_of(recwarn):
    return [str(warning.message) for warning in recwarn]


def test_a_mask_in_another_order_is_said(saved, pictures, recwarn):
    columns = np.abs(np.fft.fftfreq(SHAPE[1]) * SHAPE[1]) < 5
    mask = saved(columns, "mask.npy")
    kspace.read_kspace(saved(transformed(pictures, centred=True)), mask, **KEYS)
    (line,) = said_of(recwarn)
    assert "the mask leaves out" in line
    assert "another order" in line


def test_a_mask_of_samples_that_are_not_there_is_said(saved, pictures, recwarn):
    values, other = transformed(pictures) * lines(), saved(np.fft.fftshift(lines()), "mask.npy")
    kspace.read_kspace(saved(values), other, "false", "corner", 1.0)
    assert any("of what the mask calls measured is 0" in line for line in said_of(recwarn))


def test_pictures_with_a_phase_are_said(saved, pictures, recwarn):
    phase = np.exp(2j * np.linspace(-1, 1, SHAPE[0]))[:, None]
    values = np.fft.fftshift(np.fft.fft2(pictures * phase, norm="ortho"), axes=(1, 2))
    kspace.read_kspace(saved(values), **KEYS)
    (line,) = said_of(recwarn)
    assert "of the energy is in the imaginary part" in line


def test_an_unknown_scale_is_said(saved, pictures, recwarn):
    kspace.read_kspace(saved(1e9 * transformed(pictures)), "", "false", "corner")
    unknown, _ = sorted(said_of(recwarn), key=len, reverse=True)
    assert "the zero-filled picture reaches" in unknown
    assert "data.kspace_scale=" in unknown


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((3, 4)), r"float64 of shape \[3, 4\]; expected complex numbers"),
        (np.ones((2, 3, 4)), "expected complex numbers"),
        (np.ones(4, complex), r"shape \[4\]; expected complex \[H, W\]"),
        (np.ones((1, 2, 3, 4), complex), r"shape \[1, 2, 3, 4\]"),
        (np.ones((0, 3, 4), complex), "expected complex"),
        (np.zeros((3, 4), complex), "of signal 0 nothing was measured but 0 and NaN"),
        (np.full((3, 4), np.inf, complex), "12 of 12 samples are infinite"),
        (np.array([["a"]]), "allowed: numbers"),
    ],
)
def test_what_kspace_must_not_be(saved, values, message):
    with pytest.raises(ValueError, match=message) as complaint:
        kspace.read_kspace(saved(values))
    assert str(complaint.value).startswith("data.kspace='")
    assert "\n" not in str(complaint.value)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones(5), r"shape \[5\]; expected \[24, 33\], \[33\] for columns"),
        (np.ones((33, 24)), "expected"),
        (np.full(33, 0.5), r"a value of 0\.5; allowed: 0 and 1"),
        (np.full(33, np.nan), "a value of nan"),
    ],
)
def test_what_a_mask_must_not_be(saved, pictures, mask, message):
    with pytest.raises(ValueError, match=message) as complaint:
        kspace.read_kspace(saved(transformed(pictures)), saved(mask, "mask.npy"))
    assert str(complaint.value).startswith("data.kspace_mask='")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"centred": "yes"}, "^data.kspace_centred='yes': allowed: true, false"),
        ({"origin": "centre"}, "^data.kspace_origin='centre': allowed: corner, middle"),
        ({"scale": -1.0}, r"^data.kspace_scale=-1\.0"),
    ],
)
def test_what_options_must_not_be(saved, options, message):
    with pytest.raises(ValueError, match=message):
        kspace.read_kspace(saved(np.ones((3, 4), complex)), **options)


@pytest.mark.parametrize("origin", ["corner", "middle"])
@pytest.mark.parametrize("shape", [(48, 64), (45, 33)])
def test_origins_of_pictures_that_reach_their_borders(origin, shape):
    rows, columns = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    generator = np.random.default_rng(1)
    for _ in range(6):
        a, b, c = generator.uniform(1, 4, 3)
        # Bright in the middle or at the borders, and different at opposite ones.
        picture = 0.5 + 0.3 * np.sin(a * rows + b * columns) + 0.2 * np.cos(c * (rows - columns))
        values = transformed(picture[None], origin=origin)
        assert kspace._origin(values) == (origin, True)


def test_an_origin_that_nothing_tells_is_said_to_be_unsure(saved):
    noise = np.random.default_rng(0).random((32, 32))
    with pytest.warns(Notice, match=r"data\.kspace_origin; not sure: .*rolled by half"):
        kspace.read_kspace(saved(np.fft.fft2(noise)))
