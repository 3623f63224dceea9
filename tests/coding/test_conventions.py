"""Geometries by name against the programs that they are named after, and any angles."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import ndimage
from skimage.transform import radon

from nid_jax.coding import operators
from nid_jax.errors import ArgumentError

DOCS = Path(__file__).resolve().parents[2] / "docs"
DEGREES = np.array([0.0, 17.0, 45.0, 90.0, 133.0, 170.0])


def picture(rows, columns):
    """Smooth, with another mirror image along every axis, and zero at its edges."""
    y, x = np.mgrid[:rows, :columns]
    y, x = (y - (rows - 1) / 2) / rows, (x - (columns - 1) / 2) / columns
    first = np.exp(-((y + 0.14) ** 2 + (x - 0.07) ** 2) / 0.01)
    return first + 0.5 * np.exp(-(2 * (y - 0.12) ** 2 + (x + 0.1) ** 2) / 0.008)


def measure(image, angles, **options):
    """What an operator measures of an image [H, W], by SciPy's linear interpolation; [A, D]."""
    operator = operators.parallel_beam(image.shape, angles, **options)
    sides = np.array(image.shape)
    places = (np.asarray(operator.points, float) + 1) / 2 * (sides - 1)
    values = ndimage.map_coordinates(image, places.T, order=1, mode="nearest")
    factors = np.asarray(operator.factors, float)
    sums = (values.reshape(factors.shape) * factors).sum(1)
    return sums.reshape(len(angles), -1)


def off(found, expected):
    """Root mean square difference relative to the expected."""
    return np.sqrt(np.square(found - expected).mean() / np.square(expected).mean())


def in_units(name):
    """DEGREES in a convention's unit."""
    return np.deg2rad(DEGREES) if operators.CONVENTIONS[name].radians else DEGREES


def measured_by_all(image, detectors):
    """Name of every convention -> its sinogram."""
    return {
        name: measure(image, in_units(name), detectors=detectors, convention=name)
        for name in operators.CONVENTIONS
    }


def lines(image, centre, positions):
    """Line integrals in float64 by a thousand small steps through a spline; [A, D].

    Through (row, column) = centre + t (cos, sin) + s (-sin, cos).
    """
    t = np.linspace(-60, 60, 2401)
    rows = []
    for theta in np.deg2rad(DEGREES):
        sine, cosine, s = np.sin(theta), np.cos(theta), np.asarray(positions)[:, None]
        places = [centre[0] + t * cosine - s * sine, centre[1] + t * sine + s * cosine]
        rows.append(ndimage.map_coordinates(image, places, order=1).sum(1) * (t[1] - t[0]))
    return np.stack(rows)


@pytest.mark.parametrize("shape", [(32, 32), (31, 31), (32, 27)])
def test_radon_of_skimage(shape):
    image = picture(*shape)
    expected = radon(image, DEGREES, circle=False).T
    found = measured_by_all(image, expected.shape[1])
    assert off(found["skimage"], expected) < 0.01
    if shape[0] % 2 == 0:
        assert min(off(found[name], expected) for name in found if name != "skimage") > 0.05


@pytest.mark.parametrize("shape", [(32, 32), (31, 31), (32, 27)])
def test_astra(shape):
    astra = pytest.importorskip("astra")
    image, detectors = picture(*shape), 40
    volume = astra.create_vol_geom(*shape)
    beams = astra.create_proj_geom("parallel", 1.0, detectors, np.deg2rad(DEGREES))
    projector = astra.create_projector("linear", beams, volume)
    number, expected = astra.create_sino(image, projector)
    astra.data2d.delete(number)
    astra.projector.delete(projector)
    found = measured_by_all(image, detectors)
    assert off(found["astra"], expected) < 0.01
    assert off(found["skimage"], expected) > 0.05 or shape == (31, 31)


@pytest.mark.parametrize("side", [32, 31])
def test_tomopy_by_its_source(side):
    """libtomo/recon/project.c: s = (1 - D) / 2 + d + D / 2 - center, center D / 2, about the middle
    of the grid's edges; rows are its x."""
    image, detectors = picture(side, side), 48
    center = detectors / 2
    positions = (1 - detectors) / 2 + np.arange(detectors) + detectors / 2 - center
    expected = lines(image, np.full(2, side / 2 - 0.5), positions)
    found = measured_by_all(image, detectors)
    assert off(found["tomopy"], expected) < 0.01
    assert off(found["skimage"], expected) > 0.05


def test_the_centre_of_tomopy_is_an_offset():
    image, detectors, center = picture(32, 32), 48, 21.3
    positions = (1 - detectors) / 2 + np.arange(detectors) + detectors / 2 - center
    expected = lines(image, np.full(2, 15.5), positions)
    options = {"convention": "tomopy", "offset": detectors / 2 - center}
    found = measure(image, np.deg2rad(DEGREES), detectors=detectors, **options)
    assert off(found, expected) < 0.01


@pytest.mark.parametrize("side", [32, 31])
def test_matlab_by_its_documentation(side):
    """The origin is pixel floor((size + 1) / 2), from 1; as many detectors to both sides of it."""
    image, detectors = picture(side, side), 49
    origin = (side + 1) // 2 - 1
    expected = lines(image, (origin, origin), np.arange(detectors) - 24)
    found = measured_by_all(image, detectors)
    assert off(found["matlab"], expected) < 0.01
    assert off(found["skimage"], expected) > 0.05 or side == 31


def test_half_a_turn_on_detectors_are_mirrored():
    image = picture(20, 24)
    first = measure(image, DEGREES)
    np.testing.assert_allclose(measure(image, DEGREES + 180)[:, ::-1], first, atol=1e-4)
    np.testing.assert_allclose(measure(image, DEGREES - 180)[:, ::-1], first, atol=1e-4)
    np.testing.assert_allclose(measure(image, DEGREES - 720), first, atol=1e-4)
    twice = measure(image, np.repeat(DEGREES, 2))
    np.testing.assert_array_equal(twice[::2], twice[1::2])


def test_detectors_at_another_spacing_and_axis():
    image = picture(32, 32)
    fine = measure(image, DEGREES, detectors=64, spacing=0.5)
    expected = lines(image, (15.5, 15.5), (np.arange(64) - 31.5) / 2)
    assert off(fine, expected) < 0.01
    # The axis at detector 20 of 0 to 63.
    moved = measure(image, DEGREES, detectors=64, spacing=0.5, offset=31.5 - 20)
    assert off(moved, lines(image, (15.5, 15.5), (np.arange(64) - 20) / 2)) < 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"convention": "scikit"}, "^convention: 'scikit'; allowed: ours, skimage, astra, tomopy"),
        ({"spacing": 0.0}, r"^spacing: 0\.0; allowed: finite, above 0"),
        ({"offset": np.nan}, "^offset: nan"),
        ({"centre": (1.0,)}, r"^centre: \(1\.0,\); allowed: \(rows, columns\)"),
    ],
)
def test_what_a_geometry_must_not_be(options, message):
    with pytest.raises(ArgumentError, match=message):
        operators.parallel_beam((4, 4), 3, **options)


def test_the_page_on_geometry_has_every_convention_and_its_example_runs():
    page = (DOCS / "geometry.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \| .*(degrees|radians) \| \[([A, SD]+)\]", page, re.M)
    assert {name: unit for name, unit, _ in listed} == {
        name: "radians" if known.radians else "degrees"
        for name, known in operators.CONVENTIONS.items()
    }
    for name, _, letters in listed:
        assert letters.replace(", ", "") in operators.CONVENTIONS[name].layouts
    (example,) = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(example, {})
    drawing = ElementTree.parse(DOCS / "geometry.svg").getroot()
    assert drawing.tag.endswith("svg")
