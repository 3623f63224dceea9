"""The object that people hold: learned from an array, fitted, drawn, differentiated, saved."""

import dataclasses
import functools
import json
import warnings
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import nid_jax as nid
from nid_jax import devices, learning, neural_dictionary
from nid_jax.configs import image, sdf
from nid_jax.fields.coordinates import grid
from nid_jax.tasks.task import Measured

SHAPE = (9, 8)


def waves(count, shape=SHAPE, channels=1, seed=0):
    """Smooth signals [S, *grid, C] in [0, 1], each of three random plane waves."""
    draw = np.random.default_rng(seed)
    x = grid(shape)
    angles = draw.uniform(-2, 2, (count, 3, len(shape)))
    phases = draw.uniform(0, 6, (count, 3, channels))
    values = np.sin(np.einsum("skd,pd->skp", angles, x)[..., None] + phases[:, :, None]).mean(1)
    return (0.5 + 0.4 * values).reshape(count, *shape, channels).astype(np.float32)


@pytest.fixture(scope="module")
def gray():
    return nid.learn(waves(24)[..., 0], steps=5, num_experts=20)


@pytest.fixture(scope="module")
def colour():
    return nid.learn(waves(16, channels=3), steps=3, num_experts=30)


@pytest.fixture(scope="module")
def unseen():
    return waves(5, seed=1)[..., 0]


# ---- learning -----------------------------------------------------------------------------------


def test_the_last_batch_is_filled_up_with_the_first_signals(monkeypatch):
    """One signal many times over would choose a noise, or a lambda, for itself alone."""
    monkeypatch.setattr(neural_dictionary, "concatenate", np.concatenate)
    solved = []

    def solve(problem, count):
        solved.append(problem.tolist())
        return problem

    def in_batches(count, batch_size):
        solved.clear()
        known = SimpleNamespace(mesh=None)
        given = known, lambda c: c, count, batch_size, solve
        return nid.NeuralDictionary._in_batches(*given, lambda *found: told.append(found))

    told: list[tuple] = []
    np.testing.assert_array_equal(in_batches(5, 3), np.arange(5))
    assert solved == [[0, 1, 2], [3, 4, 0]]
    assert told == [(0, 5), (3, 5), (5, 5)]  # what fills up is not counted
    np.testing.assert_array_equal(in_batches(3, 0), np.arange(3))
    assert solved == [[0, 1, 2]]


def test_sizes_come_from_the_data(gray, colour):
    assert (gray.grid_shape, gray.channels, gray.num_experts) == (SHAPE, 1, 20)
    assert (colour.grid_shape, colour.channels, colour.num_experts) == (SHAPE, 3, 30)
    assert gray.prior.mean.shape == (20,)
    assert "20 experts" in repr(gray)
    assert "24 signals of 9 x 8" in repr(gray)


def test_bytes_are_values_of_0_to_1(gray, unseen):
    as_bytes = np.round(255 * unseen).astype(np.uint8)
    found = gray.fit(as_bytes, solver=nid.Ridge(lam=1e-3))
    same = gray.fit(as_bytes / 255, solver=nid.Ridge(lam=1e-3))
    np.testing.assert_allclose(found.codes, same.codes, atol=1e-5)


@pytest.mark.slow
def test_volumes_are_told_from_colour_by_their_last_axis():
    volumes = nid.learn(waves(4, (6, 5, 7))[..., 0], steps=1, num_experts=6)
    assert (volumes.grid_shape, volumes.channels) == ((6, 5, 7), 1)
    thin = nid.learn(waves(4, (6, 5, 3))[..., 0], steps=1, num_experts=6, layout="SDHW")
    assert (thin.grid_shape, thin.channels) == ((6, 5, 3), 1)


def test_layouts():
    values = waves(5, channels=3)
    last = learning._collection(values, "")
    assert last.shape == (*SHAPE, 3)
    for letters in ("SCHW", "HWCS", "WCSH"):
        turned = values.transpose(["SHWC".index(letter) for letter in letters])
        same = learning._collection(turned, letters)
        np.testing.assert_array_equal(nid.data.to_array(same), values)
    with pytest.warns(nid.Notice, match=r"taken as SCHW, .*; layout='SDHW' says otherwise"):
        guessed = learning._collection(np.moveaxis(values, -1, 1), "")
    np.testing.assert_array_equal(nid.data.to_array(guessed), values)
    with pytest.raises(nid.ArgumentError, match="^layout: 'SHW'; allowed: 4 letters"):
        nid.learn(values, layout="SHW")
    with pytest.raises(nid.ArgumentError, match="^layout: 'SHWC'; allowed: '' beside a coll"):
        nid.learn(last, layout="SHWC")


class Tensor:
    """An array of another library."""

    def __init__(self, values):
        self.values = values
        self.shape, self.dtype, self.names = values.shape, "other.float32", (None,) * values.ndim

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)


@pytest.mark.parametrize(
    "kind",
    [
        np.asarray,
        jnp.asarray,
        lambda values: values.tolist(),
        lambda values: list(values),
        lambda values: values.astype(np.float64),
        lambda values: np.asfortranarray(values),
        lambda values: values.astype(">f4"),
        Tensor,
    ],
)
def test_anything_like_an_array(gray, unseen, kind):
    whole = learning._collection(kind(unseen), "")
    np.testing.assert_array_equal(nid.data.to_array(whole)[..., 0], unseen)
    codes = gray.fit(kind(unseen)).codes
    np.testing.assert_array_equal(codes, gray.fit(unseen).codes)


def test_numbers_of_half_precision_and_bits(gray, unseen):
    for kind in (np.float16, jnp.bfloat16):
        rounded = np.asarray(jnp.asarray(unseen, kind))
        same = gray.fit(rounded.astype(np.float32)).codes
        np.testing.assert_array_equal(gray.fit(rounded).codes, same)
    bits = unseen > 0.5
    np.testing.assert_array_equal(gray.fit(bits).codes, gray.fit(bits.astype(float)).codes)


def test_another_scale_is_said(gray, unseen):
    with pytest.warns(nid.Notice, match=r"^signals: values from .* to .*; taken as they are, whi"):
        learning._collection(255 * unseen, "")
    with pytest.warns(
        nid.Notice, match=r"^measurements: values up to \d+\S*, .* signals up to 0\."
    ):
        gray.fit(255 * unseen)
    with pytest.warns(nid.Notice, match=r"^measurements: values up to 0\.0"):
        gray.fit(unseen / 100)
    for operator in (None, nid.operators.random_mask(SHAPE, 0.5)):
        with pytest.warns(nid.Notice, match=r"^measurements: half of the values are above 5"):
            gray.fit(5 + unseen, operator=operator)
    with warnings.catch_warnings():
        warnings.simplefilter("error", nid.Notice)
        gray.fit(2 * unseen)
        hidden = np.arange(SHAPE[1]) < 3
        gray.fit(np.where(hidden, 1e5, unseen), seen=np.broadcast_to(~hidden, SHAPE))
        gray.fit(0 * unseen)


def test_occupancy_for_distances_is_said(gray, unseen):
    distances = dataclasses.replace(gray, config=sdf.get_config())
    inside = unseen > 0.5
    says = "^measurements: all values are 0 or 1, as of an occupancy grid, and the dictionary"
    for given, options in (
        (inside, {}),
        (inside.astype(float), {"seen": unseen[0] < 0.7}),
        (inside.reshape(5, -1), {"operator": nid.operators.sample(SHAPE)}),
    ):
        with pytest.warns(nid.Notice, match=says):
            distances.fit(given, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", nid.Notice)
        gray.fit(inside)
        distances.fit(unseen - 0.5)
        # Other operators measure no values.
        distances.fit(inside.reshape(5, -1), operator=nid.operators.blur(SHAPE, 1.0))


@pytest.mark.parametrize(
    ("signals", "options", "expected"),
    [
        (
            [[[1.0, 2.0], [3.0]]],
            {},
            "signals: [[[1.0, 2.0], [3.0]]]; allowed: an array of numbers, rows all of",
        ),
        (np.array([{}, None]), {}, "signals: object; allowed: real numbers"),
        ([[["a"]]], {}, "signals: <U1; allowed: real numbers"),
        (None, {}, "signals: None; allowed: an array of numbers"),
        ("images.npy", {}, "signals: "),
        (np.zeros((2, 0, 3)), {}, "signals: (2, 0, 3); allowed: (S, *grid)"),
        (
            np.full((3, 5, 5), np.inf),
            {},
            "signals: inf; allowed: finite numbers of float32, NaN where missing",
        ),
        (np.full((3, 5, 5), 200), {}, "signals: int64; allowed: uint8 or uint16, which become 0"),
        (np.zeros((0, 4, 4)), {}, "signals: (0, 4, 4); allowed: (S, *grid)"),
        (np.zeros(4), {}, "signals: (4,)"),
        (np.full((3, 4, 4), np.nan), {}, "signals: 0; allowed: 1 or more samples seen of signal 0"),
        (np.zeros((3, 4, 4), complex), {}, "signals: complex128; allowed: real numbers"),
        (waves(3)[..., 0], {"steps": -1}, "steps: -1; allowed: a whole number, 0 or more"),
        (waves(3)[..., 0], {"seed": 2**32}, "seed: 4294967296; allowed: a whole number, 0 to 42"),
        (
            waves(3)[..., 0],
            {"num_experts": -1},
            "num_experts: -1; allowed: a whole number, 1 or more",
        ),
        (waves(3)[..., 0] * 1e30, {}, "signals: 'an array, CRC "),
        ([waves(1)[0] * 1e20, waves(1, (5, 5))[0] * 1e20], {}, "signals: 'pictures of several siz"),
    ],
)
def test_what_cannot_be_learned_from_is_one_line(signals, options, expected):
    with pytest.raises(nid.ArgumentError) as complaint:
        nid.learn(signals, **options)
    assert str(complaint.value).startswith(expected)
    assert "\n" not in str(complaint.value)


def test_errors_of_keys_name_the_argument_that_was_typed(monkeypatch):
    monkeypatch.setattr(devices, "memory_bytes", lambda: 10**6)
    with pytest.raises(nid.ArgumentError, match="^num_experts: 1000; allowed: at most 144, "):
        nid.learn(waves(4), num_experts=1000)
    config = image.base()
    with pytest.raises(nid.ArgumentError, match="^steps: 0; allowed: 1 or more, as dictionary.he"):
        nid.learn(config, steps=0)
    config.train.steps = 0
    with pytest.raises(nid.ArgumentError, match="^train.steps: 0; allowed: 1 or more, as dict"):
        nid.learn(config)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_values_that_no_argument_shows_to_be_too_large_are_the_collections():
    collection = nid.data.ArrayCollection(1e30 * waves(3), list("abc"), "rays")
    with pytest.raises(
        nid.ArgumentError, match="^signals: 'rays, values up to 8.*; allowed: up to"
    ):
        nid.learn(collection)
    del collection.bounds
    says = "^signals of rays: 'some not finite'; allowed: finite ones$"
    with pytest.raises(nid.ArgumentError, match=says):
        nid.learn(collection)


@pytest.mark.slow
def test_a_run_that_is_kept_goes_on(tmp_path):
    signals = waves(8)[..., 0]
    first = nid.learn(signals, steps=2, num_experts=6, workdir=tmp_path / "run")
    loaded = nid.load(tmp_path / "run")
    np.testing.assert_array_equal(*(d.fit(signals).codes for d in (first, loaded)))
    # The schedule ends where the steps do, so what the first two did is what they left.
    longer = nid.learn(signals, steps=4, num_experts=6, workdir=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 4
    assert not np.array_equal(longer.fit(signals).codes, first.fit(signals).codes)
    again = nid.learn(signals, steps=4, num_experts=6, workdir=tmp_path / "run")
    np.testing.assert_array_equal(again.fit(signals).codes, longer.fit(signals).codes)


@pytest.mark.slow
def test_a_run_of_other_signals_is_left_alone(tmp_path):
    first = nid.learn(waves(8)[..., 0], steps=2, num_experts=6, workdir=tmp_path / "run")
    for signals, options in (
        (waves(8, seed=1)[..., 0], {}),
        (waves(8, (5, 4))[..., 0], {}),
        (waves(8)[..., 0], {"num_experts": 7}),
    ):
        with pytest.raises(ValueError, match="holds a run"):
            nid.learn(signals, workdir=tmp_path / "run", **{"num_experts": 6, **options})
    kept = nid.load(tmp_path / "run")
    np.testing.assert_array_equal(
        kept.fit(waves(3)[..., 0]).codes, first.fit(waves(3)[..., 0]).codes
    )


# ---- fitting ------------------------------------------------------------------------------------


def test_whole_signals_are_solved_by_ridge(gray, unseen):
    found = gray.fit(unseen)
    assert isinstance(found.solver, nid.Ridge)
    assert found.codes.shape == (5, 20)
    assert found.bias.shape == (5, 1)
    error = np.square(found.render()[..., 0] - unseen).mean((1, 2))
    np.testing.assert_allclose(found.residual, error, rtol=0.02, atol=1e-8)
    assert found.converged.all()
    assert "ridge" in found.message


def test_a_grid_of_another_shape(gray):
    finer = waves(3, (18, 17), seed=1)
    found = gray.fit(finer[..., 0])
    assert found.grid_shape == (18, 17)
    assert found.render().shape == (3, 18, 17, 1)
    assert np.abs(found.render() - finer).max() < 0.2


def test_nan_and_seen_say_the_same(gray, unseen):
    seen = np.random.default_rng(0).random(SHAPE) < 0.4
    hidden = np.where(seen, unseen, np.nan)
    first, second = gray.fit(hidden), gray.fit(unseen, seen=seen)
    assert isinstance(first.solver, nid.Gaussian)
    np.testing.assert_array_equal(first.codes, second.codes)
    spoiled = np.where(seen, unseen, 1e3)
    np.testing.assert_array_equal(gray.fit(spoiled, seen=seen).codes, first.codes)


def test_every_signal_may_have_a_mask_of_its_own(gray, unseen):
    seen = np.random.default_rng(0).random(unseen.shape) < 0.5
    solver = nid.Gaussian(noise=0.01)
    together = gray.fit(unseen, seen=seen, solver=solver)
    for index in range(len(unseen)):
        alone = gray.fit(unseen[index : index + 1], seen=seen[index], solver=solver)
        np.testing.assert_allclose(together.codes[index], alone.codes[0], rtol=1e-3, atol=1e-4)


def test_an_operator_takes_measurements_of_any_shape_of_as_many(gray, unseen):
    operator = nid.operators.parallel_beam(SHAPE, 6)
    exact = gray.fit(unseen).measured_by(operator)
    assert exact.shape == (5, 6 * 9, 1)
    solver = nid.Gaussian(noise=0.01)
    flat = gray.fit(exact, operator, solver=solver)
    sinograms = gray.fit(np.reshape(exact, (5, 6, 9)), operator, solver=solver)
    np.testing.assert_array_equal(flat.codes, sinograms.codes)
    assert np.sqrt(flat.residual).max() < 0.05
    assert flat.grid_shape == SHAPE


def test_colour_with_an_operator(colour):
    signals = waves(2, channels=3, seed=3)
    operator = nid.operators.downsample((18, 16), 2)
    measured = colour.fit(signals).measured_by(operator)
    assert measured.shape == (2, 72, 3)
    found = colour.fit(np.reshape(measured, (2, 9, 8, 3)), operator, solver=nid.Ridge(lam=1e-4))
    np.testing.assert_allclose(found.measured_by(operator), measured, atol=0.05)


def test_batches_give_the_same(gray, unseen):
    whole = gray.fit(unseen)
    parts = gray.fit(unseen, batch_size=2)
    np.testing.assert_allclose(parts.codes, whole.codes, rtol=1e-5, atol=1e-6)
    assert parts.names == whole.names
    assert len(parts) == 5


def test_deviation_is_that_of_the_noise_that_the_solve_found(gray, unseen):
    found = gray.fit(unseen, solver=nid.Gaussian())
    np.testing.assert_allclose(found[2].deviation(), found.deviation()[2:3], rtol=1e-3, atol=1e-5)
    in_batches = gray.fit(unseen, solver=nid.Gaussian(noise=0.02), batch_size=2)
    at_once = gray.fit(unseen, solver=nid.Gaussian(noise=0.02))
    np.testing.assert_allclose(in_batches.deviation(), at_once.deviation(), rtol=1e-3, atol=1e-5)
    with pytest.raises(nid.ArgumentError, match="solver: 'ridge'; allowed: gaussian"):
        gray.fit(unseen).deviation()


def test_refined_fits_are_drawn_inside_jit(gray, unseen):
    refined = gray.fit(unseen).refine(nid.TotalVariation(tv=0.0, lam=1e-3, steps=5))
    points = np.random.default_rng(2).uniform(-1, 1, (5, 2)).astype(np.float32)
    np.testing.assert_allclose(jax.jit(refined.at)(points), refined.at(points), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"solver": "ridge"}, "solver: 'ridge'; allowed: an object of nid.solvers"),
        ({"operator": "parallel_beam"}, "operator: 'parallel_beam'; allowed: an operator"),
        ({"batch_size": -1}, "batch_size: -1; allowed: a whole number, 0 or more"),
        ({"weights": np.zeros(72)}, "weights: 0; allowed: 1 or more of the 72"),
        ({"measurements": np.full((2, 9, 8), 7)}, "measurements: int64; allowed: uint8 or"),
        ({"measurements": np.zeros((9, 8))}, "measurements: (9, 8); allowed: (S, rows"),
        ({"measurements": np.zeros((2, 9, 8, 3))}, "measurements: (2, 9, 8, 3)"),
        ({"measurements": np.full((2, 9, 8), np.inf)}, "measurements: inf; allowed: finite"),
        (
            {"measurements": np.full((2, 9, 8), np.nan)},
            "measurements: 0; allowed: 1 or more of the 72",
        ),
        ({"seen": np.ones((3, 8))}, "seen: (3, 8); allowed: (9, 8) for all signals"),
        ({"seen": np.full((9, 8), 0.5)}, "seen: 0.5; allowed: booleans"),
        ({"weights": -np.ones(72)}, "weights: -1.0; allowed: finite"),
        ({"operator": nid.operators.sample(np.zeros((4, 2)))}, "measurements: (2, 9, 8)"),
        ({"measurements": None}, "measurements: None"),
        ({"measurements": np.array([["a"]])}, "measurements: <U1; allowed: real numbers"),
    ],
)
def test_what_cannot_be_fitted_is_one_line(gray, arguments, expected):
    with pytest.raises(nid.ArgumentError) as complaint:
        gray.fit(**{"measurements": np.zeros((2, 9, 8)), **arguments})
    assert str(complaint.value).startswith(expected)
    assert "\n" not in str(complaint.value)


# ---- the continuous signal ----------------------------------------------------------------------


def test_a_fit_is_a_function_of_points(gray, unseen):
    found = gray.fit(unseen)
    points = np.random.default_rng(0).uniform(-1, 1, (7, 2)).astype(np.float32)
    basis = np.asarray(gray.dictionary.basis(points), np.float64)
    by_hand = np.einsum("se,pec->spc", found.codes.astype(np.float64), basis) + found.bias[:, None]
    np.testing.assert_allclose(found.at(points), by_hand, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found(points), found.at(points))
    np.testing.assert_allclose(
        found.at(grid((5, 6))), found.render((5, 6)).reshape(5, 30, 1), atol=1e-6
    )
    np.testing.assert_allclose(found.at(points, chunk=3), found.at(points), atol=1e-6)


def test_gradients_are_those_of_the_values(colour):
    found = colour.fit(waves(2, channels=3, seed=5))
    points = np.random.default_rng(1).uniform(-0.9, 0.9, (6, 2)).astype(np.float32)
    slopes = found.gradient_at(points)
    assert slopes.shape == (2, 6, 3, 2)
    # Short, as rectified features have kinks.
    step = np.float32(2e-3)
    for axis in range(2):
        shift = np.eye(2, dtype=np.float32)[axis] * step
        ahead, here, behind = (found.at(points + k * shift) for k in (1, 0, -1))
        smooth = np.abs(ahead - 2 * here + behind) < 1e-2 * step
        assert smooth.mean() > 0.8
        by_difference = (ahead - behind) / (2 * step)
        np.testing.assert_allclose(slopes[..., axis][smooth], by_difference[smooth], atol=5e-3)


def test_windows_and_shapes(gray, unseen):
    found = gray.fit(unseen)
    part = found.render((4, 3), window=((-1, 0), (0, 1)))
    np.testing.assert_allclose(
        part.reshape(5, 12, 1), found.at(grid((4, 3), ((-1, 0), (0, 1)))), atol=1e-6
    )
    for shape in [(4,), (4, 0), (4, 4, 4), (2.5, 2)]:
        with pytest.raises(nid.ArgumentError, match=r"^shape: .*2 whole numbers"):
            found.render(shape)
    with pytest.raises(nid.ArgumentError, match=r"^shape: \(1000000, 1000000\); allowed: .* GiB"):
        found.render((10**6, 10**6))
    with pytest.raises(nid.ArgumentError, match=r"^points: \(3, 3\); allowed: \(P, 2\)"):
        found.at(np.zeros((3, 3)))


def test_coordinates_are_refused_as_they_were_given(gray, unseen):
    found = gray.fit(unseen)
    for given in ([[0, 0], [1e39, 0.5]], np.array([[0, 0], [1e39, 0.5]])):
        for values in (found.at, found.gradient_at):
            with pytest.raises(nid.ArgumentError, match=r"^points: \[1e\+39, 0.5\]; allowed: fini"):
                values(given)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1e39])
def test_coordinates_that_are_not_finite_are_refused(gray, unseen, odd):
    found = gray.fit(unseen)
    points = np.zeros((4, 2))
    points[2, 1] = odd
    for place in (points, points.tolist(), jnp.asarray(points, jnp.float32)):
        for values in (found.at, found, found.gradient_at):
            says = r"^points: \[0.0, .*\]; allowed: finite numbers of float32; point 2 of 4"
            with pytest.raises(nid.ArgumentError, match=says):
                values(place)
    for window in (((0, 1), (0, odd)), ((odd, 1), (0, 1))):
        with pytest.raises(ValueError, match=r"^window: \(.*\); allowed: finite ends"):
            found.render((4, 4), window=window)
    # Inside a transformation values are not looked at.
    assert np.isfinite(jax.jit(found.at)(np.zeros((4, 2), np.float32))).all()


def test_signals_of_several_ways_come_back_in_their_order(gray, unseen):
    draw, told = np.random.default_rng(2), []
    masks = [nid.operators.mask(SHAPE, draw.uniform(size=SHAPE) < 0.7) for _ in range(2)]
    way = [1, 0, 1, 1, 0]
    rows = unseen.reshape(5, -1, 1)
    measured = Measured(masks, SHAPE, 1, values=rows.__getitem__, way=way.__getitem__, whole=False)
    solver, names = nid.Ridge(lam=1e-3), list("edcba")
    found = gray.fit_measured(
        measured, names, solver, told=lambda done, total: told.append((done, total))
    )
    assert found.names == tuple(names)
    for index, number in enumerate(way):
        one = gray.fit(rows[[index]], operator=masks[number], solver=solver)
        np.testing.assert_allclose(found.codes[index], one.codes[0], atol=1e-4)
    assert told == [(0, 5), (2, 5), (5, 5)]


def test_some_signals_of_a_fit(gray, unseen):
    found = gray.fit(unseen, solver=nid.Gaussian(noise=0.02))
    assert len(found[1:3]) == 2
    assert found[1:3].names == found.names[1:3]
    np.testing.assert_allclose(found[2].render(), found.render()[2:3], atol=1e-6)
    np.testing.assert_array_equal(found[[4, 0]].codes, found.codes[[4, 0]])
    # It still knows what was measured.
    np.testing.assert_allclose(found[3].deviation(), found.deviation()[3:4], rtol=1e-3, atol=1e-5)


def test_deviation_grows_where_nothing_was_seen(gray, unseen):
    seen = np.ones(SHAPE, bool)
    seen[:, 4:] = False
    deviation = gray.fit(unseen, seen=seen).deviation()
    assert deviation.shape == (5, *SHAPE, 1)
    assert (deviation[:, :, 5:].mean((1, 2, 3)) > deviation[:, :, :3].mean((1, 2, 3))).all()
    finer = gray.fit(unseen, seen=seen).deviation((18, 16))
    assert finer.shape == (5, 18, 16, 1)


def test_scores(gray, unseen):
    found = gray.fit(unseen)
    as_bytes = np.round(255 * unseen).astype(np.uint8)
    expected = found.score(as_bytes.astype(np.float32) / 255)["psnr"]
    np.testing.assert_allclose(found.score(as_bytes)["psnr"], expected, rtol=1e-5)
    assert repr(found) == "Fit(5 signals of 9 x 8, 1 channel, solved by ridge)"
    holed = np.array(unseen, np.float32)
    holed[0, :2], holed[1] = np.nan, np.nan
    rendered = np.clip(found.render(), 0, 1)[0, 2:, ..., 0]
    with pytest.warns(nid.Notice, match=r"^truth: .*% of its values are NaN; scored where it is"):
        partly = found.score(holed)
    left = np.square(rendered - np.asarray(unseen, float)[0, 2:].reshape(rendered.shape)).mean()
    assert partly["psnr"][0] == pytest.approx(-10 * np.log10(left), abs=1e-3)
    assert np.isnan([partly["psnr"][1], *partly["ssim"][:2]]).all()
    np.testing.assert_allclose(partly["psnr"][2:], found.score(unseen)["psnr"][2:], rtol=1e-5)
    says = "^truth: 'NaN in all of its 360 values'; allowed: 1 or more values that are known"
    with pytest.raises(nid.ArgumentError, match=says):
        found.score(np.full_like(holed, np.nan))
    holed[3, 1, 1] = -np.inf
    with pytest.raises(nid.ArgumentError, match="^truth: -inf; allowed: finite numbers; signal 3 "):
        found.score(holed)
    scores = found.score(unseen)
    error = np.square(np.clip(found.render()[..., 0], 0, 1) - unseen).mean((1, 2))
    np.testing.assert_allclose(scores["psnr"], -10 * np.log10(error), rtol=1e-4)
    assert scores["ssim"].shape == (5,)
    with pytest.raises(nid.ArgumentError, match=r"^truth: \(4, 9, 8, 1\)"):
        found.score(unseen[:4])


def test_refined_fits_come_nearer_to_their_measurements(gray):
    noise = np.random.default_rng(0).normal(0, 0.05, (3, *SHAPE))
    rough = np.clip(waves(3, seed=8)[..., 0] + noise, 0, 1)
    found = gray.fit(rough)
    refined = found.refine(nid.TotalVariation(tv=0.0, lam=1e-3, steps=30))
    before, after = (np.square(f.render()[..., 0] - rough).mean() for f in (found, refined))
    assert after < 0.5 * before
    np.testing.assert_array_equal(refined.codes, found.codes)
    # What it takes is counted, compilation apart.
    assert refined.seconds > found.seconds
    assert refined.compile_seconds - found.compile_seconds < refined.seconds - found.seconds
    # Between the samples the correction is interpolated, and so is its slope.
    points = np.random.default_rng(1).uniform(-0.9, 0.9, (4, 2)).astype(np.float32)
    step = np.float32(1e-3)
    along = np.array([step, 0], np.float32)
    slope = (refined.at(points + along) - refined.at(points - along)) / (2 * step)
    np.testing.assert_allclose(refined.gradient_at(points)[..., 0], slope, atol=0.1)


# ---- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gray", pytest.param("colour", marks=pytest.mark.slow)])
def test_one_file_holds_all_of_it(request, tmp_path, name):
    dictionary = request.getfixturevalue(name)
    signals = waves(3, channels=dictionary.channels, seed=4)
    path = dictionary.save(tmp_path / "one.safetensors")
    again = nid.load(path)
    assert again.config == dictionary.config
    assert again.signals == dictionary.signals
    seen = np.random.default_rng(0).random(SHAPE) < 0.5
    np.testing.assert_array_equal(
        again.fit(signals, seen=seen).codes, dictionary.fit(signals, seen=seen).codes
    )


def test_a_fit_is_saved_and_read_back(gray, unseen, tmp_path):
    found = gray.fit(unseen)
    path = found.save(tmp_path / "codes.npz")
    again = gray.load_fit(path)
    np.testing.assert_array_equal(again.render((4, 5)), found.render((4, 5)))
    assert again.names == found.names
    assert again.message == ""
    with pytest.raises(nid.ArgumentError, match="solver: None; allowed: gaussian"):
        again.deviation()
    with pytest.raises(nid.ArgumentError, match="one that knows them"):
        again.refine(nid.TotalVariation())


def test_what_cannot_be_loaded_or_saved_is_one_line(gray, tmp_path):
    with pytest.raises(nid.ArgumentError, match=r"^path: .*ends in \.safetensors"):
        gray.save(tmp_path / "faces.npz")
    with pytest.raises(nid.ArgumentError, match=r"^path: .*ends in \.npz"):
        gray.fit(waves(2)[..., 0]).save(tmp_path / "codes")
    with pytest.raises(FileNotFoundError, match="no such"):
        nid.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no such"):
        nid.load(tmp_path / "nowhere.safetensors")


# ---- inside the transformations of JAX ----------------------------------------------------------


SOLVERS = [nid.Ridge(lam=1e-3), nid.Gaussian(noise=0.05), nid.OMP(top_k=4, lam=1e-3)]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s.name)
def test_fits_are_jitted(gray, unseen, solver):
    seen = np.random.default_rng(0).random(SHAPE) < 0.6
    jitted = jax.jit(lambda y: gray.fit(y, seen=seen, solver=solver).codes)
    expected = gray.fit(unseen, seen=seen, solver=solver).codes
    np.testing.assert_allclose(jitted(unseen), expected, rtol=1e-3, atol=1e-4)


def test_the_default_solver_is_jitted(gray, unseen):
    np.testing.assert_allclose(
        jax.jit(lambda y: gray.fit(y).codes)(unseen), gray.fit(unseen).codes, rtol=1e-3, atol=1e-3
    )


def test_masks_are_mapped_over(gray, unseen):
    masks = np.random.default_rng(0).random((4, *SHAPE)) < 0.6
    solver = nid.Gaussian(noise=0.05)
    mapped = jax.vmap(lambda mask: gray.fit(unseen, seen=mask, solver=solver).codes)(masks)
    one_by_one = [gray.fit(unseen, seen=mask, solver=solver).codes for mask in masks]
    np.testing.assert_allclose(mapped, np.stack(one_by_one), rtol=1e-3, atol=1e-4)


def error_in(dictionary, solver, seen, truth, measurements):
    """Mean squared error of a render from some measurements."""
    found = dictionary.fit(measurements, seen=seen, solver=solver).render((7, 7))
    return jnp.square(found - truth).mean()


@pytest.mark.parametrize(
    "solver",
    [SOLVERS[0], pytest.param(SOLVERS[1], marks=pytest.mark.slow)],
    ids=lambda s: s.name,
)
def test_gradients_reach_the_measurements(gray, unseen, solver):
    seen = np.random.default_rng(0).random(SHAPE) < 0.6
    truth = waves(5, (7, 7), seed=1)
    error = jax.jit(functools.partial(error_in, gray, solver, seen, truth))
    slope = np.asarray(jax.jit(jax.grad(error))(unseen), np.float64)
    assert (slope[:, ~seen] == 0).all()
    direction = np.random.default_rng(3).normal(size=unseen.shape)
    step = 1e-2
    # The error is a quadratic of the measurements: central differences are exact.
    ahead, behind = (float(error(unseen + s * step * direction)) for s in (1, -1))
    by_difference = (ahead - behind) / (2 * step)
    assert abs((slope * direction).sum() - by_difference) < 2e-3 * abs(by_difference) + 1e-6


def test_gradients_reach_the_dictionary(gray, unseen):
    graphdef, state = nnx.split(gray.dictionary)
    truth = waves(5, (7, 7), seed=1)

    @jax.jit
    def error(state):
        changed = gray.with_dictionary(nnx.merge(graphdef, state))
        return error_in(changed, nid.Ridge(lam=1e-2), None, truth, unseen)

    slope = jax.jit(jax.grad(error))(state)
    lengths = [float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(slope)]
    assert all(np.isfinite(lengths))
    assert max(lengths) > 0
    # Along the gradient the error falls as the gradient says.
    square = sum(float(jnp.square(leaf).sum()) for leaf in jax.tree.leaves(slope))
    step = 1e-3 * float(error(state)) / square
    moved = jax.tree.map(lambda leaf, way: leaf - step * way, state, slope)
    fallen = float(error(state)) - float(error(moved))
    assert 0.5 * step * square < fallen < 1.5 * step * square


def test_a_gradient_that_cannot_flow_raises(gray, unseen):
    with pytest.raises(ValueError, match="lasso"):
        jax.grad(lambda y: gray.fit(y, solver=nid.Lasso()).codes.sum())(unseen)


def test_no_warning_is_given(gray, unseen):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gray.fit(unseen).render((4, 4))


def test_places_elsewhere_are_refused(gray, unseen, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for act in (
        lambda: nid.load("ftp://host/run"),
        lambda: nid.load("file:///tmp/faces.safetensors"),
        lambda: nid.learn(unseen, steps=1, workdir="ftp://host/run"),
        lambda: gray.save("gs://bucket/faces.safetensors"),
        lambda: gray.save_pretrained("gs://bucket/faces"),
        lambda: nid.NeuralDictionary.from_pretrained("gs://bucket/faces"),
        lambda: gray.load_fit("memory://codes.npz"),
        lambda: gray.fit(unseen).save("memory://codes.npz"),
    ):
        with pytest.raises(ValueError, match="is no place that can be read or written here"):
            act()
    assert not list(tmp_path.iterdir())
