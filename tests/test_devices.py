"""What a machine tells of itself; the cache of compiled programs, and that it serves."""

import os
import re
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

from nid_jax import devices

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """jax as it starts, with a user's cache folder of its own; what the tests share comes back."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    for name in list(os.environ):
        if "_CACHE_" in name:
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux's own count")
def test_peak_memory_is_what_the_kernel_counts():
    with open("/proc/self/status") as file:
        kib = int(re.search(r"VmHWM:\s+(\d+) kB", file.read())[1])
    np.testing.assert_allclose(devices.peak_memory_bytes()["host"], kib * 1024, rtol=0.05)


def test_the_estimate_of_a_compiled_function_covers_its_arrays():
    x = jnp.ones((256, 256))
    compiled = jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x)).lower(x).compile()
    assert devices.compiled_bytes(compiled) >= 2 * x.nbytes


def test_versions_are_those_installed():
    found = devices.versions()
    assert found["jax"] == jax.__version__
    assert found["numpy"] == np.__version__
    assert re.match(r"\d{4}-\d\d-\d\dT", found["date"])
    assert found["machine"].endswith(f"{os.cpu_count()} cores")


def test_the_users_folder_is_private_and_keeps_short_compilations(tmp_path):
    path = devices.use_compilation_cache()
    assert path == tmp_path / "cache" / "nid_jax" / "xla"
    assert path.stat().st_mode & 0o777 == 0o700
    assert list(path.iterdir()) == []
    assert jax.config.jax_compilation_cache_dir == str(path)
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0
    assert jax.config.jax_persistent_cache_min_entry_size_bytes == -1


def test_without_xdg_it_lies_at_home(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert devices.use_compilation_cache() == tmp_path / ".cache" / "nid_jax" / "xla"


def test_a_folder_that_is_named_comes_before_jaxs_own(tmp_path, monkeypatch):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "jax"))
    assert devices.use_compilation_cache() == tmp_path / "jax"
    assert devices.use_compilation_cache(tmp_path / "mine") == tmp_path / "mine"
    monkeypatch.chdir(tmp_path)
    assert devices.use_compilation_cache("here") == tmp_path / "here"


def test_what_the_environment_says_of_short_compilations_stays(monkeypatch):
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
    devices.use_compilation_cache()
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 1


def test_off_is_off():
    assert devices.use_compilation_cache("off") is None
    assert not jax.config.jax_enable_compilation_cache


def test_a_folder_that_cannot_be_is_one_line(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: lines.append(text % args))
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        assert devices.use_compilation_cache(place) is None
        assert jax.config.jax_compilation_cache_dir is None
        assert str(place) in lines[-1]
        assert "\n" not in lines[-1]
    assert len(lines) == 2


def test_the_programs_not_used_for_longest_go(tmp_path, monkeypatch):
    path = devices.use_compilation_cache()
    for age in range(10):
        program = path / f"jit_{age}-cache"
        program.write_bytes(b"x" * 100)
        os.utime(program, (1_000_000 - age, 900_000))
    (path / "notes").write_bytes(b"x" * 10_000)
    monkeypatch.setattr(devices, "_CACHE_BYTES", 1000)
    devices.use_compilation_cache()
    assert len(list(path.glob("*-cache"))) == 10
    monkeypatch.setattr(devices, "_CACHE_BYTES", 999)
    devices.use_compilation_cache()
    left = sorted(entry.name for entry in path.iterdir())
    assert left == ["jit_0-cache", "jit_1-cache", "jit_2-cache", "jit_3-cache", "notes"]


def test_the_folder_of_others_only_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_CACHE_BYTES", 0)
    (tmp_path / "jit_a-cache").write_bytes(b"x")
    devices.use_compilation_cache(tmp_path)
    assert (tmp_path / "jit_a-cache").exists()


CHILD = """
import jax
from nid_jax import devices
missed = []
jax.monitoring.register_event_listener(lambda event, **_: missed.append(event))
devices.use_compilation_cache()
jax.jit(lambda x: (x @ x.T).sum())(jax.numpy.ones((3, 4))).block_until_ready()
print(missed.count("/jax/compilation_cache/cache_misses"))
"""


def test_a_second_process_compiles_nothing(environment):
    counts = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(CHILD)],
            env={**environment, **os.environ},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        counts.append(int(done.stdout))
    assert counts[0] > 0
    assert counts[1] == 0


def test_errors_of_memory_are_words():
    """One that XLA raises by itself, and one of NumPy."""
    with pytest.raises(jax.errors.JaxRuntimeError) as raised:
        jax.block_until_ready(jax.numpy.zeros(2**45, jax.numpy.float32))
    words = devices.exhausted(raised.value)
    assert re.fullmatch(r"Out of memory allocating \d+ bytes; there are \d+ bytes", words)
    with pytest.raises(MemoryError) as raised:
        np.zeros(2**50)
    assert devices.exhausted(raised.value).startswith("Unable to allocate 8.00 PiB")
    assert devices.exhausted(MemoryError()) == "the machine's memory ran out"
    assert devices.exhausted(jax.errors.JaxRuntimeError("INTERNAL: something")) == ""
    assert devices.exhausted(ValueError("RESOURCE_EXHAUSTED: not of a device")) == ""
