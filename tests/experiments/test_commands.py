"""Commands at their smallest scale: what they write, and what each must find."""

import json
import math

import numpy as np
import pytest
from studies import mixture


@pytest.mark.slow
def test_extraction(tmp_path, smoke):
    smoke("extraction", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"table.md", "metrics.json", "figure.png"}
    rows = json.loads((tmp_path / "metrics.json").read_text())["rows"]
    assert [row["resolution"] for row in rows] == [24, 40]
    for row in rows:
        assert row["same_triangles"]
        assert row["farthest_vertex_cells"] < 2e-4
        assert row["points"] < row["points_dense"] == row["resolution"] ** 3
        assert row["base_bytes"] <= row["peak_bytes"]
    shares = [row["points"] / row["points_dense"] for row in rows]
    assert shares[1] < shares[0]


@pytest.mark.slow
def test_ct(tmp_path, smoke):
    smoke("ct", tmp_path)
    names = {"table.md", "metrics.json", "figure.png", "slices_32_2.png"}
    assert names <= {path.name for path in tmp_path.iterdir()}
    (result,) = json.loads((tmp_path / "metrics.json").read_text())["results"]
    assert result["views"] == [2, 4]
    assert len(result["methods"]) >= 7
    for name, entries in result["methods"].items():
        for entry in entries.values():
            assert len(entry["psnr"]) == result["phantoms"], name
            assert np.isfinite(entry["psnr"]).all(), name
    # More views say more, for a method that uses nothing else.
    projected = result["methods"]["filtered back projection"]
    assert np.mean(projected["4"]["psnr"]) > np.mean(projected["2"]["psnr"])


def test_an_unknown_scale_is_refused(tmp_path, smoke):
    assert "scale" in smoke("ct", tmp_path, "--scale=tiny", code=1).stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdf", "preparation"])
def test_distances(tmp_path, name, smoke):
    smoke(name, tmp_path)
    assert (tmp_path / "table.md").read_text().count("|") > 50
    json.loads((tmp_path / "metrics.json").read_text())


@pytest.mark.slow
def test_accelerator(tmp_path, smoke):
    smoke("accelerator", tmp_path)
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["left"] == []
    assert len(found["parts"]) == 7
    assert not any("not held" in values for values in found["parts"].values())
    assert found["parts"]["Dispatch"]["compiled again, s"] == 0
    for part, values in found["parts"].items():
        numbers = [value for value in values.values() if isinstance(value, float)]
        assert all(map(math.isfinite, numbers)), part


@pytest.mark.slow
def test_lowering(tmp_path, smoke):
    smoke("lowering", tmp_path)
    found = json.loads((tmp_path / "metrics.json").read_text())
    steps = {(row["step"], row["mesh"]) for row in found["steps"]}
    assert ("varpro, many in one program", "1 x 1") in steps
    assert ("varpro", "4 x 2") in steps
    assert any(row["case"].startswith("many training steps") for row in found["functions"])


@pytest.mark.slow
def test_robust_pca(tmp_path, smoke):
    smoke("robust_pca", tmp_path)
    names = {"table.md", "metrics.json", "figure.png", "frames.png"}
    assert names <= {path.name for path in tmp_path.iterdir()}
    rows = json.loads((tmp_path / "metrics.json").read_text())["results"]["gray"]
    assert rows["NID, refined"]["rank"] <= 4
    assert rows["true background"]["psnr"] is None


@pytest.mark.slow
def test_memory(tmp_path, smoke):
    smoke("memory", tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    cases = metrics["cases"]
    assert {(case["case"], case["phase"]) for case in cases} == {
        (case, phase) for case in ("patches", "images") for phase in ("dense", "sparse")
    }
    for case in cases:
        assert math.isfinite(case["loss"])
        # Weights, both moments, and whatever a step holds besides.
        assert case["compiled_bytes"] > 3 * 4 * case["parameters"]["dictionary"]
        assert case["peak_bytes"] > case["compiled_bytes"]
    assert "under 24.0 GiB" in (tmp_path / "table.md").read_text()


@pytest.mark.slow
def test_inpainting(tmp_path, smoke):
    done = smoke("inpainting", tmp_path)
    for name in ("figure.png", "unknown.png", "known.png", "pixels.png"):
        assert (tmp_path / name).stat().st_size > 5000
    table = (tmp_path / "table.md").read_text()
    assert table.split("\n\n", 1)[1] in done.stdout  # all but its title
    results = json.loads((tmp_path / "metrics.json").read_text())["results"]
    assert {"block, place unknown", "block, place known", "10%", "100%"} == set(results)
    for title, methods in results.items():
        for name, rows in methods.items():
            assert f"| {name} |" in table
            assert len(rows["psnr"]) == 4
            assert np.isfinite(rows["psnr"]).all(), (title, name)
    # Nothing is told of a hole that is unknown.
    assert not any(rows["told"] for rows in results["block, place unknown"].values())
    assert all(rows["told"] for rows in results["10%"].values())


@pytest.mark.slow
def test_own_inputs(tmp_path, smoke):
    smoke("own_inputs", tmp_path)
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert len(found["rows"]) == 4
    assert (
        found["patches_per_second"]["decoded once"]
        > found["patches_per_second"]["decoded at each access"]
    )
    assert (tmp_path / "table.md").read_text().count("nid_jax --config=") == 4


@pytest.mark.slow
def test_rate(tmp_path, smoke):
    smoke("rate", tmp_path)
    rows = json.loads((tmp_path / "metrics.json").read_text())["rows"]
    assert {row["coder"] for row in rows} == {"NID", "JPEG", "WebP"}
    for data in ("faces", "photographs"):
        for coder in ("NID", "JPEG", "WebP"):
            own = [row for row in rows if (row["data"], row["coder"]) == (data, coder)]
            assert len(own) > 3
            # What others beat in both is left out.
            assert np.diff([row["psnr"] for row in own]).min() > 0
            assert np.diff([row["bits"] for row in own]).min() >= 0


@pytest.mark.slow
def test_precision(tmp_path, smoke):
    smoke("precision", tmp_path, "--only=image:smoke")
    assert (tmp_path / "table.md").read_text().count("|") > 20


@pytest.mark.slow
def test_matmul(tmp_path, smoke):
    smoke("matmul", tmp_path)
    (row,) = json.loads((tmp_path / "matmul.json").read_text())["rows"]
    assert row["bfloat16 atoms"] > row["tf32 atoms"] > row["bfloat16_3x atoms"] > 0
    assert abs(row["bfloat16_3x fitted"]) < 0.1


@pytest.mark.slow
def test_gridless(tmp_path, smoke):
    smoke("gridless", tmp_path)
    names = {"table.md", "metrics.json", "figure.png"}
    assert names <= {path.name for path in tmp_path.iterdir()}
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert len(found["results"]) == 24
    assert all(np.isfinite([row["psnr"], row["few"]]).all() for row in found["results"])
    rows = json.loads((tmp_path / "growth.json").read_text())["rows"]
    assert {(row["kind"], row["ways"]) for row in rows} == {
        (kind, ways) for kind in ("rounds", "steps") for ways in (0, 1, 16)
    }
    for row in rows:
        assert 0 < row["compile_seconds"] < row["seconds"]
        assert 0 < row["base_bytes"] <= row["peak_bytes"]
        assert row["per_second"] is None or row["per_second"] > 0
    assert (tmp_path / "growth.md").read_text().count("|") > 40
    assert (tmp_path / "growth.png").is_file()
    assert (tmp_path / "mixture.png").is_file()
    check_mixture(tmp_path)
    sensed = {row["method"]: row for row in found["results"] if row["each"] is not None}
    assert set(sensed) == {
        "NID, each day's own stations",
        "kriging, day by day",
        "SIREN, day by day, best in hindsight",
        "PCA after interpolation",
        "PCA by alternating imputation",
    }
    ours = sensed["NID, each day's own stations"]
    assert ours["psnr"] > max(row["psnr"] for name, row in sensed.items() if "PCA" in name)


def check_mixture(folder):
    """What the contest of the mixture measured."""
    found = json.loads((folder / "mixture.json").read_text())
    methods = ("one", "mixture", "neighbours")
    assert [row["collection"] for row in found["quality"]] == ["faces", "CT", "chairs"]
    for row in found["quality"]:
        assert np.isfinite([row[name] for name in methods]).all()
        assert row["gain"] == pytest.approx(row["mixture"] - row["neighbours"], abs=1e-6)
        assert row["error"] >= 0
        # Draws of one signal count once.
        assert row["signals"] == {"faces": 4, "CT": 2, "chairs": 2}[row["collection"]]
    assert [(row["collection"], row["signals"]) for row in found["times"]] == [("CT", 1), ("CT", 3)]
    for row in found["times"]:
        assert 0 < row["floor"] < min(row[name] for name in (*methods, "equations"))
        assert 0 < row["ratio"]["least"] <= row["ratio"]["median"] <= row["ratio"]["most"]
    assert (folder / "mixture.md").read_text().count("|") > 60


def test_floor_of_a_gaussian_counted_one_by_one():
    rows, experts = 3, 5
    products = 2 * experts * rows**2 / 2
    factor = rows**3 / 3
    signal = 2 * 2 * rows * experts
    assert mixture.floor_flops(rows, experts, 1, 4) == products + factor + 4 * signal
    assert mixture.floor_flops(rows, experts, 4, 4) == 4 * (products + factor + signal)


@pytest.mark.slow
def test_feeding(tmp_path, smoke):
    smoke("feeding", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"table.md", "metrics.json"}
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert [row["source"] for row in found["reading"]] == [
        *("PNG files", "tfds, array_record", "memory-mapped .npy", "array in memory")
    ]
    assert all(row["rate"] > 0 for row in found["reading"])
    assert found["step_seconds"]["least"] > 0
    (training,) = found["steps"]
    for key in ("off", "on", "ratio"):
        assert 0 < training[key]["least"] <= training[key]["median"] <= training[key]["most"]


@pytest.mark.slow
def test_ship(tmp_path, smoke):
    smoke("ship", tmp_path, "--only=faces,chairs")
    lines = (tmp_path / "SHA256SUMS").read_text().splitlines()
    assert [line.split()[1] for line in lines] == [
        "chairs/model.safetensors",
        "faces/model.safetensors",
    ]
    for name, title in (("chairs", "IoU"), ("faces", "PSNR, dB")):
        card = (tmp_path / name / "README.md").read_text()
        scores = card.partition(f"## {title} of 2 unseen signals\n")[2].split("\n## ")[0]
        rows = [line.split("|")[1:-1] for line in scores.strip().splitlines()[2:]]
        assert len(rows) == 4
        stored, whole = np.array([[float(cell) for cell in row[1:3]] for row in rows]).T
        # Sixteen bits are enough.
        np.testing.assert_allclose(stored, whole, atol=0.02)
    card = (tmp_path / "faces" / "README.md").read_text()
    smoke("ship", tmp_path, "--only=faces", "--cards")
    again = (tmp_path / "faces" / "README.md").read_text()
    assert "as float32" in card
    assert "as float32" not in again
    # The same but for the column, and when it was scored.
    assert [line.split("|")[:3] for line in card.splitlines() if line.startswith("| 10.0%")] == [
        line.split("|")[:3] for line in again.splitlines() if line.startswith("| 10.0%")
    ]
    assert card.split("\n## Size")[1] == again.split("\n## Size")[1]


@pytest.mark.slow
def test_official_size(tmp_path, smoke):
    smoke("official_size", tmp_path)
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["largest_error"] < 1e-4
    assert len(found["commands"]) == 5
    for entry in found["commands"]:
        assert 1e8 < entry["peak_bytes"] < 4e9
        assert entry["processor_seconds"] > 0
