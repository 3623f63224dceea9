"""The whole set of official reference values, through the checkpoint files and the importer.

Runs where the set lies beside the repository; a part of it is in tests/data/official.
"""

import json
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nid_jax import metrics
from nid_jax.coding.operators import ParallelBeam
from nid_jax.fields import routing
from nid_jax.fields.coordinates import grid
from nid_jax.fields.embeddings import RBF, FourierFeatures, Positional, nyquist_octaves
from nid_jax.interop import official
from nid_jax.interop.torch_checkpoint import (
    Official,
    Told,
    convert,
    load,
    make_config,
    read_checkpoint,
)
from nid_jax.storage import models
from nid_jax.storage.workdir import Workdir
from nid_jax.training.losses import Objective, expert_weights, sparsity
from nid_jax.training.optimisers import build_optimiser

ROOT = Path(__file__).resolve().parents[2]
BASE = runpy.run_path(str(ROOT / "configs" / "official.py"))["get_config"]("images")
CASES = (
    "codebook_ffm_relu",
    "codebook_id_sine",
    "codebook_gray_rect",
    "codebook_all_experts",
    "conv_ffm_relu",
    "conv_id_sine",
    "resnet_ffm_relu",
    "resnet_id_sine",
)


class Imported:
    """A case as its files have it, and what its model here makes of it."""

    def __init__(self, folder, name, workdir):
        with np.load(folder / f"{name}.npz") as arrays:
            self.data = dict(arrays)
        meta = json.loads((folder / f"{name}.json").read_text())
        text = "".join(
            f"{option} = {meta[key]}\n"
            for option, key in (
                ("act_type", "act_type"),
                ("num_topk", "num_topk"),
                ("num_experts", "num_experts"),
                ("num_layers", "num_layers"),
                ("hidden_dim", "hidden_dim"),
                ("pos_emb", "pos_emb"),
                ("gate_type", "gate"),
                ("ffm_map_size", "ffm_map_size"),
                ("lr", "lr"),
                ("loss_cv", "loss_cv"),
                ("loss_l1", "loss_l1"),
                ("l1_exp", "l1_exp"),
            )
        )
        (workdir.parent / "official.txt").write_text(text)
        options = official.read_options(workdir.parent / "official.txt")
        told = Told(options, "official.txt", size=tuple(meta["image_size"]))
        self.path = folder / f"{name}_before.ckpt"
        convert(self.path, Workdir(workdir), BASE, told)
        loaded = models.load_model(Workdir(workdir))
        self.model, self.config = loaded.model, loaded.config
        data = self.data
        self.images = jnp.asarray(data["imgs"])
        self.ids = jnp.asarray(data["img_ids"].astype(np.int32))
        self.lattice = jnp.asarray(grid(tuple(meta["image_size"])))
        np.testing.assert_allclose(self.lattice, data["lattice"], atol=1e-7)
        self.selected = data["i_sel"].astype(np.int32)
        self.model.router.prepare(self.ids)

    def run(self, dense):
        """Gates, predictions, terms, gradients and one step of one mode, in one compilation."""
        graph, params, rest = nnx.split(self.model, nnx.Param, ...)
        objective = Objective.from_config(self.config.loss)
        alone = Objective(compat="official")
        absolute = Objective("l1", l1=0.01, balance=0.01, compat="official")
        optimizer = build_optimiser(self.config.train.optimizer, self.config.train.steps)
        targets = self.images.reshape(4, -1, self.images.shape[-1])[:, self.selected]

        def forward(params):
            model = nnx.merge(graph, params, rest)
            gates = model.gates(self.ids, self.images, dense=dense)
            return gates, model.dictionary.combine(self.lattice, gates)

        def loss(params, objective):
            gates, prediction = forward(params)
            value, terms = objective(prediction[:, self.selected], targets, gates)
            return value, (terms, gates, prediction)

        @jax.jit
        def all_of_it(params):
            gradient, (terms, gates, full) = jax.grad(loss, has_aux=True)(params, objective)
            recon, (recon_terms, _, _) = jax.grad(loss, has_aux=True)(params, alone)
            _, (l1_terms, _, _) = loss(params, absolute)
            updates, _ = optimizer.update(gradient, optimizer.init(params), params)
            moved = optax.apply_updates(params, updates)
            return gates, full, terms, recon_terms, l1_terms, (gradient, recon, moved)

        gates, full, *terms, trees = jax.device_get(all_of_it(params))
        named = []
        for tree in trees:
            holder = nnx.merge(graph, tree, rest)
            named.append(official.to_official(holder.dictionary, holder.router))
        return gates, full, terms, named


@pytest.fixture(scope="module", params=CASES)
def case(request, reference, tmp_path_factory):
    return Imported(reference, request.param, tmp_path_factory.mktemp("case") / "run")


def check_terms(got, data, prefix):
    names = [key for key in data if key.startswith(prefix)]
    assert names
    for key in names:
        np.testing.assert_allclose(got[key.removeprefix(prefix)], data[key], rtol=1e-5, err_msg=key)


def check_gradients(gradients, data, tag):
    assert gradients
    for name, gradient in gradients.items():
        norm = np.linalg.norm(gradient.astype(float))
        oracle = data[f"{tag}/gradnorm_f64/{name}"]
        np.testing.assert_allclose(norm, oracle, rtol=1e-3, atol=1e-9, err_msg=name)
        expected = data[f"{tag}/grad/{name}"]
        largest = abs(expected).max()
        np.testing.assert_allclose(
            gradient, expected, rtol=1e-3, atol=1e-3 * largest + 1e-12, err_msg=name
        )


def check_step(moved, data, tag):
    """Adam's first step is +- the learning rate, its sign unsure where the gradient is rounding."""
    for name, weights in moved.items():
        expected, gradient = data[f"{tag}/after/{name}"], abs(data[f"{tag}/grad/{name}"])
        sure = gradient > 1e-5 * gradient.max()
        off = abs(weights - expected)
        assert off[sure].max(initial=0) <= 1e-6, name
        assert off.max(initial=0) <= 2e-4, name


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sparse", "dense"])
def test_every_number_of_a_case(case, mode):
    data = case.data
    gates, full, (terms, recon_terms, l1_terms), (gradients, recon, moved) = case.run(
        mode == "dense"
    )
    # The conv router sums over the pixels: its gates reach hundreds.
    scale = max(1.0, abs(data["raw_logits"]).max())
    close = {"rtol": 1e-5, "atol": 1e-5 * scale}
    np.testing.assert_allclose(gates.values, data[f"{mode}/gates"], **close)
    np.testing.assert_allclose(full[:, case.selected], data[f"{mode}/preds_f64"], **close)
    np.testing.assert_allclose(full, data[f"{mode}/full_preds"], **close)
    importance = routing.importance(gates, "signed")
    np.testing.assert_allclose(importance, data[f"{mode}/importance"], **close)
    if mode == "sparse":
        np.testing.assert_array_equal(routing.load(gates, "positive"), data["sparse/load"])
    check_terms(terms, data, f"{mode}/terms/")
    check_terms(terms, data, f"{mode}/terms_f64/")
    check_terms(recon_terms, data, f"{mode}_recon/terms/")
    check_terms(l1_terms, data, f"{mode}/terms_l1/")
    if mode == "dense":
        for base in (1.05, 0.9):
            got = sparsity(gates.values, expert_weights(gates.values.shape[1], base))
            expected = data[f"dense/terms_l1exp{base}/sparsity"]
            np.testing.assert_allclose(got, expected, rtol=1e-5)
    check_gradients(gradients, data, mode)
    check_gradients(recon, data, f"{mode}_recon")
    check_step(moved, data, mode)
    pictures = full.reshape(case.images.shape)
    psnr = metrics.psnr(pictures, case.images)
    np.testing.assert_allclose(psnr, data[f"{mode}/full_psnr"], rtol=1e-5, atol=1e-4)
    ssim = metrics.ssim(pictures, case.images, padding="zero")
    np.testing.assert_allclose(ssim, data[f"{mode}/full_ssim"], rtol=1e-4, atol=2e-5)


@pytest.mark.slow
def test_the_file_after_a_step_holds_that_step(case):
    """What torch left after one sparse step, and its moments, read back by the importer."""
    saved = read_checkpoint(str(case.path).replace("_before", "_after"))
    assert (saved.step, saved.epoch, saved.notes) == (1, 1, ())
    for name, weights in saved.weights.items():
        if name != "experts.map.B":
            np.testing.assert_array_equal(weights, case.data[f"sparse/after/{name}"])
            gradient = case.data[f"sparse/grad/{name}"]
            np.testing.assert_allclose(saved.adam["mu"][name], 0.1 * gradient, rtol=1e-5, atol=1e-9)


@pytest.fixture(scope="module")
def extras(reference):
    with np.load(reference / "extras.npz") as arrays:
        return dict(arrays)


@pytest.mark.slow
def test_embeddings_and_lattices(extras):
    for dims in (2, 3):
        for octaves in (1, 4, 7):
            got = Positional(dims, octaves)(extras[f"x{dims}"])
            np.testing.assert_allclose(got, extras[f"pe/x{dims}_freqs{octaves}"], atol=2e-5)
    np.testing.assert_array_equal(
        nyquist_octaves(extras["pe/nyquist_sizes"]), extras["pe/nyquist_freqs"]
    )
    got = RBF(extras["rbf/centres"], extras["rbf/sigmas"])(extras["x2"])
    np.testing.assert_allclose(got, extras["rbf/out"], atol=1e-5)
    got = FourierFeatures(jnp.asarray(extras["ffm/B"]))(extras["x2"])
    np.testing.assert_allclose(got, extras["ffm/out"], atol=1e-5)
    for name in ("5x7", "1x4"):
        shape = tuple(map(int, name.split("x")))
        np.testing.assert_allclose(grid(shape), extras[f"lattice/{name}"], atol=1e-7)


def test_image_metrics(extras):
    for channels in (1, 3):
        pair = [extras[f"metrics/{which}{channels}"] for which in ("pred", "gt")]
        pair = [images.transpose(0, 2, 3, 1) for images in pair]
        np.testing.assert_allclose(
            metrics.psnr(*pair), extras[f"metrics/psnr{channels}"], rtol=1e-5
        )
        ssim = metrics.ssim(*pair, padding="zero")
        np.testing.assert_allclose(ssim, extras[f"metrics/ssim{channels}"], rtol=1e-5)


def test_projections_of_tomography(extras):
    prefix = "ct/state/"
    state = {k.removeprefix(prefix): v for k, v in extras.items() if k.startswith(prefix)}
    found = official.architecture(state)
    assert (found.num_experts, found.channels) == (64, 1)
    config = make_config(BASE, found, Told({}, "", "relu", 8, size=(25, 25)))
    model = load(config, (25, 25), Official(state, None, 0, 0, ()), found)
    rays = extras["ct/all_rays"][extras["ct/ray_sel"]]
    # The official projection is the mean over a ray's samples.
    factors = np.full(rays.shape[:2], 1 / rays.shape[1], np.float32)
    operator = ParallelBeam(jnp.asarray(rays.reshape(-1, 2)), factors, run_length=rays.shape[1])
    ids = jnp.asarray(extras["ct/img_ids"].astype(np.int32))
    model.router.prepare(ids)
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params):
        model = nnx.merge(graph, params, rest)
        gates = model.gates(ids)
        prediction = operator.measure(model.dictionary.combine(operator.points, gates))
        return Objective()(prediction, extras["ct/projections"], gates)[0], prediction

    (value, prediction), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(prediction, extras["ct/pred_projections"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(value, extras["ct/mse"], rtol=1e-5)
    holder = nnx.merge(graph, gradient, rest)
    for name, array in official.to_official(holder.dictionary, holder.router).items():
        norm = np.linalg.norm(np.asarray(array, float))
        np.testing.assert_allclose(norm, extras[f"ct/gradnorm/{name}"], rtol=1e-3, err_msg=name)
