"""Signals from idx files: their header, folders of them, and what they are refused for."""

import gzip
import struct
import warnings

import numpy as np
import pytest

from nid_jax.data import open_collection, survey, to_array
from nid_jax.notices import Notice

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def content(values):
    """An idx file of an array, from the format's own words."""
    kind = values.dtype.str[1:]
    head = bytes([0, 0, CODES[kind], values.ndim])
    head += b"".join(struct.pack(">I", side) for side in values.shape)
    return head + values.astype(f">{kind}").tobytes()


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 7, 6), np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Train packed, test not, and their labels."""
    for name, values in (("train", pictures(9)), ("t10k", pictures(5, 1))):
        labels = content(np.arange(len(values), dtype=np.uint8))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
        packed = gzip.compress if name == "train" else bytes
        suffix = ".gz" if name == "train" else ""
        path = tmp_path / f"{name}-images-idx3-ubyte{suffix}"
        path.write_bytes(packed(content(values)))
    return tmp_path


def opened(config, split="train"):
    """(signals [S, *grid, C], notices) of a split."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", Notice)
        values = to_array(open_collection(config, split, 0))
    return values, [str(notice.message) for notice in said]


def test_the_files_of_a_folder_are_its_splits(folder, data_config):
    config = data_config(name="idx", root=folder)
    for split, expected in (("train", pictures(9)), ("test", pictures(5, 1))):
        values, said = opened(config, split)
        np.testing.assert_allclose(values, expected[..., None] / 255, atol=1e-7)
        assert said == []
    assert survey(config, "test", 0)[:4] == (5, ((7, 6),), 1, 0)
    config.update({"num_train": 4, "size": (6, 6), "crop": "center", "resize": True})
    assert opened(config)[0].shape == (4, 6, 6, 1)


def test_a_file_alone_is_split(folder, data_config):
    config = data_config(name="idx", root=folder / "train-images-idx3-ubyte.gz")
    train, test = (to_array(open_collection(config, split, 3)) for split in ("train", "test"))
    assert (len(train), len(test)) == (7, 2)
    joined = np.concatenate([train, test])[..., 0]
    expected = pictures(9) / 255
    assert sorted(joined.sum((1, 2))) == pytest.approx(sorted(expected.sum((1, 2))), rel=1e-5)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "f4", "f8"])
def test_values_of_every_type(tmp_path, data_config, kind, packed):
    draw = np.random.default_rng(2)
    values = draw.random((4, 6, 5, 3)).astype(kind)
    if kind[0] == "i":
        values = draw.integers(0, 100, values.shape).astype(kind)
    path = tmp_path / f"x-idx4{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(content(values)) if packed else content(values))
    high = 1 if kind[0] == "f" else 100
    config = data_config(name="idx", root=path, range=(0, high), test_fraction=0.0)
    np.testing.assert_allclose(opened(config)[0], values / high, rtol=1e-6)
    config.layout = "SHCW"
    assert opened(config)[0].shape == (4, 6, 3, 5)


def test_what_is_passed_over_is_said(folder, data_config):
    packed = folder / "train-images-idx3-ubyte.gz"
    plain = folder / "train-images-idx3-ubyte"
    plain.write_bytes(content(pictures(8, 5)))
    (folder / "numbers-idx1-int").write_bytes(content(np.arange(3, dtype="i4")))
    (folder / "scores.idx2-float").write_bytes(content(np.zeros((3, 2), "f4")))
    (folder / "README").write_text("clothes")
    (folder / "notes.txt").write_text("clothes")
    values, said = opened(data_config(name="idx", root=folder))
    np.testing.assert_allclose(values[..., 0], pictures(8, 5) / 255, atol=1e-7)
    assert any("1 .txt" in line for line in said)
    (line,) = [line for line in said if "signals are" in line]
    assert line.endswith(f"passed over: README, scores.idx2-float, {packed.name}")


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("x-idx3", lambda whole: whole[:-1], r"x-idx3: damaged, .*: 377 bytes of values, .* 378"),
        ("x-idx3", lambda whole: whole + b"0", r"x-idx3: damaged, .*: more bytes of values"),
        ("x-idx3", lambda whole: whole[:9], r"x-idx3: no idx file: begins with .* 00000803"),
        ("x-idx3", lambda whole: b"", r"x-idx3: no idx file: begins with the bytes none"),
        ("x-idx3", lambda whole: b"\x89PNG" + whole, r"x-idx3: no idx file: .* 89504e47"),
        ("x-idx3.gz", lambda whole: gzip.compress(whole)[:-30], r"x-idx3\.gz: cannot be unpacked"),
        ("x-idx3.gz", lambda whole: whole, r"x-idx3\.gz: cannot be unpacked \(Not a gzipped"),
        ("x-idx3.gz", lambda whole: gzip.compress(whole + b"0"), r"x-idx3\.gz: damaged, .*: more"),
        (
            "x-idx3",
            lambda whole: b"\0\0\x08\xff" + bytes(2000),
            r"x-idx3: damaged, or no idx file: its header has 255 axes; allowed: 1 to 5",
        ),
        ("x-idx1", lambda whole: content(np.arange(9, dtype="u1")), r"x-idx1: an array of shape"),
        ("x-idx3", lambda whole: content(pictures(0)), r"x-idx3: an array of shape \[0, 7, 6\]"),
    ],
)
def test_damaged_files_are_named(tmp_path, data_config, name, damage, message):
    (tmp_path / name).write_bytes(damage(content(pictures(9))))
    with pytest.raises(ValueError, match=message) as caught:
        open_collection(data_config(name="idx", root=tmp_path / name), "train", 0)
    assert "\n" not in str(caught.value)


def test_a_folder_of_tables_has_no_signals(tmp_path, data_config):
    (tmp_path / "x-idx2-ubyte").write_bytes(content(np.zeros((9, 4), np.uint8)))
    with pytest.raises(ValueError, match=r"holds x-idx2-ubyte \[9, 4\]; expected signals, of 3"):
        opened(data_config(name="idx", root=tmp_path))


def test_other_folders_are_refused(folder, tmp_path_factory, data_config):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(FileNotFoundError, match="holds no idx files; expected names such as"):
        open_collection(data_config(name="idx", root=empty), "train", 0)
    with pytest.raises(FileNotFoundError, match=r"data\.root='.*none': does not exist"):
        open_collection(data_config(name="idx", root=empty / "none"), "train", 0)
    with pytest.raises(ValueError, match=r"data\.root is empty: data\.name='idx'"):
        open_collection(data_config(name="idx"), "train", 0)
    with pytest.raises(FileNotFoundError, match=r"no images; .*; data\.name=idx reads idx files"):
        open_collection(data_config(name="folder", root=folder), "train", 0)
    (folder / "letters-train-images-idx3-ubyte").write_bytes(content(pictures(3)))
    with pytest.raises(ValueError, match=r"holds letters-train-.*, t10k-.*, train-.*; expected"):
        open_collection(data_config(name="idx", root=folder), "train", 0)
    for path in folder.glob("*images*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="holds no idx files"):
        open_collection(data_config(name="idx", root=folder), "train", 0)
