"""The task of fields: what is kept from a fit, its scores, and what is drawn of it."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from nid_jax import data, tasks
from nid_jax.commands.context import Context, as_fitted
from nid_jax.configs import fields as configs
from nid_jax.data import frames
from nid_jax.fitting import checks, rendering
from nid_jax.reporting import maps, panels, samples
from nid_jax.storage import config_json
from nid_jax.storage.workdir import Workdir
from nid_jax.tasks import field_panels, fields

FRAME = frames.Frame(
    (frames.Scale("lat", "degrees", 40.0, 50.0), frames.Scale("lon", "degrees", 0.0, 20.0)),
    (frames.Scale("wind", "m/s", -10.0, 30.0),),
)


@pytest.fixture(scope="module")
def built():
    """(config, task, test collection) of the smallest variant."""
    config = configs.get_config("smoke")
    task = tasks.build(config)
    return config, task, task.open("test")


class Known:
    """A fit that says the truth but for an offset."""

    known_deviation, channels = None, 1

    def __init__(self, collection, offset):
        self.collection, self.offset = collection, offset

    def __len__(self):
        return len(self.collection)

    def __getitem__(self, index):
        self.index = index
        return self

    def at(self, points):
        known = self.collection.points(self.index)
        places = [int(np.abs(known - point).sum(1).argmin()) for point in points]
        return self.collection[self.index][places][None] + self.offset

    def render(self, shape):
        own = np.stack([self.collection.truth(i) for i in range(len(self))]) + self.offset
        return rendering.resampled(own, shape)


def test_a_part_of_every_signal_is_kept_from_the_fit(built):
    config, task, collection = built
    seen = task.measure(collection)
    for index in range(len(collection)):
        weights = seen.weights(index)
        count = len(collection[index])
        assert (weights == 0).sum() == max(1, round(config.fit.held_out * count))
        np.testing.assert_array_equal(weights, seen.weights(index))
    assert task.learned_from(collection).weights is None


@pytest.mark.parametrize(("count", "held"), [(1, 0), (2, 1), (3, 1), (10, 2)])
def test_how_many_are_held_out(count, held):
    assert fields.kept_aside(count, 0.2, 0, 3).sum() == held


def test_scores_are_of_what_was_held_out(built):
    _, task, collection = built
    offset = 0.01
    scores = task.held_out(collection, task.measure(collection), Known(collection, offset))
    np.testing.assert_allclose(scores["psnr"], 40, atol=1e-3)
    np.testing.assert_allclose(scores["rmse"], offset * collection.frame.spans[0], rtol=1e-3)
    np.testing.assert_allclose(scores["psnr_field"], 40, atol=1e-3)
    held = [task.measure(collection).weights(index) == 0 for index in range(len(collection))]
    own = [collection[index].astype(float) for index in range(len(collection))]
    hidden = np.concatenate([values[some] for values, some in zip(own, held, strict=True)])
    given = np.concatenate([values[~some] for values, some in zip(own, held, strict=True)])
    squares = np.square(hidden - given.mean()).sum()
    np.testing.assert_allclose(scores["r2"], 1 - len(hidden) * offset**2 / squares, rtol=1e-3)


def small(values):
    """Signals of few points each, with the values given: the points are alike in all."""
    points = [np.array([[45.0, 3.0 * place + 1] for place in range(len(one))]) for one in values]
    own = [np.array(one, float)[:, None] for one in values]
    names = [str(number) for number in range(len(values))]
    return data.PointsCollection(points, own, FRAME, (3, 4), names, "small")


def test_signals_of_one_held_out_point_have_a_score_that_means_something():
    config = configs.get_config("smoke")
    draw = np.random.default_rng(7)
    collection = small(draw.uniform(0, 20, (9, 3)))
    seen = fields.measured(collection, config)
    assert [int((seen.weights(index) == 0).sum()) for index in range(9)] == [1] * 9
    known = fields.scores(
        collection, dataclasses.replace(seen, truth=None), Known(collection, 0.01)
    )
    held = np.array([collection[i][seen.weights(i) == 0, 0] for i in range(9)])
    given = np.array([collection[i][seen.weights(i) > 0, 0] for i in range(9)])
    expected = 1 - held.size * 0.01**2 / np.square(held - given.mean()).sum()
    assert known["r2"] == pytest.approx(expected, rel=1e-3)
    assert 0.5 < known["r2"] < 1
    # All are as known from the rest: nothing is left to explain.
    same = small([[5.0, 5.0]] * 4)
    seen = dataclasses.replace(fields.measured(same, config), truth=None)
    assert np.isnan(fields.scores(same, seen, Known(same, 0.1))["r2"])


def test_stations_that_all_stay_are_signals_like_any():
    """As the task gives them: alike, and one factorisation serves all."""
    config = configs.get_config("smoke")
    collection = small(np.random.default_rng(8).uniform(0, 20, (6, 5)))
    assert len(collection.ways) == 1
    learned = fields.learned_from(collection)
    assert learned.alike
    assert learned.operator.num_measurements == 5
    config.train.batch_size = 3
    batch = next(iter(tasks.build(config).batches(collection)))
    assert batch["signals"].shape[1:] == (5, 1)
    np.testing.assert_array_equal(batch["signals"][0], collection[int(batch["ids"][0])])
    seen = fields.measured(collection, config)
    np.testing.assert_array_equal(seen.weights(0), seen.weights(5))
    assert not seen.alike


def test_frames_there_and_back():
    draw = np.random.default_rng(0)
    own = draw.uniform((40, 0), (50, 20), (9, 2))
    np.testing.assert_allclose(FRAME.outside(FRAME.inside(own)), own, atol=1e-5)
    values = draw.uniform(-50, 50, (3, 9, 1))
    np.testing.assert_allclose(FRAME.values(FRAME.scaled(values)), values, atol=1e-4)
    assert frames.Frame.of_json(json.loads(json.dumps(FRAME.as_json()))) == FRAME
    part = FRAME.window(((-1, 0), (0, 0.5)))
    np.testing.assert_allclose([(axis.low, axis.high) for axis in part.axes], [(40, 45), (10, 15)])
    with pytest.raises(ValueError, match=r"lon, degrees: 20.5; allowed: 0 to 20, the frame"):
        FRAME.inside([[45, 20.5]])
    # Of what rounding does nothing is refused; and what is refused is told from what is allowed.
    np.testing.assert_array_equal(FRAME.inside([[50 + 5e-6, -1e-5]]), [[1, -1]])
    with pytest.raises(ValueError, match=r"lat, degrees: 50.00002; allowed: 40 to 50, the frame"):
        FRAME.inside([[50.00002, 1]])
    assert frames.told_apart(45.80304, 45.80301, 47.7469) == ["45.80304", "45.80301", "47.7469"]


def test_a_dictionary_of_another_frame_is_refused(built):
    collection = built[2]
    checks.check_frame(collection.frame, collection)
    with pytest.raises(ValueError, match=r"has lat|has y, km from 0 to 300.*learned from 40"):
        checks.check_frame(FRAME, collection)


def test_fields_are_written_over_their_own_axes(tmp_path):
    values = np.random.default_rng(0).normal(size=(2, 4, 6, 1)).astype(np.float32)
    layout = {"names": ["a", "b"], "frame": FRAME.as_json()}
    maps.write_fields(tmp_path, values, layout)
    found = np.load(tmp_path / "0001_b.npz")
    np.testing.assert_array_equal(found["values"], values[1])
    np.testing.assert_allclose(found["lat"], np.linspace(40, 50, 4))
    np.testing.assert_allclose(found["lon"], np.linspace(0, 20, 6))
    assert min(Image.open(tmp_path / "0001_b.png").size) > 300


@pytest.mark.slow
def test_pictures_of_signals_are_over_their_own_axes(tmp_path, built):
    _, task, collection = built
    own = collection.frame.values(np.stack([collection.truth(i) for i in range(len(collection))]))
    fit = Known(collection, 0.0)
    fit.known_deviation = np.full((len(own), 8, 8, 1), 0.1, np.float32)
    shown = field_panels.Shown(collection, task.measure(collection), fit, own, own)
    assert {np.shape(row.images[0]) for row in shown.panels()} == {(96, 128, 1)}
    shown.draw(tmp_path / "a.png", 0)
    painted = np.asarray(Image.open(tmp_path / "a.png").convert("L"))
    # No side of it is left blank.
    inked = np.flatnonzero((painted < 250).any(0))
    assert inked[0] < 0.05 * painted.shape[1]
    assert inked[-1] > 0.95 * painted.shape[1]


@pytest.mark.slow
@pytest.mark.parametrize("dims", [1, 3])
def test_fields_of_other_dimensions_are_drawn(tmp_path, dims):
    axes = [frames.Scale(name, "m", 0.0, 2.0) for name in "zyx"][-dims:]
    frame = frames.Frame(tuple(axes), FRAME.channels)
    values = np.random.default_rng(0).normal(size=(5,) * dims + (1,))
    assert maps.draw_field(tmp_path / "a.png", values, frame, "a").is_file()


@pytest.mark.parametrize(
    ("shape", "size"), [((6,), (64, 128, 1)), ((4, 6), (4, 6, 3)), ((3, 5, 4, 6), (4, 6, 3))]
)
def test_fields_of_every_dimension_are_frames(shape, size):
    values = np.random.default_rng(0).uniform(size=(2, *shape, 1))
    frames_of = maps.shaded(values)
    assert frames_of.shape == (2, *size)
    middle = values[(slice(None), *(side // 2 for side in shape[:-2]))]
    if len(shape) == 1:
        # The darkest row of the first and the last column is the value there.
        found = frames_of[:, :, [0, -1], 0].argmin(1)
        np.testing.assert_allclose(found, 63 * (1 - values[:, [0, -1], 0]), atol=0.5)
    else:
        # Heat is the brighter the higher, and the second last axis runs up.
        brightest = frames_of.sum(-1).reshape(2, -1).argmax(1)
        np.testing.assert_array_equal(brightest, middle[:, ::-1, :, 0].reshape(2, -1).argmax(1))


class Drawn(Known):
    """Two fields that were drawn."""

    names = ("a", "b")

    def __len__(self):
        return 2

    def render(self, shape, window=None):
        return np.full((2, *shape, 1), 0.25)

    def save(self, path):
        path.write_bytes(b"codes")


def test_fields_that_were_drawn_are_written_in_own_units(tmp_path):
    drawn = Drawn(None, 0)
    samples.write_samples(tmp_path / "samples", drawn, drawn, ((4, 6), None), None, FRAME)
    found = np.load(tmp_path / "samples" / "fields" / "0001_b.npz")
    np.testing.assert_allclose(found["values"], np.zeros((4, 6, 1)))
    np.testing.assert_allclose(found["lon"], np.linspace(0, 20, 6))
    assert (tmp_path / "samples" / samples.SHEET).is_file()


def test_marks_are_where_measurements_were():
    places = np.array([[0.0, 0.0], [1.0, 0.5]])
    values = np.array([1.0, 0.0])
    marks = [panels.Marks(places, values, "square")]
    panel = panels.Panel("one", [np.full((65, 65, 1), 0.5)], palette="heat", marks=[marks])
    tile = Image.new("RGB", (129, 129), (7, 7, 7))
    panel.draw_marks(tile, 0)
    painted = np.asarray(tile)
    high, low = (tuple(panel.coloured(np.array([end]))) for end in (1.0, 0.0))
    assert tuple(painted[0, 0]) == high
    assert tuple(painted[128, 64]) == low
    assert tuple(painted[64, 64]) == (7, 7, 7)


def test_pictures_have_their_second_last_axis_upwards(built):
    _, task, collection = built
    truth = np.stack([collection.truth(index) for index in range(len(collection))])
    own = collection.frame.values(truth)
    measured = task.measure(collection)
    shown = field_panels.Shown(collection, measured, Known(collection, 0.0), own, own)
    rows = shown.panels()
    assert [row.name for row in rows] == ["truth", "reconstruction", "error"]
    # 300 km upwards, 400 to the right; every picture on one lattice.
    assert {np.shape(image) for row in rows for image in row.images} == {(96, 128, 1)}
    corners = rows[0].images[1][[0, 0, -1, -1], [0, -1, 0, -1], 0]
    np.testing.assert_allclose(corners, own[1][[-1, -1, 0, 0], [0, -1, 0, -1], 0], atol=1e-4)
    assert "squares: held out" in rows[1].note
    whole = dataclasses.replace(measured, weights=None)
    whole = field_panels.Shown(collection, whole, Known(collection, 0.0), own, own)
    assert "squares" not in whole.panels()[1].note
    (circles, squares), points = rows[1].marks[0], collection.points(0)
    assert len(circles.places) + len(squares.places) == len(points)
    held = task.measure(collection).weights(0) == 0
    np.testing.assert_allclose(squares.places[:, 0], (1 - points[held, 0]) / 2)
    np.testing.assert_allclose(squares.places[:, 1], (points[held, 1] + 1) / 2)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("data.name", "faces", "data.name: 'faces'; allowed: points, stations"),
        ("fit.held_out", 1.0, "fit.held_out: 1.0; allowed: 0 to below 1"),
    ],
)
def test_configs_that_cannot_be(key, value, words):
    config = configs.get_config("smoke")
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=words):
        tasks.build(config)


@pytest.mark.parametrize(
    ("stored", "key", "value", "refused"),
    [
        (0.2, "fit.held_out", 0.5, "^fit.held_out: 0.5; allowed: 0.2, as the fit 'test' was made"),
        (0.2, "seed", 3, "^seed: 3; allowed: 0, as the fit 'test' was made; another would score"),
        (0.0, "fit.held_out", 0.2, "^fit.held_out: 0.2; allowed: 0.0, as"),
        (0.2, "fit.held_out", 0.2, ""),
        (0.0, "seed", 3, ""),
    ],
)
def test_stored_codes_are_not_scored_on_points_that_they_saw(tmp_path, stored, key, value, refused):
    config, workdir = configs.get_config("smoke"), Workdir(tmp_path)
    config.fit.held_out = stored
    described = {"config": config_json.encoded(config)}
    workdir.write_json(workdir.fit("test") / "metrics.json", described)
    config.update_from_flattened_dict({key: value})
    context = Context(tasks.build, config, workdir, workdir, frozenset({key}))
    if not refused:
        assert as_fitted(context).config.fit.held_out == stored
        return
    with pytest.raises(ValueError, match=refused):
        as_fitted(context)


def test_scores_of_several_channels_have_their_names():
    found = fields._by_channel(
        "rmse",
        np.array([[1.0, 2.0]]),
        frames.Frame(FRAME.axes, (*FRAME.channels, frames.Scale("rain", "mm", 0, 9))),
    )
    assert list(found) == ["rmse_wind", "rmse_rain"]


def test_data_shape():
    config = data.completed({"name": "stations", "num_test": 2})
    assert data.open_collection(config, "test", 0).shape == (32, 32, 1)


class Waves:
    """A fit of one signal that is the same function of D coordinates as its measurements."""

    known_deviation = None

    def __init__(self, collection):
        self.frame = collection.frame

    def __len__(self):
        return 1

    @staticmethod
    def of(points):
        return (np.cos(points[..., :1]) + points[..., -1:]) / 2

    def render(self, shape):
        own = np.stack(np.meshgrid(*self.frame.samples(shape), indexing="ij"), -1)
        return self.frame.scaled(self.of(own))[None]


@pytest.mark.parametrize(
    ("shape", "pictured"),
    [
        ((32,), (64, 128, 1)),
        ((6, 8), (128, 128, 1)),
        ((5, 6, 7), (6, 7, 1)),
        ((3, 5, 6, 7), (6, 7, 1)),
    ],
)
def test_fields_of_every_dimension_have_pictures(shape, pictured):
    dims = len(shape)
    axes = [frames.Scale(name, "m", -1.0, 1.0) for name in ("time", "z", "y", "x")[-dims:]]
    frame = frames.Frame(tuple(axes), (frames.Scale("v", "", -1.0, 2.0),))
    points = np.random.default_rng(dims).uniform(-1, 1, (200, dims))
    values = [Waves.of(points)]
    collection = data.PointsCollection([points], values, frame, shape, ["a"], "one")
    fit = Waves(collection)
    own = frame.values(fit.render(shape))
    shown = field_panels.Shown(collection, fields.learned_from(collection), fit, own, None)
    (row,) = shown.panels()
    assert row.images[0].shape == pictured
    near = (np.abs(points[:, :-2]) <= 0.2).all(1).sum() if dims > 1 else len(points)
    assert len(row.marks[0][0].places) == near
    assert ("; at " in row.note) == (dims > 2)
    if dims > 1:
        middle = own[0]
        while middle.ndim > 3:
            middle = middle[len(middle) // 2]
        assert row.images[0][-1, 0, 0] == pytest.approx(middle[0, 0, 0], abs=1e-6)


def test_fields_are_beside_kriging_and_the_nearest_point_at_the_same_points(built, monkeypatch):
    _, task, collection = built
    seen, fit = task.measure(collection), Known(collection, 0.01)
    monkeypatch.setattr(fields.baselines, "mean_signal", lambda *given: np.full((8, 8, 1), 0.5))
    found = task.baselines(collection, seen, fit, None, 2)
    assert found.signals == 2
    made = {one.name: one.make() for one in found.methods}
    assert list(made) == ["kriging", "nearest point", "mean field"]
    own, nearest, mean = (one[1] for one in made.values())
    for scores in (own, nearest, mean):
        assert {"psnr", "rmse", "psnr_field", "rmse_field"} <= set(scores)
        assert len(scores["psnr"]) == 2
    hidden, true = fields.held_out(collection, seen, 1)
    given = seen.weights(1) > 0
    away = np.square(collection.points(1)[given][None] - hidden[:, None]).sum(-1).argmin(1)
    error = collection[1][given][away] - true
    expected = np.sqrt(np.square(error * collection.frame.spans).mean())
    assert nearest["rmse"][1] == pytest.approx(expected, rel=1e-4)
    middle = collection.frame.values(np.array([0.5]))[0]
    np.testing.assert_allclose(made["mean field"][0], middle, rtol=1e-5)
    assert own["psnr_field"].mean() > mean["psnr_field"].mean() + 3
    monkeypatch.setattr(fields, "_WORK", 1)
    assert task.baselines(collection, seen, fit, None, 2).signals == 1


def test_what_was_measured_of_fields_is_told(built):
    _, task, collection = built
    words = task.describe(collection, task.measure(collection), len(collection))
    assert words.startswith("3 signals: temperature in degrees C, at ")
    assert " points of each (y in km, x in km), of which 2 were held out of the fit" in words
    words = task.describe(collection, task.learned_from(collection), len(collection))
    assert words.endswith("all of which the fit was given.")


def test_noise_is_told_in_the_unit_of_the_values():
    frame = frames.Frame(FRAME.axes, (frames.Scale("wind", "m/s", -10.0, 30.0),))
    stats = {"noise_variance": np.array([0.01, 0.04])}
    fit = SimpleNamespace(solution=SimpleNamespace(stats=stats))
    # Deviations of 0.1 and 0.2 of a range of 40 m/s.
    assert fields.noise(fit, frame) == pytest.approx({"noise": 6.0})
    both = frames.Frame(FRAME.axes, (*frame.channels, frames.Scale("heat", "K", 0.0, 2.0)))
    assert fields.noise(fit, both) == pytest.approx({"noise_wind": 6.0, "noise_heat": 0.3})
    fit.solution.stats = {}
    assert fields.noise(fit, frame) == {}
