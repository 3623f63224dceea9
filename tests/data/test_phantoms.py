"""Phantoms: drawn and projected values against integration and scikit-image's radon."""

import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy.ndimage import gaussian_filter1d, map_coordinates
from skimage.data import shepp_logan_phantom
from skimage.transform import radon, resize

from nid_jax.data import phantoms, to_array

ONE = np.array([[0.7, 0.5, 0.3, 0.1, -0.2, 25.0]])


@pytest.fixture
def config():
    """make(key=value) -> the keys of a data config that phantoms read."""

    def make(size=(24, 24), num_train=6, num_test=4, jitter=1.0):
        phantom = {"jitter": jitter}
        return ConfigDict(
            {"size": size, "num_train": num_train, "num_test": num_test, "phantom": phantom}
        )

    return make


def seeded(*numbers):
    return np.random.default_rng(numbers)


def inside(ellipses, shape, refine):
    """The image sampled at the centres of refine x refine cells of every pixel, the plain way."""
    rows = (np.arange(shape[0] * refine) + 0.5) / (shape[0] * refine) * 2 - 1
    columns = (np.arange(shape[1] * refine) + 0.5) / (shape[1] * refine) * 2 - 1
    total = np.zeros((len(rows), len(columns)))
    for intensity, a, b, row, column, angle in ellipses:
        turn = np.deg2rad(angle)
        x, y = rows[:, None] - row, columns[None] - column
        along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        total += intensity * ((along / a) ** 2 + (across / b) ** 2 <= 1)
    return total


# Drawing


@pytest.mark.parametrize("shape", [(32, 32), (17, 40)])
def test_the_area_of_one_ellipse(shape):
    area = phantoms.draw(ONE, shape).sum() * 4 / np.prod(shape) / ONE[0, 0]
    np.testing.assert_allclose(area, np.pi * 0.5 * 0.3, rtol=1e-3)


@pytest.mark.parametrize("shape", [(16, 16), (9, 14)])
def test_pixels_are_means_over_their_area(shape):
    ellipses = phantoms.random_ellipses(seeded(1))
    refine = 128
    fine = inside(ellipses, shape, refine).reshape(shape[0], refine, shape[1], refine)
    error = phantoms.draw(ellipses, shape, 64) - fine.mean((1, 3))
    assert np.abs(error).max() < 0.015
    assert np.sqrt(np.square(error).mean()) < 2e-3


def test_many_are_drawn_as_one_by_one_and_linear_in_intensity():
    ellipses = np.stack([phantoms.random_ellipses(seeded(2, number)) for number in range(5)])
    drawn = phantoms.draw(ellipses, (20, 30))
    for one, image in zip(ellipses, drawn, strict=True):
        np.testing.assert_array_equal(phantoms.draw(one, (20, 30)), image)
        parts = sum(phantoms.draw(part[None], (20, 30)) for part in one)
        np.testing.assert_allclose(parts, image, atol=1e-12)


def test_ellipses_beyond_the_image_are_cut_off():
    np.testing.assert_allclose(
        phantoms.draw(np.array([[0.5, 3, 3, 0.4, -0.3, 10.0]]), (6, 7)), np.full((6, 7), 0.5)
    )
    assert not phantoms.draw(np.array([[0.5, 0.2, 0.2, 3.0, 0.0, 0.0]]), (6, 7)).any()


def test_the_head_stands_as_it_does_in_scikit_image():
    drawn = phantoms.draw(phantoms.SHEPP_LOGAN, (100, 100))
    known = resize(shepp_logan_phantom(), (100, 100), anti_aliasing=True)

    def likeness(image):
        return np.corrcoef(image[20:80, 30:70].ravel(), known[20:80, 30:70].ravel())[0, 1]

    assert likeness(drawn) > 0.8
    assert likeness(drawn) > likeness(drawn[:, ::-1]) + 0.1
    assert likeness(drawn) > likeness(drawn[::-1]) + 0.1


# Random heads


def test_random_heads_lie_in_the_circle_and_in_the_unit_range():
    ellipses = [phantoms.random_ellipses(seeded(3, number), 2.0) for number in range(40)]
    size = 96
    drawn = phantoms.draw(np.stack(ellipses), (size, size))
    assert drawn.min() >= -1e-9
    assert drawn.max() <= 1 + 1e-9
    rows, columns = np.ogrid[:size, :size]
    distance = np.hypot(rows - size // 2, columns - size // 2)
    assert not drawn[:, distance > size // 2].any()
    at_edge = drawn[:, (distance > 0.8 * size // 2)]
    assert at_edge.any()
    # They are different heads, not one.
    assert drawn.std(axis=0).max() > 0.2


def test_no_jitter_is_the_head_itself_and_jitter_scales():
    np.testing.assert_allclose(
        phantoms.random_ellipses(seeded(0), 0.0), phantoms.SHEPP_LOGAN, atol=1e-12
    )
    near, far = (
        np.abs(phantoms.random_ellipses(seeded(4), jitter) - phantoms.SHEPP_LOGAN).sum()
        for jitter in (0.01, 0.1)
    )
    np.testing.assert_allclose(far / near, 10, rtol=0.05)


@pytest.mark.parametrize("jitter", [-0.1, 2.1, float("nan")])
def test_jitter_outside_its_range(jitter):
    with pytest.raises(ValueError, match=r"data\.phantom\.jitter=.* between 0 and 2"):
        phantoms.random_ellipses(seeded(0), jitter)


# Projections


@pytest.mark.parametrize(
    ("shape", "centre", "offset", "detectors"),
    [((32, 32), (0.5, 0.5), -0.5, 32), ((20, 33), (1.25, -2.0), 0.3, 41)],
)
def test_projections_converge_to_the_sums_along_rays(shape, centre, offset, detectors):
    """Sums over the rays of ever finer pictures approach the closed form."""
    ellipses = phantoms.random_ellipses(seeded(5))
    angles = np.array([0.0, 17.0, 45.0, 90.0, 133.3])
    exact = phantoms.project(ellipses, angles, detectors, shape, centre, offset)
    s = np.arange(detectors)[:, None] - (detectors - 1) / 2 + offset
    errors = []
    for refine in (2, 8, 32):
        fine = inside(ellipses, shape, refine)
        t = np.arange(-30 * refine, 30 * refine) / refine
        sums = []
        for angle in np.deg2rad(angles):
            row = t * np.cos(angle) - s * np.sin(angle) + centre[0] + (shape[0] - 1) / 2
            column = t * np.sin(angle) + s * np.cos(angle) + centre[1] + (shape[1] - 1) / 2
            at = [(row + 0.5) * refine - 0.5, (column + 0.5) * refine - 0.5]
            sums.append(map_coordinates(fine, at, order=1).sum(-1) / refine)
        errors.append(np.abs(np.array(sums) - exact).mean())
    assert errors[1] < errors[0] / 2
    assert errors[2] < errors[1] / 2
    assert errors[2] < 0.02 < exact.max() / 100


@pytest.mark.parametrize("size", [200, 201])
def test_projections_are_those_of_radon(size):
    """Along the rays of scikit-image, blurred along detectors as the picture is blurred."""
    ellipses = phantoms.random_ellipses(seeded(6))
    angles = np.array([0.0, 30.0, 77.7, 90.0, 150.0])
    half = 0.0 if size % 2 else 0.5
    image = phantoms.draw(ellipses, (size, size))
    blurred = gaussian_filter1d(gaussian_filter1d(image, 3.0, axis=0), 3.0, axis=1)
    blurred[blurred < 1e-6] = 0
    # The blur of a projection is the projection of the blurred image.
    measured = radon(blurred, angles).T
    expected = phantoms.project(ellipses, angles, size, (size, size), (half, half), -half)
    expected = gaussian_filter1d(expected, 3.0, axis=1)
    assert np.abs(measured - expected).mean() < 2e-3 * expected.max()
    moved = phantoms.project(ellipses, angles, size, (size, size), (half, half), 0.5 - half)
    moved = gaussian_filter1d(moved, 3.0, axis=1)
    assert np.abs(measured - moved).mean() > 5 * np.abs(measured - expected).mean()


def test_projections_of_many_are_those_of_each():
    ellipses = np.stack([phantoms.random_ellipses(seeded(7, number)) for number in range(3)])
    together = phantoms.project(ellipses, [3.0, 99.0], 21, (15, 18), (0.2, 0.1), 0.4)
    assert together.shape == (3, 2, 21)
    for one, projected in zip(ellipses, together, strict=True):
        alone = phantoms.project(one, [3.0, 99.0], 21, (15, 18), (0.2, 0.1), 0.4)
        np.testing.assert_allclose(projected, alone, atol=1e-12)


def test_a_view_sums_to_the_mass_of_the_image():
    ellipses = phantoms.random_ellipses(seeded(8))
    shape = (40, 31)
    mass = (ellipses[:, 0] * ellipses[:, 1] * ellipses[:, 2]).sum() * np.pi * 40 * 31 / 4
    # Detectors a sixteenth of a pixel apart.
    views = np.mean(
        [
            phantoms.project(ellipses, [0.0, 40.0, 120.0], 80, shape, offset=step / 16).sum(-1)
            for step in range(16)
        ],
        axis=0,
    )
    np.testing.assert_allclose(views, mass, rtol=1e-3)
    np.testing.assert_allclose(phantoms.draw(ellipses, shape).sum(), mass, rtol=1e-3)


# The collection


def test_collection_holds_the_drawing_of_its_ellipses(config):
    collection = phantoms.open_phantoms(config(size=(24, 30)), "train", 3)
    assert (len(collection), collection.shape) == (6, (24, 30, 1))
    values = to_array(collection)
    assert values.dtype == np.float32
    assert values.min() >= 0
    assert values.max() <= 1
    for number in (0, 5):
        drawn = phantoms.draw(collection.ellipses(number), (24, 30))
        np.testing.assert_allclose(values[number, ..., 0], drawn, atol=1e-6)
    np.testing.assert_array_equal(collection.ellipses(-1), collection.ellipses(5))
    with pytest.raises(IndexError):
        collection.ellipses(6)
    assert len(set(collection.names)) == 6


def test_splits_and_seeds_share_no_phantom(config):
    def ellipses(split, seed):
        collection = phantoms.open_phantoms(config(num_train=30, num_test=30), split, seed)
        return {collection.ellipses(number).tobytes() for number in range(30)}

    sets = [ellipses(split, seed) for split in ("train", "test") for seed in (0, 1)]
    assert len(set.union(*sets)) == 120


def test_longer_collections_begin_with_the_shorter(config):
    short = phantoms.open_phantoms(config(num_train=4), "train", 1)
    long = phantoms.open_phantoms(config(num_train=9), "train", 1)
    np.testing.assert_array_equal(to_array(long)[:4], to_array(short))
    assert long.names[:4] == short.names


def test_default_size_and_numbers(config):
    collection = phantoms.open_phantoms(config(size=(), num_test=0), "test", 0)
    assert (len(collection), collection.shape) == (20, (64, 64, 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jitter": 3.0}, r"data\.phantom\.jitter=3\.0"),
        ({"size": (0, 4)}, r"data\.size="),
        ({"num_train": -1}, r"data\.num_train=-1"),
    ],
)
def test_errors_name_the_key(config, changes, message):
    with pytest.raises(ValueError, match=message):
        phantoms.open_phantoms(config(**changes), "train", 0)
