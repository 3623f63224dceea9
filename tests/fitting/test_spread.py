"""Eight virtual devices, however they are split, solve codes as one device does.

This file runs itself as a script in a process of its own, which has the devices.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
MESHES = ((1, 1), (8, 1), (1, 8), (4, 2))
SOLVERS = ("ridge", "gaussian", "omp")


@pytest.fixture(scope="module")
def found():
    """{solver: {mesh: what it renders}}."""
    variables = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8",
    }
    done = subprocess.run(
        [sys.executable, __file__],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **variables},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("mesh", [f"{data}x{expert}" for data, expert in MESHES[1:]])
def test_codes_are_those_of_one_device(found, solver, mesh):
    """Of 5 signals, which 8 and 4 devices do not divide; a noise is chosen by these alone."""
    one = np.asarray(found[solver]["1x1"])
    assert one.std() > 0.05
    np.testing.assert_allclose(found[solver][mesh], one, atol=1e-4)


def solved():
    """What each solver renders on each mesh."""
    import jax
    from flax import nnx

    import nid_jax as nid
    from nid_jax import sharding
    from nid_jax.coding.prior import fit_prior
    from nid_jax.configs import image
    from nid_jax.fields.model import build_model, map_axes
    from nid_jax.neural_dictionary import NeuralDictionary

    assert len(jax.devices()) == 8
    draw = np.random.default_rng(0)
    config = image.get_config("smoke")
    config.dictionary.num_experts = 24
    model = build_model(config, (10, 10, 3), 16, 0)
    prior = fit_prior(draw.standard_normal((40, 24)), residual=np.full(40, 1e-3))
    signals = draw.uniform(0, 1, (5, 10, 10, 3)).astype(np.float32)
    solvers = {"ridge": nid.solvers.Ridge(), "gaussian": nid.solvers.Gaussian()}
    solvers["omp"] = nid.solvers.OMP(top_k=4)
    rendered = {name: {} for name in solvers}
    for data, expert in MESHES:
        mesh = sharding.make_mesh(data, expert)
        graphdef, state = nnx.split(model)
        layout = map_axes(lambda axes, mesh=mesh: sharding.named(mesh, *axes), state)
        laid_out = nnx.merge(graphdef, sharding.put(state, layout))
        dictionary = NeuralDictionary(laid_out, config, {}, prior, mesh)
        for name, solver in solvers.items():
            fit = dictionary.fit(signals, solver=solver)
            assert len(fit) == 5
            rendered[name][f"{data}x{expert}"] = fit.render().ravel().tolist()
    return rendered


if __name__ == "__main__":
    print(json.dumps(solved()))
