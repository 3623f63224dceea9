"""Sheets of meshes: the error in colour."""

import numpy as np
import pytest
import trimesh

from nid_jax.reporting.mesh_sheets import mesh_sheet
from nid_jax.reporting.pictures import GAP, TEXT


def ball(radius=0.5):
    return trimesh.creation.icosphere(subdivisions=3, radius=radius)


def nothing():
    return trimesh.Trimesh(np.empty((0, 3)), np.empty((0, 3), int), process=False)


def test_a_sheet_shows_the_error_in_colour():
    image = mesh_sheet([ball(0.5)] * 2, [ball(0.5), ball(0.45)], ["same", "small"], size=160)
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    saturation = np.ptp(image.astype(int), axis=2)
    colourful = saturation > 120
    # Coloured to the scale's end: the second ball, and the bar below.
    columns = np.flatnonzero(colourful[: -5 * TEXT].any(0))
    assert columns.min() > image.shape[1] - 160 - 2 * GAP
    with pytest.raises(ValueError, match="1 true meshes and 2 reconstructions"):
        mesh_sheet([ball()], [ball(), ball()])
    assert mesh_sheet([ball()], [nothing()], size=32).shape == (
        mesh_sheet([ball()], [ball()], size=32).shape
    )


def test_baselines_have_rows_between_the_reconstruction_and_its_error():
    plain = mesh_sheet([ball()] * 2, [ball()] * 2, size=48)
    others = {"mean shape": [ball(0.5)], "planes": [nothing()] * 2}
    image = mesh_sheet([ball()] * 2, [ball()] * 2, size=48, others=others)
    assert image.shape[0] == plain.shape[0] + 2 * 48
    left = image.shape[1] - max(2 * (48 + GAP), 300)
    tiles = image[GAP : GAP + 5 * 48, left:, :].min(2).reshape(5, 48, -1)[:, :, : 2 * (48 + GAP)]
    first, second = tiles[:, :, :48], tiles[:, :, 48 + GAP :]
    assert [(tile < 200).mean() > 0.2 for tile in first] == [True, True, True, False, True]
    assert [(tile < 200).mean() > 0.2 for tile in second] == [True, True, False, False, True]


def test_what_has_no_surface_says_so_and_no_scale_is_drawn():
    image = mesh_sheet([ball()], [nothing()], size=96)
    top = GAP
    for row in (1, 2):
        tile = image[top + row * 96 : top + (row + 1) * 96, -306:].min(2)
        assert (tile < 160).any()
    assert np.ptp(image[top + 3 * 96 :].astype(int), axis=2).max() < 60
