"""Oriented clouds as people have them: headers, columns, separators, and the way they look."""

import numpy as np
import pytest

from nid_jax.data.cloud_reading import read_cloud
from nid_jax.data.cloud_writing import write_cloud
from nid_jax.notices import Notice

DRAW = np.random.default_rng(0)
UNIT = DRAW.standard_normal((600, 3))
UNIT /= np.linalg.norm(UNIT, axis=1, keepdims=True)
POINTS = UNIT * [90, 80, 70] + [100, 0, -5]
NORMALS = UNIT / [90, 80, 70]
NORMALS /= np.linalg.norm(NORMALS, axis=1, keepdims=True)
COLOURS = DRAW.integers(0, 256, (600, 3))
INTENSITY = DRAW.random((600, 1))
UTM = np.array([691607.25, 5334752.5, 519.0])


def lines(*columns, join=" ", head=""):
    rows = np.concatenate(columns, 1)
    return head + "".join(join.join(f"{v!r}" for v in row) + "\n" for row in rows.tolist())


def ply(kind, names, rows, number="float"):
    header = ["ply", f"format {kind} 1.0", f"element vertex {len(rows)}"]
    header += [f"property {number} {name}" for name in names] + ["end_header\n"]
    if kind == "ascii":
        return "\n".join(header) + lines(rows)
    order = "<" if "little" in kind else ">"
    kinds = {"float": "f4", "double": "f8"}
    return "\n".join(header).encode() + rows.astype(order + kinds[number]).tobytes()


def read(tmp_path, name, content, **options):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_cloud(path, **options)


BOTH = np.c_[POINTS, NORMALS]
SILENT = {
    "plain.xyz": lines(BOTH),
    "commas.csv": lines(BOTH, join=", "),
    "semicolons.txt": lines(BOTH, join=";"),
    "tabs.asc": lines(BOTH, join="\t", head="# made by hand\n\n"),
    "decimal commas.txt": lines(BOTH).replace(".", ","),
    "decimal commas.csv": lines(BOTH, join=";").replace(".", ","),
    "header.xyz": "X Y Z Nx Ny Nz\n" + lines(BOTH),
    "quoted.csv": '"x","y","z","nx","ny","nz"\n' + lines(BOTH, join=","),
    "cloudcompare.asc": "//X Y Z R G B Nx Ny Nz\n" + lines(POINTS, COLOURS, NORMALS),
    "shuffled.txt": "# normal_x normal_y normal_z z y x\n" + lines(NORMALS, POINTS[:, ::-1]),
    "intensity.csv": "x,y,z,intensity,nx,ny,nz\n" + lines(POINTS, INTENSITY, NORMALS, join=","),
    "count.pts": f"{len(BOTH)}\n" + lines(BOTH),
    "bom.csv": "\ufeff" + lines(BOTH, join=","),
    "named.ply": ply("ascii", ["x", "y", "z", "normal_x", "normal_y", "normal_z"], BOTH),
    "upper.ply": ply("binary_big_endian", ["X", "Y", "Z", "NX", "NY", "NZ"], BOTH, "double"),
    "mixed.ply": ply(
        "binary_little_endian",
        ["Nx", "Ny", "Nz", "z", "y", "x", "quality"],
        np.c_[NORMALS, POINTS[:, ::-1], INTENSITY],
        "double",
    ),
    "scalars.ply": ply("ascii", ["x", "y", "z", "scalar_Nx", "scalar_Ny", "scalar_Nz"], BOTH),
}


@pytest.mark.parametrize("name", SILENT)
@pytest.mark.filterwarnings("error")
def test_points_and_normals_are_found(tmp_path, name):
    points, normals = read(tmp_path, name, SILENT[name])
    atol = 1e-4 if name in ("named.ply", "scalars.ply") else 1e-12
    np.testing.assert_allclose(points, POINTS, rtol=0, atol=atol)
    np.testing.assert_allclose(normals, NORMALS, atol=1e-6 if atol > 1e-9 else 1e-12)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (lines(POINTS, COLOURS, NORMALS), "columns 7 to 9 of 9 taken as normals"),
        (lines(POINTS, NORMALS, COLOURS), "columns 4 to 6 of 9 taken as normals"),
        (lines(POINTS, INTENSITY, NORMALS), "columns 5 to 7 of 7 taken as normals"),
        (
            lines(POINTS, NORMALS * np.linspace(1, 3, 600)[:, None]),
            "columns 4 to 6 taken as normals, of lengths 1 to 3",
        ),
    ],
)
def test_columns_told_by_their_lengths_are_said(tmp_path, content, expected):
    with pytest.warns(Notice, match=rf"c\.xyz: {expected}") as said:
        points, normals = read(tmp_path, "c.xyz", content)
    assert len(said) == 1
    np.testing.assert_allclose(points, POINTS)
    np.testing.assert_allclose(normals, NORMALS, atol=1e-12)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (lines(POINTS, COLOURS), "look like colours, from 0 to 255"),
        (lines(POINTS, COLOURS / 255), "look like colours, from 0 to 1"),
        ("x y z r g b\n" + lines(POINTS, COLOURS), "no columns nx ny nz among x y z r g b"),
        (lines(POINTS, COLOURS, COLOURS), "9 numbers a line without a header"),
        ("x y z\n" + lines(POINTS), "no columns nx ny nz"),
        (lines(POINTS), "3 numbers a line; expected 6"),
        ("x y z q w nx ny nz\n" + lines(BOTH), "names 8 columns .* lines have 6 numbers"),
        (lines(BOTH) + "1 2 3\n", "lines have 3 to 6 numbers"),
        (lines(BOTH) + "the end\n", "cannot be read as lines of numbers .line 601: 'the end'"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_is_no_oriented_cloud_is_refused(tmp_path, content, expected):
    with pytest.raises(ValueError, match=rf"c\.txt: .*{expected}") as caught:
        read(tmp_path, "c.txt", content)
    assert "\n" not in str(caught.value)


def test_normals_of_ply_that_are_absent_say_what_is_there(tmp_path):
    with pytest.raises(ValueError, match=r"has no normals; .* nx, ny, nz; there are x, y, z, red"):
        read(tmp_path, "c.ply", ply("ascii", ["x", "y", "z", "red"], np.c_[POINTS, INTENSITY]))


# Which way they look


def test_inward_normals_are_turned_unless_they_are_to_stay(tmp_path):
    inward = lines(POINTS, -NORMALS)
    with pytest.warns(
        Notice, match=r"c\.xyz: normals look inwards; .* data\.normals=given"
    ) as said:
        points, normals = read(tmp_path, "c.xyz", inward)
    assert len(said) == 1
    np.testing.assert_allclose(normals, NORMALS, atol=1e-12)
    # What the surface encloses, by the divergence theorem on points even on the unit sphere.
    density = np.prod([90, 80, 70]) * np.linalg.norm(UNIT / [90, 80, 70], axis=1)
    centred = points - [100, 0, -5]
    volume = 4 * np.pi * ((centred * normals).sum(1) * density).mean() / 3
    assert volume == pytest.approx(2_111_000, rel=0.01)
    _, kept = read(tmp_path, "c.xyz", inward, normals="given")
    np.testing.assert_allclose(kept, -NORMALS, atol=1e-12)


def test_mixed_normals_and_open_surfaces_are_said(tmp_path):
    signs = np.where(DRAW.random(600) < 0.5, -1, 1)[:, None]
    with pytest.warns(Notice, match="normals of neighbouring points look opposite ways") as said:
        _, normals = read(tmp_path, "c.xyz", lines(POINTS, signs * NORMALS))
    assert len(said) == 1
    np.testing.assert_allclose(normals, signs * NORMALS, atol=1e-12)
    cap = UNIT[:, 2] > 0.8
    with pytest.warns(Notice, match=r"normals enclose little \(-0\.\d\d; 1 is outwards"):
        read(tmp_path, "c.xyz", lines(POINTS[cap], -NORMALS[cap]))


@pytest.mark.parametrize("suffix", ["xyz", "ply"])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1000.0])
def test_clouds_written_are_read_with_every_digit(tmp_path, suffix, scale):
    points = scale * POINTS + (UTM if scale == 1 else 0)
    write_cloud(tmp_path / f"c.{suffix}", points, NORMALS)
    found, normals = read_cloud(tmp_path / f"c.{suffix}")
    np.testing.assert_array_equal(found, points)
    np.testing.assert_allclose(normals, NORMALS, atol=1e-7)


def test_words_before_the_names_of_columns_are_none(tmp_path, recwarn):
    rows = lines(BOTH, INTENSITY)
    for head in ("# Columns: x y z nx ny nz intensity", "# FIELDS x y z nx ny nz i"):
        points, normals = read(tmp_path, "a.xyz", f"{head}\n{rows}")
        np.testing.assert_allclose(points, POINTS)
        np.testing.assert_allclose(normals, NORMALS)
    assert not recwarn.list
    # As pandas writes an index, with no name.
    indexed = lines(np.arange(600)[:, None], BOTH, join=",", head=",x,y,z,nx,ny,nz\n")
    with pytest.raises(ValueError, match=r"a\.csv: its header names 6 columns .*have 7 numbers"):
        read(tmp_path, "a.csv", indexed)


def test_a_column_that_counts_is_no_coordinate(tmp_path):
    rows = lines(np.arange(600)[:, None], BOTH)
    with pytest.warns(Notice, match=r"column 1 of 7 counts the lines; columns 2 to 4 taken as po"):
        points, normals = read(tmp_path, "a.xyz", rows)
    np.testing.assert_allclose(points, POINTS)
    np.testing.assert_allclose(normals, NORMALS)


def test_commas_of_comments_do_not_separate(tmp_path, recwarn):
    rows = lines(BOTH, join=";").replace(".", ",")
    points, _ = read(tmp_path, "a.csv", "# scan of 3, May\nx;y;z;nx;ny;nz\n" + rows)
    np.testing.assert_allclose(points, POINTS)
    assert not recwarn.list


def test_more_points_than_memory_holds(tmp_path):
    content = ply("ascii", ["x", "y", "z", "nx", "ny", "nz"], BOTH).replace(
        "vertex 600", f"vertex {10**13}"
    )
    with pytest.raises(ValueError, match=r"a\.ply: cannot be read as PLY"):
        read(tmp_path, "a.ply", content)
