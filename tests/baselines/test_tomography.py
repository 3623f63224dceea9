"""SART of any place of the image, beside scikit-image's own geometry."""

import numpy as np
import pytest

from nid_jax.baselines import tomography
from nid_jax.coding.operators import CONVENTIONS
from nid_jax.data import phantoms
from nid_jax.data.sinograms import even_angles

ANGLES = even_angles(20)


def reached(shape, detectors, convention="skimage", centre=(0.0, 0.0), offset=0.0, known=None):
    """PSNR of a phantom; known: (centre, offset) that the reconstruction is told."""
    ellipses = phantoms.random_ellipses(np.random.default_rng([1, 3]))
    middle, first = CONVENTIONS[convention].placed(shape, detectors)
    placed = np.add(middle, centre), first + offset
    sinogram = phantoms.project(ellipses, ANGLES, detectors, shape, *placed)
    found = tomography.placed_sart(sinogram, ANGLES, shape, *(known or placed))
    assert found.shape == tuple(shape)
    return -10 * np.log10(np.square(found - phantoms.draw(ellipses, shape)).mean())


@pytest.mark.parametrize(
    ("shape", "detectors", "geometry"),
    [
        ((32, 32), 45, {}),
        ((31, 32), 32, {"convention": "ours"}),
        ((32, 32), 40, {"convention": "matlab", "centre": (1.5, -2.2)}),
        ((24, 30), 40, {"centre": (1.2, 3.4), "offset": -2.0}),
    ],
)
def test_other_places_are_reconstructed_as_well_as_scikit_images_own(shape, detectors, geometry):
    assert reached(shape, detectors, **geometry) > reached((32, 32), 32) - 2


@pytest.mark.parametrize("known", [((-1.5, 2.0), -1.0), ((1.5, -2.0), 1.0), ((0.0, 0.0), 0.0)])
def test_a_place_that_is_not_told_costs_much(known):
    told = reached((32, 32), 40, "ours", (1.5, 2.0), 1.0)
    assert reached((32, 32), 40, "ours", (1.5, 2.0), 1.0, known) < told - 3


def test_in_scikit_images_geometry_it_is_the_plain_one():
    sinogram = np.random.default_rng(0).uniform(0, 4, (5, 12))
    placed = CONVENTIONS["skimage"].placed((12, 12), 12)
    angles = even_angles(5)
    np.testing.assert_allclose(
        tomography.placed_sart(sinogram, angles, (12, 12), *placed),
        tomography.sart(sinogram, angles, tomography.passes(5)),
        atol=1e-12,
    )
    with pytest.raises(ValueError, match="11 detectors for"):
        tomography.placed_sart(sinogram[:, 1:], angles, (12, 12))


def test_few_views_are_gone_through_often():
    assert [tomography.passes(views) for views in (1, 8, 65, 500)] == [30, 16, 2, 2]
