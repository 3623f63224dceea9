"""Headers of PLY held to the size of their file."""

import numpy as np
import pytest
from plyfile import PlyData, PlyElement

from nid_jax.geometry.plyfiles import check_counts

XYZ = "property float x\nproperty float y\nproperty float z\n"


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("count", [0, 1, 50])
def test_honest_files_pass(tmp_path, text, count):
    rng = np.random.default_rng(count)
    rows = np.zeros(count, [("x", "f4"), ("y", "f8"), ("n", "u1")])
    rows["x"], rows["n"] = rng.integers(0, 9, count), 3
    faces = np.zeros(count, [("vertex_indices", object)])
    faces["vertex_indices"] = [np.arange(n % 3, dtype=np.int32) for n in range(count)]
    elements = [PlyElement.describe(rows, "vertex"), PlyElement.describe(faces, "face")]
    PlyData(elements, text=text).write(tmp_path / "a.ply")
    check_counts(tmp_path / "a.ply")
    content = (tmp_path / "a.ply").read_bytes()
    announced = content.replace(b"element vertex %d" % count, b"element vertex %d" % (count + 500))
    (tmp_path / "a.ply").write_bytes(announced)
    with pytest.raises(ValueError, match=r"^its header announces \d+ bytes or more; the file has"):
        check_counts(tmp_path / "a.ply")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (f"element vertex {10**12}\n{XYZ}", "announces 12000000000000 bytes"),
        ("element vertex 99999999\n", "announces 99999999 bytes"),
        (f"element vertex -5\n{XYZ}", "element 'vertex' has '-5' rows"),
        (f"element vertex {10**30}\n{XYZ}", "rows"),
    ],
)
def test_counts_without_rows_are_refused(tmp_path, header, words):
    path = tmp_path / "a.ply"
    path.write_text(f"ply\nformat binary_little_endian 1.0\n{header}end_header\n")
    with pytest.raises(ValueError, match=words):
        check_counts(path)


def test_a_header_without_an_end_is_refused(tmp_path):
    (tmp_path / "a.ply").write_text("ply\nformat ascii 1.0\n")
    with pytest.raises(ValueError, match="no end"):
        check_counts(tmp_path / "a.ply")
