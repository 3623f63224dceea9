"""Checkpoints of processes that are killed, and of other devices: in processes of their own."""

import os
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np

from nid_jax.storage.checkpoints import Checkpoints

CHILD = """
import sys
import jax, jax.numpy as jnp
from nid_jax.storage.checkpoints import Checkpoints
from nid_jax.sharding import make_mesh, named, place
"""


def child(code, *args, devices=1):
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-c", CHILD + textwrap.dedent(code), *map(str, args)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_killed_while_saving_the_step_before_is_whole(tmp_path):
    process = child(
        """
        weights = lambda step: {"model": {"w": jnp.full(4_000_000, step, jnp.float32)}}
        checkpoints = Checkpoints(sys.argv[1])
        checkpoints.save(1, weights(1))
        checkpoints.wait()
        checkpoints.save(2, weights(2))
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path,
    )
    _, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, errors
    template = {"model": {"w": jax.ShapeDtypeStruct((4_000_000,), jnp.float32)}}
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(template)
        assert restored.skipped == []
        assert restored.step in (1, 2)
        assert np.all(np.asarray(restored.items["model"]["w"]) == restored.step)
        checkpoints.save(2, {"model": {"w": jnp.full(4_000_000, 7, jnp.float32)}})
        assert checkpoints.restore(template).items["model"]["w"][0] == 7
    assert all(name.isdecimal() for name in os.listdir(tmp_path))  # what was half-written is gone


def test_eight_devices_to_one_and_back(tmp_path):
    values = np.random.default_rng(0).standard_normal((8, 4, 3)).astype(np.float32)
    with Checkpoints(tmp_path / "one") as checkpoints:
        checkpoints.save(1, {"model": {"w": jnp.asarray(values), "k": jax.random.key(3)}})
    process = child(
        """
        import numpy as np
        mesh = make_mesh(4, 2)
        split = named(mesh, "signal", "expert")
        assert len(jax.devices()) == 8
        template = {
            "w": jax.ShapeDtypeStruct((8, 4, 3), jnp.float32, sharding=split),
            "k": jax.eval_shape(lambda: jax.random.key(0)),
        }
        with Checkpoints(sys.argv[1], read_only=True) as checkpoints:
            found = checkpoints.restore({"model": template}).items["model"]
        assert found["w"].sharding == split
        other = place(found, {"w": ("expert", "signal"), "k": ()}, mesh)
        with Checkpoints(sys.argv[2]) as checkpoints:
            checkpoints.save(1, {"model": other})
        print("saved")
        """,
        tmp_path / "one",
        tmp_path / "eight",
        devices=8,
    )
    output, errors = process.communicate(timeout=120)
    assert output.strip() == "saved", errors
    template = {
        "w": jax.ShapeDtypeStruct((8, 4, 3), jnp.float32),
        "k": jax.eval_shape(lambda: jax.random.key(0)),
    }
    with Checkpoints(tmp_path / "eight", read_only=True) as checkpoints:
        restored = checkpoints.restore({"model": template})
    np.testing.assert_array_equal(restored.items["model"]["w"], values)
    assert restored.items["model"]["k"] == jax.random.key(3)
    assert len(restored.items["model"]["w"].devices()) == 1
