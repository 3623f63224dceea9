"""Each device of a mesh solves for its own share of signals, and all find what one finds.

This file runs itself as a script in processes of its own, which have eight devices together.
"""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SIGNALS, EXPERTS, ACTIVE = 13, 20, 6
MESHES = ((1, 1), (8, 1), (1, 8), (4, 2))
KINDS = ("shared", "own", "support")
LAM = 1e-3


def drawn():
    """One Gram matrix, one of every signal, moments, supports with an empty place."""
    draw = np.random.default_rng(0)
    atoms = draw.standard_normal((SIGNALS, 40, EXPERTS)) * np.geomspace(1, 30, EXPERTS)
    grams = np.einsum("sme,smf->sef", atoms, atoms).astype(np.float32)
    moments = draw.standard_normal((SIGNALS, EXPERTS)).astype(np.float32)
    places = np.stack([draw.permutation(EXPERTS)[:ACTIVE] for _ in range(SIGNALS)])
    places[3, 2] = -1
    return grams[0], grams, moments, places.astype(np.int32)


def by_hand():
    """{kind: codes}, one signal after another in float64."""
    one, grams, moments, places = drawn()

    def codes(matrix, moment, where):
        matrix, moment = matrix.astype(np.float64), moment.astype(np.float64)
        mean, found = np.trace(matrix) / EXPERTS, np.zeros(EXPERTS)
        block = matrix[np.ix_(where, where)] + LAM * mean * np.eye(len(where))
        found[where] = np.linalg.solve(block, moment[where])
        return found

    every = np.arange(EXPERTS)
    return {
        "shared": [codes(one, moment, every) for moment in moments],
        "own": [codes(*both, every) for both in zip(grams, moments, strict=True)],
        "support": [codes(one, m, p[p >= 0]) for m, p in zip(moments, places, strict=True)],
    }


def run(*argv, processes=1):
    """What the first of so many processes prints, as JSON."""
    variables = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} "
        f"--xla_force_host_platform_device_count={8 // processes}",
    }
    started = [
        subprocess.Popen(
            [sys.executable, __file__, *argv, *([str(number)] if processes > 1 else [])],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **variables},
        )
        for number in range(processes)
    ]
    try:
        printed = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    assert not any(process.returncode for process in started), [err[-2000:] for _, err in printed]
    return json.loads(printed[0][0].splitlines()[-1])


@pytest.fixture(scope="module")
def found():
    """{kind: {mesh: [codes, sides of triangular solves]}}."""
    return run()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mesh", [f"{data}x{expert}" for data, expert in MESHES])
def test_codes_on_meshes_are_those_of_float64(found, kind, mesh):
    expected = np.asarray(by_hand()[kind])
    scale = np.abs(expected).max(-1, keepdims=True)
    np.testing.assert_allclose(found[kind][mesh][0] / scale, expected / scale, atol=1e-5)


@pytest.mark.parametrize("mesh", [f"{data}x{expert}" for data, expert in MESHES])
def test_a_device_solves_for_its_share_alone(found, mesh):
    """Of 13 signals eight devices have two each. A matrix of its own is factorised there, too."""
    count = SIGNALS if mesh == "1x1" else 2
    _, solves, factors = found["shared"][mesh]
    assert solves
    assert factors
    assert {tuple(sides) for sides in solves} == {(EXPERTS, count)}
    assert {tuple(sides) for sides in factors} == {(EXPERTS, EXPERTS)}
    for kind, size in (("own", EXPERTS), ("support", ACTIVE)):
        _, solves, factors = found[kind][mesh]
        assert {tuple(sides) for sides in solves} == {(count, size, 1)}
        assert {tuple(sides) for sides in factors} == {(count, size, size)}


@pytest.mark.slow
@pytest.mark.parametrize("differentiate", ["envelope", "solve"])
def test_losses_of_training_are_those_of_one_device(differentiate):
    found = run(differentiate)
    one = found.pop("1x1")
    assert one[0] > one[-1] > 0
    for mesh, losses in found.items():
        np.testing.assert_allclose(losses, one, rtol=0, atol=1e-5, err_msg=mesh)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    (both,) = run(differentiate, str(port), processes=2).values()
    np.testing.assert_allclose(both, one, rtol=0, atol=1e-5)


# ---- in processes of their own ------------------------------------------------------------------


def solved():
    """{kind: {mesh: (codes, sides of triangular solves, sides of factors)}}."""
    import jax
    import jax.numpy as jnp

    from nid_jax import sharding
    from nid_jax.coding import gram, ridge

    one, grams, moments, places = drawn()
    found = {kind: {} for kind in KINDS}

    def equations(matrix, moments):
        several = (SIGNALS,) if matrix.ndim == 3 else ()
        return gram.NormalEquations(
            matrix,
            moments,
            jnp.ones(SIGNALS),
            jnp.zeros((*several, EXPERTS, 1)),
            jnp.zeros((SIGNALS, 1)),
            jnp.ones(several),
            jnp.ones(several),
        )

    def dense(matrix, moments, places):
        return ridge.solve_dense(equations(matrix, moments), LAM).codes

    def on_support(matrix, moments, places):
        return ridge.solve_on_support(equations(matrix, moments), places, LAM)

    given = {"shared": (dense, one), "own": (dense, grams), "support": (on_support, one)}
    for sides in MESHES:
        mesh = sharding.make_mesh(*sides, devices=jax.devices()[: np.prod(sides)])
        for kind, (function, matrix) in given.items():
            with jax.set_mesh(mesh):
                program = jax.jit(function).lower(matrix, moments, places).compile()
            codes = np.asarray(program(matrix, moments, places))
            calls = of_lapack(program.as_text())
            found[kind]["{}x{}".format(*sides)] = codes.tolist(), *calls
    return found


def of_lapack(text):
    """(sides of results of triangular solves, of factors) in a program's text."""
    result = r"= \(?f64\[([\d,]+)\].*custom_call_target=\"lapack_{}_ffi\""
    return tuple(
        [list(map(int, sides.split(","))) for sides in re.findall(result.format(name), text)]
        for name in ("dtrsm", "dpotrf")
    )


def trained(differentiate, processes=1):
    """{mesh: losses of steps}, of 13 signals."""
    import jax

    from nid_jax import data, sharding, tasks
    from nid_jax.configs import image
    from nid_jax.training.loop import Trainer

    images = np.random.default_rng(1).uniform(0, 1, (SIGNALS, 8, 8, 1)).astype(np.float32)
    collection = data.ArrayCollection(images, range(SIGNALS), "noise")
    losses = {}
    for rows, parts in MESHES if processes == 1 else ((4, 2),):
        config = image.get_config("smoke")
        config.dictionary.update({"kind": "shared", "num_experts": 24, "width": 16})
        config.dictionary.update({"num_layers": 3, "activation": "relu", "heads": "drawn"})
        config.dictionary.embedding.update({"kind": "fourier", "size": 8})
        config.router.update({"kind": "none", "top_k": 0})
        config.train.update({"batch_size": SIGNALS, "codes": "varpro", "points": 0})
        config.train.update({"scan": "off", "differentiate": differentiate})
        config.mesh.update({"data": rows, "expert": parts})
        trainer = Trainer(tasks.build(config), config, None, collection)
        batch = trainer.feeder.feed(0, 1)
        program = trainer.step_for(trainer.warmup_steps, batch)
        state, trainer.state = trainer.state, None
        own = losses[f"{rows}x{parts}"] = []
        for _ in range(4):
            state, terms = program(state, batch)
            own.append(float(sharding.own(terms["loss"])))
    assert len(jax.devices()) == 8
    return losses


def main(differentiate="", port="", number=""):
    if port:
        import jax

        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(number))
        print(json.dumps(trained(differentiate, processes=2)))
    else:
        print(json.dumps(trained(differentiate) if differentiate else solved()))


if __name__ == "__main__":
    main(*sys.argv[1:])
