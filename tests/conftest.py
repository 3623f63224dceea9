"""The command line run in this process, and a small trained run that many tests share."""

import contextlib
import functools
import gc
import io
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from logging import StreamHandler
from pathlib import Path
from typing import NamedTuple

import fsspec
import jax
import pytest
from absl import flags, logging
from jax._src.interpreters import mlir  # what makes contexts has no public name

from nid_jax import cli
from nid_jax.storage import lock

# Tests run small arrays once: most of their time is compilation, which these flags make several
# times quicker. Read when the first array is made; XLA_FLAGS of one's own, also empty, go before.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)
# Many tests compile the same step again; nothing that they compare depends on who compiled it. One
# folder for all workers, and for the commands that tests start.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory()
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
# To make the context that a program is written down in takes as long as to compile a small one.
# They are all alike: a file's programs share one, but for those compiled while one is written down,
# and those of other threads.
_new_context = mlir.make_ir_context
_shared_context = functools.cache(_new_context)


def _context():
    alone = threading.current_thread() is threading.main_thread() and not mlir.ir.Context.current
    return (_shared_context if alone else _new_context)()


mlir.make_ir_context = _context
# Tracing makes many objects, few of them garbage: to search them after every 700 takes a tenth of
# the time.
gc.set_threshold(200_000, 20, 50)

ROOT = Path(__file__).resolve().parents[1]
SMOKE = f"--config={ROOT / 'configs' / 'image.py'}:smoke"
# A dictionary of hardly any size: what is tested is everything around it.
TINY = (
    SMOKE,
    "--config.data.num_train=8",
    "--config.data.num_test=2",
    "--config.dictionary.kind=shared",
    "--config.dictionary.activation=relu",
    "--config.dictionary.num_layers=3",
    "--config.dictionary.num_experts=8",
    "--config.router.kind=codebook",
    "--config.train.codes=joint",
    "--config.dictionary.width=8",
    "--config.dictionary.embedding.size=8",
    "--config.train.steps=6",
    "--config.train.batch_size=4",
    "--config.train.log_every=1",
    "--config.train.checkpoint_every=3",
    "--config.fit.solver=gradient",
    "--config.fit.gradient.steps=5",
)


@pytest.fixture(autouse=True, scope="module")
def _settled_heap():
    """What earlier files left, compiled programs above all, is not searched for garbage; nor does
    a context keep the constants of their programs."""
    _shared_context.cache_clear()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny():
    """The options of a run that takes a second or two."""
    return TINY


class Result(NamedTuple):
    """What a command left: its exit status and what it printed."""

    code: int
    out: str
    err: str

    def complaint(self):
        """The one line that says what was wrong; fails if there is more or less than that."""
        assert self.code == 2, (self.out, self.err)
        # What was assumed of an input on the way is said too.
        lines = [line for line in self.err.strip().splitlines() if not line.startswith("note: ")]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        return lines[0]


@pytest.fixture(scope="session")
def call():
    """call(*arguments) -> Result of main.py with these arguments, run in this process."""

    def run(*arguments):
        argv = ["main.py", *map(str, arguments)]
        values = flags.FlagValues()
        cli.define_flags(values, argv)
        out, err, code = io.StringIO(), io.StringIO(), 0
        handler, heard = logging.get_absl_handler(), StreamHandler(err)
        verbosity, formatter = logging.get_verbosity(), handler.formatter
        logging.get_absl_logger().addHandler(heard)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                cli.main(cli.parse(argv, values), values)
            except SystemExit as leaving:
                code = leaving.code
            finally:
                logging.get_absl_logger().removeHandler(heard)
                logging.set_verbosity(verbosity)
                handler.setFormatter(formatter)
        return Result(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def shell(environment):
    """shell(*arguments, prefix='') -> Result of main.py in a process of its own."""

    def run(*arguments, prefix=""):
        words = " ".join(f"'{word}'" for word in (sys.executable, ROOT / "main.py", *arguments))
        done = subprocess.run(
            ["bash", "-c", f"{prefix} {words}"],
            capture_output=True,
            text=True,
            timeout=240,
            env=environment,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def environment():
    """Environment variables of a process that finds nid_jax here."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path}


@pytest.fixture(scope="session")
def trained(call, tmp_path_factory):
    """A workdir with a small run in it, trained and fitted; read it, or take a copy."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    result = call(*TINY, f"--workdir={workdir}")
    assert result.code == 0, result.err
    (workdir / "stdout").write_text(result.out)
    (workdir / "stderr").write_text(result.err)
    return workdir


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of that workdir, to change."""
    return Path(shutil.copytree(trained, tmp_path / "copied"))


@pytest.fixture
def objects(monkeypatch):
    """The store behind memory://, empty: name -> its file."""
    monkeypatch.setattr(lock, "SETTLED", 0.01)
    store = fsspec.filesystem("memory").store
    store.clear()
    yield store
    store.clear()


@pytest.fixture
def on(monkeypatch, tmp_path):
    """on(NAME): from here on this is another machine, as far as copies of buckets go; it is one
    called first before that. -> a function that gives its run's folder."""

    def go(name):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        return lambda: next((tmp_path / name / "nid_jax/buckets/workdirs").glob("*/run"))

    go("first")
    return go
