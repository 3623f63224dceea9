"""Official checkpoints of any size become workdirs whose model computes the official function."""

import functools
import json
import runpy
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from nid_jax.fields.coordinates import grid
from nid_jax.interop import official
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
from nid_jax.neural_dictionary import open_workdir
from nid_jax.storage import models
from nid_jax.storage.workdir import Workdir
from nid_jax.training.optimisers import build_optimiser
from tests.interop.official_numpy import forward, logits, random_state, shape_of

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "official"
BASE = runpy.run_path(str(ROOT / "configs" / "official.py"))["get_config"]("images")


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


IMPORTED = ["codebook_gray_rect_after", "conv_id_sine_after"]


@pytest.fixture(
    scope="module", params=[IMPORTED[0], pytest.param(IMPORTED[1], marks=pytest.mark.slow)]
)
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
    model = models.load_model(workdir).model
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


@pytest.mark.slow
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
        assert len(list((fresh / "fits" / "official" / "render").glob("*/*.png"))) == 6
        result = call(
            *options, "--mode=eval", "--config.fit.name=official", "--config.fit.split=train"
        )
        assert result.code == 0, result.err


def test_stored_codes_are_those_of_the_official_evaluation(imported):
    saved, found, _, workdir = imported
    if found.router != "codebook":
        assert workdir.fit_names() == []
        return
    dictionary = open_workdir(workdir, with_prior=False)
    fit = dictionary.load_fit(workdir.fit("official") / "codes.npz")
    rows = logits(saved.weights, np.arange(found.rows), np.zeros((1, 1, 1, 1)))
    np.testing.assert_allclose(fit.bias, rows[:, found.num_experts :], atol=1e-6)
    for code, row in zip(fit.codes, rows[:, : found.num_experts], strict=True):
        kept = np.argsort(-abs(row))[:6]
        np.testing.assert_array_equal(np.sort(np.flatnonzero(code)), np.sort(kept))
        np.testing.assert_allclose(code[kept], row[kept], atol=1e-6)
    assert list(fit.names) == [f"train_{number:05d}" for number in range(6)]


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
    from nid_jax.training.losses import Objective
    from nid_jax.training.steps import Given, Recipe, TrainState, train_step
    from nid_jax.training.strategies import build_strategy

    loaded = models.load_model(Workdir(tmp_path / "run"))
    model, config = loaded.model, loaded.config
    graphdef, params, constants = nnx.split(model, nnx.Param, ...)
    strategy = build_strategy(config, Objective.from_config(config.loss))
    optimizer = build_optimiser(config.train.optimizer, config.train.steps)
    moments = optimiser_state(config, model, read_checkpoint(path))
    begin = TrainState(params, moments, np.int32(1), np.int32(-1), np.zeros(48, "f4"))
    recipe = Recipe(
        graphdef, strategy, optimizer, config.train.points, config.train.chunks, 0.0, False
    )
    given = Given(constants, operators.sample((24, 40)), jax.random.key(0))
    step = jax.jit(functools.partial(train_step, recipe))
    after, _ = step(begin, {"ids": ids, "signals": images}, given)
    moved = nnx.merge(graphdef, after.params, constants)
    for name, got in official.to_official(moved.dictionary, moved.router).items():
        start = file["model"][name].numpy()
        wanted = state[name].detach().numpy()
        assert abs(wanted - start).max() > 5e-5
        np.testing.assert_allclose(got, wanted, atol=2e-7, err_msg=name)
