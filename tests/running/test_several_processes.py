"""Two processes of one command do what one does: curve, codes, scores, one set of outputs."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

COMMANDS = """
import sys
import jax
from absl import flags
port, index, *words = sys.argv[1:]
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(index))
from nid_jax import cli
codes = []
refused = "fit --config.fit.refine.kind=grid"
for mode in ("run", "eval", "sample", "nearest", "interpolate", refused):
    argv = ["nid_jax", *words, *f"--mode={mode}".split()]
    values = flags.FlagValues()
    cli.define_flags(values, argv)
    try:
        cli.main(cli.parse(argv, values), values)
        codes.append(0)
    except SystemExit as leaving:
        codes.append(leaving.code)
print("codes", codes)
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def together(tiny, environment, tmp_path_factory):
    """What two processes leave and print, experts split over them."""
    workdir = tmp_path_factory.mktemp("together") / "run"
    words = [*tiny, f"--workdir={workdir}", "--config.mesh.expert=2"]
    command = [sys.executable, "-c", COMMANDS, str(free_port())]
    started = [
        subprocess.Popen(
            [*command, str(index), *words],
            env={**environment, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in (0, 1)
    ]
    try:
        printed = [process.communicate(timeout=280) for process in started]
    finally:
        for process in started:
            process.kill()
    return workdir, printed


def losses(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines) if "loss" in line}


@pytest.mark.slow
def test_two_processes_do_what_one_does(together, trained):
    workdir, printed = together
    for _, errors in printed:
        assert "Traceback" not in errors, errors[-3000:]
    one, both = losses(trained), losses(workdir)
    assert one.keys() == both.keys()
    np.testing.assert_allclose([*both.values()], [*one.values()], rtol=1e-5)
    name = os.listdir(trained / "fits")[0]
    mine, theirs = (np.load(place / "fits" / name / "codes.npz") for place in (trained, workdir))
    np.testing.assert_allclose(theirs["codes"], mine["codes"], atol=1e-4)
    mine, theirs = (np.load(place / "prior.npz") for place in (trained, workdir))
    np.testing.assert_allclose(theirs["mean"], mine["mean"], atol=1e-4)
    assert (workdir / "samples").is_dir()
    assert (workdir / "fits" / name / "nearest.json").is_file()
    assert list((workdir / "fits" / name / "interpolate").iterdir())
    assert (workdir / "report.html").is_file()


@pytest.mark.slow
def test_the_first_prints_and_both_refuse_in_one_line(together):
    _, ((first, complaint), (second, other)) = together
    assert first.endswith("codes [0, 0, 0, 0, 0, 2]\n")
    assert first.count("report: ") == 4
    others = [line for line in second.splitlines() if "Gloo" not in line]
    assert others == ["codes [0, 0, 0, 0, 0, 2]"]
    words = "error: fit.refine.kind: 'grid'; allowed in several processes (--distributed): 'none'"
    assert words in complaint.splitlines()
    assert words in other.splitlines()


@pytest.mark.slow
def test_one_process_goes_on_with_what_two_have_saved(together, call, tiny):
    workdir, _ = together
    steps = "--config.train.steps=9"
    done = call(*tiny, f"--workdir={workdir}", "--mode=train", steps)
    assert done.code == 0, done.err
    assert "resumed from step 6" in done.err
    assert max(losses(workdir)) == 9
