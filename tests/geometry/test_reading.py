"""Meshes as people have them: an L-shaped block in every format, and its exact distances."""

import struct
import zipfile

import numpy as np
import pytest
import trimesh

from nid_jax.geometry import distance, mesh, reading
from nid_jax.geometry.mesh import load_mesh
from nid_jax.notices import Notice

OUTLINE = [(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)]
CORNERS = np.array([(*p, 0.0) for p in OUTLINE] + [(*p, 1.0) for p in OUTLINE])
# Begun where a fan covers the notch.
ORDER = [(1 + i) % 6 for i in range(6)]
POLYGONS = [[ORDER[0], *ORDER[:0:-1]], [6 + i for i in ORDER]]
POLYGONS += [[i, (i + 1) % 6, 6 + (i + 1) % 6, 6 + i] for i in range(6)]
FLAT = [(0, 1, 2), (0, 2, 3), (0, 3, 5), (3, 4, 5)]
TRIANGLES = [t[::-1] for t in FLAT] + [tuple(6 + i for i in t) for t in FLAT]
TRIANGLES += [t for a, b, c, d in POLYGONS[2:] for t in ((a, b, c), (a, c, d))]
UTM = np.array([691607.25, 5334752.5, 519.0])
POINTS = np.random.default_rng(0).uniform(-0.5, 2.5, (3000, 3))


def exact(points):
    """Distances to the block, an L in the plane by an interval, in float64."""
    p = points[:, None, :2]
    a = np.array(OUTLINE, float)
    along = np.roll(a, -1, axis=0) - a
    share = np.clip(((p - a) * along).sum(-1) / np.square(along).sum(-1), 0, 1)
    side = np.linalg.norm(p - a - share[..., None] * along, axis=-1).min(1)
    x, y, z = points.T
    inside = (x > 0) & (y > 0) & (x < 2) & (y < 2) & ~((x > 1) & (y > 1))
    flat = np.where(inside, -side, side)
    high = np.maximum(-z, z - 1)
    outside = np.hypot(np.maximum(flat, 0), np.maximum(high, 0))
    return outside + np.minimum(np.maximum(flat, high), 0)


def obj(corners=CORNERS, faces=POLYGONS):
    lines = ["v " + " ".join(repr(float(c)) for c in v) for v in corners]
    return "\n".join([*lines, *("f " + " ".join(str(i + 1) for i in f) for f in faces), ""])


def obj_with_all(corners=CORNERS, faces=POLYGONS):
    """Comments, colours, textures, normals, groups, relative numbers, lines that go on, CRLF."""
    lines = ["# exported", "mtllib none.mtl", "o block", "vt 0 0", "vn 0 0 1"]
    lines += ["v " + " ".join(repr(float(c)) for c in v) + " 0.5 0.5 0.5" for v in corners]
    lines += ["g first", "usemtl none", "s off", "l 1 2"]
    lines += ["f " + " ".join(f"{i - len(corners)}/1/1" for i in faces[0]) + " # bottom"]
    lines += ["f \\", "  " + " ".join(f"{i + 1}//1" for i in faces[1])]
    lines += ["f " + "\t".join(f"{i + 1}/1" for i in face) for face in faces[2:]]
    return "\r\n".join([*lines, ""])


def off(head="OFF\n", extra="", tail=""):
    lines = [" ".join(map(repr, map(float, v))) + extra for v in CORNERS]
    lines += [f"{len(f)} {' '.join(map(str, f))}{tail}" for f in POLYGONS]
    return head + f"{len(CORNERS)} {len(POLYGONS)} 0\n\n# corners\n" + "\n".join(lines) + "\n"


def ply(kind, number="double", corners=CORNERS, faces=POLYGONS):
    """Colours before the coordinates, a face's quality before its corners."""
    header = ["ply", f"format {kind} 1.0", "comment made by hand", f"element vertex {len(corners)}"]
    header += ["property uchar red", *(f"property {number} {axis}" for axis in "xyz")]
    header += [f"element face {len(faces)}", "property float quality"]
    header += ["property list uchar uint vertex_index", "end_header\n"]
    head = "\n".join(header).encode()
    if kind == "ascii":
        lines = ["7 " + " ".join(map(repr, map(float, v))) for v in corners]
        lines += [f"0.5 {len(f)} {' '.join(map(str, f))}" for f in faces]
        return head + "\n".join([*lines, ""]).encode()
    order = "<" if "little" in kind else ">"
    code = {"double": "d", "float": "f"}[number]
    rows = [struct.pack(f"{order}B3{code}", 7, *v) for v in corners]
    rows += [struct.pack(f"{order}fB{len(f)}I", 0.5, len(f), *f) for f in faces]
    return head + b"".join(rows)


def dae(unit="centimeter", up="Z_UP", matrix="1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1"):
    places = " ".join(f"{c:g}" for c in CORNERS.ravel())
    counts = " ".join(str(len(f)) for f in POLYGONS)
    corners = " ".join(str(i) for f in POLYGONS for i in f)
    return f"""<?xml version="1.0"?>
<COLLADA xmlns="http://www.collada.org/2005/11/COLLADASchema" version="1.4.1">
<asset><unit name="{unit}" meter="0.01"/><up_axis>{up}</up_axis></asset>
<library_geometries><geometry id="g"><mesh>
<source id="p"><float_array id="a" count="36">{places}</float_array><technique_common>
<accessor source="#a" count="12" stride="3"><param name="X" type="float"/>
<param name="Y" type="float"/><param name="Z" type="float"/></accessor></technique_common></source>
<vertices id="v"><input semantic="POSITION" source="#p"/></vertices>
<polylist count="{len(POLYGONS)}"><input semantic="VERTEX" source="#v" offset="0"/>
<vcount>{counts}</vcount><p>{corners}</p></polylist></mesh></geometry></library_geometries>
<library_visual_scenes><visual_scene id="s"><node><matrix>{matrix}</matrix>
<instance_geometry url="#g"/></node></visual_scene></library_visual_scenes>
<scene><instance_visual_scene url="#s"/></scene></COLLADA>"""


def stl(corners=CORNERS):
    solid = trimesh.Trimesh(corners, TRIANGLES, process=False)
    return solid.export(file_type="stl"), solid.export(file_type="stl_ascii")


KINDS = {
    "triangles.obj": obj(faces=TRIANGLES),
    "polygons.obj": obj(),
    "all.obj": obj_with_all(),
    "plain.off": off(),
    "joined.off": off("OFF"),
    "comments.off": off("# by hand\nOFF # text\n"),
    "colours.off": off("COFF\n", extra=" 255 0 0 255", tail="  3 0.2 0.2 0.2"),
    "normals.off": off("CNOFF\n", extra=" 0 0 1 255 0 0 255"),
    "text.ply": ply("ascii"),
    "little.ply": ply("binary_little_endian"),
    "big.ply": ply("binary_big_endian"),
    "singles.ply": ply("binary_big_endian", "float"),
    "binary.stl": stl()[0],
    "text.stl": stl()[1],
    "polygons.dae": dae(),
}


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.filterwarnings("error::nid_jax.notices.Notice")
def test_the_block_of_every_format_has_the_distances_of_an_l(tmp_path, name):
    if name.endswith("dae"):
        pytest.importorskip("collada")
    found = load_mesh(write(tmp_path / name, KINDS[name]))
    assert len(found.faces) == 20
    np.testing.assert_allclose(
        distance.signed_distance(found.vertices, found.faces, POINTS), exact(POINTS), atol=1e-6
    )
    assert mesh.facts(found)["watertight"]
    assert mesh.facts(found)["consistent"]


def test_two_sided_polygons(tmp_path):
    """Fronts and backs that begin at other corners have the same triangles."""
    backs = [face[2:][::-1] + face[:2][::-1] for face in POLYGONS]
    path = write(tmp_path / "a.obj", obj(faces=[*POLYGONS, *backs]))
    with pytest.warns(Notice, match="two-sided: 20 faces lie back to back"):
        found = load_mesh(path)
    np.testing.assert_allclose(
        distance.signed_distance(found.vertices, found.faces, POINTS), exact(POINTS), atol=1e-6
    )


def test_faces_that_look_inwards_are_turned(tmp_path):
    path = write(tmp_path / "a.obj", obj(faces=[face[::-1] for face in POLYGONS]))
    with pytest.warns(Notice, match=r"a\.obj: all faces look inwards; turned round"):
        assert load_mesh(path).volume == pytest.approx(3)


def test_polygons_left_out_are_counted(tmp_path):
    path = write(tmp_path / "a.obj", obj(faces=[*POLYGONS, [0, 1], [0, 0, 1, 1], [0, 1, 3, 2]]))
    with pytest.warns(
        Notice, match="2 polygons of fewer than three corners left out, 1 polygons cr"
    ):
        load_mesh(path)


@pytest.mark.parametrize("shift", [UTM, np.array([500.0, -200.0, 30.0])])
@pytest.mark.parametrize("name", ["a.obj", "a.off", "text.ply", "big.ply"])
def test_doubles_are_read_as_doubles(tmp_path, name, shift):
    corners = 1000 * CORNERS + shift if shift[0] == 500 else CORNERS + shift
    moved = {"a.obj": obj(corners), "text.ply": ply("ascii", corners=corners)}
    moved["big.ply"] = ply("binary_big_endian", corners=corners)
    moved["a.off"] = "OFF\n12 8 0\n" + obj(corners).replace("v ", "").partition("f ")[0]
    moved["a.off"] += "".join(f"{len(f)} {' '.join(map(str, f))}\n" for f in POLYGONS)
    found = load_mesh(write(tmp_path / name, moved[name]))
    np.testing.assert_array_equal(found.vertices, corners)
    inside = mesh.Normalisation.of(found).apply(found)
    np.testing.assert_allclose(inside.vertices, (CORNERS - [1, 1, 0.5]) * 0.9, atol=1e-9)


@pytest.mark.parametrize("name", ["float.ply", "binary.stl"])
def test_singles_that_lose_the_shape_are_said(tmp_path, name):
    content = ply("binary_little_endian", "float", CORNERS + UTM)
    path = write(tmp_path / name, content if name.endswith("ply") else stl(CORNERS + UTM)[0])
    with pytest.warns(
        Notice, match="coordinates in single precision, 0.5 apart for a shape 2 long"
    ):
        load_mesh(path)


def test_too_few_digits_are_said(tmp_path):
    ball = trimesh.creation.icosphere(3)
    lines = [f"v {x:.0f} {y:.0f} {z:.0f}" for x, y, z in 3 * ball.vertices + UTM]
    lines += [f"f {a} {b} {c}" for a, b, c in ball.faces + 1]
    with pytest.warns(Notice, match=r"\d{3} of 1280 faces have no area: .* too few digits"):
        load_mesh(write(tmp_path / "a.obj", "\n".join(lines)))


def test_triangle_strips_of_ply(tmp_path):
    """One strip round a tetrahedron, and a rest that is none."""
    header = "ply\nformat ascii 1.0\nelement vertex 4\n"
    header += "".join(f"property float {axis}\n" for axis in "xyz")
    header += "element tristrips 1\nproperty list int int vertex_indices\nend_header\n"
    corners = "0 0 0\n1 0 0\n0 1 0\n0 0 1\n"
    found = load_mesh(write(tmp_path / "a.ply", header + corners + "8 0 1 3 2 0 1 -1 1\n"))
    proper = found.faces[[len(set(face)) == 3 for face in found.faces.tolist()]]
    assert len(proper) == 4
    assert np.linalg.det(found.vertices[proper]).sum() / 6 == pytest.approx(1 / 6)


# What files say of units and of up


def test_units_and_up_of_collada(tmp_path):
    pytest.importorskip("collada")
    mirrored = "-1 0 0 10 0 1 0 0 0 0 2 0 0 0 0 1"
    found = load_mesh(write(tmp_path / "a.dae", dae(up="Y_UP", matrix=mirrored)))
    assert found.metadata == {"up": "y", "units": "centimeter"}
    np.testing.assert_allclose(found.bounds, [[8, 0, 0], [10, 2, 2]])
    assert found.volume == pytest.approx(6)


def test_units_and_places_of_3mf(tmp_path):
    pytest.importorskip("lxml")
    vertices = "".join(f'<vertex x="{x}" y="{y}" z="{z}"/>' for x, y, z in CORNERS)
    faces = "".join(f'<triangle v1="{a}" v2="{b}" v3="{c}"/>' for a, b, c in TRIANGLES)
    model = f"""<?xml version="1.0" encoding="UTF-8"?><model unit="inch"
    xmlns="http://schemas.microsoft.com/3dmanufacturing/core/2015/02"><resources>
    <object id="1" type="model"><mesh><vertices>{vertices}</vertices>
    <triangles>{faces}</triangles></mesh></object></resources><build>
    <item objectid="1"/><item objectid="1" transform="1 0 0 0 1 0 0 0 1 5 0 0"/></build></model>"""
    with zipfile.ZipFile(tmp_path / "a.3mf", "w") as archive:
        archive.writestr("3D/3dmodel.model", model)
    found = load_mesh(tmp_path / "a.3mf")
    assert found.metadata == {"up": "z", "units": "inch"}
    np.testing.assert_allclose(found.bounds, [[0, 0, 0], [7, 2, 1]])
    assert found.volume == pytest.approx(6)


@pytest.mark.parametrize(
    ("kind", "up", "units"),
    [
        ("obj", "y", ""),
        ("glb", "y", "metres"),
        ("stl", "z", ""),
        ("ply", "z", ""),
        ("off", "z", ""),
    ],
)
def test_the_axis_up_goes_by_the_format(tmp_path, kind, up, units):
    trimesh.creation.box().export(tmp_path / f"a.{kind}")
    assert load_mesh(tmp_path / f"a.{kind}").metadata == {"up": up, "units": units}


def test_a_format_whose_package_is_missing_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(reading._NEEDS, "stl", ("no_such_package",))
    write(tmp_path / "a.stl", stl()[0])
    assert "stl" not in reading.mesh_formats()
    with pytest.raises(ValueError, match=r"a\.stl: reading stl needs no_such_package"):
        load_mesh(tmp_path / "a.stl")


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.off", "OFF BINARY\n", "binary OFF is not read"),
        ("a.off", "4OFF\n1 0 0\n", "begins with '4OFF'"),
        ("a.off", "PLY\n", "begins with 'PLY'"),
        ("a.off", "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n", "3 vertices and 1 faces are announced"),
        ("a.off", "OFF\n3 1 0\n0 0 0\n1 0 x\n0 1 0\n3 0 1 2\n", "not the lines of OFF"),
        ("a.obj", "v 0 0\nf 1 1 1\n", "'v 0 0' is no vertex or face"),
        ("a.obj", "v 0 0 0\nf 0 1 1\n", "'f 0 1 1' is no vertex or face"),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "face 0 has vertex 8, but there are 3"),
        ("a.ply", "ply\nformat ascii 1.0\nelement vertex 0\nend_header\n", "no property x"),
    ],
)
def test_what_cannot_be_read_says_why_in_one_line(tmp_path, name, content, why):
    with pytest.raises(ValueError, match=why) as caught:
        load_mesh(write(tmp_path / name, content))
    assert str(caught.value).startswith(f"{tmp_path / name}: cannot be read: ")
    assert "\n" not in str(caught.value)


def test_a_face_of_off_that_is_cut_short(tmp_path):
    corners = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n"
    (tmp_path / "a.off").write_text(f"OFF\n4 1 0\n{corners}4 0 1 2\n")
    with pytest.raises(ValueError, match=r"a face of 4 corners, '4 0 1 2', has others"):
        reading.read(tmp_path / "a.off")
