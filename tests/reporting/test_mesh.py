"""Eight virtual devices as a 4x2 mesh train and fit as one device does.

The number of devices is fixed when a process starts, so this file runs itself as a script in a
process of its own, which compares and prints what it found as JSON.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("shared", "independent")


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """{kind: what `compare` returned} from a process with eight CPU devices."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    variables = {
        "PYTHONPATH": path,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8",
        # Both meshes restore and go on with what they have compiled before.
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("cache")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    done = subprocess.run(
        [sys.executable, __file__],
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, **variables},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_training_curve_is_that_of_one_device(compared, kind):
    one, mesh = compared[kind]["losses"]
    assert len(one) == 10
    assert min(one) < 0.95 * max(one)
    # Sums over devices add up in another order; nothing else may differ.
    np.testing.assert_allclose(mesh, one, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_fit_is_that_of_one_device(compared, kind):
    one, mesh = (np.asarray(codes) for codes in compared[kind]["values"])
    assert one.std() > 0.01
    np.testing.assert_allclose(mesh, one, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_experts_codes_and_moments_are_split_and_the_rest_is_whole(compared, kind):
    for name, whole, part, axes in compared[kind]["trained"]:
        halved = [n // 2 if axis == "expert" else n for n, axis in zip(whole, axes, strict=False)]
        assert part == halved + whole[len(halved) :], name
    split = {name for name, whole, part, _ in compared[kind]["trained"] if whole != part}
    assert any("dictionary" in name for name in split)
    assert any("router" in name and "codes" in name for name in split)
    assert any("mu" in name and "dictionary" in name for name in split)
    assert any("mu" in name and "codes" in name for name in split)
    # A fit lays the dictionary out as training does.
    assert any(whole != part for _, whole, part, _ in compared[kind]["loaded"])


@pytest.mark.slow
def test_another_mesh_takes_the_checkpoint(compared):
    assert compared["resumed"] == 12


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["2x3", "5x1"])
def test_what_a_mesh_does_not_divide_gives_the_same(compared, mesh):
    """Eight experts over three devices; eight of sixteen signals over five."""
    losses, values = compared["uneven"][mesh]
    np.testing.assert_allclose(losses, compared["shared"]["losses"][0], rtol=1e-4)
    np.testing.assert_allclose(values, compared["shared"]["values"][0], atol=2e-4)


# What runs in the process with eight devices


def options(kind, workdir, **changes):
    words = {
        "data.resize": "true",
        "data.size": "(9,9)",
        "data.num_train": 16,
        "data.num_test": 3,
        "dictionary.kind": kind,
        "dictionary.activation": "relu" if kind == "shared" else "sine",
        "dictionary.embedding.kind": "fourier" if kind == "shared" else "identity",
        "dictionary.embedding.size": 8,
        "dictionary.num_experts": 8,
        "dictionary.num_layers": 2,
        "dictionary.width": 8,
        "router.kind": "codebook",
        "router.top_k": 3,
        "train.codes": "joint",
        "train.steps": 10,
        "train.batch_size": 8,
        "train.log_every": 1,
        "prior.num_signals": 0,
        "train.optimizer.schedule": "constant",
        "train.optimizer.learning_rate": 3e-3,
        "loss.balance": 0.01,
        "fit.solver": "gradient",
        "fit.gradient.steps": 20,
        **changes,
    }
    config = f"--config={ROOT / 'configs' / 'image.py'}:smoke"
    return [config, f"--workdir={workdir}", *(f"--config.{k}={v}" for k, v in words.items())]


def call(arguments):
    """main.py in this process -> (exit status, the last line it complained with)."""
    import io

    from absl import flags

    from nid_jax import cli

    values, argv = flags.FlagValues(), ["main.py", *arguments]
    cli.define_flags(values, argv)
    err = io.StringIO()
    with contextlib.redirect_stdout(sys.stderr), contextlib.redirect_stderr(err):
        try:
            cli.main(cli.parse(argv, values), values)
        except SystemExit as leaving:
            return leaving.code, err.getvalue().strip().splitlines()[-1]
    return 0, ""


def layout(tree, mesh_axes):
    """[name, shape, shape on the first device, logical axes] of every leaf of at least one axis."""
    import jax

    rows = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if leaf.ndim:
            name = jax.tree_util.keystr(path)
            part = leaf.addressable_shards[0].data.shape
            spec = tuple(leaf.sharding.spec)
            assert leaf.sharding.mesh.shape == mesh_axes
            rows.append([name, list(leaf.shape), list(part), list(spec)])
    return rows


def learned(kind, folder, data, expert):
    """Train and fit on a mesh. -> losses, rendered values, and the dictionary."""
    from nid_jax import sharding, tasks
    from nid_jax.neural_dictionary import open_workdir
    from nid_jax.storage.workdir import Workdir

    place = folder / f"{kind}-{data}x{expert}"
    wanted = options(kind, place, **{"mesh.data": data, "mesh.expert": expert})
    code, complaint = call([*wanted, "--mode=train"])
    assert code == 0, complaint
    lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    loaded = open_workdir(Workdir(place), mesh=sharding.make_mesh(data, expert))
    task = tasks.build(loaded.config)
    # Three signals over four devices: the batch is filled up.
    fit = loaded.fit_collection(task, task.open("test"), loaded.config)
    return [line["loss"] for line in lines], fit.render((9, 9)).ravel().tolist(), loaded


def compare(kind, folder):
    """Train and fit on 1x1 and on 4x2. -> losses, rendered values, and where arrays lie."""
    from flax import nnx

    from nid_jax import tasks
    from nid_jax.storage.workdir import Workdir
    from nid_jax.training import loop

    found = {"losses": [], "values": []}
    for data, expert in ((1, 1), (4, 2)):
        losses, values, loaded = learned(kind, folder, data, expert)
        found["losses"].append(losses)
        found["values"].append(values)
    axes = {"data": 4, "expert": 2}
    task = tasks.build(loaded.config)
    place = Workdir(folder / f"{kind}-4x2")
    trainer = loop.Trainer(task, loaded.config, place, task.open("train"))
    found["trained"] = layout((trainer.state.params, trainer.state.optimizer), axes)
    found["loaded"] = layout(nnx.state(loaded.model), axes)
    return found


def resumed(folder):
    """The step that a run begun on eight devices reaches with two."""
    wanted = options("shared", folder / "shared-4x2", **{"train.steps": 12, "mesh.data": 2})
    code, complaint = call([*wanted, "--mode=train"])
    assert code == 0, complaint
    return json.loads((folder / "shared-4x2" / "summary.json").read_text())["steps"]


if __name__ == "__main__":
    import jax

    assert len(jax.devices()) == 8
    with tempfile.TemporaryDirectory() as name:
        result = {kind: compare(kind, Path(name)) for kind in KINDS}
        result["resumed"] = resumed(Path(name))
        meshes = {"2x3": (2, 3), "5x1": (5, 1)}
        result["uneven"] = {
            words: learned("shared", Path(name), *mesh)[:2] for words, mesh in meshes.items()
        }
    print(json.dumps(result))
