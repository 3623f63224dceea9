"""Arrays of measurements from every format, and files that are none."""

import numpy as np
import pytest
import scipy.io
import tifffile
from PIL import Image

from nid_jax.data import measurements, sinograms

VALUES = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
ANGLES = np.array([0.0, 50.5, 90.0, 135.0])


def test_every_format(tmp_path):
    np.save(tmp_path / "a.npy", VALUES)
    np.savez(tmp_path / "a.npz", VALUES)
    scipy.io.savemat(tmp_path / "a.mat", {"R": VALUES})
    tifffile.imwrite(tmp_path / "a.tif", VALUES)
    np.savetxt(tmp_path / "a.txt", VALUES)
    np.savetxt(tmp_path / "a.csv", VALUES, delimiter=",")
    for suffix in ("npy", "npz", "mat", "tif", "txt", "csv"):
        arrays = measurements.read_arrays(tmp_path / f"a.{suffix}", "data.x")
        found = measurements.named_array(arrays, ("sinogram",), (2,), "data.x")
        np.testing.assert_allclose(found, VALUES, rtol=1e-6)


def test_a_stack_of_pages_is_a_stack_of_sinograms(tmp_path):
    stack = np.stack([VALUES, 2 * VALUES, 3 * VALUES])
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    np.savetxt(tmp_path / "angles.txt", ANGLES)
    read = sinograms.read_sinograms(tmp_path / "a.tif", tmp_path / "angles.txt")
    np.testing.assert_array_equal(read.values, stack)
    np.testing.assert_array_equal(read.degrees, ANGLES)


@pytest.mark.parametrize("name", ["angles", "Theta", "degrees"])
def test_angles_beside_the_sinogram(tmp_path, name):
    np.savez(tmp_path / "a.npz", sinogram=VALUES, **{name: ANGLES}, xp=np.arange(6))
    scipy.io.savemat(tmp_path / "a.mat", {"R": VALUES.T, name: ANGLES, "xp": np.arange(6)})
    for file, convention in (("a.npz", "ours"), ("a.mat", "matlab")):
        read = sinograms.read_sinograms(tmp_path / file, convention=convention)
        np.testing.assert_array_equal(read.values[0], VALUES)
        np.testing.assert_array_equal(read.degrees, ANGLES)


def test_a_name_may_say_the_unit(tmp_path, recwarn):
    np.savez(tmp_path / "a.npz", sinogram=VALUES, radians=np.deg2rad(ANGLES))
    np.testing.assert_allclose(sinograms.read_sinograms(tmp_path / "a.npz").degrees, ANGLES)
    assert not len(recwarn)


def test_files_that_cannot_be_read(tmp_path):
    def complaint(name):
        with pytest.raises(ValueError, match=r"^data\.x") as error:
            measurements.read_arrays(tmp_path / name, "data.x")
        assert "\n" not in str(error.value)
        return str(error.value)

    for name in ("a.npy", "a.npz", "a.mat", "a.tif", "a.txt"):
        (tmp_path / name).write_text("what is this, a number?")
        assert "cannot be read as" in complaint(name)
    (tmp_path / "a.h5").write_text("")
    assert "a file .h5; allowed: .npy, .npz, .mat" in complaint("a.h5")
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    assert "cannot be read as" in complaint("objects.npy")
    np.save(tmp_path / "words.npy", np.array(["a"]))
    assert "holds <U1; allowed: numbers" in complaint("words.npy")
    with pytest.raises(FileNotFoundError, match=r"^data\.x: no such file"):
        measurements.read_arrays(tmp_path / "none.npy", "data.x")


def test_of_several_arrays_one_must_be_named(tmp_path):
    np.savez(tmp_path / "a.npz", one=VALUES, two=VALUES)
    with pytest.raises(ValueError, match=r"holds one \[4, 6\], two \[4, 6\]; name one of them"):
        sinograms.read_sinograms(tmp_path / "a.npz")


@pytest.mark.parametrize("join", ["\t", ";", " "])
def test_decimal_commas(tmp_path, join):
    rows = "\n".join(join.join(f"{v:.5f}" for v in row) for row in VALUES)
    (tmp_path / "a.txt").write_text("# noon, May\n" + rows.replace(".", ","))
    (found,) = measurements.read_arrays(tmp_path / "a.txt", "data.x").values()
    np.testing.assert_allclose(found, VALUES, atol=1e-5)


def test_damaged_headers_are_one_line(tmp_path):
    head = b"{'descr': __import__("
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00" + head.ljust(118))
    (tmp_path / "a.mat").touch()
    for name in ("a.npy", "a.mat"):
        with pytest.raises(ValueError, match=r"^data\.x: cannot be read as .*\(.*\)$"):
            measurements.read_arrays(tmp_path / name, "data.x")


def test_compressed_pages(tmp_path):
    pages = np.random.default_rng(0).integers(0, 65536, (3, 5, 7)).astype(np.uint16)
    first, *rest = [Image.fromarray(page) for page in pages]
    first.save(tmp_path / "a.tif", compression="tiff_lzw", save_all=True, append_images=rest)
    (found,) = measurements.read_arrays(tmp_path / "a.tif", "data.x").values()
    np.testing.assert_array_equal(found, pages)
