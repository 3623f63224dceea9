"""Folders of sinograms: files with views and detectors of their own, their angles, odd ones."""

import numpy as np
import pytest

from nid_jax import data
from nid_jax.coding import operators
from nid_jax.configs import ct
from nid_jax.data import open_collection, sinogram_folder
from nid_jax.notices import Notice

CONFIG = ct.get_config("own")
OPTIONS = CONFIG.operator.parallel_beam


def beam(shape, degrees, detectors):
    return operators.parallel_beam(shape, degrees, detectors=detectors)


def opened(root, split="train", **changes):
    given = {"test_fraction": 0.25, "root": str(root)} | changes
    config = data.completed(CONFIG.data.to_dict() | given)
    return sinogram_folder.open_sinograms(config, split, 0, beam, OPTIONS)


def sinogram(views, detectors, seed=0):
    """Complete line integrals of a disc, with which nothing looks wrong."""
    place = np.arange(detectors) - (detectors - 1) / 2
    one = 2 * np.sqrt(np.maximum((detectors / 3) ** 2 - place**2, 0))
    return (1 + seed / 10) * np.tile(one, (views, 1))


@pytest.fixture
def folder(tmp_path):
    """Four geometries in eight files of several kinds."""
    draw = np.random.default_rng(0)
    known = {}
    for number in range(8):
        views, detectors = [(5, 8), (7, 8), (6, 12), (4, 16)][number % 4]
        values, angles = sinogram(views, detectors, number), np.sort(draw.uniform(0, 179, views))
        if number >= 4:
            angles = known[f"s{number - 4}"][1]
        known[f"s{number}"] = (values, angles)
        if number % 2:
            np.savez(tmp_path / f"s{number}.npz", sinogram=values, angles=angles)
        else:
            np.save(tmp_path / f"s{number}.npy", values)
            np.savetxt(tmp_path / f"s{number}_angles.txt", angles)
    return tmp_path, known


def test_every_file_has_its_own_geometry(folder):
    root, known = folder
    with pytest.warns(
        Notice, match=r"8 to 16 detectors; each sinogram taken as of a picture of as"
    ):
        parts = [opened(root, split) for split in ("train", "test")]
    assert sorted(parts[0].names + parts[1].names) == sorted(known)
    assert [len(part) for part in parts] == [6, 2]
    for part in parts:
        assert part.shape == (16, 16, 1)
        for index, name in enumerate(part.names):
            values, angles = known[name]
            side = values.shape[1]
            expected = beam((side, side), angles, side)
            operator = part.ways[part.way(index)]
            np.testing.assert_allclose(operator.points, expected.points, atol=1e-6)
            np.testing.assert_allclose(part[index][:, 0], values.ravel(), rtol=1e-6)
    # Two files of a geometry share its way.
    whole = opened(root, test_fraction=0.0)
    assert len(whole) == 8
    assert len(whole.ways) == 4
    assert whole.way(whole.names.index("s1")) == whole.way(whole.names.index("s5"))
    assert len(opened(root, num_train=3)) == 3


def test_what_is_missing_is_a_way_of_its_own(tmp_path):
    angles = np.array([0.0, 30.0, 75.0, 120.0])
    values = np.stack([sinogram(4, 8, number) for number in range(3)])
    values[1, 2, 3:5] = np.nan
    np.savez(tmp_path / "stack.npz", sinograms=values, angles=angles)
    found = opened(tmp_path, test_fraction=0.0)
    assert found.names == ["stack_00000", "stack_00001", "stack_00002"]
    assert [found.way(index) for index in range(3)] == [0, 1, 0]
    kept = np.flatnonzero(np.isfinite(values[1].ravel()))
    expected = beam((8, 8), angles, 8).of_measurements(kept)
    np.testing.assert_allclose(found.ways[1].points, expected.points, atol=1e-6)
    np.testing.assert_allclose(found[1][:, 0], values[1].ravel()[kept], rtol=1e-6)


def test_splits_common_angles_and_one_picture_of_all(tmp_path, recwarn):
    for split, count in (("train", 3), ("test", 1)):
        (tmp_path / split).mkdir()
        for number in range(count):
            np.save(tmp_path / split / f"s{number}.npy", sinogram(4, 8 + 2 * (number % 2), number))
    np.save(tmp_path / "views.npy", np.array([0.0, 50.0, 90.0, 130.0]))
    angles = {"angles": str(tmp_path / "views.npy"), "size": (8, 8)}
    train, test = (opened(tmp_path, split, **angles) for split in ("train", "test"))
    assert (train.names, test.names) == (["s0", "s1", "s2"], ["s0"])
    assert (train.shape, len(train.ways), len(test.ways)) == ((8, 8, 1), 2, 1)
    np.testing.assert_allclose(train.ways[1].points, beam((8, 8), [0, 50, 90, 130], 10).points)
    assert not [one for one in recwarn if issubclass(one.category, Notice)]


def test_what_is_said_of_several_files_is_one_line(tmp_path, recwarn):
    for number in range(5):
        np.save(tmp_path / f"s{number}.npy", sinogram(4 + number, 8))
    opened(tmp_path)
    said = [str(one.message) for one in recwarn if issubclass(one.category, Notice)]
    assert len(said) == 1
    assert "no angles; taken as even over" in said[0]
    assert said[0].endswith("; 4 other files alike")


def spoiled(root, name):
    """A fault of a folder. -> changes to the config."""
    faults = {
        "lost": lambda: np.save(root / "other_angles.npy", np.arange(5.0)),
        "count": lambda: np.savetxt(root / "s0_angles.txt", np.arange(4.0)),
        "nan": lambda: np.savetxt(root / "s0_angles.txt", [0, 1, np.nan, 3, 4]),
        "empty": lambda: np.savez(
            root / "s1.npz", sinogram=np.full((3, 8), np.nan), angles=[0, 50, 90]
        ),
        "four": lambda: np.save(root / "s8.npy", np.zeros((2, 2, 3, 4))),
        "twice": lambda: np.save(root / "s1.npy", sinogram(5, 8)),
        "broken": lambda: (root / "s9.npz").write_bytes(b"nothing"),
    }
    if name in faults:
        faults[name]()
    return {"size": {"size": (40, 40)}, "turns": {"augment": {"turns": True}}}.get(name, {})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lost", r"other_angles\.npy: there is no other\.\* beside it"),
        ("count", r"s0_angles\.txt'?: 4 angles, but .*s0\.npy'? has 5 views"),
        ("nan", r"s0_angles\.txt'?: an angle of nan; allowed: finite"),
        ("empty", r"s1\.npz'?: sinogram 0 has no values, only NaN"),
        ("four", r"s8\.npy'?: an array of shape \[2, 2, 3, 4\]; expected \[A, D\]"),
        ("twice", r"s1\.npz: s1\.npy has the same name but for the kind"),
        ("broken", r"s9\.npz'?: cannot be read as an array file"),
        (
            "size",
            r"s0\.npy: 8 detectors, 8 pixels for pictures of 40x40 \(data\.size\); allowed: 40",
        ),
        ("turns", r"data\.augment\.turns: True of sinograms; allowed: False"),
    ],
)
@pytest.mark.filterwarnings("ignore::nid_jax.notices.Notice")
def test_odd_files_are_one_line(folder, name, words):
    root, _ = folder
    changes = spoiled(root, name)
    with pytest.raises(ValueError, match=words) as complaint:
        opened(root, **changes)
    assert "\n" not in str(complaint.value)


def test_folders_that_are_none(tmp_path):
    for root, words in (
        ("", r"data\.root is empty: data\.name='sinograms' reads a folder"),
        (tmp_path / "none", r"no such folder"),
        (tmp_path, r"no file in it that ends in \.npy, \.npz"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            opened(root)
    (tmp_path / "a.npy").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"a file; data\.sinograms fits one"):
        opened(tmp_path / "a.npy")
    config = data.completed({"name": "sinograms", "root": str(tmp_path)})
    with pytest.raises(ValueError, match="with --config=ct:own, which knows of beams, alone"):
        open_collection(config, "train", 0)
