"""The image regression experiment, whole and small; and the peers that it compares with."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from measuring import operations
from peers import networks
from peers.cosines import DCT, ColourDCT, largest


@pytest.fixture(scope="module")
def output(smoke, tmp_path_factory):
    """What a smoke run on faces leaves."""
    folder = tmp_path_factory.mktemp("image_regression")
    done = smoke("image_regression", folder, "--data=faces,celeb_a")
    assert "celeb" in done.stdout.lower()
    return folder


@pytest.mark.slow
def test_a_smoke_run_leaves_table_metrics_and_figure(output):
    table = (output / "table.md").read_text()
    metrics = json.loads((output / "metrics.json").read_text())
    results = metrics["studies"]["faces"]["results"]
    methods = " | ".join(result["method"] for result in results)
    for wanted in ("SIREN", "Fourier", "MAML), 5", "as in the paper", "untrained", "PCA", "DCT"):
        assert wanted in methods
    for solver in ("ridge", "gaussian", "lasso", "omp", "iht", "gradient", "router+ridge"):
        assert f"NID: {solver}" in methods or f"router: {solver}" in methods
    for result in results:
        assert result["method"] in table
        for key in ("psnr", "ssim", "numbers", "operations", "seconds"):
            assert result[key] is not None, (result["method"], key)
            assert key == "ssim" or result[key] > 0, (result["method"], key)
    for version in ("date", "machine", "jax"):
        assert metrics["versions"][version] in table
    assert metrics["studies"]["faces"]["speed_ups"]
    assert "CelebA is left out" in table
    assert (output / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_what_is_solved_once_is_the_same_whoever_holds_the_factor(output):
    metrics = json.loads((output / "metrics.json").read_text())
    psnr = {r["method"]: r["psnr"] for r in metrics["studies"]["faces"]["results"]}
    assert psnr["NID: ridge, factorisation kept"] == pytest.approx(psnr["NID: ridge"], abs=0.02)


@pytest.mark.slow
def test_a_missing_file_is_one_line_before_anything_is_trained(smoke, tmp_path):
    missing = tmp_path / "none.npz"
    done = smoke("image_regression", tmp_path / "out", f"--patches={missing}", code=2)
    assert done.stderr == f"error: --patches={missing}: no such file\n"
    assert not (tmp_path / "out").exists()


def test_the_cosine_transform_keeps_the_strongest():
    rng = np.random.default_rng(2)
    signals = rng.random((6, 5, 4, 3)).astype(np.float32)
    dct = DCT(signals, 60)
    np.testing.assert_allclose(dct.decode(dct.encode(signals)), signals, atol=1e-5)
    np.testing.assert_allclose(dct.decode_all(dct.encode_all(signals)), signals, atol=1e-5)
    few = DCT(signals, 10)
    full = few.encode_all(signals)
    energy = np.square(full).mean(0)
    missing = np.delete(full, np.argsort(-energy)[:10], axis=1)
    error = np.square(few.decode(few.encode(signals)) - signals).sum()
    assert error == pytest.approx(np.square(missing).sum(), rel=1e-4)


def test_sparse_cosines_keep_means_and_are_of_orthonormal_waves():
    rng = np.random.default_rng(3)
    signals = (rng.random((6, 5, 4, 3)) @ rng.random((3, 3))).astype(np.float32)
    transform = ColourDCT(signals)
    whole = transform.decode(transform.encode(signals, 60))
    np.testing.assert_allclose(whole, signals, atol=1e-5)
    codes, means = transform.encode(signals, 7)
    np.testing.assert_array_equal((codes != 0).sum(1), 7)
    found = transform.decode((codes, means))
    np.testing.assert_allclose(found.mean((1, 2)), signals.mean((1, 2)), atol=1e-5)
    # What is left is what was left out.
    energy = np.square(transform.encode(signals, 60)[0]).sum(1) - np.square(codes).sum(1)
    np.testing.assert_allclose(np.square(found - signals).sum((1, 2, 3)), energy, rtol=1e-3)
    # Decorrelated: no colour says anything of another.
    turned = (signals - signals.mean((1, 2), keepdims=True)) @ transform.colours
    covariance = np.tensordot(turned, turned, ((0, 1, 2), (0, 1, 2)))
    off = covariance - np.diag(np.diag(covariance))
    assert np.abs(off).max() < 1e-4 * covariance.max()


def test_largest_keeps_values_and_places():
    codes = np.array([[1.0, -5.0, 2.0, 0.5], [0.0, 0.1, -0.2, 3.0]])
    expected = [[0.0, -5.0, 2.0, 0.0], [0.0, 0.0, -0.2, 3.0]]
    np.testing.assert_array_equal(largest(codes, 2), expected)


def relu_network(inputs):
    """Of one channel; its second derivatives compile faster than a sine's."""
    return networks.Network(jnp.asarray(inputs, jnp.float32), (inputs.shape[-1], 8, 1), "relu", 0.0)


@pytest.mark.slow
def test_a_learned_start_beats_the_drawn_one():
    rng = np.random.default_rng(3)
    points = np.linspace(-1, 1, 16)[:, None]
    targets = (0.5 + np.sin(3 * points + rng.uniform(0, 0.5, (20, 1, 1)))).astype(np.float32)
    network = relu_network(np.concatenate([np.sin(points * n) for n in (1, 2, 4)], -1))
    key = jax.random.key(0)
    start, count, _, _ = networks.learn_start(
        network, targets[:16], key, seconds=600, limit=300, steps=3, learning_rate=1e-2
    )
    assert count == 300
    layers = network.draw(key)
    rates = jax.tree.map(lambda _: jnp.log(jnp.float32(1e-2)), layers)

    def error(start):
        adapted = networks.adapt(network, start, jnp.asarray(targets[16:]), 3)
        return float(jax.vmap(network.residual)(adapted, targets[16:]).mean())

    assert error(start) < 0.2 * error(networks.LearnedStart(layers, rates))


def test_a_step_from_the_start_is_along_the_gradient():
    points = np.linspace(-1, 1, 9, dtype=np.float32)[:, None]
    network = relu_network(points)
    layers = network.draw(jax.random.key(1))
    rates = jax.tree.map(lambda _: jnp.log(jnp.float32(0.5)), layers)
    target = jnp.asarray(points**2)
    adapted = networks.adapt(network, networks.LearnedStart(layers, rates), target[None], 1)
    grads = jax.grad(network.residual)(layers, target)
    expected = jax.tree.map(lambda v, g: v - 0.5 * g, layers, grads)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
        jax.tree.map(lambda v: v[0], adapted),
        expected,
    )


def test_operations_are_those_of_the_products():
    assert operations.network((2, 10, 3)) == 2 * (20 + 30)
    assert operations.network_fit((2, 10, 3), 7, 5) == 3 * 5 * 7 * 100
    assert operations.cosine_transform((4, 5, 3)) == 2 * 60 * 12
    alone, shared = (operations.solve("ridge", 300, signals) for signals in (1, 2))
    assert alone - shared == pytest.approx(300**3 / 6)
