"""The speed experiment at its smallest scale: what it writes, and what its floors count."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "experiments" / "speed.py"


def run_script(script, folder, *arguments, check=True):
    """A script at its smallest scale, in a folder of its own. -> the finished process."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, script, "--scale=smoke", f"--output={folder / 'out'}", *arguments],
        check=check,
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speed")
    run_script(SCRIPT, folder)
    return folder / "out"


@pytest.mark.slow
def test_files(output):
    assert sorted(p.name for p in output.iterdir()) == ["figure.png", "metrics.json", "table.md"]
    text = (output / "table.md").read_text()
    for word in ("jax", "cores", "floor / time", "Promises", "Growth", "(min..max)"):
        assert word in text
    with Image.open(output / "figure.png") as figure:
        assert np.asarray(figure.convert("L")).std() > 5


@pytest.mark.slow
def test_metrics(output):
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["scale"] == "smoke"
    assert {"date", "jax", "machine"} <= set(metrics["versions"])
    assert len(metrics["promises"]) == 4
    # The polynomial and the library's sine give the same basis.
    name, difference, _ = metrics["promises"][-1]
    assert "difference" in name
    assert 0 <= difference < 1e-4
    for rate in metrics["machine"].values():
        assert 0 < rate["least"] <= rate["median"] <= rate["most"]
    groups = {case["what"] for case in metrics["cases"]}
    for kind in ("shared", "independent"):
        assert {f"{what}, {kind}" for what in ("basis", "train step", "render")} <= groups
    assert {"fit by gradient, one step", "fit by ridge, factorised"} <= groups
    for case in metrics["cases"]:
        assert 0 < case["seconds"]["least"] <= case["seconds"]["median"]
        assert 0 < case["floor"]["median"] < math.inf
        assert case["items_per_second"] > 0
        assert case["compile_seconds"] > 0
    # Each pair of a sweep is reported once: two experts' counts of a basis and of a render.
    assert [row[:4] for row in metrics["growth"]].count(["basis, shared", "E", 8, 16]) == 1


@pytest.fixture(scope="module")
def speed():
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        spec = importlib.util.spec_from_file_location("speed", SCRIPT)
        module = importlib.util.module_from_spec(spec)
        sys.modules["speed"] = module
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(SCRIPT.parent))
        del sys.modules["speed"]


def test_floor_of_a_stack_counted_one_by_one(speed):
    sizes = {"E": 3, "P": 5, "S": 2, "H": 4}
    layers = [(2, 4), (4, 4), (4, 4), (4, 1)]
    products = 2 * sum(a * b for a, b in layers)
    assert speed.network_work("independent", sizes) == (15 * products, 15 * 3 * 4)
    # Backward: every layer's weights, every layer's inputs but the first's, and the cosines.
    backward = products + 2 * sum(a * b for a, b in layers[1:])
    assert speed.network_work("independent", sizes, passes=3) == (
        15 * (products + backward),
        15 * 3 * 4 * 2,
    )
    assert speed.combine_flops("independent", sizes) == 2 * 2 * 5 * 3


def test_floor_of_a_trunk_counted_one_by_one(speed):
    sizes = {"E": 3, "P": 5, "S": 2, "H": 4}
    layers = [(speed.FEATURES, 4), (4, 4), (4, 4)]
    flops, sines = speed.network_work("shared", sizes)
    assert flops == 5 * 2 * sum(a * b for a, b in layers)
    assert sines == 5 * speed.FEATURES
    fold, evaluate = 2 * 2 * 4 * (3 + 5), 2 * 5 * 3 * (4 + 2)
    assert speed.combine_flops("shared", sizes) == min(fold, evaluate)


def test_sweeps_vary_one_size_at_a_time(speed):
    sweep = speed.Sweep(E=(8, 16, 32), P=(5, 10), S=(1,), H=(4,))
    sizes = sweep.sizes()
    assert sizes[0] == {"E": 8, "P": 5, "S": 1, "H": 4, "K": 0}
    assert [(s["E"], s["P"]) for s in sizes] == [(8, 5), (16, 5), (32, 5), (8, 10)]


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is here")
def test_a_peer_that_is_not_installed_is_said_in_one_line(tmp_path):
    done = run_script(SCRIPT, tmp_path, "--peer=torch", check=False)
    assert done.returncode == 2
    assert done.stderr.strip() == "error: --peer=torch: PyTorch is missing: pip install torch"
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_beside_torch(tmp_path):
    pytest.importorskip("torch")
    run_script(SCRIPT, tmp_path, "--peer=torch")
    folder = tmp_path / "out"
    assert sorted(p.name for p in folder.iterdir()) == ["figure.png", "metrics.json", "table.md"]
    metrics = json.loads((folder / "metrics.json").read_text())
    contests = metrics["contests"]
    # Two steps of training, two fits and two renders for each of two sizes and two activations.
    assert len(contests) == 6 * 2 * 2
    for contest in contests:
        for order in ("dense", "folded"):
            ratio = contest["ratios"][order]
            assert 0 < ratio["least"] <= ratio["median"] <= ratio["most"]
        # Both compute the same numbers, or their times compare nothing.
        assert all(difference < 1e-5 for difference in contest["differences"].values())
    # Only a fit that needs no pixel has nothing to be compared with number by number.
    silent = {contest["what"] for contest in contests if not contest["differences"]}
    assert silent == {"fit step, ours on the Gram matrix"}


@pytest.mark.slow
def test_memory_of_a_step(tmp_path):
    run_script(SCRIPT.with_name("memory.py"), tmp_path)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    cases = metrics["cases"]
    assert {(case["case"], case["phase"]) for case in cases} == {
        (case, phase) for case in ("patches", "images") for phase in ("dense", "sparse")
    }
    for case in cases:
        assert math.isfinite(case["loss"])
        # Weights, both moments, and whatever a step holds besides.
        assert case["compiled_bytes"] > 3 * 4 * case["parameters"]["dictionary"]
        assert case["peak_bytes"] > case["compiled_bytes"]
    assert "under 24.0 GiB" in (tmp_path / "out" / "table.md").read_text()
