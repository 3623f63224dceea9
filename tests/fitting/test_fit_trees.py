"""Fits as pytrees, and their files: what comes back, what is refused, what is said."""

import io
import re
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import nid_jax as nid
from nid_jax.fields.embeddings import Identity
from nid_jax.fields.experts import Layers
from nid_jax.fields.shared import SharedDictionary
from nid_jax.fitting.fit import Fit, fit_problem

SHAPE = (5, 4)
SIGNALS, EXPERTS = 3, 6


def dictionary_of(seed):
    layers = Layers(2, 7, "sine", 3.0)
    return SharedDictionary(Identity(2), EXPERTS, 1, layers, rngs=nnx.Rngs(params=seed))


@pytest.fixture(scope="module")
def dictionary():
    return dictionary_of(0)


@pytest.fixture(scope="module")
def values():
    draw = np.random.default_rng(0)
    return draw.uniform(size=(SIGNALS, 20, 1)).astype(np.float32)


def solve(dictionary, values, lam=1e-3):
    problem = nid.Problem(dictionary, nid.operators.sample(SHAPE), values)
    return fit_problem(problem, nid.Ridge(lam=lam), SHAPE)


@pytest.fixture(scope="module")
def found(dictionary, values):
    return solve(dictionary, values)


def test_jit_gives_back_a_fit(dictionary, values, found):
    within = jax.jit(lambda values, lam: solve(dictionary, values, lam))(values, jnp.float32(1e-3))
    assert isinstance(within, nid.Fit)
    assert (within.grid_shape, within.names) == (SHAPE, found.names)
    np.testing.assert_allclose(within.codes, found.codes, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(within.render(), found.render(), atol=1e-4)
    assert within.message == found.message
    assert (within.problem, within.seconds) == (None, 0.0)
    with pytest.raises(nid.ArgumentError, match="fit: 'without its measurements'"):
        within.refine(nid.TotalVariation())


def test_a_fit_is_an_argument_of_jit_and_is_mapped_over(found):
    points = np.random.default_rng(1).uniform(-1, 1, (9, 2)).astype(np.float32)
    np.testing.assert_allclose(
        jax.jit(lambda fit, points: fit.at(points))(found, points), found.at(points), atol=1e-5
    )
    half = jax.tree.map(lambda leaf: leaf / 2 if leaf is found.codes else leaf, found)
    np.testing.assert_array_equal(half.codes, found.codes / 2)
    assert half.names == found.names
    assert jax.tree.structure(found) == jax.tree.structure(half)
    assert len(found.problem.measurements) == SIGNALS


@pytest.mark.parametrize(
    ("which", "shown"), [(3, "3"), (-4, "-4"), ([0, 5], r"\[0, 5\]"), ("a", "'a'")]
)
def test_signals_that_a_fit_does_not_have(found, which, shown):
    with pytest.raises(IndexError, match=f"^index: {shown}; allowed: -3 to 2, slices, lists of"):
        found[which]
    assert len(list(found)) == SIGNALS


def test_a_solver_is_a_pytree_of_its_arrays():
    assert jax.tree.leaves(nid.Ridge(lam=1e-3)) == []
    solver = nid.Ridge(lam=jnp.float32(2.0))
    (leaf,) = jax.tree.leaves(solver)
    assert leaf is solver.lam
    assert jax.tree.map(lambda lam: 2 * lam, solver) == nid.Ridge(lam=jnp.float32(4.0))


@pytest.mark.slow
def test_every_signal_may_have_its_own_lam(dictionary, values):
    lams = np.array([1e-4, 1e-2, 1.0], np.float32)
    found = solve(dictionary, values, lams)
    for number, lam in enumerate(lams):
        alone = solve(dictionary, values[number : number + 1], float(lam))
        np.testing.assert_allclose(found.codes[number], alone.codes[0], rtol=1e-3, atol=1e-4)
    slopes = jax.grad(lambda lam: (solve(dictionary, values, lam).codes ** 2).sum())(lams)
    assert slopes.shape == (3,)
    assert (np.asarray(slopes) < 0).all()
    with pytest.raises(nid.ArgumentError, match=r"lam: 'an array \[3\]'; .* each of the 2 signals"):
        solve(dictionary, values[:2], lams)


@pytest.mark.slow
def test_forward_derivatives_are_refused_and_hessians_go_backwards(dictionary, values):
    def energy(lam):
        return (solve(dictionary, values, lam).codes ** 2).sum()

    with pytest.raises(nid.ArgumentError, match="derivative: 'by forward mode'; allowed: reverse"):
        jax.hessian(energy)(0.1)
    second = jax.jacrev(jax.grad(energy))(0.1)
    apart = (jax.grad(energy)(0.101) - jax.grad(energy)(0.099)) / 0.002
    np.testing.assert_allclose(second, apart, rtol=1e-2)


# ---- files --------------------------------------------------------------------------------------


def test_what_is_saved_comes_back_unless_the_dictionary_is_another(tmp_path, found, recwarn):
    path = found.save(tmp_path / "codes.npz")
    back = Fit.load(path, found.dictionary, SHAPE)
    np.testing.assert_array_equal(back.codes, found.codes)
    assert back.names == found.names
    assert not recwarn.list
    with pytest.warns(nid.Notice, match=f"{path}: was made with another dictionary of the same"):
        Fit.load(path, dictionary_of(1), SHAPE)


def stored(path):
    with np.load(path) as file:
        return dict(file)


def test_files_without_a_digest_stay_readable(tmp_path, found, recwarn):
    arrays = stored(found.save(tmp_path / "codes.npz"))
    del arrays["dictionary"]
    np.savez(tmp_path / "old.npz", **arrays)
    np.testing.assert_array_equal(
        Fit.load(tmp_path / "old.npz", dictionary_of(1), SHAPE).codes, found.codes
    )
    assert not recwarn.list


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"codes": None}, "it has no array 'codes'"),
        ({"names": None}, "it has no array 'names'"),
        ({"codes": np.ones((3, 6), "U3")}, "'codes' is <U3[3, 6]; allowed: numbers of 2 axes"),
        ({"codes": np.ones((3, 6), complex)}, "'codes' is complex128[3, 6]; allowed"),
        ({"codes": np.ones(3)}, "'codes' is float64[3]; allowed: numbers of 2 axes"),
        ({"codes": np.float32(1)}, "'codes' is float32[]"),
        ({"codes": np.array([[None] * 6] * 3)}, "it has no array 'codes'"),
        ({"names": np.arange(3)}, "'names' is int64[3]; allowed: texts of 1 axes"),
        ({"names": np.array(["a"])}, "3 codes, 3 biases and 1 names"),
        ({"bias": np.ones((2, 1))}, "3 codes, 2 biases and 3 names"),
        ({"bias": np.ones((3, 2))}, "codes of 6 experts and 2 channels; this dictionary has 6"),
        ({"correction": np.ones((3, 4))}, "'correction' is [3, 4]; allowed: [3, *grid, 1]"),
        ({"deviation": np.ones((2, 5, 4, 1))}, "'deviation' is [2, 5, 4, 1]"),
        ({"dictionary": np.ones(2)}, "'dictionary' is float64[2]; allowed: whole numbers"),
    ],
)
def test_damaged_files_are_one_line(tmp_path, found, change, says):
    arrays = stored(found.save(tmp_path / "codes.npz")) | change
    path = tmp_path / "damaged.npz"
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    refuses(path, found.dictionary, says)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize(
    ("odd", "also", "says"),
    [
        (np.nan, [], "'codes' of signal 1, '00001', holds nan; allowed: finite numbers"),
        (-np.inf, [2], "holds nan, as 1 more signal; allowed: finite numbers"),
    ],
)
def test_codes_that_are_not_finite_are_said_and_refused(tmp_path, found, dtype, odd, also, says):
    codes = np.array(found.codes)
    codes[[1, *also], 4] = odd
    fit = Fit.of_codes(found.dictionary, codes, found.bias, SHAPE)
    with pytest.warns(nid.Notice, match=f"codes of {1 + len(also)} of 3 signals are not finite"):
        path = fit.save(tmp_path / "codes.npz", dtype)
    if dtype.startswith("float"):
        says = says.replace("holds nan", f"holds {odd}")
    with pytest.raises(ValueError, match="of signal 1") as complaint:
        Fit.load(path, found.dictionary, SHAPE)
    text = str(complaint.value)
    assert text.startswith(f"{path}: 'codes'")
    assert says in text
    rest = fit[[number for number in range(3) if number not in (1, *also)]]
    Fit.load(rest.save(tmp_path / "rest.npz", dtype), found.dictionary, SHAPE)


@pytest.mark.parametrize(
    ("name", "odd"),
    [
        ("bias", np.inf),
        ("bias", 1e300),
        ("correction", np.inf),
        ("deviation", np.nan),
        ("deviation", -1.0),
    ],
)
def test_levels_and_what_lies_on_grids_are_refused_where_they_cannot_be(tmp_path, found, name, odd):
    arrays = stored(found.save(tmp_path / "codes.npz"))
    for on_grid in ("correction", "deviation"):
        arrays[on_grid] = np.zeros((SIGNALS, *SHAPE, 1))
    arrays[name] = np.array(arrays[name], np.float64)
    arrays[name][2].flat[-1] = odd
    path = tmp_path / "odd.npz"
    np.savez(path, **arrays)
    says = re.escape(f"{path}: '{name}' of signal 2, '00002', holds {odd}; allowed: finite")
    with pytest.raises(ValueError, match=f"^{says}"):
        Fit.load(path, found.dictionary, SHAPE)


def refuses(path, dictionary, says):
    with pytest.raises(ValueError, match="damaged|cannot be read") as complaint:
        Fit.load(path, dictionary, SHAPE)
    text = str(complaint.value)
    assert text.startswith(f"{path}: ")
    assert says in text
    assert "\n" not in text


def test_files_of_another_kind_are_one_line(tmp_path, found):
    whole = found.save(tmp_path / "codes.npz").read_bytes()
    path = tmp_path / "other.npz"
    array = io.BytesIO()
    np.save(array, np.ones(3))
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        huge, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 6)}
    )
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("codes.npy", huge.getvalue())
    for content in (
        b"",
        b"nothing of the kind",
        whole[: len(whole) // 2],
        whole[:-10],
        array.getvalue(),
        zipped.getvalue(),
    ):
        path.write_bytes(content)
        refuses(path, found.dictionary, ": ")


def test_any_changed_byte_is_read_or_refused(tmp_path, found):
    whole = found.save(tmp_path / "codes.npz").read_bytes()
    path = tmp_path / "changed.npz"
    draw = np.random.default_rng(0)
    refusals = []
    for place in draw.integers(0, len(whole), 200):
        content = bytearray(whole)
        content[place] ^= 1 << draw.integers(0, 8)
        path.write_bytes(content)
        try:
            Fit.load(path, found.dictionary, SHAPE)
        except ValueError as error:
            refusals.append(str(error))
    assert len(refusals) > 100
    assert not any("\n" in line for line in refusals)
