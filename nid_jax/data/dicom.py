"""Slices of a computed tomography scan from a folder of DICOM files, where pydicom is installed."""

import numpy as np
from ml_collections import ConfigDict

from nid_jax.data import images
from nid_jax.data.collection import ArrayCollection, Collection, SubsetCollection
from nid_jax.data.folder import data_root
from nid_jax.data.splitting import configured_crop, configured_size, random_split


def open_dicom(config: ConfigDict, split: str, seed: int) -> Collection:
    """data.root: a directory of .dcm files, one slice each, as [H, W, 1] in [0, 1].

    Subdirectories are read too; slices are ordered by InstanceNumber, then by path. Stored values
    go through the rescale slope and intercept of their file, to Hounsfield units in CT, and
    data.dicom.window = (low, high) in those units to [0, 1], clipped; () takes the range of all
    slices. MONOCHROME1, where high is dark, is inverted. All slices have one size, or with
    data.resize are brought to data.size (data.crop as for pictures). Split by data.test_fraction.
    Raises FileNotFoundError for a missing or empty directory; ValueError where pydicom is missing,
    for the key, and naming a file that cannot be read, has colours or frames, or another size.
    """
    root = data_root(config)
    paths = _find_slices(root)
    window = _configured_window(config)
    read = _reader()
    slices = [(*read(path), path) for path in paths]
    slices.sort(key=lambda item: (item[0], item[-1].relative_to(root).as_posix()))
    if window is None:
        window = _full_range([values for _, values, _, _ in slices], root)
    low, high = window
    size = configured_size(config) or slices[0][1].shape
    crop = configured_crop(config)
    volume = np.empty((len(slices), *size, 1), np.float32)
    for number, (_, values, inverted, path) in enumerate(slices):
        image = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
        image = (1 - image if inverted else image)[..., None]
        volume[number] = images.fit_to_size(image, size, config.resize, crop, path)
    names = [path.relative_to(root).as_posix() for *_, path in slices]
    indices = random_split(len(names), split, config.test_fraction, seed, root)
    return SubsetCollection(ArrayCollection(volume, names, f"slices in {root.name}"), indices)


def _find_slices(root):
    found = [path for path in root.rglob("*") if path.suffix.lower() == ".dcm" and path.is_file()]
    found = [path for path in found if not path.name.startswith(".")]
    if not found:
        raise FileNotFoundError(f"{root}: holds no .dcm files")
    return found


def _configured_window(config):
    """data.dicom.window as (low, high), None where it is empty."""
    window = tuple(config.dicom.window or ())
    if not window:
        return None
    numbers = all(isinstance(end, int | float | np.number) for end in window)
    if len(window) != 2 or not numbers or not np.isfinite(window).all() or window[0] >= window[1]:
        raise ValueError(f"data.dicom.window={window}: must be (low, high), low < high, or ()")
    return float(window[0]), float(window[1])


def _full_range(slices, root):
    low = min(float(values.min()) for values in slices)
    high = max(float(values.max()) for values in slices)
    if not low < high:
        raise ValueError(f"{root}: all slices have the value {low:g}; set data.dicom.window")
    return low, high


def _reader():
    """read(path) -> instance number, values [H, W] after rescaling, whether high is dark."""
    try:
        import pydicom
    except ImportError as error:
        raise ValueError(
            "data.name='dicom' needs pydicom, which is not installed: pip install 'nid_jax[dicom]'"
        ) from error
    # What pydicom raises for no DICOM, no pixels, and pixels it has no decoder for.
    unreadable = (
        pydicom.errors.InvalidDicomError,
        AttributeError,
        KeyError,
        NotImplementedError,
        RuntimeError,
        ValueError,
    )

    def read(path):
        try:
            file = pydicom.dcmread(path)
            pixels = np.asarray(file.pixel_array, np.float32)
        except unreadable as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path}: cannot be read as a DICOM slice ({reason})") from error
        if pixels.ndim != 2:
            raise ValueError(
                f"{path}: pixels of shape {list(pixels.shape)}; expected one gray slice [H, W]"
            )
        values = pixels * float(file.get("RescaleSlope", 1)) + float(
            file.get("RescaleIntercept", 0)
        )
        images.check_finite(values, path)
        number = file.get("InstanceNumber")
        inverted = file.get("PhotometricInterpretation") == "MONOCHROME1"
        return 0 if number is None else int(number), values, inverted

    return read
