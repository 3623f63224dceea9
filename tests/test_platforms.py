"""How much is computed at a time: a CPU's caches, or what an accelerator's memory holds."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

import nid_jax as nid
from nid_jax import devices, notices, platforms
from nid_jax.coding import greedy

GIB = 2**30


@pytest.fixture
def accelerator(monkeypatch):
    """A function that puts a device of so many bytes, or an untold number, in a CPU's place."""

    def put(there, platform="gpu"):
        stats = None if there is None else {"bytes_limit": there, "bytes_in_use": there // 4}
        device = SimpleNamespace(platform=platform, memory_stats=lambda: stats)
        monkeypatch.setattr(jax, "local_devices", lambda: [device])
        monkeypatch.setattr(jax, "default_backend", lambda: platform)

    return put


def test_a_cpus_sizes_are_those_of_its_caches(monkeypatch):
    wanted = platforms.sizes()
    monkeypatch.setattr(devices, "memory_bytes", lambda: GIB // 4)
    assert platforms.sizes() is wanted
    assert (wanted.activations, wanted.layers, wanted.chunk) == (2**19, 2**21, 2**22)


@pytest.mark.parametrize("there", [15.75 * GIB, 60 * GIB, 104 * GIB])
def test_an_activation_is_a_64th_of_an_accelerators_memory(accelerator, there):
    accelerator(int(there))
    found = platforms.sizes()
    assert there / 128 < 4 * found.activations <= there / 64
    assert found.activations & (found.activations - 1) == 0
    assert found.layers == found.chunk == found.activations // 8
    # A layer of 256 numbers a point.
    assert 256 * found.mesh_points == found.layers
    assert devices.held_bytes() == int(there) // 4


def test_what_does_not_tell_has_16_gib_and_none_has_nothing(accelerator):
    accelerator(None)
    assert devices.memory_bytes() == 0
    assert platforms.sizes() == platforms.of_memory(16 * GIB)
    assert platforms.of_memory(1).mesh_points == 2**10


def test_a_pursuit_takes_as_many_signals_as_are_held(accelerator):
    equations = SimpleNamespace(moments=np.zeros((5000, 4096)), shared=True)
    assert greedy._block(equations, 32) == 8
    accelerator(16 * GIB)
    held = platforms.sizes().held
    block = greedy._block(equations, 32)
    assert held / 2 < block * 32 * 4096 <= held
    own = SimpleNamespace(moments=equations.moments, shared=False)
    assert greedy._block(own, 32) * (32 + 4096) * 4096 <= held
    assert greedy._block(own, 4096) >= 1


def test_float64_on_a_tpu_is_said_to_be_float32(accelerator, monkeypatch):
    problem = object.__new__(nid.Problem)
    monkeypatch.setattr(nid.Problem, "measured", lambda self: ())
    monkeypatch.setattr("nid_jax.coding.gram.normal_equations", lambda *_: "normal")
    with notices.gathered() as said:
        assert problem.equations("float64") == "normal"
        assert said == []
        accelerator(16 * GIB, "tpu")
        assert problem.equations("float64") == "normal"
    assert len(said) == 1
    assert said[0].startswith("precision: 'float64', which a TPU has not; ")
    assert "fit.precision=float32" in said[0]
