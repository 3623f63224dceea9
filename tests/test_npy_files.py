"""Arrays of .npy and .npz: what was written comes back, and nothing is taken on trust."""

import io
import re
import struct
import zipfile

import numpy as np
import pytest

from nid_jax import bounds, npy_files

RNG = np.random.default_rng(0)
ARRAYS = {
    "numbers": RNG.random((3, 4)),
    "columns": np.asfortranarray(RNG.random((5, 6, 2), np.float32)),
    "big": RNG.integers(0, 99, (4,)).astype(">i4"),
    "complex": RNG.random(3) + 1j,
    "one": np.array(7.5),
    "none": np.zeros((0, 3), np.float32),
    "texts": np.array(["a", "long", ""]),
    "truth": np.array([True, False]),
}


def refused(path, match, **options):
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: .*{match}") as caught:
        npy_files.read(path, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_wrote_comes_back(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    found = npy_files.read(tmp_path / "a.npz")
    assert list(found) == list(ARRAYS) == npy_files.member_names(tmp_path / "a.npz")
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert list(npy_files.read(tmp_path / "a.npz", names=("one", "absent"))) == ["one"]


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("name", list(ARRAYS))
def test_one_array_comes_back(tmp_path, name, mmap):
    np.save(tmp_path / "a.npy", ARRAYS[name])
    found = npy_files.read(tmp_path / "a.npy", mmap=mmap)[""]
    np.testing.assert_array_equal(found, ARRAYS[name])
    assert found.dtype == ARRAYS[name].dtype
    assert isinstance(found, np.memmap) == (mmap and ARRAYS[name].size > 0)


def test_objects_are_never_unpickled(tmp_path):
    objects = np.array([{}, 1], object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", a=objects, b=np.ones(2))
    refused(tmp_path / "a.npy", "holds objects, which are never unpickled")
    found = npy_files.read(tmp_path / "a.npz")
    assert found["a"] is None
    assert found["b"].sum() == 2


def bomb(path, size):
    """An .npz of `size` bytes of zeros that packs them into a thousandth."""
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        content, {"descr": "|u1", "fortran_order": False, "shape": (size,)}
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content.getvalue() + bytes(size))


def test_what_a_file_unfolds_to_is_bounded(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    bomb(path, 2**23)
    assert npy_files.read(path)["x"].size == 2**23
    monkeypatch.setenv(bounds.VARIABLE, "0.004")
    refused(path, r"its content: 9 MiB of memory, more than the 5 MiB that a file may unfold to")
    # What is there unpacked is read, however much it is.
    np.savez(path, x=np.zeros(2**20))
    assert npy_files.read(path)["x"].size == 2**20


def test_what_a_member_says_of_itself_is_held_to_its_bytes(tmp_path):
    path = tmp_path / "a.npz"
    bomb(path, 100)
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        at = content.index(mark) + place
        content[at : at + 4] = struct.pack("<I", 2**31)
    path.write_bytes(content)
    refused(path, r"'x.npy' is said to be 2147483648 bytes in \d+ packed ones")


@pytest.mark.parametrize(
    ("variable", "most"), [("2", 2**31), ("0.5", 2**29), ("none", None), ("0", None), ("nan", None)]
)
def test_the_bound_is_a_variable_of_the_environment(monkeypatch, variable, most):
    monkeypatch.setenv(bounds.VARIABLE, variable)
    if most is None:
        with pytest.raises(ValueError, match=f"^{bounds.VARIABLE}={variable}: allowed: a number"):
            bounds.most_bytes()
        return
    assert bounds.most_bytes() == most


def test_without_the_variable_it_is_4_gib_or_half_of_the_memory(monkeypatch):
    monkeypatch.delenv(bounds.VARIABLE, raising=False)
    monkeypatch.setattr(bounds, "_memory", lambda: 6 * 2**30)
    assert bounds.most_bytes() == 3 * 2**30
    monkeypatch.setattr(bounds, "_memory", lambda: 64 * 2**30)
    assert bounds.most_bytes() == 4 * 2**30


def test_a_clamped_file_makes_no_room_for_what_is_not_there(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"0123456789")
    with bounds.Clamped(path) as file:
        assert file.read(2) == b"01"
        assert file.read(2**60) == b"23456789"
        assert file.read(2**60) == b""
        assert file.seek(-3, 2) == 7
        assert file.read() == b"789"
