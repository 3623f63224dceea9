"""Classical reconstructions: the projector against radon, and what each method reaches."""

import numpy as np
import pytest
from peers import tomography
from scipy.optimize import lsq_linear, minimize
from skimage.metrics import peak_signal_noise_ratio
from skimage.transform import radon

from nid_jax.baselines.tomography import sart
from nid_jax.coding.operators import CONVENTIONS
from nid_jax.data import phantoms
from nid_jax.data.sinograms import even_angles

SIZE = 32


@pytest.fixture(scope="module")
def scan():
    """scan(views, number) -> closed-form sinogram, angles, image, system matrix."""

    def make(views, number=0, size=SIZE):
        ellipses = phantoms.random_ellipses(np.random.default_rng([1, number]))
        angles = even_angles(views)
        centre, offset = CONVENTIONS["skimage"].placed((size, size), size)
        sinogram = phantoms.project(ellipses, angles, size, (size, size), centre, offset)
        matrix = tomography.system_matrix(angles, size, (size, size), centre, offset)
        return sinogram, angles, phantoms.draw(ellipses, (size, size)), matrix

    return make


# The projector


@pytest.mark.parametrize("size", [31, 32])
def test_one_sample_a_pixel_is_radon(size):
    angles = np.array([0.0, 12.5, 45.0, 90.0, 100.0, 179.0])
    rows, columns = np.ogrid[:size, :size]
    image = np.random.default_rng(0).random((size, size))
    image *= np.hypot(rows - size // 2, columns - size // 2) < size // 2 - 2
    centre, offset = CONVENTIONS["skimage"].placed((size, size), size)
    matrix = tomography.system_matrix(angles, size, (size, size), centre, offset, 1)
    np.testing.assert_allclose(
        (matrix @ image.ravel()).reshape(len(angles), size), radon(image, angles).T, atol=1e-10
    )


@pytest.mark.parametrize("samples_per_pixel", [1, 3])
def test_any_geometry_is_the_bilinear_sum_written_plainly(samples_per_pixel):
    shape, centre, offset, detectors = (5, 8), (0.7, -1.3), 0.25, 11
    angles = [0.0, 33.0, 90.0, 160.0]
    image = np.random.default_rng(1).random(shape)

    def value(row, column):
        total = 0.0
        for i in range(shape[0]):
            for j in range(shape[1]):
                total += max(0, 1 - abs(row - i)) * max(0, 1 - abs(column - j)) * image[i, j]
        return total

    matrix = tomography.system_matrix(angles, detectors, shape, centre, offset, samples_per_pixel)
    measured = (matrix @ image.ravel()).reshape(len(angles), detectors)
    for a, d in ((0, 0), (1, 3), (1, 6), (2, 5), (3, 8)):
        theta, s = np.deg2rad(angles[a]), d - 5 + offset
        total = 0.0
        for t in np.arange(-20 * samples_per_pixel, 20 * samples_per_pixel + 1) / samples_per_pixel:
            row = t * np.cos(theta) - s * np.sin(theta) + 2 + centre[0]
            column = t * np.sin(theta) + s * np.cos(theta) + 3.5 + centre[1]
            total += value(row, column) / samples_per_pixel
        np.testing.assert_allclose(measured[a, d], total, atol=1e-12)
    assert measured.any(axis=1).all()


def test_rays_beyond_the_image_measure_nothing():
    matrix = tomography.system_matrix([0.0, 45.0, 90.0], 41, (6, 9))
    measured = (matrix @ np.ones(54)).reshape(3, 41)
    assert not measured[:, :10].any()
    assert not measured[:, -10:].any()
    assert measured[:, 20].min() > 5


def test_system_matrix_nears_the_closed_form_as_pixels_shrink():
    ellipses = phantoms.random_ellipses(np.random.default_rng(2))
    errors = []
    for size in (16, 48, 144):
        angles = [20.0, 70.0, 155.0]
        matrix = tomography.system_matrix(angles, size, (size, size))
        image = phantoms.draw(ellipses, (size, size))
        exact = phantoms.project(ellipses, angles, size, (size, size)).ravel()
        errors.append(np.abs(matrix @ image.ravel() - exact).mean() / exact.mean())
    assert errors[1] < errors[0] / 2
    assert errors[2] < errors[1] / 2


def test_divergence_is_minus_the_adjoint_of_the_gradient():
    generator = np.random.default_rng(3)
    image, slopes = generator.normal(size=(5, 7)), generator.normal(size=(2, 5, 7))
    left = (tomography._gradient(image) * slopes).sum()
    right = -(image * tomography._divergence(slopes)).sum()
    np.testing.assert_allclose(left, right, rtol=1e-12)


# Reconstructions


def test_every_method_sees_the_phantom_and_total_variation_is_no_worse_than_filtering(scan):
    sinogram, angles, truth, matrix = scan(16)
    nothing = peak_signal_noise_ratio(truth, np.zeros_like(truth), data_range=1)
    found = {
        "filtered": tomography.filtered_back_projection(sinogram, angles, SIZE),
        "sart": sart(sinogram, angles, iterations=3),
        "variation": tomography.total_variation(sinogram, matrix, truth.shape, 0.5, 300),
    }
    reached = {
        name: peak_signal_noise_ratio(truth, image, data_range=1) for name, image in found.items()
    }
    assert min(reached.values()) > nothing + 3, reached
    assert reached["variation"] > reached["filtered"], reached
    assert reached["sart"] > reached["filtered"], reached
    for image in found.values():
        assert image.dtype == np.float64
        assert image.min() >= 0
        assert image.max() <= 1


def test_sart_goes_on_where_it_stopped(scan):
    sinogram, angles, _, matrix = scan(8)

    def misfit(iterations):
        image = sart(sinogram, angles, iterations, 0.15)
        return np.linalg.norm(matrix @ image.ravel() - sinogram.ravel())

    first, third, tenth = misfit(1), misfit(3), misfit(10)
    assert tenth < third < first


def test_total_variation_minimises_what_it_says():
    """Its objective is as low as that of a general minimiser with the corners rounded off."""
    shape, weight = (6, 7), 1.5
    matrix = tomography.system_matrix(even_angles(5), 9, shape)
    generator = np.random.default_rng(4)
    sinogram = matrix @ generator.random(42) + generator.normal(size=45)

    def objective(values, rounding=0.0):
        image = values.reshape(shape)
        misfit = matrix @ values - sinogram
        down = np.diff(image, axis=0, append=image[-1:])
        right = np.diff(image, axis=1, append=image[:, -1:])
        return misfit @ misfit / 2 + weight * np.sqrt(down**2 + right**2 + rounding**2).sum()

    values = np.full(42, 0.5)
    for rounding in (1e-1, 1e-2, 1e-3):
        values = minimize(
            objective, values, rounding, "L-BFGS-B", bounds=[(0, 1)] * 42,
            options={"maxiter": 500, "maxfun": 10**6},
        ).x  # fmt: skip
    found = tomography.total_variation(sinogram, matrix, shape, weight, 3000)
    assert np.ptp(found) > 0.1
    assert objective(found.ravel()) <= objective(values)
    np.testing.assert_allclose(found.ravel(), values, atol=0.02)


def test_no_weight_is_least_squares_between_bounds():
    generator = np.random.default_rng(6)
    matrix = tomography.system_matrix(even_angles(12), 9, (4, 5))
    sinogram = matrix @ generator.normal(0.5, 0.5, 20) + generator.normal(size=12 * 9)
    best = lsq_linear(matrix.toarray(), sinogram, (0, 1), method="bvls").x
    found = tomography.total_variation(sinogram, matrix, (4, 5), 0.0, 4000).ravel()

    def misfit(image):
        return np.square(matrix @ image - sinogram).sum()

    assert misfit(found) < misfit(best) * (1 + 1e-4)
    assert np.isin(best, (0, 1)).any()
    np.testing.assert_allclose(found, best, atol=0.05)
