"""The experiment on video: its scores against plain ones."""

import json

import numpy as np
import pytest
import robust_pca
from sklearn.metrics import f1_score


def small_clip():
    generator = np.random.default_rng(0)
    factors = np.stack([np.ones(16), np.linspace(0, 0.3, 16)], 1)
    truth = factors @ generator.uniform(0.3, 0.6, (2, 80))
    truth = truth.reshape(16, 8, 10, 1).astype(np.float32)
    moving = generator.random((16, 8, 10)) < 0.1
    return robust_pca.Clip(np.where(moving[..., None], truth + 0.2, truth), truth, moving)


def test_scores_are_those_of_plain_numpy():
    clip = small_clip()
    background = (clip.truth + 0.01).astype(np.float32)
    row = robust_pca.score(clip, background, 0.05)
    assert row["psnr"] == pytest.approx(40, abs=1e-3)
    mask = np.abs(clip.frames - background)[..., 0] > 0.05
    assert row["f"] == pytest.approx(f1_score(clip.moving.ravel(), mask.ravel()))
    assert robust_pca.score(clip, clip.truth, 0.05)["psnr"] is None
    assert robust_pca.score(clip, clip.truth, 0.05)["f"] == 1


def test_the_peers_give_backgrounds_of_their_rank():
    clip = small_clip()
    found = robust_pca.peer_methods(clip, 2, 20)
    ranks = {name: robust_pca.score(clip, r.background, 0.05)["rank"] for name, r in found.items()}
    assert ranks["truncated SVD"] == ranks["truncated SVD, refined"] == 2
    assert ranks["median"] == 1
    left, values, right = np.linalg.svd(clip.frames.reshape(16, -1).astype(np.float64))
    nearest = (left[:, :2] * values[:2]) @ right[:2]
    svd = found["truncated SVD"].background
    np.testing.assert_allclose(svd.reshape(16, -1), nearest, atol=1e-5)


def test_the_table_and_the_figure_are_written(tmp_path):
    clip = small_clip()
    results = robust_pca.peer_methods(clip, 2, 5)
    scores = {
        name: robust_pca.score(clip, r.background, 0.05) | {"seconds": 1.0, "training": 0.0}
        for name, r in results.items()
    }
    table = robust_pca.write(tmp_path, {"clip": scores}, "a note")
    assert len(table.splitlines()) == 2 + len(results)
    written = (tmp_path / "table.md").read_text()
    assert written.startswith("# ")
    assert written.endswith(f"\n\n{table}\na note\n")
    assert json.loads((tmp_path / "metrics.json").read_text())["results"]["clip"] == scores
    assert (tmp_path / "figure.png").stat().st_size > 1000
