"""Kinds of arguments: what is no number, no whole number or no path is one line that names it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nid_jax as nid
from nid_jax import operators, solvers

NAN = float("nan")
UNEVEN = [[1, 2], [3]]


def refused(call, argument):
    with pytest.raises(nid.ArgumentError) as complaint:
        call()
    text = str(complaint.value)
    assert text.startswith(f"{argument}: ")
    assert "; allowed: " in text
    assert "\n" not in text


FIELDS = [
    (solvers.Ridge, {}, "lam", ["x", None, True, UNEVEN, NAN, -1.0, 1j, jnp.ones((2, 2))]),
    (solvers.Ridge, {}, "per_signal", ["x", 1]),
    (solvers.OMP, {}, "top_k", ["a", 2.5, 0, None, True, [1], jnp.ones(2, int)]),
    (solvers.OMP, {"top_k": 2}, "lam", ["x", np.ones(3), None]),
    (solvers.OMP, {"top_k": 2}, "criterion", [None, 3, np.ones(3), ["gain"]]),
    (solvers.IHT, {"top_k": 2}, "steps", [1.5, "a"]),
    (solvers.Lasso, {}, "fraction", ["x", 0.0, np.ones((2, 2)) / 2]),
    (solvers.Gaussian, {}, "noise", ["x", np.ones(3), -1]),
    (solvers.Gaussian, {}, "blend", ["x", 2.0]),
    (solvers.Robust, {}, "use_prior", ["x", 1]),
    (solvers.Robust, {}, "trim", ["x", 0.5, np.ones(2)]),
    (solvers.Gradient, {}, "steps", [1.5, "a"]),
    (solvers.Gradient, {}, "data", [["l1"], "l3"]),
    (solvers.RouterCodes, {}, "top_k", [1.5, "a"]),
    (solvers.RouterRidge, {}, "top_k", ["a", 1.5]),
    (solvers.Surface, {}, "delta", ["x", [1, 2]]),
    (solvers.Surface, {}, "samples", [1.5, "a"]),
    (nid.TotalVariation, {}, "tv", ["x", np.ones(2), NAN]),
    (nid.TotalVariation, {}, "steps", [1.5, "a", 0]),
    (nid.TotalVariation, {}, "bounds", ["ab", 3, (0, "x"), (0, NAN), (1, 0), UNEVEN]),
    (nid.LowRank, {}, "rank", ["x", 1.5, NAN, -1]),
    (nid.LowRank, {}, "share", ["x", [0.1, 0.2], 1.0]),
    (nid.LowRank, {}, "steps", [1.5, "a"]),
]
GRID = {"shape": (8, 8)}
SCAN = GRID | {"angles": 4}
CONSTRUCTORS = [
    (operators.parallel_beam, SCAN, "centre", [NAN, (NAN, 0), "ab", (1, 2, 3), UNEVEN]),
    (operators.parallel_beam, SCAN, "offset", [NAN, "x", [1, 2]]),
    (operators.parallel_beam, SCAN, "detectors", ["x", -1, 1.5, [3]]),
    (operators.parallel_beam, SCAN, "samples_per_ray", ["x", 1.5]),
    (operators.parallel_beam, SCAN, "angles", ["x", [0, NAN], ["a"], UNEVEN, 1.5, None]),
    (operators.parallel_beam, SCAN, "shape", ["ab", 8, (8, "a"), (8, NAN), (8, None), None]),
    (operators.fan_beam, SCAN, "source_distance", ["x", NAN, [30, 31]]),
    (operators.fan_beam, SCAN, "detector_distance", ["x", NAN]),
    (operators.fan_beam, SCAN, "spacing", ["x", NAN]),
    (operators.fan_beam, SCAN, "detectors", ["x", ["x"], UNEVEN]),
    (operators.fan_beam, SCAN, "arc", ["x", 1]),
    (operators.fan_beam, SCAN, "angles", ["x", UNEVEN]),
    (operators.downsample, GRID, "factor", ["x", 2.5, 3]),
    (operators.downsample, GRID, "samples_per_side", ["x", -1]),
    (operators.blur, GRID, "sigma", ["x", [1, 2], None, 0.0]),
    (operators.blur, GRID, "radius", ["x", 1.5]),
    (operators.fourier, GRID, "share", ["x", NAN, [0.1, 0.2]]),
    (operators.fourier, GRID, "low", ["x", 0.9]),
    (operators.fourier, GRID, "seed", ["x", -1, 1.5]),
    (operators.nonuniform_fourier, GRID, "frequencies", ["x", None, [["a"]], UNEVEN]),
    (operators.nonuniform_fourier, GRID, "spokes", ["x", 1.5]),
    (operators.spiral_frequencies, GRID, "turns", ["x", None]),
    (operators.sample, {}, "points", ["abc", None, 8, UNEVEN, [["a", "b"]]]),
    (operators.mask, {"points": (2, 2)}, "seen", ["x", None, UNEVEN]),
    (operators.random_mask, GRID, "share", ["x", NAN, [0.5, 0.6], None]),
    (operators.random_mask, GRID, "seed", ["x", -2]),
    (operators.point_derivatives, {"points": (3, 3)}, "axes", ["x", 3, [0.5], [[0], [1]]]),
    (operators.point_derivatives, {"points": (3, 3)}, "step", ["x", [1, 2]]),
    (operators.point_derivatives, {"points": (3, 3)}, "directions", ["x", UNEVEN]),
    (operators.matrix, {}, "values", ["x", None, UNEVEN]),
    (operators.select, {"count": 3}, "chosen", ["x", None, [[0], [1, 2]]]),
    (operators.select, {"chosen": [0]}, "count", ["x", 1.5]),
    (operators.stack, {}, "operators", [3, None, "ab"]),
]
CASES = [
    pytest.param(make, others, name, value, id=f"{make.__name__}-{name}-{number}")
    for make, others, name, values in FIELDS + CONSTRUCTORS
    for number, value in enumerate(values)
]


@pytest.mark.parametrize(("make", "others", "name", "value"), CASES)
def test_what_cannot_be_is_one_line(make, others, name, value):
    refused(lambda: make(**{**others, name: value}), name)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"steps": 1.5}, "steps"),
        ({"steps": "a"}, "steps"),
        ({"seed": "a"}, "seed"),
        ({"seed": -1}, "seed"),
        ({"num_experts": 1.5}, "num_experts"),
        ({"layout": 3}, "layout"),
        ({"workdir": 3}, "workdir"),
        ({"signals": UNEVEN}, "signals"),
        ({"signals": "faces"}, "signals"),
    ],
)
def test_what_cannot_be_learned_from(options, name):
    refused(lambda: nid.learn(**{"signals": np.zeros((2, 4, 4)), **options}), name)


def test_what_cannot_be_loaded(tmp_path):
    refused(lambda: nid.load(3), "path")
    with pytest.raises(FileNotFoundError, match="nowhere: no such workdir, and no such file"):
        nid.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"config\.json: no such file, path holds no run"):
        nid.load(tmp_path)


def test_arrays_of_one_number_are_numbers():
    assert solvers.Ridge(lam=jnp.float32(2.0)).lam == 2
    assert solvers.OMP(top_k=jnp.array(2)).top_k == 2
    assert type(solvers.OMP(top_k=np.int64(2)).top_k) is int
    assert solvers.Robust(lam=np.array(0.5)).lam == 0.5


def test_numbers_that_are_traced_are_looked_at_as_far_as_they_are_known():
    assert jax.eval_shape(lambda lam: solvers.Ridge(lam=lam).lam, jnp.ones(3)).shape == (3,)
    for make, value in (
        (lambda v: solvers.Ridge(lam=v), jnp.ones((2, 2))),
        (lambda v: solvers.OMP(top_k=2, lam=v), jnp.ones(3)),
        (lambda v: solvers.OMP(top_k=v), 2),
        (lambda v: solvers.Surface(delta=v), 0.5),
        (lambda v: operators.blur((3, 3), v), 0.5),
    ):
        with pytest.raises(nid.ArgumentError) as complaint:
            jax.eval_shape(make, value)
        assert "\n" not in str(complaint.value)


def test_long_values_are_cut():
    text = str(nid.ArgumentError("points", np.arange(9000.0).reshape(90, 100), "fewer"))
    assert "\n" not in text
    assert len(text) < 300
