"""The speed experiment at its smallest scale: what it writes, and what its floors count."""

import importlib.util
import json
import math

import numpy as np
import pytest
from PIL import Image
from studies import speed_cases as speed


@pytest.fixture(scope="module")
def output(smoke, tmp_path_factory):
    folder = tmp_path_factory.mktemp("speed")
    smoke("speed", folder)
    return folder


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


def test_floor_of_a_stack_counted_one_by_one():
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


def test_floor_of_a_trunk_counted_one_by_one():
    sizes = {"E": 3, "P": 5, "S": 2, "H": 4}
    layers = [(speed.FEATURES, 4), (4, 4), (4, 4)]
    flops, sines = speed.network_work("shared", sizes)
    assert flops == 5 * 2 * sum(a * b for a, b in layers)
    assert sines == 5 * speed.FEATURES
    fold, evaluate = 2 * 2 * 4 * (3 + 5), 2 * 5 * 3 * (4 + 2)
    assert speed.combine_flops("shared", sizes) == min(fold, evaluate)


def test_sweeps_vary_one_size_at_a_time():
    sweep = speed.Sweep(E=(8, 16, 32), P=(5, 10), S=(1,), H=(4,))
    sizes = sweep.sizes()
    assert sizes[0] == {"E": 8, "P": 5, "S": 1, "H": 4, "K": 0}
    assert [(s["E"], s["P"]) for s in sizes] == [(8, 5), (16, 5), (32, 5), (8, 10)]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is here")
def test_a_peer_that_is_not_installed_is_said_in_one_line(smoke, tmp_path):
    done = smoke("speed", tmp_path / "out", "--peer=torch", code=2)
    assert done.stderr.strip() == "error: --peer=torch: PyTorch is missing: pip install torch"
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_beside_torch(smoke, tmp_path):
    pytest.importorskip("torch")
    folder = tmp_path / "out"
    smoke("speed", folder, "--peer=torch")
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
