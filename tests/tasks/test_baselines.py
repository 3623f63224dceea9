"""Pictures beside what is made of them without learning: which baseline for which measurements."""

import numpy as np
import pytest

from nid_jax.baselines import images
from nid_jax.coding import grid_operator, operators
from nid_jax.errors import ArgumentError
from nid_jax.tasks import baselines
from nid_jax.tasks.task import Baseline, Baselines, Measured

SHAPE = (6, 5)


class Fit:
    """One that explains nothing."""

    def __init__(self, count=3):
        self.count = count

    def __getitem__(self, some):
        return Fit(len(range(self.count)[some]))

    def measured_by(self, operator):
        return np.zeros((self.count, operator.num_measurements, 1))


@pytest.fixture
def pictures():
    return np.random.default_rng(0).uniform(0.2, 0.8, (3, *SHAPE, 1))


@pytest.fixture(autouse=True)
def _mean(monkeypatch):
    monkeypatch.setattr(baselines, "mean_signal", lambda *given: np.full((*SHAPE, 1), 0.5))


def first(truth):
    def scored(found):
        return {"error": np.square(np.asarray(found) - truth[: len(found)]).mean((1, 2, 3))}

    return baselines.FirstSignals([1] * len(truth), truth, scored)


def measured(operator, values, weights=None):
    return Measured(
        (operator,),
        SHAPE,
        1,
        values=lambda index: values[index],
        weights=None if weights is None else lambda index: weights[index],
        whole=False,
    )


def test_whole_pictures_are_beside_the_mean_and_as_many_cosines(pictures):
    found = baselines.of_whole(first(pictures), Fit(), None, SHAPE, 7.0)
    assert [one.name for one in found.methods] == ["mean image", "cosines, as many numbers"]
    assert found.methods[1].key == "cosines"
    mean, cosines = (one.make() for one in found.methods)
    np.testing.assert_allclose(mean[1]["error"], np.square(pictures - 0.5).mean((1, 2, 3)))
    np.testing.assert_allclose(cosines[0][1], images.cosines(pictures[1], 7))
    assert (
        baselines.of_whole(baselines.FirstSignals([1], None, dict), Fit(), None, SHAPE, 7.0) is None
    )


def test_pieces_are_put_together_and_have_numbers_each(pictures):
    pieces = baselines.FirstSignals(
        [2, 1], pictures[:2], lambda found: {}, lambda values: values[1:]
    )
    found = baselines.of_whole(pieces, Fit(), None, SHAPE, 4.0)
    assert found.signals == 2
    mean, cosines = (one.make()[0] for one in found.methods)
    assert len(mean) == 2
    np.testing.assert_allclose(cosines[0], images.cosines(pictures[0], 8))
    np.testing.assert_allclose(cosines[1], images.cosines(pictures[1], 4))


def test_some_pixels_are_filled_in_and_misfits_are_of_what_was_seen(pictures):
    weights = (np.random.default_rng(1).random((3, 30)) < 0.6).astype(np.float32)
    values = np.where(weights[..., None] > 0, pictures.reshape(3, 30, 1), np.nan)
    seen = measured(operators.sample(SHAPE), values, weights)
    found = baselines.of_pixels(first(pictures), seen, Fit(), None, None)
    assert [one.name for one in found.methods] == ["mean image", "biharmonic"]
    np.testing.assert_allclose(found.own["relative_residual"], 1)
    mean, filled = (one.make() for one in found.methods)
    np.testing.assert_allclose(filled[1]["relative_residual"], 0, atol=1e-6)
    known = weights.reshape(3, *SHAPE, 1) > 0
    np.testing.assert_allclose(filled[0][known], pictures[known], atol=1e-6)
    for index in range(3):
        own = values[index][weights[index] > 0]
        expected = np.linalg.norm(own - 0.5) / np.linalg.norm(own)
        assert mean[1]["relative_residual"][index] == pytest.approx(expected, rel=1e-5)


def test_too_many_holes_leave_fewer_pictures(pictures, monkeypatch):
    weights = np.ones((3, 30), np.float32)
    weights[:, 3:9] = 0
    seen = measured(operators.sample(SHAPE), pictures.reshape(3, 30, 1), weights)
    monkeypatch.setattr(images, "_HIDDEN", 13)
    found = baselines.of_pixels(first(pictures), seen, Fit(), None, None)
    assert found.signals == 2
    assert [len(one.make()[0]) for one in found.methods] == [2, 2]
    monkeypatch.setattr(images, "_HIDDEN", 1)
    found = baselines.of_pixels(first(pictures), seen, Fit(), None, None)
    assert [one.name for one in found.methods] == ["mean image"]
    assert found.signals == 3


def test_other_measurements_have_what_is_given_or_pixels_alone(pictures):
    operator = operators.blur(SHAPE)
    on_grid = grid_operator.on_grid(operator, SHAPE)
    values = np.asarray(on_grid.measure(pictures.reshape(3, 30, 1).astype(np.float32)))
    seen = measured(operator, values)
    found = baselines.of_pixels(first(pictures), seen, Fit(), None, None)
    assert [one.name for one in found.methods] == ["mean image", "least squares"]
    asked = []

    def alone(given, scored):
        asked.append(given.values)
        return Baseline("SART", "", lambda: (pictures, scored(pictures)))

    found = baselines.of_pixels(first(pictures), seen, Fit(), None, alone)
    assert [one.name for one in found.methods] == ["mean image", "SART"]
    np.testing.assert_array_equal(asked[0], values)
    np.testing.assert_allclose(found.methods[1].make()[1]["relative_residual"], 0, atol=1e-5)


@pytest.mark.parametrize(
    ("operator", "name"),
    [
        (operators.parallel_beam(SHAPE, 2), "SIRT"),
        (operators.fourier(SHAPE, share=0.5), "zero filling"),
        (operators.blur(SHAPE), "least squares"),
    ],
)
def test_pixels_alone_are_named_by_what_measured_them(operator, name):
    seen = measured(operator, np.zeros((1, operator.num_measurements, 1)))
    found = baselines.PixelMeasurements(seen, 1).reconstruct(dict)
    assert found.name == name
    assert found.about.endswith(" Nothing was learned.")


def test_methods_of_one_name_or_label_are_refused():
    def method(name, label=""):
        return Baseline(name, "", dict, label=label)

    Baselines(1, (method("SART, long", "SART"), method("mean")))
    for pair in ((method("a"), method("a", "b")), (method("a"), method("b", "a"))):
        with pytest.raises(ArgumentError, match="^methods: 'a, a'; allowed: a name and"):
            Baselines(1, pair)
