"""Files of shapes: below all folders, nothing hidden, one alone, and what is passed over."""

import pytest
from ml_collections import ConfigDict

from nid_jax.data.mesh_listing import find_sources
from nid_jax.data.shapefiles import Kind, shape_files
from nid_jax.notices import Notice

KIND = Kind("shape", (".npz",), needs={".obj": "that"}, beside=("a.json",), otherwise=(".txt",))


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def found(root, split="train", fraction=0.0):
    config = ConfigDict({"root": str(root), "test_fraction": fraction})
    return list(shape_files(config, split, 0, KIND))


def test_names_say_where_files_lie_and_nothing_hidden_is_read(tmp_path):
    root = touch(tmp_path, "a.npz", "b/a.npz", "b-a.npz", "._a.npz", ".cache/x.npz", "a.json")
    touch(root, "__MACOSX/a.npz", "c.obj", "notes.txt")
    with pytest.warns(Notice) as said:
        assert found(root) == ["a", "b-a", "b-a-npz"]
    (text,) = {str(one.message) for one in said}
    assert text == f"{root}: 3 shapes; passed over: 1 .obj (needs that), 1 .txt, 3 hidden"


def test_other_endings_are_read_where_there_are_none(tmp_path, recwarn):
    assert found(touch(tmp_path, "a.txt", "b/c.txt")) == ["a", "b-c"]
    assert not recwarn.list


def test_what_is_hidden_does_not_decide_which_endings_are_read(tmp_path):
    with pytest.warns(Notice, match="2 shapes; passed over: 1 hidden"):
        assert found(touch(tmp_path, "a.txt", "c.txt", ".b.npz")) == ["a", "c"]


def test_splits(tmp_path):
    both = touch(tmp_path / "both", "train/a.npz", "train/x/b.npz", "test/c.npz")
    assert (found(both), found(both, "test")) == (["a", "x-b"], ["c"])
    one = touch(tmp_path / "one", "train/a.npz")
    with pytest.raises(FileNotFoundError, match="test: no such folder; .* has another split only"):
        found(one, "test")
    some = touch(tmp_path / "some", *(f"{name}.npz" for name in "abcde"))
    assert sorted(found(some, "train", 0.4) + found(some, "test", 0.4)) == list("abcde")


def test_one_shape_alone_is_both_splits(tmp_path):
    root = touch(tmp_path / "in", "a.npz")
    assert found(root / "a.npz", "test") == ["a"]
    with pytest.warns(Notice, match="in: one shape alone; both learned from and fitted"):
        assert found(root, "train", 0.2) == found(root, "test", 0.2) == ["a"]
    with pytest.raises(ValueError, match=r"data\.test_fraction=0\.0 of 1 signals leaves none"):
        found(root, "test", 0.0)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        found(tmp_path / "none")
    with pytest.raises(ValueError, match=r"holds no \.npz, \.txt file"):
        found(tmp_path)


def test_meshes_to_prepare_leave_out_what_systems_leave(tmp_path):
    root = touch(tmp_path / "in", "a.obj", "b/c.stl", "._a.obj", ".git/x.obj", "a.mtl")
    with pytest.warns(Notice, match=r"2 mesh files; passed over: 1 \.mtl, 2 hidden"):
        sources, _ = find_sources([root], tmp_path / "out")
    assert [source.name for source in sources] == ["a", "b-c"]
    shapenet = touch(tmp_path / "net", "03001627/m/model.obj", "03001627/.m/model.obj")
    sources, _ = find_sources([shapenet], tmp_path / "out")
    assert [source.name for source in sources] == ["chair-m"]
