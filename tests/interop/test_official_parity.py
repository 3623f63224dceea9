"""Same numbers as the official PyTorch code: forward passes, losses, gradients and Adam steps.

tests/data/official holds weights, images and outputs of that code (torch 2.13, CPU). Each case is
one router with one trunk; 'sparse' is its top-k training and 'dense' its warm-up.
"""

import json
import math
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nid_jax.fields import routing
from nid_jax.fields.coordinates import grid
from nid_jax.fields.variables import Basis, Code, RouterParam
from nid_jax.interop import official
from nid_jax.interop.torch_checkpoint import Official, Told, load, make_config, read_checkpoint
from nid_jax.training.losses import Objective, expert_weights, sparsity

TESTS = Path(__file__).resolve().parents[1]
DATA = TESTS / "data" / "official"
BASE = runpy.run_path(str(TESTS.parent / "configs" / "official.py"))["get_config"]("images")
CASES = (
    "codebook_ffm_relu",
    "codebook_id_sine",
    "conv_ffm_relu",
    "conv_id_sine",
    "resnet_ffm_relu",
    "resnet_id_sine",
    "codebook_gray_rect",
    "codebook_all_experts",
)
MODES = ("sparse", "dense")


def read(name):
    with np.load(DATA / f"{name}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def images(name):
    return read("images")[name].astype(np.float32) / np.float32(255)


def build(meta, weights, grid_shape):
    """Dictionary and router of a case with its official weights, through the importer."""
    found = official.architecture(weights)
    assert (found.num_experts, found.channels) == (meta["num_experts"], meta["out_dim"])
    told = Told({}, "", meta["act_type"], meta.get("num_topk", 8), size=grid_shape)
    config = make_config(BASE, found, told)
    model = load(config, grid_shape, Official(weights, None, 0, 0, ()), found)
    assert model.top_k == told.top_k
    return model.dictionary, model.router


class Case:
    """A case's data, its modules, and everything its jitted forward and backward passes give."""

    def __init__(self, name, weights=None, gradients=("terms",)):
        self.data = data = read(name)
        meta = json.loads(str(data["meta"]))
        signals = images("gray" if meta["out_dim"] == 1 else "colour")[:4]
        grid_shape = signals.shape[1:3]
        if weights is None:
            weights = {k[8:]: v for k, v in data.items() if k.startswith("weights/")}
        self.dictionary, self.router = build(meta, weights, grid_shape)
        self.top_k = {"sparse": meta["num_topk"], "dense": None}
        self.signals = jnp.asarray(signals)
        selected = data["i_sel"].astype(np.int32)
        self.x = jnp.asarray(grid(grid_shape))[selected]
        self.targets = self.signals.reshape(4, -1, signals.shape[-1])[:, selected]
        self.ids = jnp.asarray(data["img_ids"].astype(np.int32))
        self.router.prepare(self.ids)
        self.gradients = gradients
        self.results = {}

    def result(self, mode):
        """Run once: dict of codes, predictions, loss terms and gradients."""
        if mode not in self.results:
            self.results[mode] = self._run(mode)
        return self.results[mode]

    def _run(self, mode):
        kinds = nnx.Any(Basis, Code, RouterParam)
        graph, variables, rest = nnx.split((self.dictionary, self.router), kinds, ...)
        objectives = {
            "terms": Objective(l1=0.01, balance=0.01, compat="official"),
            "recon": Objective(compat="official"),
            "terms_l1": Objective("l1", l1=0.01, balance=0.01, compat="official"),
        }

        def forward(variables):
            dictionary, router = nnx.merge(graph, variables, rest)
            gates = router.gates(self.ids, self.signals, self.top_k[mode])
            return gates, dictionary.combine(self.x, gates)

        def loss(variables, name):
            gates, prediction = forward(variables)
            return objectives[name](prediction, self.targets, gates)[0]

        @jax.jit
        def run(variables):
            gates, prediction = forward(variables)
            result = {"gates": gates, "prediction": prediction}
            for name, objective in objectives.items():
                result[name] = objective(prediction, self.targets, gates)[1]
            return result, {name: jax.grad(loss)(variables, name) for name in self.gradients}

        result, gradients = jax.device_get(run(variables))
        for name, gradient in gradients.items():
            modules = nnx.merge(graph, gradient, rest)
            result[f"gradient_{name}"] = official.to_official(*modules)
        return result


def sample(array):
    """64 entries of a tensor, as the reference values were taken."""
    flat = np.ravel(array)
    return flat[(np.arange(64) * 104729 + 11) % flat.size]


def check_logits(case):
    logits, bias = nnx.jit(lambda router: router(case.ids, case.signals))(case.router)
    expected = case.data["raw_logits"]
    # The official conv router sums over the pixels: its logits reach 240.
    scale = max(1.0, float(abs(expected).max()))
    np.testing.assert_allclose(
        np.concatenate([logits, bias], 1), expected, rtol=1e-5, atol=1e-5 * scale
    )


def check_mode(case, mode):
    """Codes, predictions and every loss term of one mode."""
    data, result = case.data, case.result(mode)
    gates = result["gates"]
    scale = max(1.0, float(abs(data["raw_logits"]).max()))
    for got, name in (
        (gates.values, "gates"),
        (routing.importance(gates, "signed"), "importance"),
        (result["prediction"][:, data["points"]], "preds"),
    ):
        np.testing.assert_allclose(
            got, data[f"{mode}/{name}"], rtol=1e-5, atol=1e-5 * scale, err_msg=name
        )
    if mode == "sparse":
        np.testing.assert_array_equal(routing.load(gates, "positive"), data["sparse/load"])
        assert (np.count_nonzero(gates.values, 1) == case.top_k[mode]).all()
    names = {"terms": f"{mode}/terms/", "recon": f"{mode}_recon/terms/"}
    names["terms_l1"] = f"{mode}/terms_l1/"
    compared = 0
    for ours, prefix in names.items():
        for key in (key for key in data if key.startswith(prefix)):
            term = key.removeprefix(prefix)
            np.testing.assert_allclose(result[ours][term], data[key], rtol=1e-5, err_msg=key)
            compared += 1
    return compared


@pytest.fixture(scope="module", params=CASES)
def case(request):
    # The fit alone, without the balance terms: the codebooks compile fast enough for both.
    both = request.param.startswith("codebook")
    return Case(request.param, gradients=("terms", "recon") if both else ("terms",))


def test_embedding_and_experts(case):
    points = case.x[:8]
    embedded, basis = nnx.jit(lambda d: (d.embedding(points), d.basis(points)))(case.dictionary)
    np.testing.assert_allclose(embedded, case.data["embedded"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        basis.reshape(8, -1), case.data["expert_outputs"], rtol=1e-5, atol=1e-5
    )


def test_logits_and_the_table_after_the_look_up(case):
    check_logits(case)
    if "codebook_after_forward" in case.data:
        table = np.concatenate([case.router.codes[...], case.router.bias[...]], 1)
        before = case.data["weights/gate_generator.codebook.weight"]
        assert abs(table - before).max() > 0.1
        np.testing.assert_allclose(table, case.data["codebook_after_forward"], atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_codes_predictions_and_losses(case, mode):
    # Five terms (four when dense and l1), twice, and two of the absolute error.
    assert check_mode(case, mode) == 12


def test_exponential_l1_weights(case):
    values = jnp.asarray(case.data["dense/gates"])
    for base in (1.05, 0.9):
        got = sparsity(values, expert_weights(values.shape[1], base))
        expected = case.data[f"dense/terms_l1exp{base}/sparsity"]
        np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_gradients(case, mode):
    result, data = case.result(mode), case.data
    for kind in case.gradients:
        gradients = result[f"gradient_{kind}"]
        prefix = mode if kind == "terms" else f"{mode}_recon"
        assert set(gradients) == set(data["gradnorm_names"])
        for name, norm in zip(data["gradnorm_names"], data[f"{prefix}/gradnorms"], strict=True):
            got = np.linalg.norm(gradients[name].astype(np.float64))
            np.testing.assert_allclose(got, norm, rtol=2e-4, atol=1e-9, err_msg=name)
    for name, gradient in result["gradient_terms"].items():
        expected = data[f"{mode}/grad_sample/{name}"]
        largest = abs(gradient).max()
        np.testing.assert_allclose(
            sample(gradient), expected, rtol=1e-4, atol=1e-4 * largest + 1e-12, err_msg=name
        )


# --- five Adam steps ---


@pytest.mark.parametrize("run", ["train", "finetune"])
def test_adam_steps(run):
    data = read("trajectories")
    meta = {"num_experts": 64, "out_dim": 3, "num_layers": 4, "hidden_dim": 32}
    meta |= {"act_type": "relu", "pos_emb": "ffm", "gate": "codebook"}
    weights = {k[8:]: v for k, v in data.items() if k.startswith("weights/")}
    modules = build(meta, weights, (32, 32))
    lattice = jnp.asarray(grid((32, 32)))
    pixels = jnp.asarray(images("colour").reshape(6, -1, 3))
    trained = nnx.Any(Basis, Code) if run == "train" else Code
    # Dense Adam: codes of absent signals keep moving by their momentum.
    optimizer = optax.adam(float(data[f"{run}/lr"]))
    graph, variables, rest = nnx.split(modules, trained, ...)
    state = optimizer.init(variables)

    @jax.jit
    def step(variables, state, ids, selected):
        dictionary, router = nnx.merge(graph, variables, rest)
        router.prepare(ids)
        _, variables, _ = nnx.split((dictionary, router), trained, ...)

        def error(variables):
            dictionary, router = nnx.merge(graph, variables, rest)
            gates = router.gates(ids, None, 8)
            prediction = dictionary.combine(lattice[selected], gates)
            return Objective(compat="official")(prediction, pixels[ids][:, selected], gates)[0]

        value, gradient = jax.value_and_grad(error)(variables)
        updates, state = optimizer.update(gradient, state, variables)
        return optax.apply_updates(variables, updates), state, value

    for i in range(5):
        ids = jnp.asarray(data["batches"][i].astype(np.int32))
        selected = jnp.asarray(data["i_sel"][i].astype(np.int32))
        variables, state, value = step(variables, state, ids, selected)
        _, router = modules = nnx.merge(graph, variables, rest)
        np.testing.assert_allclose(value, data[f"{run}/mse"][i], rtol=1e-5)
        table = np.concatenate([router.codes[...], router.bias[...]], 1)
        np.testing.assert_allclose(table, data[f"{run}/codebook_each_step"][i], atol=1e-5)
    final = official.to_official(*modules)
    if run == "train":
        check_moments(graph, state, rest)
        for key in (key for key in data if key.startswith("train/final_sample/")):
            name = key.removeprefix("train/final_sample/")
            got = final[name]
            if got.size > 256:
                got = np.ravel(got)[(np.arange(256) * 104729 + 11) % got.size]
            np.testing.assert_allclose(got, data[key], atol=1e-5, err_msg=name)
    else:
        for name in (name for name in final if name.startswith("experts")):
            np.testing.assert_array_equal(final[name], weights[name])


def check_moments(graph, state, rest):
    """Ours after five steps, and those in the file that torch left after them."""
    saved = read_checkpoint(DATA / "traj_train_after.ckpt")
    assert (saved.step, saved.epoch) == (5, 5)
    for kind, theirs in saved.adam.items():
        ours = official.to_official(*nnx.merge(graph, optax.tree.get(state, kind), rest))
        assert set(ours) == set(theirs)
        for name, moment in theirs.items():
            scale = abs(moment).max()
            assert scale > 0
            np.testing.assert_allclose(ours[name], moment, atol=1e-4 * scale, err_msg=name)


# --- the residual router at its true widths ---


def hash_uniform(seed, count):
    """Numbers in [-1, 1) from a hash of their index: weights that need no file."""
    x = np.arange(count, dtype=np.uint32) + np.uint32(seed * 0x9E3779B9 % 2**32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    x ^= x >> np.uint32(16)
    return 2 * x.astype(np.float64) / 2**32 - 1


def hashed_weights(data):
    shapes = json.loads(str(data["state_shapes"]))
    weights = {}
    for i, name in enumerate(sorted(shapes)):
        if name == "experts.map.B":
            bound = float(data["map_scale"]) * math.sqrt(3)
        else:
            sibling = name.removesuffix("bias").removesuffix("weight") + "weight"
            bound = 1 / math.sqrt(math.prod(shapes[sibling][1:]))
        values = bound * hash_uniform(int(data["seed"]) + i, math.prod(shapes[name]))
        weights[name] = values.astype(np.float32).reshape(shapes[name])
        flat = weights[name].astype(np.float64).ravel()
        found = [flat.sum(), np.linalg.norm(flat), flat[0], flat[-1]]
        np.testing.assert_allclose(found, data[f"weights_check/{name}"], rtol=1e-5, atol=1e-5)
    return weights


@pytest.mark.slow
def test_resnet_of_the_official_widths():
    case = Case("resnetfull_ffm_relu", hashed_weights(read("resnetfull_ffm_relu")), gradients=())
    assert case.router.second.kernel.shape == (3, 3, 128, 256)
    features = nnx.jit(lambda router: router.encode(case.signals))(case.router)
    np.testing.assert_allclose(features, case.data["resnet_features"], rtol=1e-5, atol=1e-5)
    # The heads alone: the convolutions need not run again.
    features = np.maximum(features, 0)
    logits = np.concatenate([case.router.head(features), case.router.bias_head(features)], 1)
    np.testing.assert_allclose(logits, case.data["raw_logits"], rtol=1e-5, atol=1e-5)
    for mode in MODES:
        assert check_mode(case, mode) >= 9
