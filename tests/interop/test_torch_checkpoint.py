"""Official checkpoints of any size become workdirs whose model computes the official function."""

import contextlib
import io
import json
import math
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from absl import flags, logging
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from nid_jax.fields.coordinates import grid
from nid_jax.interop import official, torch_checkpoint
from nid_jax.interop.torch_checkpoint import (
    Official,
    Told,
    convert,
    grid_shape,
    load,
    make_config,
    optimiser_state,
    read_checkpoint,
)
from nid_jax.run import training
from nid_jax.run.fitting import read_codes
from nid_jax.run.optimisers import build_optimiser
from nid_jax.run.workdir import Workdir

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "official"
BASE = runpy.run_path(str(ROOT / "configs" / "official.py"))["get_config"]("images")


# --- the official model once more, in float64 and NumPy ---


def conv(image, state, name):
    """'Same' convolution of [B, C, H, W]."""
    kernel = state[f"{name}.weight"].astype(float)
    reach = kernel.shape[-1] // 2
    padded = np.pad(image, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[-2:], axis=(2, 3))
    bias = state[f"{name}.bias"].astype(float)
    return np.einsum("bchwij,ocij->bohw", windows, kernel, optimize=True) + bias[:, None, None]


def linear(x, state, name):
    return x @ state[f"{name}.weight"].astype(float).T + state[f"{name}.bias"]


def relu(x):
    return np.maximum(x, 0)


def logits(state, ids, signals):
    """Gates and biases [B, E + C], of any of the three routers."""
    gate = "gate_generator"
    if f"{gate}.codebook.weight" in state:
        rows = state[f"{gate}.codebook.weight"].astype(float)[ids]
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.where(norms > 1, rows / (norms + 1e-7), rows)
    images = signals.astype(float).transpose(0, 3, 1, 2)
    if f"{gate}.convs.conv_theta.weight" not in state:
        x = relu(conv(relu(conv(images, state, f"{gate}.convs.0")), state, f"{gate}.convs.2"))
        return linear(x.sum((2, 3)), state, f"{gate}.fc")
    x = relu(conv(images, state, f"{gate}.convs.conv_theta"))
    x = relu(conv(x, state, f"{gate}.convs.cnn.0"))
    for block in range(2, 6):
        inner = relu(conv(x, state, f"{gate}.convs.cnn.{block}.convs.0"))
        x = relu(x + relu(conv(inner, state, f"{gate}.convs.cnn.{block}.convs.2")))
    x = relu(conv(x, state, f"{gate}.convs.cnn.6"))
    x = linear(x.reshape(*x.shape[:2], -1), state, f"{gate}.convs.fc")[..., 0]
    return linear(relu(x), state, f"{gate}.fc")


def embedded(state, x, octaves=0):
    if "experts.map.B" in state:
        turns = x @ state["experts.map.B"].astype(float).T
        return np.concatenate([np.sin(turns), np.cos(turns)], 1)
    if "experts.map.centres" in state:
        squares = np.square(x[:, None] - state["experts.map.centres"]).sum(-1)
        return np.exp(-np.square(squares * state["experts.map.sigmas"]))
    waves = [x]
    for octave in range(octaves):
        for axis in range(x.shape[1]):
            phase = 2.0**octave * np.pi * x[:, axis]
            waves += [np.sin(phase)[:, None], np.cos(phase)[:, None]]
    return np.concatenate(waves, 1)


def forward(state, shape, x, ids, signals):
    """(gates [B, E] top-k'ed and dense, predictions [B, P, C] of both)."""
    count = sum(name.startswith("experts.net") for name in state) // 2
    x = embedded(state, x.astype(float), shape["octaves"])
    for i in range(count):
        x = linear(x, state, f"experts.net.net.{i}.0")
        if i < count - 1:
            x = relu(x) if shape["activation"] == "relu" else np.sin(30 * x)
    experts, channels = shape["num_experts"], shape["channels"]
    basis = x.reshape(len(x), experts, channels)
    routed = logits(state, ids, signals)
    dense, bias = routed[:, :experts], routed[:, experts:]
    sparse = np.zeros_like(dense)
    for row, kept in zip(sparse, dense, strict=True):
        chosen = np.argsort(-abs(kept))[: shape["top_k"]]
        row[chosen] = kept[chosen]
    return [(g, np.einsum("be,pec->bpc", g, basis) + bias[:, None]) for g in (sparse, dense)]


def random_state(shape, rng):
    """A state dict of any size, in the official order."""
    state = {}

    def layer(name, *sizes):
        bound = 1 / np.sqrt(np.prod(sizes[1:]))
        state[f"{name}.weight"] = rng.uniform(-bound, bound, sizes).astype("f4")
        state[f"{name}.bias"] = rng.uniform(-bound, bound, sizes[:1]).astype("f4")

    features = shape["dims"] + 2 * shape["dims"] * shape["octaves"]
    if shape["embedding"] == "fourier":
        features = 2 * shape["features"]
        state["experts.map.B"] = rng.normal(0, 3, (shape["features"], shape["dims"])).astype("f4")
    if shape["embedding"] == "rbf":
        features = shape["features"]
        state["experts.map.centres"] = rng.uniform(-1, 1, (features, shape["dims"])).astype("f4")
        state["experts.map.sigmas"] = rng.uniform(1, 4, features).astype("f4")
        state["experts.map.freq"] = np.ones((1, features), "f4")
    width, outputs = shape["width"], shape["num_experts"] + shape["channels"]
    sizes = [features, *[width] * (shape["num_layers"] - 1)]
    sizes.append(shape["num_experts"] * shape["channels"])
    for i in range(shape["num_layers"]):
        layer(f"experts.net.net.{i}.0", sizes[i + 1], sizes[i])
        if shape["activation"] == "sine" and i:
            # SIREN's start; without it thirty times the sum makes noise of any rounding.
            state[f"experts.net.net.{i}.0.weight"] *= math.sqrt(6) / 30
    gate, (inner, outer) = "gate_generator", shape["router_widths"]
    if shape["router"] == "codebook":
        state[f"{gate}.codebook.weight"] = rng.normal(0, 0.3, (shape["rows"], outputs)).astype("f4")
    elif shape["router"] == "conv":
        layer(f"{gate}.convs.0", inner, shape["channels"], 5, 5)
        layer(f"{gate}.convs.2", inner, inner, 5, 5)
        layer(f"{gate}.fc", outputs, inner)
    else:
        layer(f"{gate}.convs.conv_theta", inner, shape["channels"], 3, 3)
        layer(f"{gate}.convs.cnn.0", outer, inner, 3, 3)
        for block in range(2, 6):
            layer(f"{gate}.convs.cnn.{block}.convs.0", outer, outer, 5, 5)
            layer(f"{gate}.convs.cnn.{block}.convs.2", outer, outer, 5, 5)
        layer(f"{gate}.convs.cnn.6", outer, outer, 1, 1)
        layer(f"{gate}.convs.fc", 1, int(np.prod(shape["size"])))
        layer(f"{gate}.fc", outputs, outer)
    return state


def shape_of(router, size, experts, channels, top_k, layers, activation, embedding, features=1):
    """A shape as the tests below read it."""
    return {
        "router": router,
        "size": size,
        "num_experts": experts,
        "channels": channels,
        "top_k": top_k,
        "num_layers": layers,
        "activation": activation,
        "embedding": embedding,
        "features": features,
        "dims": len(size),
        "width": 2 * features + 5,
        "octaves": features if embedding == "positional" else 0,
        "router_widths": (features + 1, 3),
        "rows": 4,
    }


SHAPES = {
    "two layers, one channel": shape_of("codebook", (3, 7), 41, 1, 9, 2, "sine", "fourier", 11),
    "as many experts as channels": shape_of("codebook", (2, 2), 3, 3, 2, 5, "relu", "identity"),
    "four channels": shape_of("codebook", (9, 4), 5, 4, 5, 3, "relu", "rbf", 6),
    "volumes": shape_of("codebook", (4, 3, 2), 17, 1, 1, 3, "sine", "positional", 2),
    "conv": shape_of("conv", (5, 8), 13, 4, 6, 4, "sine", "positional", 3),
    "fewer experts than channels": shape_of("conv", (6, 3), 2, 3, 1, 3, "relu", "fourier", 4),
    "resnet": shape_of("resnet", (5, 5), 19, 1, 7, 3, "sine", "identity"),
    "resnet of wide images": shape_of("resnet", (4, 7), 8, 3, 3, 2, "relu", "fourier", 5),
}


def told_of(shape, **changes):
    told = {"activation": shape["activation"], "top_k": shape["top_k"], "size": shape["size"]}
    return Told({}, "", **(told | {"num_experts": shape["num_experts"]} | changes))


@nnx.jit
def both_passes(model, points, ids, images):
    """Codes and predictions, sparse and dense, after a look-up."""
    model.router.prepare(ids)
    passes = [model.gates(ids, images, dense=dense) for dense in (False, True)]
    return [(gates.values, model.dictionary.combine(points, gates)) for gates in passes]


@pytest.mark.parametrize("case", SHAPES)
def test_models_of_any_size_compute_the_official_function(case):
    shape = SHAPES[case]
    rng = np.random.default_rng(len(case))
    state = random_state(shape, rng)
    found = official.architecture(state, shape["num_experts"])
    told = told_of(shape)
    config = make_config(BASE, found, told)
    assert grid_shape(config, found, told) == shape["size"]
    model = load(config, shape["size"], Official(state, None, 0, 0, ()), found)
    ids = np.array([2, 0], np.int32)
    images = rng.uniform(0, 1, (2, *shape["size"], shape["channels"])).astype("f4")
    points = rng.uniform(-1, 1, (6, shape["dims"])).astype("f4")
    expected = forward(state, shape, points, ids, images)
    for got, wanted in zip(both_passes(model, points, ids, images), expected, strict=True):
        scale = max(1.0, abs(wanted[0]).max())
        for ours, theirs in zip(got, wanted, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * scale)


# --- experts and channels ---


@settings(max_examples=200, deadline=None)
@given(experts=st.integers(5, 5000), channels=st.integers(1, 4))
def test_experts_and_channels_follow_from_their_sum_and_product(experts, channels):
    both = (experts, channels)
    assert official._experts_and_channels(experts * channels, experts + channels, 0, 0) == both
    for known in ((channels, 0), (0, experts)):
        assert (
            official._experts_and_channels(experts * channels, experts + channels, *known) == both
        )


def test_few_experts_are_told_from_channels_or_asked_for():
    assert official._experts_and_channels(9, 6, 0, 0) == (3, 3)
    with pytest.raises(ValueError, match="4 experts of 3 channels, also the other way round"):
        official._experts_and_channels(12, 7, 0, 0)
    assert official._experts_and_channels(12, 7, 0, 3) == (3, 4)
    with pytest.raises(ValueError, match="neither fits num_experts=5"):
        official._experts_and_channels(12, 7, 0, 5)
    with pytest.raises(ValueError, match="neither fits 4 channels at most"):
        official._experts_and_channels(10 * 20, 30, 0, 0)
    with pytest.raises(ValueError, match="no whole numbers"):
        official._experts_and_channels(13, 7, 0, 0)


# --- Adam ---


def numpy_adam(weight, gradient, first, second, step, rate):
    """One step of Kingma & Ba 2015, algorithm 1, in float64."""
    first = 0.9 * first + 0.1 * gradient
    second = 0.999 * second + 0.001 * gradient**2
    corrected = first / (1 - 0.9**step), second / (1 - 0.999**step)
    return weight - rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)


@pytest.fixture(scope="module", params=["codebook_gray_rect_after", "conv_id_sine_after"])
def imported(request, tmp_path_factory):
    """(Official, architecture, config, workdir) of a checkpoint taken after one step."""
    path = DATA / f"{request.param}.ckpt"
    size = (24, 40) if "gray" in request.param else (32, 32)
    activation = "sine" if "sine" in request.param else "relu"
    workdir = Workdir(tmp_path_factory.mktemp("imported") / "run")
    told = Told({}, "", activation, 6, size=size)
    config, notes = convert(path, workdir, BASE, told)
    assert notes == ()
    saved = read_checkpoint(path)
    return saved, official.architecture(saved.weights), config, workdir


def test_adam_goes_on_where_torch_stopped(imported):
    """A further step from the moments of the file itself, by NumPy in float64."""
    saved, _, config, workdir = imported
    model, _, _, _ = training.load_model(workdir)
    graphdef, params, constants = nnx.split(model, nnx.Param, ...)
    state = optimiser_state(config, model, saved)
    assert saved.step == 1
    assert {int(count) for _, count in optax.tree.get_all_with_path(state, "count")} == {1}
    rng = np.random.default_rng(0)
    gradients = {name: rng.normal(0, 1e-3, a.shape) for name, a in saved.weights.items()}
    holder = nnx.merge(graphdef, jax.tree.map(np.zeros_like, params), constants, copy=True)
    official.assign(holder.dictionary, holder.router, gradients)
    optimizer = build_optimiser(config.train.optimizer, config.train.steps)

    @jax.jit
    def step(gradient, state, params):
        updates, _ = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates)

    moved = nnx.merge(graphdef, step(nnx.state(holder, nnx.Param), state, params), constants)
    after = official.to_official(moved.dictionary, moved.router)
    assert set(after) == set(saved.weights) - {"experts.map.B"}
    for name, got in after.items():
        first, second = saved.adam["mu"][name], saved.adam["nu"][name]
        assert abs(first).max() > 0
        weight = saved.weights[name].astype(float)
        wanted = numpy_adam(weight, gradients[name], first, second, 2, 1e-4)
        np.testing.assert_allclose(got - weight, wanted - weight, rtol=2e-3, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd", "muon"])
def test_moments_that_an_optimiser_lacks_are_refused(tmp_path, name):
    workdir = Workdir(tmp_path / "run")
    told = Told({}, "", "relu", 6, size=(24, 40))
    overrides = [("train.optimizer.name", name)]
    with pytest.raises(ValueError, match=f"train.optimizer.name: '{name}'; .* adam, adamw, lamb"):
        convert(DATA / "codebook_gray_rect_after.ckpt", workdir, BASE, told, overrides)
    assert not workdir.root.exists()


def test_what_a_workdir_holds_goes_on_training(imported, tmp_path, call):
    """The step of the checkpoint, its config and its data: main.py goes on from there."""
    saved, found, config, workdir = imported
    shape = (8, *config.data.size, found.channels)
    images = np.random.default_rng(1).integers(0, 255, shape).astype(np.uint8)
    np.savez(tmp_path / "a.npz", train=images[:6], test=images[6:])
    summary = json.loads(workdir.summary.read_text())
    assert (summary["steps"], summary["official"]["epoch"]) == (1, 1)
    signals = json.loads((workdir.root / "signals.json").read_text())
    assert signals["shape"] == [*config.data.size, found.channels]
    fresh = tmp_path / "run"
    path = Path(summary["official"]["checkpoint"])
    told = Told({}, "", config.dictionary.activation, 6, size=tuple(config.data.size))
    keys = {"data.name": "array", "data.root": str(tmp_path / "a.npz"), "train.batch_size": 4}
    keys["train.points"] = 0
    convert(path, Workdir(fresh), BASE, told, keys.items())
    options = [f"--config={ROOT / 'configs' / 'official.py'}:{fresh}", f"--workdir={fresh}"]
    result = call(*options, "--mode=train", "--config.train.steps=3")
    assert result.code == 0, result.err
    assert "resumed from step 1" in result.err
    lines = [json.loads(line) for line in (fresh / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 3
    result = call(*options, "--mode=fit")
    assert result.code == 0, result.err
    metrics = json.loads((fresh / "fits" / "test" / "metrics.json").read_text())
    assert metrics["signals"] == 2
    if found.router == "codebook":
        result = call(*options, "--mode=render", "--config.fit.name=official")
        assert result.code == 0, result.err
        assert len(list((fresh / "fits" / "official" / "render").glob("*.png"))) == 6
        result = call(
            *options, "--mode=eval", "--config.fit.name=official", "--config.fit.split=train"
        )
        assert result.code == 0, result.err


def test_stored_codes_are_those_of_the_official_evaluation(imported):
    saved, found, _, workdir = imported
    if found.router != "codebook":
        assert workdir.fit_names() == []
        return
    codes, bias, names, _, _ = read_codes(workdir.fit("official") / "codes.npz")
    rows = logits(saved.weights, np.arange(found.rows), np.zeros((1, 1, 1, 1)))
    np.testing.assert_allclose(bias, rows[:, found.num_experts :], atol=1e-6)
    for code, row in zip(codes, rows[:, : found.num_experts], strict=True):
        kept = np.argsort(-abs(row))[:6]
        np.testing.assert_array_equal(np.sort(np.flatnonzero(code)), np.sort(kept))
        np.testing.assert_allclose(code[kept], row[kept], atol=1e-6)
    assert names == [f"train_{number:05d}" for number in range(6)]


# --- torch itself ---


def test_one_further_step_is_torchs(tmp_path):
    """Torch goes on from the file by autograd and its own Adam, and we by a training step."""
    torch = pytest.importorskip("torch")
    path = DATA / "codebook_gray_rect_after.ckpt"
    told = Told({}, "", "relu", 6, size=(24, 40))
    keys = {"data.name": "array", "train.batch_size": 4, "train.points": 0}.items()
    keys = [*keys, ("loss.balance", 0.0), ("loss.l1", 0.0)]
    config, _ = convert(path, Workdir(tmp_path / "run"), BASE, told, keys)
    rng = np.random.default_rng(5)
    ids = np.array([3, 1, 5, 0], np.int32)
    images = rng.uniform(0, 1, (4, 24, 40, 1)).astype("f4")

    file = torch.load(path, weights_only=True)
    state = {k: v.clone().requires_grad_("map" not in k) for k, v in file["model"].items()}
    trained = [v for v in state.values() if v.requires_grad]
    adam = torch.optim.Adam(trained, lr=1e-4)
    adam.load_state_dict(file["optimizer"])
    x = torch.tensor(grid((24, 40))) @ state["experts.map.B"].T
    x = torch.cat([x.sin(), x.cos()], 1)
    for i in range(3):
        x = torch.nn.functional.linear(
            x, state[f"experts.net.net.{i}.0.weight"], state[f"experts.net.net.{i}.0.bias"]
        )
        x = x.relu() if i < 2 else x
    rows = torch.nn.functional.embedding(
        torch.tensor(ids, dtype=torch.long), state["gate_generator.codebook.weight"], max_norm=1.0
    )
    values = rows[:, :48]
    kept = torch.zeros_like(values).scatter(1, values.abs().topk(6)[1], 1.0)
    prediction = (values * kept) @ x.T + rows[:, 48:]
    torch.square(prediction - torch.tensor(images).reshape(4, -1)).mean().backward()
    adam.step()

    from nid_jax.coding import operators
    from nid_jax.losses import Objective
    from nid_jax.run.steps import TrainState, make_step
    from nid_jax.run.strategies import build_strategy

    model, config, _, _ = training.load_model(Workdir(tmp_path / "run"))
    graphdef, params, constants = nnx.split(model, nnx.Param, ...)
    strategy = build_strategy(config, Objective.from_config(config.loss))
    optimizer = build_optimiser(config.train.optimizer, config.train.steps)
    moments = optimiser_state(config, model, read_checkpoint(path))
    begin = TrainState(params, moments, np.int32(1), np.int32(-1), np.zeros(48, "f4"))
    step = make_step(
        graphdef, constants, strategy, optimizer, config, operators.sample((24, 40)), False
    )
    after, _ = jax.jit(step)(begin, {"ids": ids, "signals": images})
    moved = nnx.merge(graphdef, after.params, constants)
    for name, got in official.to_official(moved.dictionary, moved.router).items():
        start = file["model"][name].numpy()
        wanted = state[name].detach().numpy()
        assert abs(wanted - start).max() > 5e-5
        np.testing.assert_allclose(got, wanted, atol=2e-7, err_msg=name)


# --- the command line ---


def command(*arguments):
    """(exit status, what was printed, what was complained) of the importer, in this process."""
    argv = ["torch_checkpoint", *map(str, arguments)]
    values = flags.FlagValues()
    torch_checkpoint.define_flags(values, argv)
    out, err, code = io.StringIO(), io.StringIO(), 0
    verbosity = logging.get_verbosity()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            torch_checkpoint.main(torch_checkpoint.parse(argv, values), values)
        except SystemExit as leaving:
            code = leaving.code
        finally:
            logging.set_verbosity(verbosity)
    return code, out.getvalue(), err.getvalue()


CELEBA = """# as shipped, smaller
dataset = celeba
patch_size: 8     ; of 128
num_experts=11
num_topk=4
--hidden_dim 9
num_layers=3
pos_emb=Id
act_type=sine
gate_type=resnet
loss_l1=0.02
l1_exp=0.9
loss_type=l1
loss_cv=0
lr=0.001
batch_size=32
chunk_size=50
warmup_epochs=2
train_subset=-1
restart
"""
SHAPE = shape_of("resnet", (8, 8), 11, 3, 4, 3, "sine", "identity", 2)


def test_an_official_config_says_the_rest(tmp_path, torch_writer):
    state = random_state(SHAPE, np.random.default_rng(0))
    path = torch_writer.write(tmp_path / "a.ckpt", {"model": state, "current_epoch": 0})
    (tmp_path / "a.txt").write_text(CELEBA)
    run = tmp_path / "run"
    options = ("--checkpoint", path, "--workdir", run, "--official-config", tmp_path / "a.txt")
    code, out, err = command(*options)
    assert code == 0, err
    assert "11 experts, 3 layers of 9, sine, identity embedding, resnet router, 4" in out
    config = Workdir(run).load_config()
    assert config.loss.to_dict() == {
        "data": "l1",
        "l1": 0.02,
        "l1_base": 0.9,
        "balance": 0.0,
        "importance": "magnitude",
        "compat": "official",
    }
    train = config.train
    assert (train.points, train.chunks, train.batch_size) == (50, "exhaustive", 32)
    assert (train.warmup_epochs, train.optimizer.learning_rate) == (3, 1e-3)
    data = config.data
    assert (data.name, data.size, data.patch.size) == ("celeb_a", (128, 128), 8)
    assert (data.num_train, data.num_test, data.crop) == (0, 500, "center")
    assert json.loads((run / "signals.json").read_text())["shape"] == [8, 8, 3]
    # The same again: a run is never written over.
    code, out, err = command(*options)
    assert (code, out) == (2, "")
    assert "holds a run already" in err


def small(**changes):
    shape = SHAPE | {"router": "codebook", "rows": 3, "size": (4, 5)} | changes
    return random_state(shape, np.random.default_rng(0))


def without(state, *names):
    return {name: value for name, value in state.items() if name not in names}


BAD_STATES = {
    "experts.net.net.1.0.bias: is missing": without(small(), "experts.net.net.1.0.bias"),
    "experts.net.net.0.0.weight: is missing": without(small(), "experts.net.net.0.0.weight"),
    "allowed: codebook, conv, resnet": without(small(), "gate_generator.codebook.weight"),
    "extra: is no tensor of the official codebook": small() | {"extra": np.ones(3, "f4")},
    "hidden layers of widths [9, 10]": small()
    | {"experts.net.net.1.0.weight": np.ones((10, 9), "f4")},
    "has the shape [3, 14, 1], 2 axes are wanted": small()
    | {"gate_generator.codebook.weight": np.ones((3, 14, 1), "f4")},
    "experts.net.net.0.0.bias: holds numbers that are not finite": small()
    | {"experts.net.net.0.0.bias": np.full(9, np.nan, "f4")},
    "experts.net.net.0.0.bias: has the shape [8]": small()
    | {"experts.net.net.0.0.bias": np.ones(8, "f4")},
    "takes 4 features": small() | {"experts.net.net.0.0.weight": np.ones((9, 4), "f4")},
    "experts.map.W: kernel features": small() | {"experts.map.W": np.ones((9, 2), "f4")},
    "one network without experts": {"net.net.0.0.weight": np.ones((9, 2), "f4")},
    "is no tensor of real numbers": small() | {"experts.net.net.0.0.bias": np.ones(9, "i8")},
}


@pytest.mark.parametrize("says", BAD_STATES)
def test_a_model_of_another_kind_is_refused(tmp_path, torch_writer, says):
    path = torch_writer.write(tmp_path / "a.ckpt", {"model": BAD_STATES[says]})
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        convert(path, Workdir(tmp_path / "run"), BASE, Told({}, "", "sine", 4, size=(4, 5)))
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)
    assert not (tmp_path / "run").exists()


BAD_TOLD = {
    "--activation is missing": {"activation": ""},
    "allowed: sine, relu": {"activation": "tanh"},
    "--top_k is missing: the checkpoint does not tell it; allowed: 1 to 11": {"top_k": 0},
    "--top_k=12: the checkpoint has 11 experts": {"top_k": 12},
    "--size is missing": {"size": ()},
    "--size=4: 2 numbers are wanted": {"size": (4,)},
    "neither fits num_experts=5": {"num_experts": 5},
    "a.txt: num_layers=9, the checkpoint has 3": {"options": {"num_layers": 9}},
    "a.txt: gate_type=conv, the checkpoint has codebook": {"options": {"gate_type": "conv"}},
    "a.txt: pos_emb=ffm, the checkpoint has Id": {"options": {"pos_emb": "ffm"}},
    "--top_k=4: a.txt has num_topk=5": {"options": {"num_topk": 5}},
    "--activation=sine: a.txt has act_type=relu": {"options": {"act_type": "relu"}},
    "--size=4,5: data.size and data.patch.size say 32,32": {"options": {"dataset": "cifar10"}},
}


@pytest.mark.parametrize("says", BAD_TOLD)
def test_what_is_missing_or_contradicts_is_named(tmp_path, torch_writer, says):
    path = torch_writer.write(tmp_path / "a.ckpt", small())
    told = {"options": {}, "source": "a.txt", "activation": "sine", "top_k": 4, "size": (4, 5)}
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        convert(path, Workdir(tmp_path / "run"), BASE, Told(**(told | BAD_TOLD[says])))
    assert says in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([1, 2], "holds no official checkpoint"),
        ({"state_dict": {}}, "holds no official checkpoint"),
        ({"model": 3}, "holds no official checkpoint"),
        ({"model": small(), "current_epoch": -1}, "current_epoch is -1"),
        ({"model": small(), "optimizer": {"state": {}}}, "is not the state of torch's Adam"),
        ({"model": small(), "optimizer": 5}, "is not the state of torch's Adam"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, torch_writer, value, says):
    path = torch_writer.write(tmp_path / "a.ckpt", value)
    with pytest.raises(ValueError, match=says):
        read_checkpoint(path)


def adam_of(state, steps=4, **group):
    names = list(state)
    entries = {
        number: {
            "step": np.array(steps, "f4"),
            "exp_avg": np.full(state[name].shape, 0.1, "f4"),
            "exp_avg_sq": np.full(state[name].shape, 0.2, "f4"),
        }
        for number, name in enumerate(names)
    }
    settings = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
    settings |= {"amsgrad": False, "maximize": False, "params": list(range(len(names)))}
    return {"state": entries, "param_groups": [settings | group]}


def test_an_adam_of_other_settings_starts_anew_and_says_so(tmp_path, torch_writer):
    for group in ({"weight_decay": 0.1}, {"betas": (0.5, 0.999)}, {"amsgrad": True}):
        saved = {"model": small(), "optimizer": adam_of(small(), **group)}
        found = read_checkpoint(torch_writer.write(tmp_path / "a.ckpt", saved))
        assert (found.adam, found.step) == (None, 0)
        assert next(iter(group)) in found.notes[0]


def test_a_frozen_dictionary_has_moments_of_the_router_alone(tmp_path, torch_writer):
    state = small()
    gates = {name: a for name, a in state.items() if name.startswith("gate_generator")}
    saved = {"model": state, "optimizer": adam_of(gates)}
    found = read_checkpoint(torch_writer.write(tmp_path / "a.ckpt", saved))
    assert set(found.adam["mu"]) == set(gates)
    assert found.step == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("num_expert=4", "line 1: the official code has no option 'num_expert', did you mean 'nu"),
        ("\nnum_experts=four", "line 2: num_experts='four'; a whole number is wanted"),
        ("lr=nan", "lr='nan'; a finite number is wanted"),
        ("act_type=tanh", "act_type='tanh'; allowed: relu, sine"),
        ("= 3", "is no option"),
        ("restart=maybe", "allowed: true, false"),
    ],
)
def test_a_wrong_official_config_is_named_by_line(tmp_path, text, says):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        official.read_options(tmp_path / "a.txt")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--top-k=4"], "--checkpoint is missing"),
        (["--checkpoint=a", "--workdir=b", "--topk=4"], "'topk'. Did you mean: top_k"),
        (["--checkpoint=a", "--workdir=b", "--top_k=four"], "four: a whole number is wanted"),
        (["--config.train.stepz=4"], "the config has no key 'stepz', did you mean 'steps'?"),
        (["--config=a.py", "--checkpoint=a", "--workdir=b"], "--config: cannot be read"),
        ([f"--checkpoint={DATA / 'codebook_gray_rect_after.ckpt'}", "--workdir=b"], "--activation"),
        (["--checkpoint=a", "--workdir=b", "c"], "unexpected argument 'c'"),
        (["--checkpoint=a.ckpt", "--workdir=b"], "a.ckpt: no such file"),
        (["--checkpoint=a.ckpt", "--workdir=b", "--size=3,x"], "--size=3,x: whole numbers"),
        (["--checkpoint=a.ckpt", "--workdir=b", "--top_k=0"], "--top_k=0: allowed: 1 or more"),
        (["--checkpoint=a.ckpt", "--workdir=b", "--names=c"], "c: No such file"),
    ],
)
def test_a_wrong_command_is_one_line(arguments, says):
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert len(err.strip().splitlines()) == 1, err


def test_a_config_given_by_hand_decides_what_the_checkpoint_leaves_open(tmp_path):
    path = DATA / "codebook_gray_rect_after.ckpt"
    options = ["--checkpoint", path, "--activation=relu", "--top_k=6"]
    for config in (ROOT, ROOT / "tests" / ".."):
        celeba = f"--config={config / 'configs' / 'official.py'}:celeba"
        code, _, err = command(*options, f"--workdir={tmp_path / 'a'}", celeba, "--size=24,40")
        assert (code, "--size=24,40: data.size and data.patch.size say 16,16" in err) == (2, True)
    sized = ["--config.data.size=(24,40)", "--config.data.patch.size=0"]
    code, _, err = command(*options, f"--workdir={tmp_path / 'b'}", *sized)
    assert code == 0, err
    assert Workdir(tmp_path / "b").load_config().data.size == (24, 40)
    wrong = [f"--workdir={tmp_path / 'c'}", "--size=24,40", "--config.dictionary.width=3"]
    code, _, err = command(*options, *wrong)
    assert (code, "--config.dictionary.width: is decided by" in err) == (2, True)


def test_the_command_runs_as_a_module(tmp_path, environment):
    words = [sys.executable, "-m", "nid_jax.interop.torch_checkpoint", "--workdir", tmp_path / "a"]
    words += ["--checkpoint", DATA / "codebook_gray_rect_after.ckpt", "--activation", "relu"]
    done = subprocess.run(
        [*words, "--size=24,40", "--top-k", "6"],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert "48 experts, 3 layers of 24" in done.stdout
    assert (tmp_path / "a" / "fits" / "official" / "codes.npz").exists()
