"""Meshes of a fit: what is refused, and scores with meshes that are missing or empty."""

import numpy as np
import pytest
import trimesh
from ml_collections import ConfigDict

from nid_jax.fitting import meshing


def wanted(**changes):
    values = {"resolution": 0, "format": "ply", "threshold": 0.05, "samples": 2000}
    return ConfigDict(values | changes)


@pytest.mark.parametrize("suffix", ["ply", "obj", "glb", "stl", "off"])
@pytest.mark.parametrize("resolution", [0, 2, 512])
def test_what_is_allowed(suffix, resolution):
    meshing.check(wanted(resolution=resolution, format=suffix))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"format": "vrml"}, r"fit\.mesh\.format: 'vrml'; allowed: ply, obj, glb, stl, off"),
        ({"format": ".ply"}, r"fit\.mesh\.format: '\.ply'"),
    ],
)
def test_what_is_refused(changes, expected):
    with pytest.raises(ValueError, match=expected):
        meshing.check(wanted(**changes))


def ball(radius):
    return trimesh.creation.icosphere(4, radius)


def test_scores_are_those_of_each_pair():
    radii, true = (0.5, 0.55), (0.5, 0.5)
    scores = meshing.surface_scores([ball(r) for r in radii], [ball(r) for r in true], wanted())
    same, other = scores["chamfer"]
    # Samples lie on the facets of the same mesh, and 0.05 apart on two concentric ones.
    assert same < 1e-6
    assert other == pytest.approx(0.05, rel=0.03)
    assert scores["hausdorff"][1] == pytest.approx(0.05, rel=0.1)
    assert (scores["normal_consistency"] > 0.99).all()
    np.testing.assert_allclose(scores["fscore"], [1, scores["fscore"][1]], atol=1e-6)
    apart = meshing.surface_scores([ball(0.7)], [ball(0.5)], wanted())
    assert apart["fscore"][0] == 0


def test_pairs_without_a_surface_do_not_count():
    empty = trimesh.Trimesh(process=False)
    meshes, truths = [ball(0.5), empty, ball(0.5), ball(0.5)], [ball(0.6), ball(0.5), None, empty]
    scores = meshing.surface_scores(meshes, truths, wanted())
    for values in scores.values():
        assert values.shape == (4,)
        assert np.isnan(values).tolist() == [False, True, True, True]
    # Where nothing can be compared, there are no scores at all.
    assert meshing.surface_scores([empty], [ball(0.5)], wanted()) == {}
    assert meshing.surface_scores([ball(0.5)], [None], wanted()) == {}
