"""Whatever JAX is asked for, no derivative is zero in silence and float32 stays float32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import nid_jax as nid
from tests.test_neural_dictionary import SHAPE, waves


@pytest.fixture(scope="module")
def gray():
    return nid.learn(waves(24)[..., 0], steps=5, num_experts=20)


@pytest.fixture(scope="module")
def unseen():
    return waves(5, seed=1)[..., 0]


WITHOUT = [
    nid.Lasso(),
    nid.IHT(top_k=4),
    nid.Robust(),
    nid.Gradient(steps=2),
    nid.Gradient(steps=2, data="l1"),
    nid.Gaussian(noise=0.01, neighbours=3),
]


@pytest.mark.parametrize("solver", WITHOUT, ids=str)
@pytest.mark.parametrize("of", ["codes", "residual"])
def test_no_derivative_is_zero_in_silence(gray, unseen, solver, of):
    with pytest.raises(ValueError, match=f"^{solver.name}: no derivative of its codes is known"):
        jax.grad(lambda y: getattr(gray.fit(y, solver=solver), of).sum())(unseen)


@pytest.mark.slow
def test_codes_of_clouds_have_no_derivative():
    shapes = nid.learn(waves(4, (5, 5, 5))[..., 0], steps=1, num_experts=6)
    cloud = np.random.default_rng(0).normal(size=(1, 20, 6)).astype(np.float32)
    problem = nid.Problem(shapes.dictionary, None, None, clouds=cloud)
    with pytest.raises(ValueError, match="^surface: no derivative of its codes is known"):
        jax.grad(lambda c: nid.Surface().solve(dataclasses.replace(problem, clouds=c)).codes.sum())(
            cloud
        )


@pytest.mark.slow
def test_what_ends_in_numpy_has_no_derivative(gray, unseen):
    solver = nid.Gaussian(noise=0.01)
    for name, act in (
        ("refine", lambda fit: fit.refine(nid.TotalVariation(tv=0.01, lam=0.01)).render().sum()),
        ("deviation", lambda fit: fit.deviation().sum()),
        ("score", lambda fit: fit.score(unseen)["psnr"].sum()),
    ):
        with pytest.raises(ValueError, match=f"^{name}: traced values; allowed: outside of jax"):
            jax.grad(lambda y, act=act: act(gray.fit(y, solver=solver)))(unseen)
    with pytest.raises(ValueError, match="^batch_size: traced values"):
        jax.grad(lambda y: gray.fit(y, solver=solver, batch_size=2).codes.sum())(unseen)


# ---- JAX_ENABLE_X64 -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "solver",
    [
        nid.Ridge(),
        nid.Gaussian(noise=0.01),
        nid.OMP(top_k=4),
        pytest.param(nid.IHT(top_k=4), marks=pytest.mark.slow),
        pytest.param(nid.Lasso(steps=50), marks=pytest.mark.slow),
        nid.Robust(steps=20),
        pytest.param(nid.Gradient(steps=5), marks=pytest.mark.slow),
    ],
    ids=lambda solver: solver.name,
)
def test_double_precision_of_the_process_changes_no_fit(gray, unseen, solver):
    seen = np.arange(SHAPE[1]) < 6
    usual = gray.fit(unseen, seen=np.broadcast_to(seen, SHAPE), solver=solver)
    with jax.enable_x64(True):
        found = gray.fit(unseen.astype(float), seen=np.broadcast_to(seen, SHAPE), solver=solver)
        drawn = found.render((12, 11))
    assert found.codes.dtype == found.bias.dtype == drawn.dtype == np.float32
    np.testing.assert_allclose(found.codes, usual.codes, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_double_precision_of_the_process_changes_no_training(gray, unseen):
    with jax.enable_x64(True):
        same = nid.learn(waves(24)[..., 0], steps=5, num_experts=20)
    for leaf in jax.tree.leaves(nnx.state(same.dictionary)):
        assert leaf.dtype == jnp.float32
    found, usual = (each.fit(unseen).render() for each in (same, gray))
    np.testing.assert_allclose(found, usual, atol=1e-3)


@pytest.mark.slow
def test_double_precision_of_the_process_changes_no_refinement(gray, unseen):
    with jax.enable_x64(True):
        refined = gray.fit(unseen).refine(nid.TotalVariation(tv=0.01, lam=0.01, steps=5))
        lower = gray.fit(unseen).refine(nid.LowRank(rank=1, steps=3))
        slopes = jax.grad(lambda y: gray.fit(y).render().sum())(unseen)
    assert refined.render().dtype == lower.render().dtype == slopes.dtype == np.float32


@pytest.mark.slow
def test_the_command_line_is_of_single_precision(shell, tmp_path, tiny):
    result = shell(*tiny, f"--workdir={tmp_path / 'run'}", prefix="JAX_ENABLE_X64=1")
    assert result.code == 0, result.err
    assert nid.load(tmp_path / "run").fit(np.zeros((1, 25, 25))).codes.dtype == np.float32
