"""Training: what a step does, chunks of coordinates, and resuming bit for bit."""

import dataclasses
import importlib.util
import json
import os
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import logging
from flax import nnx

from nid_jax import devices, tasks
from nid_jax.coding.factorisation import Factorisation
from nid_jax.fields.coordinates import grid
from nid_jax.storage.workdir import Workdir
from nid_jax.training import checks, feeding, loop, steps

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def quiet():
    """The storage library's own warnings are no part of what is tested."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    yield
    logging.set_verbosity(verbosity)


def make_config(**changes):
    """The smoke config made smaller still; changes: dotted key with '__' for '.' -> value."""
    spec = importlib.util.spec_from_file_location("image_config", ROOT / "configs" / "image.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config("smoke")
    config.data.update({"num_train": 8, "num_test": 2})
    config.dictionary.update({"kind": "shared", "num_experts": 8, "width": 8, "num_layers": 3})
    config.dictionary.embedding.update({"kind": "fourier", "size": 8})
    config.router.kind = "codebook"
    config.train.update({"codes": "joint", "steps": 12, "batch_size": 4})
    config.train.update({"log_every": 1, "checkpoint_every": 0, "reseed_every": 0})
    for key, value in changes.items():
        *groups, name = key.split("__")
        group = config
        for part in groups:
            group = group[part]
        group[name] = value
    return config


# Chunks of coordinates


@pytest.mark.parametrize(("count", "size"), [(12, 5), (12, 4), (7, 6), (9, 1)])
def test_exhaustive_chunks_visit_every_point(count, size):
    chunks = -(-count // size)
    for key in jax.random.split(jax.random.key(0), 3):
        drawn = [np.asarray(steps.exhaustive_chunk(key, count, size, n)) for n in range(chunks)]
        assert all(chunk.shape == (size,) for chunk in drawn)
        visited = np.concatenate(drawn)
        assert set(visited.tolist()) == set(range(count))
        # The first visits are a permutation; only what fills the last chunk up comes twice.
        assert len(set(visited[:count].tolist())) == count
    other = np.asarray(steps.exhaustive_chunk(jax.random.key(9), count, count - 1, 0))
    first = np.asarray(steps.exhaustive_chunk(jax.random.key(8), count, count - 1, 0))
    assert not np.array_equal(other, first)


def test_random_chunks_are_points_without_repetition():
    for key in jax.random.split(jax.random.key(1), 5):
        chosen = np.asarray(steps.random_chunk(key, 40, 13))
        assert len(set(chosen.tolist())) == 13
        assert chosen.min() >= 0
        assert chosen.max() < 40
    assert np.array_equal(steps.random_chunk(jax.random.key(1), 40, 40), np.arange(40))
    many = np.asarray(steps.random_chunk(jax.random.key(2), 2**20, 1000))
    assert many.shape == (1000,)
    assert 0.4 < many.mean() / 2**20 < 0.6


# Resuming


def final_state(workdir):
    """Every array of the last checkpoint, and where the data iterator stood, as plain values."""
    from orbax import checkpoint as ocp

    folder = max(workdir.checkpoints.glob("[0-9]*"), key=lambda path: int(path.name))
    manifest = json.loads((folder / "manifest" / "metadata").read_text())["content"]
    arrays = {}
    for item in ("model", "training"):
        tree = ocp.StandardCheckpointer().restore(folder / item)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            arrays[item + jax.tree_util.keystr(path)] = np.asarray(leaf)
    iterator = [
        json.loads(path.read_text()) for path in sorted((folder / "iterator").glob("*.json"))
    ]
    return manifest["step"], arrays, iterator


def curve(workdir):
    """The lines of metrics.jsonl without what tells of time."""
    entries = [json.loads(line) for line in workdir.metrics.read_text().splitlines()]
    timed = ("time", "signals_per_second")
    return [{k: v for k, v in entry.items() if k not in timed} for entry in entries]


def through_masks(whole):
    """Signals of which each shows points of its own."""
    masks = np.random.default_rng(0).uniform(size=(8, 625)) < 0.5
    return dataclasses.replace(whole, weights=lambda index: masks[index].astype(np.float32))


def at_points(whole):
    """Signals that share no points."""
    draw = np.random.default_rng(1)
    places = [draw.permutation(625)[:count] for count in draw.integers(50, 90, 8)]
    ways = [whole.operator.of_measurements(some) for some in places]

    def values(index):
        return whole.values(index)[places[index]]

    return dataclasses.replace(whole, ways=ways, values=values, way=lambda index: index)


def train(config, root, stop_at=None, given=None):
    """Train in a folder; `stop_at` sends this process SIGTERM once that step is done.

    given: what of the signals is known, of all of them.
    """
    workdir = Workdir(root)
    task = tasks.build(config)
    if given:
        known = task.learned_from
        task = dataclasses.replace(task, learned_from=lambda collection: given(known(collection)))
    seen = []

    def evaluate(model):
        seen.append(len(seen))
        if stop_at is not None and len(seen) == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"psnr": float(len(seen))}

    return workdir, loop.train(task, config, workdir, evaluate)


RESUMED = {
    "sparse after a warm-up, noise, max-norm": {
        "router__top_k": 3,
        "router__noise": True,
        "router__max_norm": 1.0,
        "train__warmup_epochs": 3,
        "train__points": 100,
        "loss__balance": 0.1,
        "stop_at": 4,
    },
    "exhaustive chunks, adamw, clipping": {
        "train__chunks": "exhaustive",
        "train__points": 200,
        "train__optimizer__name": "adamw",
        "train__optimizer__weight_decay": 0.01,
        "train__optimizer__clip_norm": 0.1,
        "train__optimizer__schedule": "linear",
        "train__optimizer__lr_warmup_steps": 3,
        "stop_at": 5,
    },
    "independent experts, linear router, reseeding": {
        "dictionary__kind": "independent",
        "dictionary__activation": "sine",
        "dictionary__embedding__kind": "identity",
        "router__kind": "linear",
        "router__top_k": 2,
        "train__reseed_every": 4,
        "train__dead_below": 0.5,
        "train__points": 64,
        "stop_at": 7,
    },
    "solved codes": {
        "router__kind": "none",
        "train__codes": "varpro",
        "train__optimizer__code_rate": 1.0,
        "stop_at": 5,
    },
}


RESUMED |= {
    "codes solved through masks": {**RESUMED["solved codes"], "given": through_masks},
    "a codebook, points of each signal's own": {
        "train__points": 40,
        "given": at_points,
        "stop_at": 5,
    },
}


SLOW = {"codes solved through masks", "a codebook, points of each signal's own"}
SLOW |= {"sparse after a warm-up, noise, max-norm"}
SLOW |= {"independent experts, linear router, reseeding", "exhaustive chunks, adamw, clipping"}


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=pytest.mark.slow) if c in SLOW else c for c in RESUMED]
)
def test_a_resumed_run_is_the_uninterrupted_one(case, tmp_path):
    changes = dict(RESUMED[case])
    stop_at, given = changes.pop("stop_at"), changes.pop("given", None)
    config = make_config(train__eval_every=1, **changes)
    whole, trained = train(config, tmp_path / "whole", given=given)
    assert not trained.interrupted

    cut, trained = train(config, tmp_path / "cut", stop_at, given)
    assert trained.interrupted
    per_batch = steps.chunks_per_batch(config, 625)
    # Within a batch's chunks the data iterator stands between states: it goes on to their end.
    assert trained.step == -(-stop_at // per_batch) * per_batch < 12
    assert final_state(cut)[0] == trained.step
    cut, trained = train(config, tmp_path / "cut", given=given)
    assert not trained.interrupted

    step, arrays, iterator = final_state(whole)
    again_step, again, again_iterator = final_state(cut)
    assert (again_step, again_iterator) == (step, iterator)
    assert step == 12
    assert again.keys() == arrays.keys()
    assert sum("optimizer" in name for name in arrays) >= 4
    for name, value in arrays.items():
        assert value.tobytes() == again[name].tobytes(), name
    losses = [[e["loss"] for e in curve(workdir) if "loss" in e] for workdir in (whole, cut)]
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 12


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.slow if case in SLOW else ())
        for case, changes in RESUMED.items()
        if "given" not in changes
    ],
)
def test_many_steps_in_one_program_are_the_steps_one_by_one(case, tmp_path):
    changes = {key: value for key, value in RESUMED[case].items() if "__" in key}
    changes |= {"train__log_every": 4, "train__eval_every": 5, "train__checkpoint_every": 6}
    whole, trained = train(make_config(train__scan="off", **changes), tmp_path / "whole")
    config = make_config(train__scan="on", **changes)
    cut, stopped = train(config, tmp_path / "cut", stop_at=1)
    per_batch = steps.chunks_per_batch(config, 625)
    assert stopped.interrupted
    assert stopped.step == -(-5 // per_batch) * per_batch < trained.step == 12
    train(config, tmp_path / "cut")

    (step, arrays, iterator), again = final_state(whole), final_state(cut)
    assert (again[0], again[2]) == (step, iterator)
    for name, value in arrays.items():
        assert value.tobytes() == again[1][name].tobytes(), name
    kept = [sorted(path.name for path in w.checkpoints.iterdir()) for w in (whole, cut)]
    assert kept[0] == kept[1]
    # What is logged differs only by the mean over the steps that the cut falls into.
    logs = [[e for e in curve(w) if not any("test_" in key for key in e)] for w in (whole, cut)]
    assert [e["step"] for e in logs[0]] == [e["step"] for e in logs[1]]
    same = [a == b for a, b in zip(*logs, strict=True)]
    assert same[0]
    assert same[-1]


# The loop


def test_training_lowers_the_loss_and_reports_it(tmp_path):
    config = make_config(train__steps=60, train__log_every=20, train__checkpoint_every=30)
    config.train.optimizer.learning_rate = 3e-3
    workdir, trained = train(config, tmp_path)
    assert (trained.step, trained.interrupted) == (60, False)
    entries = curve(workdir)
    logged = [entry for entry in entries if "loss" in entry]
    assert [entry["step"] for entry in logged] == [20, 40, 60]
    assert logged[-1]["loss"] < 0.5 * logged[0]["loss"]
    assert {"psnr", "fit", "gradient_norm"} <= logged[0].keys()
    assert [e["test_psnr"] for e in entries if "test_psnr" in e] == [1.0]
    summary = workdir.read_json("summary.json")
    assert summary["steps"] == 60
    assert summary["train_seconds"] > 0 < summary["compile_seconds"]
    assert sorted(path.name for path in workdir.checkpoints.iterdir()) == ["30", "60"]


def test_warm_up_epochs_are_dense_and_the_rest_is_sparse(tmp_path):
    config = make_config(router__top_k=2, train__warmup_epochs=2, train__steps=8, loss__balance=1.0)
    workdir, _ = train(config, tmp_path)
    # Two batches of 4 make an epoch of the 8 signals; a dense code loads every expert alike.
    loads = [entry["cv_load"] for entry in curve(workdir) if "cv_load" in entry]
    assert loads[:4] == [0, 0, 0, 0]
    assert max(loads[4:]) > 0


def test_a_step_that_is_not_finite_changes_nothing(tmp_path):
    config = make_config(train__steps=3, train__optimizer__learning_rate=1e18, train__scan="off")
    task = tasks.build(config)
    collection = task.open("train")
    trainer = loop.Trainer(task, config, Workdir(tmp_path), collection)
    states = []
    for step in range(3):
        batch = trainer.feeder.feed(step, 1)
        trainer.state, _ = trainer.step_for(step, batch)(trainer.state, batch)
        states.append(jax.tree.map(np.array, jax.tree.leaves(trainer.state.params)))
    assert int(trainer.state.bad_step) == 1
    assert int(trainer.state.step) == 3
    for good, after in zip(states[0], states[2], strict=True):
        np.testing.assert_array_equal(good, after)
        assert np.isfinite(after).all()


@pytest.mark.parametrize(
    ("scan", "explicit"),
    [("on", True), pytest.param("off", True, marks=pytest.mark.slow), ("off", False)],
)
def test_a_loop_moves_nothing_in_silence(scan, explicit, tmp_path, monkeypatch):
    run = loop._Loop.run

    def guarded(self, start):
        with jax.transfer_guard("disallow"):
            return run(self, start)

    monkeypatch.setattr(loop._Loop, "run", guarded)
    if not explicit:
        monkeypatch.setattr(feeding.sharding, "place_batch", lambda batch, mesh: batch)
        monkeypatch.setattr(devices, "bytes_of", lambda tree: 0)
    config = make_config(
        router__top_k=2,
        train__points=100,
        train__steps=4,
        train__log_every=2,
        train__warmup_epochs=1,
        train__reseed_every=3,
        train__dead_below=0.9,
        train__scan=scan,
    )
    if explicit:
        workdir, trained = train(config, tmp_path)
        assert trained.step == 4
        assert [e["reseeded_experts"] for e in curve(workdir) if "reseeded_experts" in e][0] > 0
    else:
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
            train(config, tmp_path)


# Heads in closed form


def components_config(**changes):
    return make_config(
        dictionary__heads="components",
        dictionary__num_layers=1,
        dictionary__embedding__kind="cosine",
        router__kind="none",
        train__codes="varpro",
        **changes,
    )


def test_heads_alone_need_no_step(tmp_path):
    config = components_config(train__steps=0)
    workdir, task = Workdir(tmp_path), tasks.build(config)
    first = loop.train(task, config, workdir)
    assert (first.step, first.interrupted) == (0, False)
    assert first.summary["heads_seconds"] > 0
    atoms = np.asarray(
        first.model.dictionary.basis(task.learned_from(task.open("train")).operator.points)
    )
    products = np.einsum("pec,pfc->ef", atoms, atoms) / len(atoms)
    np.testing.assert_allclose(products, np.eye(8), atol=1e-5)
    # What is there is not found again.
    again = loop.train(task, config, workdir)
    assert "heads_seconds" in again.summary
    for one, other in zip(
        jax.tree.leaves(nnx.state(first.model)),
        jax.tree.leaves(nnx.state(again.model)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [0, 2])
def test_a_linear_router_is_found_for_the_dictionary_that_is_saved(steps, tmp_path):
    config = components_config(train__steps=steps, train__lam=1e-3)
    config.router.kind = "linear"
    workdir, task = Workdir(tmp_path), tasks.build(config)
    model = loop.train(task, config, workdir).model
    measured = task.learned_from(task.open("train"))
    signals = np.stack([measured.values(index) for index in range(4)])
    known = Factorisation(model.dictionary, measured.operator, lam=1e-3).solve(signals)
    gates = model.gates(signals=signals.reshape(4, *measured.grid_shape, -1))
    np.testing.assert_allclose(gates.values, known.codes, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gates.bias, known.bias, rtol=1e-4, atol=1e-5)
    # Descent leaves it out, and a run that goes on leaves it as it was.
    again = loop.train(task, config, workdir).model
    np.testing.assert_array_equal(again.router.head.kernel, model.router.head.kernel)


@pytest.mark.parametrize("kind", ["conv", "resnet"])
def test_a_router_that_descends_needs_steps(kind):
    config = components_config(train__steps=0)
    config.router.kind = kind
    with pytest.raises(ValueError, match=f"router.kind: '{kind}' descends, and train.steps=0"):
        checks.check(config)
    if kind == "conv":
        config.router.pool = "none"
        checks.check(config)


@pytest.mark.slow
def test_descent_goes_on_from_heads_and_resumes_bit_for_bit(tmp_path):
    config = components_config(train__steps=6, train__checkpoint_every=3)
    half = components_config(train__steps=3, train__checkpoint_every=3)
    # The schedule is the longer run's.
    half.train.optimizer.schedule = config.train.optimizer.schedule = "constant"
    whole = loop.train(tasks.build(config), config, Workdir(tmp_path / "constant"))
    loop.train(tasks.build(half), half, Workdir(tmp_path / "parts"))
    resumed = loop.train(tasks.build(config), config, Workdir(tmp_path / "parts"))
    for one, other in zip(
        jax.tree.leaves(nnx.state(whole.model)),
        jax.tree.leaves(nnx.state(resumed.model)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_sparse_training_goes_on_from_waves_and_resumes_bit_for_bit(tmp_path):
    def config(steps):
        made = make_config(
            data__size=(8, 8),
            data__resize=True,
            dictionary__heads="waves",
            dictionary__num_layers=1,
            dictionary__num_experts=40,
            dictionary__embedding__kind="cosine",
            router__kind="none",
            router__top_k=4,
            train__codes="sparse_varpro",
            train__steps=steps,
            train__checkpoint_every=2,
        )
        made.train.optimizer.schedule = "constant"
        return made

    whole = loop.train(tasks.build(config(4)), config(4), Workdir(tmp_path / "whole"))
    first = loop.train(tasks.build(config(0)), config(0), Workdir(tmp_path / "none"))
    assert first.step == 0
    loop.train(tasks.build(config(2)), config(2), Workdir(tmp_path / "parts"))
    resumed = loop.train(tasks.build(config(4)), config(4), Workdir(tmp_path / "parts"))
    leaves = [jax.tree.leaves(nnx.state(run.model)) for run in (whole, resumed, first)]
    for one, other in zip(leaves[0], leaves[1], strict=True):
        np.testing.assert_array_equal(one, other)
    # Of whole atoms of root mean square 1, which steps then moved.
    points = tasks.build(config(0)).open("train").shape[:2]
    basis = np.asarray(first.model.dictionary.basis(grid(points)))
    np.testing.assert_allclose(np.square(basis).mean((0, 2)), 1, rtol=1e-3)
    assert any((a != b).any() for a, b in zip(leaves[0], leaves[2], strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"dictionary__heads": "pca"},
            "dictionary.heads: 'pca'; allowed: drawn, components, waves",
        ),
        ({"dictionary__heads": "waves"}, "router.top_k: 0 is dense; dictionary.heads=waves needs"),
        (
            {"dictionary__heads": "components", "dictionary__kind": "independent"},
            "dictionary.heads: 'components'; allowed for dictionary.kind=independent.*: drawn",
        ),
        ({"dictionary__components__errors": "l1"}, "components.errors: 'l1'; allowed: log, square"),
        (
            {"dictionary__components__shrinkage": 2.0},
            "components.shrinkage: 2.0; allowed: finite, at most 1",
        ),
        ({"train__steps": 0}, "train.steps: 0; allowed: 1 or more"),
        (
            {
                "train__steps": 0,
                "train__codes": "joint",
                "dictionary__heads": "components",
                "router__kind": "linear",
            },
            "train.codes: 'joint'; allowed for router.kind=linear",
        ),
    ],
)
def test_heads_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.").replace(r"\.*", ".*")):
        checks.check(make_config(**changes))
