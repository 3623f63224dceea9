"""One DICOM file as gray slices in the scanner's units: what its tags say of values and places.

Tags by their names in the standard, PS3.3: sections C.7.6.2 and C.7.6.3 for planes and pixels, C.11
for the tables of values, C.7.6.16 for what differs between the frames of one file.
"""

import dataclasses
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Num

from nid_jax import bounds, errors

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_GRAY = ("MONOCHROME1", "MONOCHROME2")
# Whose product is what pixels take, in bits.
_SIDES = ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated")
_META = 128 + 4  # where tags begin
_PACKED = "1.2.840.10008.1.2.1.99"  # all of a file but its first tags is deflated
_DIRECTORY = "1.2.840.10008.1.3.10"  # the class of a DICOMDIR
# What decodes compressed pixels that pydicom does not.
_DECODERS = "pip install 'pylibjpeg[all]'"


class PassedOver(Exception):
    """A file that holds no slice; str() is the reason, for counting."""


@dataclasses.dataclass(frozen=True)
class Slice:
    """One gray slice and what is known of its place.

    values [H, W]: after the file's modality transform, NaN where it is padding; inverted: high is
    dark; number: (InstanceNumber, frame); position [3] and normal [3] in mm, None where not known;
    window: (centre, width, function) of the file, None without.
    """

    path: Path
    frame: int | None
    values: Float[np.ndarray, "H W"]
    inverted: bool
    number: tuple[int, int]
    position: Float[np.ndarray, "3"] | None
    normal: Float[np.ndarray, "3"] | None
    window: tuple[float, float, str] | None
    series: str
    label: str
    units: tuple[str, str]
    tilt: float
    spacing: tuple[float, float] | None
    uid: str


def import_pydicom() -> Any:
    """The module pydicom. Raises ValueError, in one line, where it is not installed."""
    try:
        import pydicom
        import pydicom.pixels
    except ImportError as error:
        raise ValueError(
            "data.name='dicom' needs pydicom, which is not installed: pip install 'nid_jax[dicom]'"
        ) from error
    return pydicom


def read_slices(path: Path, sure: bool) -> list[Slice]:
    """The slices of a file, one for each of its frames.

    sure: its name says that it is a DICOM file. Raises PassedOver for a file of another kind, such
    as a report, a localizer or colours, and ValueError naming a file that cannot be read, or whose
    tags cannot be.
    """
    file = _opened(path, sure)
    if not any(keyword in file for keyword in _PIXELS):
        kind = file.get("Modality") or "file"
        raise PassedOver(f"{kind} without pixels")
    if "LOCALIZER" in (file.get("ImageType") or ()):
        raise PassedOver("localizer")
    if file.get("PhotometricInterpretation", "MONOCHROME2") not in _GRAY:
        raise PassedOver(f"in colours ({file.PhotometricInterpretation})")
    stored = _stored(file, path)
    try:
        return [
            _slice(file, path, values, frame if len(stored) > 1 else None)
            for frame, values in enumerate(stored)
        ]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).removeprefix(f"{path}: ")
        raise ValueError(f"{path}: {reason}") from error


def _opened(path, sure):
    """The data set of a file, read without the header of 132 bytes where that is missing."""
    pydicom = import_pydicom()
    with path.open("rb") as stream:
        start = stream.read(132)
    whole = start[128:] == b"DICM"
    try:
        with bounds.Clamped(path) as stream:
            _check_deflated(stream, whole)
            file = pydicom.dcmread(stream, force=not whole)
        known = "SOPClassUID" in file or any(keyword in file for keyword in _PIXELS)
    except Exception as error:  # of bytes that are no DICOM, pydicom raises what they lead it to
        if not (sure or whole):
            raise PassedOver("no DICOM") from error
        reason = errors.reason(error)
        raise ValueError(f"{path}: cannot be read as a DICOM slice ({reason})") from error
    if getattr(file.file_meta, "MediaStorageSOPClassUID", "") == _DIRECTORY:
        raise PassedOver("DICOMDIR")
    if not known:
        if not (sure or whole):
            raise PassedOver("no DICOM")
        raise ValueError(f"{path}: cannot be read as a DICOM slice (it has no known tags)")
    if "TransferSyntaxUID" not in file.file_meta:
        implicit, little = file.original_encoding
        syntaxes = pydicom.uid
        syntax = syntaxes.ImplicitVRLittleEndian if implicit else syntaxes.ExplicitVRLittleEndian
        file.file_meta.TransferSyntaxUID = syntax if little else syntaxes.ExplicitVRBigEndian
    return file


def _check_deflated(stream, whole):
    """Raise ValueError where what is deflated unfolds to more than is allowed."""
    if not whole:
        return
    stream.seek(_META)
    start = stream.read(4096)
    if _PACKED.encode() in start and len(start) > 12:
        # The first tag is the length of those that are not deflated.
        stream.seek(_META + 12 + struct.unpack("<I", start[8:12])[0])
        _check_unpacked(stream)
    stream.seek(0)


def _check_unpacked(stream):
    most, total, unpack = bounds.most_bytes(), 0, zlib.decompressobj(-zlib.MAX_WBITS)
    while (piece := stream.read(2**16)) and total <= most:
        total += len(unpack.decompress(piece))
    bounds.check(total, 0, "what it has deflated")


def _stored(file, path):
    """Stored values [F, H, W] as they lie in the file."""
    try:
        sides = [int(file.get(keyword) or 1) for keyword in _SIDES]
        packed = file.file_meta.TransferSyntaxUID.is_encapsulated
        there = 0 if packed else path.stat().st_size
        bounds.check(math.prod(sides) // 8, there, "its Rows, Columns and frames")
        # Padding may use the bits that are none of a pixel's.
        if packed:
            pixels = np.asarray(file.pixel_array)
        else:
            decoder = import_pydicom().pixels.get_decoder(file.file_meta.TransferSyntaxUID)
            pixels, _ = decoder.as_array(file, correct_unused_bits=False)
    except Exception as error:  # damaged pixels, or no decoder: decoders raise what they like
        syntax = file.file_meta.TransferSyntaxUID
        reason = errors.reason(error)
        # What is wrong with values is no lack of a decoder; of an unknown syntax nothing is known.
        needed = not isinstance(error, ValueError) and syntax.is_compressed
        if needed and "truncated" not in reason.lower():
            raise ValueError(
                f"{path}: its pixels are compressed as {syntax.name}, which needs {_DECODERS} "
                f"({reason})"
            ) from error
        raise ValueError(f"{path}: cannot be read as a DICOM slice ({reason})") from error
    frames = pixels[None] if pixels.ndim == 2 else pixels
    if frames.ndim != 3 or file.get("SamplesPerPixel", 1) != 1:
        raise ValueError(
            f"{path}: pixels of shape {list(pixels.shape)}; expected gray slices [H, W]"
        )
    return frames


def _slice(file, path, raw, frame):
    """A frame of a file, frame None where it has no others."""
    groups = list(_groups(file, frame or 0))
    stored = _without_spare_bits(file, raw)
    values = _modality(file, groups, stored)
    values[_padding(file, raw) | _padding(file, stored)] = np.nan
    infinite = np.count_nonzero(np.isinf(values))
    if infinite:
        raise ValueError(f"{infinite} of {values.size} values are infinite")
    across = _numbers(_tag(groups, "PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    normal = None if across is None else np.cross(across[:3], across[3:])
    spacing = _numbers(_tag(groups, "PixelMeasuresSequence", "PixelSpacing"), 2)
    number = file.get("InstanceNumber")
    series = str(file.get("SeriesInstanceUID", ""))
    described = file.get("SeriesDescription") or file.get("SeriesNumber")
    return Slice(
        path=path,
        frame=frame,
        values=values,
        inverted=file.get("PhotometricInterpretation") == "MONOCHROME1",
        number=(0 if number is None else int(number), frame or 0),
        position=_numbers(_tag(groups, "PlanePositionSequence", "ImagePositionPatient"), 3),
        normal=normal,
        window=_window(groups),
        series=series,
        label=str(described or series or "without a name"),
        units=(str(file.get("Modality", "")), str(file.get("Units", ""))),
        tilt=float(file.get("GantryDetectorTilt") or 0),
        spacing=None if spacing is None else (float(spacing[0]), float(spacing[1])),
        uid=str(file.get("SOPInstanceUID", "")),
    )


def _groups(file, frame) -> Iterator[Any]:
    """Data sets that speak of a frame, the most particular first."""
    each = file.get("PerFrameFunctionalGroupsSequence")
    if each:
        yield each[frame]
    yield from file.get("SharedFunctionalGroupsSequence") or ()
    yield file


def _tag(groups, sequence, keyword):
    """A tag of the first group that has it, inside of its sequence or by itself; None for none."""
    for group in groups:
        inner = group.get(sequence)
        value = inner[0].get(keyword) if inner else group.get(keyword)
        if value is not None and value != "":
            return value
    return None


def _numbers(value, count):
    """float64 [count] of a tag's numbers; None where it has another number of them."""
    if value is None or isinstance(value, str) or len(value) != count:
        return None
    return np.array([float(number) for number in value])


def _without_spare_bits(file, raw):
    """Whole numbers of BitsStored bits: what lies above them is no value."""
    if raw.dtype.kind not in "iu" or "BitsStored" not in file:
        return raw
    allocated, stored = 8 * raw.dtype.itemsize, int(file.BitsStored)
    high = int(file.get("HighBit", stored - 1))
    if not 0 < stored <= allocated or high != stored - 1:
        raise ValueError(
            f"BitsStored {stored} of {allocated} bits with HighBit {high}; allowed: the lowest bits"
        )
    # Shifting back and forth extends the sign, too.
    return (raw << (allocated - stored)) >> (allocated - stored)


def _modality(file, groups, stored: Num[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """Stored values in the scanner's units, Hounsfield's in CT."""
    kind = np.float32 if stored.dtype.itemsize <= 2 else np.float64
    if file.get("ModalityLUTSequence"):
        table = import_pydicom().pixels.apply_modality_lut(stored, file)
        return np.array(table, kind)
    slope, intercept = (
        _tag(groups, "PixelValueTransformationSequence", keyword)
        for keyword in ("RescaleSlope", "RescaleIntercept")
    )
    slope, intercept = 1.0 if slope is None else float(slope), float(intercept or 0)
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        raise ValueError(
            f"RescaleSlope {slope:g} and RescaleIntercept {intercept:g}; allowed: finite numbers, "
            "the slope not 0"
        )
    return (stored.astype(np.float64) * slope + intercept).astype(kind)


def _padding(file, stored):
    """bool [H, W]: pixels that the file says are none."""
    value = file.get("PixelPaddingValue")
    if value is None:
        value = file.get("FloatPixelPaddingValue", file.get("DoubleFloatPixelPaddingValue"))
    if value is None:
        return np.zeros(stored.shape, bool)
    limit = file.get("PixelPaddingRangeLimit")
    ends = [float(value), float(value if limit is None else limit)]
    if stored.dtype.kind == "i":
        # Written as if it had no sign, by those who know the bits only.
        bits = 8 * stored.dtype.itemsize
        ends = [end - 2**bits if end >= 2 ** (bits - 1) else end for end in ends]
    return (stored >= min(ends)) & (stored <= max(ends))


def _window(groups):
    """(centre, width, function), the first of the file's windows; None without."""
    ends = []
    for keyword in ("WindowCenter", "WindowWidth"):
        value = _tag(groups, "FrameVOILUTSequence", keyword)
        several = value is not None and not isinstance(value, str | float | int)
        ends.append(value[0] if several and len(value) else value)
    if None in ends:
        return None
    function = _tag(groups, "FrameVOILUTSequence", "VOILUTFunction") or "LINEAR"
    return float(ends[0]), float(ends[1]), str(function)
