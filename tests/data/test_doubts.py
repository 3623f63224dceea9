"""What sinograms cannot look like: every line is said where it is true, and only there."""

import re

import numpy as np
import pytest
from skimage.transform import radon

from nid_jax.data import doubts, phantoms

DEGREES = np.arange(24) * 7.5


def heads(shape=(32, 32), angles=DEGREES, detectors=32, **geometry):
    """Exact sinograms of three heads, [3, A, D]."""
    generator = np.random.default_rng(0)
    ellipses = np.stack([phantoms.random_ellipses(generator) for _ in range(3)])
    return phantoms.project(ellipses, angles, detectors, shape, **geometry)


def lines(values, degrees=DEGREES, placed=0.0, offset=0.0, whole=""):
    """What is said of sinograms of pictures of 32 x 32."""
    found = (
        doubts.doubt_of_values(values, 32 * np.sqrt(2), whole),
        doubts.doubt_of_axis(values, degrees, placed, offset),
    )
    return [line for line in found if line]


def with_noise(values, level):
    return values + level * values.max() * np.random.default_rng(1).standard_normal(values.shape)


@pytest.mark.parametrize(
    "degrees",
    [DEGREES, np.linspace(0, 180, 24), np.arange(48) * 7.5, np.arange(24) * 6.0 - 69, DEGREES[::3]],
)
@pytest.mark.parametrize("level", [0.0, 0.02, 0.1])
def test_nothing_is_said_of_complete_line_integrals(degrees, level):
    assert not lines(with_noise(heads(angles=degrees), level), degrees)
    wide = heads(angles=degrees, detectors=46, offset=-0.5)
    assert not lines(with_noise(wide, level), degrees, placed=-0.5)


def test_nothing_is_said_of_views_that_are_missing_or_few():
    values = heads()
    values[0, 3] = np.nan
    values[1, :, 4:7] = np.nan
    assert not lines(values)
    values[..., [0, -1]] = np.nan
    assert not lines(values)
    for count in (1, 2, 3, 4, 5):
        assert not lines(values[:, :count], DEGREES[:count])


def suggested(line):
    """The offset that a line names."""
    return float(re.search(r"operator\.parallel_beam\.offset=(-?[\d.]+) says so", line)[1])


@pytest.mark.parametrize("off", [-5.0, -0.5, 0.4, 3.3])
def test_the_axis_is_found(off):
    """Rays without a width see the thin skull by chance: to a tenth of a detector."""
    values = heads(detectors=48, offset=off)
    axis = doubts.axis_of_rotation(values, DEGREES)
    assert axis.position == pytest.approx(-off, abs=0.12)
    (line,) = lines(values)
    assert suggested(line) == pytest.approx(off, abs=0.12)
    assert ("convention=skimage" in line) == (off == -0.5)
    assert not lines(values, offset=off)
    # A fit that has it somewhere else is told the same.
    assert suggested(lines(values, offset=1.5)[0]) == pytest.approx(off, abs=0.12)


def test_the_axis_of_skimage():
    image = phantoms.draw(phantoms.random_ellipses(np.random.default_rng(3)), (32, 32))
    values = radon(image, DEGREES).T[None]
    (line,) = lines(values)
    assert "turn about detector 16.0" in line
    assert "convention=skimage" in line
    assert not lines(values, placed=-0.5)


def test_transmission_and_counts():
    values = 0.1 * heads()
    (line,) = lines(np.exp(-values))
    assert "within (0, 1]" in line
    assert "data.transmission=true" in line
    (line,) = lines(np.round(60000 * np.exp(-values)), whole="uint16")
    assert line.startswith("uint16 up to 60000, most at the edges, look like counts")
    (line,) = lines(values, whole="uint16")
    assert line.startswith("uint16 values, taken as line integrals")


def test_other_orders_units_and_parts():
    values = heads()
    turned = values.transpose(0, 2, 1)
    (line,) = lines(turned, np.arange(32) * 180 / 32)
    assert "vary by" in line
    assert "data.sinogram_layout" in line
    assert any("at most 45.25" in line for line in lines(10 * values))
    (line,) = lines(values[..., 8:-8])
    assert "outermost detectors see" in line or "vary by" in line


@pytest.mark.parametrize(
    ("degrees", "taken"),
    [
        (np.arange(48) * 7.5, np.arange(48) * 3.75),
        (DEGREES, np.deg2rad(DEGREES)),
    ],
)
@pytest.mark.parametrize("level", [0.0, 0.01])
def test_angles_that_are_others(degrees, taken, level):
    (line,) = lines(with_noise(heads(angles=degrees), level), taken)
    assert "do not turn by these angles" in line
