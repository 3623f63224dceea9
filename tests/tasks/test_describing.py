"""What was measured, in words."""

import dataclasses

import numpy as np
import pytest
from ml_collections import ConfigDict

from nid_jax.coding import operators
from nid_jax.tasks import describing
from nid_jax.tasks.task import Measured


def described(operator, shape, count=3, whole=False, channels=1, **given):
    seen = Measured(
        operator if isinstance(operator, tuple) else (operator,),
        shape,
        channels,
        values=lambda index: np.zeros((operator.num_measurements, channels)),
        whole=whole,
        **{key: value for key, value in given.items() if key in ("weights", "way")},
    )
    more = {key: value for key, value in given.items() if key not in ("weights", "way")}
    return describing.measured(None, seen, count, **more)


def test_all_pixels():
    words = described(operators.sample((5, 4)), (5, 4), whole=True, channels=3)
    assert words == (
        "3 signals of 5 x 4 pixels in 3 channels, all of which were measured: 60 numbers a signal."
    )


def test_some_pixels_are_counted():
    masks = np.array([[1] * 4 + [0] * 16, [1] * 6 + [0] * 14, [1] * 5 + [0] * 15])
    words = described(
        operators.sample((5, 4)), (5, 4), whole=True, weights=lambda index: masks[index]
    )
    assert words == "3 signals of 5 x 4 pixels, of which 5 (25%; 4 to 6) were measured."


def test_samples_of_some_points():
    operator = operators.sample(np.zeros((6, 3), np.float32))
    words = described(operator, (4, 4, 4), samples="samples")
    assert words == "3 signals of 4 x 4 x 4 samples, of which 6 (9.38%) were measured."


def test_operators_say_what_they_measure_and_how_many_numbers():
    words = described(operators.parallel_beam((8, 8), 4), (8, 8), noise="No noise was added.")
    assert words == (
        "3 signals of 8 x 8 pixels. Of each were measured: line integrals along parallel rays; "
        "32 numbers for 64 pixels (50%). No noise was added."
    )
    assert "means over the areas of coarser pixels; 16 numbers for 64 pixels (25%)." in described(
        operators.downsample((8, 8), 2), (8, 8)
    )


def test_an_operator_of_ones_own_says_what_it_measures_or_nothing():
    @operators.register
    @dataclasses.dataclass(frozen=True, eq=False)
    class Own(operators.Operator):
        run_length: int | None = dataclasses.field(default=None, metadata={"static": True})

        def measure(self, samples):
            return samples[..., :2, :]

    own = Own(operators.sample((2, 2)).points)
    words = described(own, (2, 2))
    assert "Of each were measured: measurements of its own kind; 2 numbers for 4" in words
    Own.about = "the first two"
    assert "Of each were measured: the first two; 2 numbers for 4" in described(own, (2, 2))


def kinds(parent=operators.Operator):
    """The library's operators that a user can have."""
    for kind in parent.__subclasses__():
        if kind.__module__.startswith("nid_jax.coding.operators.") and kind.__name__ != "Parts":
            yield kind
        yield from kinds(kind)


@pytest.mark.parametrize("kind", list(kinds()), ids=lambda kind: kind.__name__)
def test_every_operator_of_the_library_says_what_it_measures(kind):
    assert "about" in vars(kind)
    assert kind.about


@pytest.mark.parametrize(
    ("noise", "said"),
    [
        ({"kind": "none", "level": 0.0}, "No noise was added."),
        ({"kind": "gaussian", "level": 0.05}, "Gaussian noise of 5% of the largest was added."),
        ({"kind": "poisson", "level": 1e4}, "Poisson noise of 10000 photons a ray was added."),
        (None, ""),
    ],
)
def test_noise_is_described(noise, said):
    config = ConfigDict({"data": {} if noise is None else {"noise": noise}})
    assert describing.noise(config) == said
