"""Slices from DICOM files: through a stand-in for pydicom, and without it."""

import json
import sys
import types

import numpy as np
import pytest
from ml_collections import ConfigDict

from nid_jax.data import to_array
from nid_jax.data.dicom import open_dicom


class InvalidDicomError(Exception):
    """What pydicom raises for a file that is none."""


class Dataset(dict):
    """A slice as pydicom presents it: its tags by .get(), its pixels as an attribute."""

    @property
    def pixel_array(self):
        if "pixels" not in self:
            raise AttributeError("no pixel data")
        return np.array(self["pixels"], np.int16)


@pytest.fixture
def pydicom(monkeypatch):
    """A module that reads JSON in place of DICOM."""

    def dcmread(path):
        text = path.read_text()
        if not text.startswith("{"):
            raise InvalidDicomError("File is missing DICOM File Meta Information\nheader")
        return Dataset(json.loads(text))

    module = types.ModuleType("pydicom")
    module.dcmread = dcmread
    module.errors = types.SimpleNamespace(InvalidDicomError=InvalidDicomError)
    monkeypatch.setitem(sys.modules, "pydicom", module)


@pytest.fixture
def config(tmp_path):
    def make(window=(), test_fraction=0.0, **changes):
        values = {
            "name": "dicom",
            "root": str(tmp_path),
            "size": (),
            "resize": False,
            "crop": "",
            "gray": False,
            "test_fraction": test_fraction,
            "dicom": {"window": window},
        }
        return ConfigDict(values | changes)

    return make


def write(path, pixels, **tags):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"pixels": np.asarray(pixels).tolist(), **tags}))


def test_slices_are_sorted_rescaled_and_windowed(pydicom, config, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 2000, (4, 3, 5))
    tags = {"RescaleSlope": 2.0, "RescaleIntercept": -1000.0}
    for name, number, values in zip(("d", "c", "b", "sub/a"), (1, 2, 3, 3), pixels, strict=True):
        write(tmp_path / f"{name}.dcm", values, InstanceNumber=number, **tags)
    (tmp_path / "notes.txt").write_text("no slice")
    units = 2.0 * pixels[..., None] - 1000

    volume = open_dicom(config(), "train", 0)
    assert volume.names == ["d.dcm", "c.dcm", "b.dcm", "sub/a.dcm"]
    expected = (units - units.min()) / np.ptp(units)
    np.testing.assert_allclose(to_array(volume), expected, atol=1e-6)

    volume = to_array(open_dicom(config(window=(-160, 240)), "train", 0))
    np.testing.assert_allclose(volume, np.clip((units + 160) / 400, 0, 1), atol=1e-6)
    assert {0.0, 1.0} <= set(volume.ravel().tolist())


def test_splits_share_no_slice(pydicom, config, tmp_path):
    for number in range(10):
        write(tmp_path / f"{number}.dcm", [[number, 0]], InstanceNumber=10 - number)
    names = [open_dicom(config(test_fraction=0.3), split, 1).names for split in ("train", "test")]
    assert [len(found) for found in names] == [7, 3]
    assert set(names[0]) | set(names[1]) == {f"{number}.dcm" for number in range(10)}


def test_dark_for_high_is_turned_round(pydicom, config, tmp_path):
    write(tmp_path / "a.dcm", [[0, 1, 4]], PhotometricInterpretation="MONOCHROME1")
    (image,) = open_dicom(config(), "train", 0)
    np.testing.assert_allclose(image[0, :, 0], [1, 0.75, 0])


def test_sizes(pydicom, config, tmp_path):
    write(tmp_path / "a.dcm", np.arange(24).reshape(4, 6))
    write(tmp_path / "b.dcm", np.arange(64).reshape(8, 8))
    with pytest.raises(ValueError, match=r"b\.dcm: is 8x8 .* data\.resize=true"):
        open_dicom(config(), "train", 0)
    assert open_dicom(config(size=(5, 5), resize=True), "train", 0).shape == (5, 5, 1)


def test_without_pydicom(config, tmp_path, monkeypatch):
    (tmp_path / "a.dcm").write_text("")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ValueError, match=r"^data\.name='dicom' .* pip install 'nid_jax\[dicom\]'$"):
        open_dicom(config(), "train", 0)


@pytest.mark.parametrize("window", [(1.0,), (3.0, 3.0), (2.0, 1.0), (0.0, float("inf")), ("a", 1)])
def test_windows_that_are_none(pydicom, config, tmp_path, window):
    write(tmp_path / "a.dcm", [[0, 1]])
    with pytest.raises(ValueError, match=r"data\.dicom\.window="):
        open_dicom(config(window=window), "train", 0)


def test_folders_without_slices(pydicom, config, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no .dcm files"):
        open_dicom(config(), "train", 0)
    with pytest.raises(FileNotFoundError, match=r"data\.root="):
        open_dicom(config(root=str(tmp_path / "none")), "train", 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("junk", r"a\.dcm: cannot be read as a DICOM slice \(File .* Information header\)$"),
        ("{}", r"a\.dcm: cannot be read .*no pixel data"),
        ('{"pixels": [[[1, 2, 3]]]}', r"a\.dcm: pixels of shape \[1, 1, 3\]"),
        ('{"pixels": [[5, 5]]}', r"all slices have the value 5; set data\.dicom\.window"),
    ],
)
def test_files_that_hold_no_slice(pydicom, config, tmp_path, text, message):
    (tmp_path / "a.dcm").write_text(text)
    with pytest.raises(ValueError, match=message) as complaint:
        open_dicom(config(), "train", 0)
    assert "\n" not in str(complaint.value)
