"""Operators: adjoints, masks, runs of points, and what they refuse."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.interpolate
from ml_collections import ConfigDict

from nid_jax.coding import grid_operator, operators
from nid_jax.errors import ArgumentError
from nid_jax.fields import coordinates


def _mask(count, seed=0):
    seen = np.random.default_rng(seed).uniform(size=count) < 0.4
    seen[0] = True
    return seen


def _rays(measurements=9, length=4, seed=1):
    generator = np.random.default_rng(seed)
    points = generator.uniform(-1, 1, (measurements * length, 2)).astype(np.float32)
    factors = generator.normal(size=(measurements, length)).astype(np.float32)
    return operators.Sample(jnp.asarray(points), jnp.asarray(factors), run_length=length)


def _interpolated(shape):
    return grid_operator.on_grid(operators.parallel_beam(shape, 7, samples_per_ray=5), shape)


OPERATORS = {
    "sample": lambda: operators.sample((5, 3)),
    "points": lambda: operators.sample(np.random.default_rng(0).uniform(-1, 1, (17, 3))),
    "mask": lambda: operators.mask((5, 3), _mask(15).reshape(5, 3)),
    "mask per signal": lambda: operators.mask((5, 3), np.stack([_mask(15), _mask(15, 1)])),
    "runs": _rays,
    "plain runs": lambda: dataclasses.replace(_rays(), factors=None),
    "rays": lambda: operators.parallel_beam((9, 6), 7, centre=(0.5, -0.25), offset=-0.5),
    "rays on a grid": lambda: _interpolated((5, 8)),
    "downsample": lambda: operators.downsample((6, 9), 3),
    "areas": lambda: operators.areas((6, 9), (4, 5)),
    "downsample on a grid": lambda: grid_operator.on_grid(
        operators.downsample((6, 9), 3, 2), (6, 9)
    ),
    "blur": lambda: operators.blur((5, 7), 0.8),
    "blur on a grid": lambda: grid_operator.on_grid(operators.blur((5, 7), 0.8), (5, 7)),
    "fourier": lambda: operators.fourier((6, 5), 0.4, 0.1),
    "fourier of odd sides": lambda: operators.fourier((7, 5), 0.5, 0.1, seed=3),
    "fan": lambda: operators.fan_beam((9, 6), 7, samples_per_ray=4),
    "fan on an arc": lambda: operators.fan_beam((5, 8), [0.0, 250.0], arc=True),
    "any frequencies": lambda: operators.nonuniform_fourier((7, 4), spokes=3, samples=5),
    "derivatives": lambda: operators.point_derivatives((3, 4), axes=(1,)),
    "derivatives along": lambda: operators.point_derivatives((3, 3), None, [[1, 2], [0, 3.0]]),
    "masked rays": lambda: operators.mask(operators.parallel_beam((4, 3), 3), _mask(12)),
    "masked frequencies": lambda: operators.mask(operators.fourier((6, 5), 0.2), _mask(12)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_adjoint(name):
    operator = OPERATORS[name]()
    generator = np.random.default_rng(2)
    samples = generator.normal(size=(2, len(operator.points), 4)).astype(np.float32)
    measured = generator.normal(size=(2, operator.num_measurements, 4)).astype(np.float32)
    forward = np.vdot(np.asarray(operator.measure(jnp.asarray(samples)), np.float64), measured)
    backward = np.vdot(samples, np.asarray(operator.adjoint(jnp.asarray(measured)), np.float64))
    assert forward == pytest.approx(backward, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", OPERATORS)
def test_linear_and_alike_on_every_channel(name):
    operator = OPERATORS[name]()
    a, b = np.random.default_rng(3).normal(size=(2, 2, len(operator.points), 4))
    together = operator.measure(jnp.asarray(2 * a - b, jnp.float32))
    apart = 2 * operator.measure(jnp.asarray(a, jnp.float32)) - operator.measure(
        jnp.asarray(b, jnp.float32)
    )
    np.testing.assert_allclose(together, apart, atol=2e-5, rtol=2e-5)
    one = operator.measure(jnp.asarray(a[..., 2:3], jnp.float32))
    whole = operator.measure(jnp.asarray(a, jnp.float32))
    np.testing.assert_allclose(one[..., 0], whole[..., 2], atol=1e-6)


def test_runs_are_weighted_sums():
    operator = _rays()
    samples = np.random.default_rng(4).normal(size=(36, 2)).astype(np.float32)
    runs = samples.reshape(9, 4, 2).astype(np.float64)
    expected = (runs * np.asarray(operator.factors)[:, :, None]).sum(1)
    np.testing.assert_allclose(operator.measure(samples), expected, atol=1e-5)
    assert operator.num_measurements == 9


def test_mask_measures_zero_where_nothing_was_seen():
    seen = _mask(15).reshape(5, 3)
    operator = operators.mask((5, 3), seen)
    samples = np.random.default_rng(5).normal(size=(15, 1)).astype(np.float32)
    measured = np.asarray(operator.measure(samples))
    np.testing.assert_array_equal(measured[seen.ravel()], samples[seen.ravel()])
    assert (measured[~seen.ravel()] == 0).all()
    np.testing.assert_array_equal(operator.points, coordinates.grid((5, 3)))


MORE = {
    "chosen points": lambda: operators.select([3, 0], 15) @ operators.sample((5, 3)),
    "twice the signal": lambda: 2 * operators.sample((5, 3)),
    "masked twice": lambda: operators.mask(operators.mask((5, 3), _mask(15)), _mask(15, 1)),
    "weighed": lambda: dataclasses.replace(operators.sample((5, 3)), weights=jnp.arange(15.0)),
}


@pytest.mark.parametrize("name", [*OPERATORS, *MORE])
def test_sampling_is_to_measure_the_samples_themselves(name):
    operator = {**OPERATORS, **MORE}[name]()
    samples = np.random.default_rng(6).normal(size=(2, operator.num_points, 1)).astype(np.float32)
    runs = operator.runs()
    if runs is None:
        measured = np.asarray(operator.measure(samples))
    else:
        apart = samples.reshape(2, *runs[1].shape, 1)
        measured = (apart * np.asarray(runs[1])[:, :, None]).sum(-2)
    same = measured.shape == samples.shape
    same = same and ((measured == samples) | (measured == 0)).all()
    assert operator.is_sampling == same


def test_an_operator_is_an_argument_of_a_jitted_function():
    operator = _rays()
    samples = jnp.ones((36, 1))
    jitted = jax.jit(lambda op, values: op.measure(values))
    np.testing.assert_allclose(jitted(operator, samples), operator.measure(samples), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: operators.sample(np.zeros((0, 2))),
            r"points: \(.*\); allowed: the shape \[P, D\]",
        ),
        (lambda: operators.sample(np.zeros(4)), r"points: \(.*\); allowed: the shape \[P, D\]"),
        (lambda: operators.sample(np.full((2, 2), np.nan)), "finite"),
        (lambda: operators.sample((0, 3)), r"shape: \(0, 3\)"),
        (lambda: operators.mask((5, 3), np.ones((3, 5))), r"seen: \(3, 5\); allowed"),
        (lambda: operators.mask((5, 3), np.full((5, 3), 0.5)), "0 and 1 only"),
        (
            lambda: operators.mask((5, 3), np.zeros((5, 3), bool)),
            "seen: 0; allowed: at least 1 point seen$",
        ),
        (
            lambda: operators.mask((5, 3), [[1] * 15, [0] * 15]),
            "seen: 0; allowed: at least 1 point seen, in the mask of signal 1",
        ),
    ],
)
def test_refusals(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_weights_are_combined_and_checked():
    operator = operators.mask((2, 2), [1, 1, 0, 1])
    np.testing.assert_array_equal(
        operators.combined_weights(operator, np.array([2.0, 3, 4, 5])), [2, 3, 0, 5]
    )
    assert operators.combined_weights(operators.sample((2, 2)), None) is None
    for bad in (np.ones(3), np.array([1, 1, -1, 1.0]), np.array([1, 1, np.nan, 1.0])):
        with pytest.raises(ValueError, match="weights"):
            operators.combined_weights(operator, bad)


# Callables, bases, grids


def test_a_matrix_of_functions():
    """A @ f samples f where the operator wants it; A @ basis measures all atoms at once."""
    operator = operators.parallel_beam((7, 9), 3, samples_per_ray=4)

    def atoms(points):
        return jnp.stack([jnp.sin(3 * points), points**2], 1)

    measured = operator @ atoms
    assert measured.shape == (27, 2, 2)
    for atom in range(2):
        alone = operator @ (lambda points, atom=atom: atoms(points)[:, atom])
        np.testing.assert_allclose(measured[:, atom], alone, atol=1e-5)
    measurements = np.random.default_rng(0).normal(size=(27, 1)).astype(np.float32)
    np.testing.assert_array_equal(operator.T @ measurements, operator.adjoint(measurements))
    assert operator.T.T is operator


def _dense(operator):
    """The operator as a float64 matrix [M, P], from its adjoint."""
    identity = jnp.eye(operator.num_measurements)
    return np.asarray(operator.adjoint(identity[..., None]), np.float64)[..., 0]


@pytest.mark.parametrize("shape", [(6, 9), (5, 5), (4, 1)])
def test_on_a_grid_linear_functions_are_measured_exactly(shape):
    """Linear interpolation loses nothing of what is linear."""
    operator = operators.parallel_beam(shape, 5)
    points = coordinates.grid(shape)
    on_grid = grid_operator.on_grid(operator, shape)
    image = points @ np.array([[0.3], [-0.7]], np.float32) + 0.2
    expected = operator @ (lambda x: x @ jnp.array([[0.3], [-0.7]]) + 0.2)
    np.testing.assert_allclose(on_grid @ image, expected, atol=1e-4)
    np.testing.assert_array_equal(on_grid.points, points)
    # Of pixels all is measured by weights that are not negative.
    assert _dense(on_grid).min() >= 0


@pytest.mark.parametrize("name", ["runs", "plain runs", "rays", "downsample", "points", "mask"])
def test_the_matrix_on_a_grid_is_that_of_the_interpolated_signal(name):
    operator = OPERATORS[name]()
    shape = (6, 7, 4)[: operator.points.shape[-1]]
    image = np.random.default_rng(7).normal(size=shape)
    axes = [np.linspace(-1, 1, side) for side in shape]
    held = np.clip(np.asarray(operator.points, np.float64), -1, 1)
    at_points = scipy.interpolate.RegularGridInterpolator(axes, image)(held)
    factors = operator.factors
    runs = at_points.reshape(operator.num_measurements, -1)
    expected = (runs if factors is None else runs * np.asarray(factors)).sum(1)
    found = grid_operator.matrix_on_grid(operator, shape) @ image.ravel()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(ArgumentError, match=r"operator: .*; allowed: one of signals \[5\], or a"):
        grid_operator.matrix_on_grid(operator, (5,))


def test_an_operator_already_on_the_grid_stays():
    for operator in (operators.sample((4, 3)), operators.fourier((4, 3), 0.3)):
        assert grid_operator.on_grid(operator, (4, 3)) is operator
    with pytest.raises(ValueError, match=r"operator: 'Fourier'; allowed: one of signals \[3, 4\]"):
        grid_operator.on_grid(operators.fourier((4, 3), 0.3), (3, 4))


def test_some_measurements_of_an_operator():
    operator = operators.parallel_beam((6, 7), 4)
    chosen = np.array([3, 17, 2])
    part = operator.of_measurements(chosen)

    def signal(points):
        return jnp.cos(2 * points[:, :1]) + points[:, 1:]

    np.testing.assert_allclose(part @ signal, (operator @ signal)[chosen], atol=1e-5)


# Parallel beams


def _smooth_image(side):
    rows, columns = np.meshgrid(*[np.linspace(-1, 1, side)] * 2, indexing="ij")
    blob = np.exp(-8 * ((rows - 0.2) ** 2 + (columns + 0.1) ** 2))
    return (blob + 0.5 * np.exp(-12 * ((rows + 0.3) ** 2 + columns**2))).astype(np.float32)


@pytest.mark.parametrize("side", [33, 32])
def test_agrees_with_scikit_image(side):
    """radon turns about pixel N // 2: for even sides half a pixel from the middle."""
    from skimage.transform import radon

    image = _smooth_image(side)
    angles = np.linspace(0, 180, 9, endpoint=False)
    even = side % 2 == 0
    operator = operators.parallel_beam(
        (side, side), angles, centre=(0.5, 0.5) if even else (0, 0), offset=-0.5 if even else 0.0
    )
    ours = grid_operator.on_grid(operator, image.shape) @ image.reshape(-1, 1)
    inside = image * (np.hypot(*np.indices(image.shape) - (side // 2)) <= side // 2 - 1)
    theirs = radon(inside, angles, circle=True).T
    error = np.abs(np.asarray(ours).reshape(theirs.shape) - theirs)
    assert error.max() < 0.03 * theirs.max()
    assert error.mean() < 0.004 * theirs.max()


def _ellipse(points, centre, axes, turn):
    """1 inside an ellipse given in pixels [P, 2]."""
    cosine, sine = np.cos(turn), np.sin(turn)
    r, c = (points - centre).T
    along, across = r * cosine + c * sine, -r * sine + c * cosine
    return ((along / axes[0]) ** 2 + (across / axes[1]) ** 2 <= 1).astype(np.float32)


def test_projections_of_an_ellipse_converge():
    """The chord of an ellipse in closed form; the error falls as samples per ray grow."""
    shape, centre, axes, turn = (40, 30), np.array([2.0, -3.0]), (9.0, 5.0), 0.4
    angles = np.array([0.0, 20.0, 77.5, 90.0, 150.0])
    theta = np.deg2rad(angles)[:, None]
    position = np.arange(40) - 19.5
    distance = position - (-np.sin(theta) * centre[0] + np.cos(theta) * centre[1])
    # Half the width of the ellipse along the detector.
    angle = theta - turn
    reach = (axes[0] * np.sin(angle)) ** 2 + (axes[1] * np.cos(angle)) ** 2
    inside = np.maximum(reach - distance**2, 0)
    exact = 2 * axes[0] * axes[1] * np.sqrt(inside) / reach

    def error(samples):
        operator = operators.parallel_beam(shape, angles, samples_per_ray=samples)
        scale = (np.array(shape) - 1) / 2
        measured = operator @ (
            lambda points: jnp.asarray(
                _ellipse(np.asarray(points) * scale, centre, axes, turn)[:, None]
            )
        )
        return np.sqrt(np.mean((np.asarray(measured).reshape(exact.shape) - exact) ** 2))

    errors = [error(samples) for samples in (32, 128, 512)]
    rates = np.log(np.array(errors[:-1]) / errors[1:]) / np.log(4)
    # An edge is met within half a step: first order or better.
    assert rates.min() > 0.8, (errors, rates)
    assert errors[-1] < 0.03


def test_rays_outside_the_image_measure_nothing():
    operator = operators.parallel_beam((4, 6), [0.0, 90.0], detectors=21)
    sums = np.asarray(operator @ (lambda points: jnp.ones((len(points), 1)))).reshape(2, 21)
    # Of ones, the length of the way through the image's area, which is rows x columns pixels.
    np.testing.assert_allclose(sums[0], np.where(np.abs(np.arange(21) - 10) < 3, 4, 0), atol=1e-5)
    np.testing.assert_allclose(sums[1], np.where(np.abs(np.arange(21) - 10) < 2, 6, 0), atol=1e-5)


def test_views_are_even_and_none_is_repeated():
    np.testing.assert_allclose(operators.checked_angles(4), [0, 45, 90, 135])
    given = [-10.0, 200.0, 200.0, 725.0]
    np.testing.assert_array_equal(operators.checked_angles(given), given)
    np.testing.assert_allclose(operators.checked_angles([np.pi / 2], "astra"), [90])
    for angles, wrong in (
        (0, "angles: 0"),
        ([], "shape"),
        ([[1.0], [2.0]], "shape"),
        ([np.nan], "nan"),
    ):
        with pytest.raises(ValueError, match=wrong):
            operators.checked_angles(angles)
    with pytest.raises(ValueError, match="^detectors: -1"):
        operators.parallel_beam((4, 4), 2, detectors=-1)


# Areas, footprints, frequencies


def test_downsampling_means_blocks_of_pixels():
    image = np.random.default_rng(0).normal(size=(6, 9, 2)).astype(np.float32)
    on_grid = grid_operator.on_grid(operators.downsample((6, 9), 3), (6, 9))
    expected = image.reshape(2, 3, 3, 3, 2).mean((1, 3)).reshape(-1, 2)
    np.testing.assert_allclose(on_grid @ image.reshape(-1, 2), expected, atol=1e-6)
    with pytest.raises(
        ValueError, match=r"^factor: 4; allowed: what divides the signals' \[6, 9\]"
    ):
        operators.downsample((6, 9), 4)


def test_blur_is_a_gaussian_filter():
    from scipy.ndimage import gaussian_filter

    image = np.random.default_rng(1).normal(size=(11, 8)).astype(np.float32)
    on_grid = grid_operator.on_grid(operators.blur(image.shape, 1.2, radius=4), image.shape)
    expected = gaussian_filter(image.astype(np.float64), 1.2, radius=4, mode="nearest")
    np.testing.assert_allclose((on_grid @ image.reshape(-1, 1))[:, 0], expected.ravel(), atol=1e-5)
    with pytest.raises(ValueError, match="^sigma: 0"):
        operators.blur((3, 3), 0.0)


@pytest.mark.parametrize("shape", [(6, 5), (7, 9), (8,)])
def test_frequencies_are_those_of_numpy(shape):
    operator = operators.fourier(shape, 0.5, 0.1, seed=2)
    image = np.random.default_rng(2).normal(size=shape)
    spectrum = np.fft.fftn(image, norm="ortho").ravel()[np.asarray(operator.kept)]
    measured = np.asarray(operator @ image.reshape(-1, 1).astype(np.float32))[:, 0]
    np.testing.assert_allclose(measured, np.r_[spectrum.real, spectrum.imag], atol=1e-5)
    assert 0 in operator.kept
    # No frequency is there with its negative.
    places = np.stack(np.unravel_index(np.asarray(operator.kept), shape), 1)
    seen = {tuple(place) for place in places}
    opposite = [tuple(-place % np.array(shape)) for place in places]
    assert all(o == tuple(p) or o not in seen for o, p in zip(opposite, places, strict=True))


def test_by_name():
    config = ConfigDict({"kind": "downsample", "downsample": {"factor": 2}, "blur": {"sigma": 3.0}})
    operator = operators.build_operator(config, (4, 6))
    assert operator.num_measurements == 6
    config.kind = "mask"
    assert operators.build_operator(config, (4, 6)).num_measurements == 24
    for change, wrong in (
        ({"kind": "fourrier"}, "did you mean 'fourier'"),
        ({"kind": "downsample", "downsample": {"factr": 2}}, "operator.downsample.factr"),
        ({"kind": "fourier", "fourier": {"share": 0.8}}, "operator.fourier.share: 0.8"),
        ({"kind": "fourier", "fourier": {"share": 0.1, "low": 0.2}}, "operator.fourier.low: 0.2"),
        ({"kind": "mask", "mask": {"share": 0.0}}, "operator.mask.share: 0"),
    ):
        with pytest.raises(ValueError, match=wrong):
            operators.build_operator(ConfigDict(change), (4, 6))
