"""DICOM files as scanners write them, of any tags that a test asks for."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT = "1.2.840.10008.5.1.4.1.1.2"
SERIES = generate_uid(entropy_srcs=["series"])


def data_set(stored: np.ndarray | None, **tags: Any) -> FileDataset:
    """A slice [H, W], or frames [F, H, W], of stored values; a tag of None is left out."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CT
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = CT, meta.MediaStorageSOPInstanceUID
    file.SeriesInstanceUID, file.Modality = SERIES, "CT"
    if stored is not None:
        bits = 8 * stored.dtype.itemsize
        file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
        file.Rows, file.Columns = stored.shape[-2:]
        file.BitsAllocated, file.BitsStored, file.HighBit = bits, bits, bits - 1
        file.PixelRepresentation = int(stored.dtype.kind == "i")
        if stored.ndim == 3:
            file.NumberOfFrames = len(stored)
        file.PixelData = stored.tobytes()
    for keyword, value in tags.items():
        if value is None:
            del file[keyword]
        else:
            setattr(file, keyword, value)
    return file


def write(path: Path, stored: np.ndarray | None, **tags: Any) -> None:
    """A file of `data_set`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data_set(stored, **tags).save_as(path, enforce_file_format=True)


def write_bare(path: Path, stored: np.ndarray, **tags: Any) -> None:
    """The same without preamble and header, little endian with implicit types."""
    file = data_set(stored, **tags)
    bare = Dataset()
    bare.update({element.tag: element for element in file})
    pydicom.dcmwrite(path, bare, implicit_vr=True, little_endian=True)


def item(**tags: Any) -> Dataset:
    """An item of a sequence."""
    inside = Dataset()
    for keyword, value in tags.items():
        setattr(inside, keyword, value)
    return inside
