"""Slices from DICOM files: every tag that changes values or order, and what is no slice."""

import sys
import warnings

import numpy as np
import pydicom
import pytest
from ml_collections import ConfigDict
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, JPEGLSLossless, RLELossless, generate_uid

from nid_jax.data import to_array
from nid_jax.data.dicom import open_dicom
from nid_jax.notices import Notice
from tests.data.dicomfiles import CT, data_set, item, write, write_bare

AXIAL = [1, 0, 0, 0, 1, 0]


@pytest.fixture
def config(tmp_path):
    def make(test_fraction=0.0, dicom=(), **changes):
        values = {
            "name": "dicom",
            "root": str(tmp_path),
            "size": (),
            "resize": False,
            "crop": "",
            "gray": False,
            "range": (),
            "test_fraction": test_fraction,
            "dicom": {"window": (), "voi": False, "series": "", **dict(dicom)},
        }
        return ConfigDict(values | changes)

    return make


def opened(config, split="train"):
    """(names, signals [S, H, W], notices)."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", Notice)
        collection = open_dicom(config, split, 0)
    texts = [str(one.message) for one in said if issubclass(one.category, Notice)]
    return collection.names, to_array(collection)[..., 0], texts


def drawn(*shape, low=0, high=2000, kind=np.int16, seed=0):
    return np.random.default_rng(seed).integers(low, high, shape).astype(kind)


def scaled(units):
    return (units - units.min()) / np.ptp(units)


# Order


def test_without_places_slices_follow_their_numbers(config, tmp_path):
    pixels = drawn(4, 3, 5)
    tags = {"RescaleSlope": 2.0, "RescaleIntercept": -1000.0}
    for name, number, values in zip(("d", "c", "b", "sub/a"), (1, 2, 3, 3), pixels, strict=True):
        write(tmp_path / f"{name}.dcm", values, InstanceNumber=number, **tags)
    units = 2.0 * pixels - 1000
    names, volume, said = opened(config())
    assert names == ["d.dcm", "c.dcm", "b.dcm", "sub/a.dcm"]
    np.testing.assert_allclose(volume, scaled(units), atol=1e-6)
    assert said == []
    _, volume, _ = opened(config(dicom={"window": (-160, 240)}))
    np.testing.assert_allclose(volume, np.clip((units + 160) / 400, 0, 1), atol=1e-6)
    assert {0.0, 1.0} <= set(volume.ravel().tolist())


@pytest.mark.parametrize(
    "orientation", [AXIAL, [1, 0, 0, 0, 0, -1], [0.8, 0.6, 0, 0, 0, -1], [0, 1, 0, 1, 0, 0]]
)
def test_slices_follow_their_places(config, tmp_path, orientation):
    """Whatever their numbers say, along the normal of their plane."""
    pixels, origin = drawn(6, 3, 5), np.array([-120.0, 80.0, -900.0])
    normal = np.cross(orientation[:3], orientation[3:])
    order = [3, 0, 5, 1, 4, 2]
    for number, place in enumerate(order):
        write(
            tmp_path / f"{number}.dcm",
            pixels[place],
            InstanceNumber=number + 1,
            ImageOrientationPatient=orientation,
            ImagePositionPatient=[*(origin + 2.5 * place * normal)],
        )
    names, volume, said = opened(config())
    assert names == [f"{order.index(place)}.dcm" for place in range(6)]
    np.testing.assert_allclose(volume, scaled(pixels.astype(float)), atol=1e-6)
    assert said == []


@pytest.mark.parametrize(
    ("heights", "more", "text"),
    [
        ([0, 1, 2, 4], {}, "slices 1 to 2 mm apart, uneven"),
        ([0, 1, 1, 2], {}, "1 slices lie where another does; taken by their numbers there"),
        ([0, 1, 2, 3], {"GantryDetectorTilt": -12.0}, "the gantry is tilted by 12.0 degrees"),
        ([0, 1, 2, 3], {"PixelSpacing": [0.5, 0.75]}, "pixels of 0.5 x 0.75 mm, not square"),
    ],
)
def test_places_that_are_odd_are_said(config, tmp_path, heights, more, text):
    for number, height in enumerate(heights):
        places = {"ImageOrientationPatient": AXIAL, "ImagePositionPatient": [0, 0, height]}
        write(tmp_path / f"{number}.dcm", drawn(3, 5), InstanceNumber=number, **places, **more)
    names, _, (said,) = opened(config())
    assert names == [f"{number}.dcm" for number in range(4)]
    assert text in said


def test_a_stack_that_leans(config, tmp_path):
    for number in range(4):
        places = {"ImageOrientationPatient": AXIAL, "ImagePositionPatient": [0, number, number]}
        write(tmp_path / f"{number}.dcm", drawn(3, 5), **places)
    _, _, (said,) = opened(config())
    assert "tilted by 45.0 degrees" in said


def test_several_orientations(config, tmp_path):
    for number, across in enumerate((AXIAL, [0, 1, 0, 0, 0, -1], AXIAL)):
        places = {"ImageOrientationPatient": across, "ImagePositionPatient": [0, 0, -number]}
        write(tmp_path / f"{number}.dcm", drawn(3, 5), InstanceNumber=number, **places)
    names, _, (said,) = opened(config())
    assert names == ["0.dcm", "1.dcm", "2.dcm"]
    assert "several orientations; taken in the order of their numbers" in said


# Values


@pytest.mark.parametrize(
    ("tags", "slope", "intercept"),
    [
        ({}, 1, 0),
        ({"RescaleSlope": "", "RescaleIntercept": ""}, 1, 0),
        ({"RescaleSlope": 0.5}, 0.5, 0),
        ({"RescaleIntercept": -1024}, 1, -1024),
        ({"RescaleSlope": -2, "RescaleIntercept": 7.5}, -2, 7.5),
    ],
)
@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.uint8, np.int32])
def test_rescaling(config, tmp_path, tags, slope, intercept, kind):
    pixels = drawn(4, 5, high=120, low=-100 if np.dtype(kind).kind == "i" else 0, kind=kind)
    write(tmp_path / "a.dcm", pixels, **tags)
    _, volume, _ = opened(config(dicom={"window": (-500, 500)}))
    units = pixels.astype(np.float64) * slope + intercept
    np.testing.assert_allclose(volume[0], np.clip((units + 500) / 1000, 0, 1), atol=1e-6)


def test_a_slope_of_each_file(config, tmp_path):
    pixels = drawn(3, 4, 5)
    for number, values in enumerate(pixels):
        write(tmp_path / f"{number}.dcm", values, InstanceNumber=number, RescaleSlope=number + 1)
    _, volume, _ = opened(config())
    units = pixels * np.array([1.0, 2.0, 3.0])[:, None, None]
    np.testing.assert_allclose(volume, scaled(units), atol=1e-6)


def test_a_table_of_values(config, tmp_path):
    pixels = drawn(4, 5, high=8, kind=np.uint16)
    table = np.array([0, 5, 9, 100, 120, 500, 900, 4000], np.uint16)
    lut = item(LUTDescriptor=[8, 0, 16], ModalityLUTType="HU", LUTData=table.tobytes())
    write(tmp_path / "a.dcm", pixels, ModalityLUTSequence=Sequence([lut]))
    _, volume, _ = opened(config(dicom={"window": (0, 4000)}))
    np.testing.assert_allclose(volume[0], table[pixels] / 4000, atol=1e-6)


@pytest.mark.parametrize("kind", [np.int16, np.uint16])
def test_spare_bits_are_no_values(config, tmp_path, kind):
    """12 of 16 bits are stored; old scanners draw into the others."""
    signed = np.dtype(kind).kind == "i"
    values = drawn(6, 7, low=-2048 if signed else 0, high=2047 if signed else 4095, kind=kind)
    garbage = drawn(6, 7, high=16, kind=np.uint16, seed=1) << 12
    spoiled = ((values.astype(np.int64) & 0xFFF) | garbage).astype(np.uint16).view(kind)
    write(tmp_path / "a.dcm", spoiled, BitsStored=12, HighBit=11)
    _, volume, _ = opened(config(dicom={"window": (-2048, 4095)}))
    np.testing.assert_allclose(volume[0], (values.astype(float) + 2048) / 6143, atol=1e-6)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("limit", [None, -1990])
def test_padding_is_black_and_no_value(config, tmp_path, inverted, limit):
    pixels = drawn(6, 7, low=-1000)
    pixels[0] = -2000
    pixels[-1] = -2000 if limit is None else limit
    kind = {"PhotometricInterpretation": "MONOCHROME1"} if inverted else {}
    more = {} if limit is None else {"PixelPaddingRangeLimit": limit}
    write(tmp_path / "a.dcm", pixels, PixelPaddingValue=-2000, RescaleIntercept=-24, **more, **kind)
    _, volume, _ = opened(config())
    inside = scaled(pixels[1:-1].astype(float))
    np.testing.assert_allclose(volume[0, 1:-1], 1 - inside if inverted else inside, atol=1e-6)
    assert not volume[0, [0, -1]].any()


def test_padding_written_without_its_sign(config, tmp_path):
    pixels = drawn(6, 7, low=-1000)
    pixels[0] = -2000
    file = data_set(pixels)
    file.add_new("PixelPaddingValue", "US", 65536 - 2000)
    file.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    _, volume, _ = opened(config())
    np.testing.assert_allclose(volume[0, 1:], scaled(pixels[1:].astype(float)), atol=1e-6)


def test_dark_for_high_is_turned_round(config, tmp_path):
    write(
        tmp_path / "a.dcm", np.array([[0, 1, 4]], np.int16), PhotometricInterpretation="MONOCHROME1"
    )
    _, volume, _ = opened(config())
    np.testing.assert_allclose(volume[0, 0], [1, 0.75, 0])


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (None, lambda x: np.clip((x - 39.5) / 399 + 0.5, 0, 1)),
        ("LINEAR", lambda x: np.clip((x - 39.5) / 399 + 0.5, 0, 1)),
        ("LINEAR_EXACT", lambda x: np.clip((x - 40) / 400 + 0.5, 0, 1)),
        ("SIGMOID", lambda x: 1 / (1 + np.exp(-4 * (x - 40) / 400))),
    ],
)
def test_the_window_of_the_file(config, tmp_path, function, expected):
    pixels = drawn(6, 7)
    tags = {"WindowCenter": [40, 300], "WindowWidth": [400, 1500], "RescaleIntercept": -1000}
    more = {} if function is None else {"VOILUTFunction": function}
    write(tmp_path / "a.dcm", pixels, **tags, **more)
    _, volume, _ = opened(config(dicom={"voi": True}))
    np.testing.assert_allclose(volume[0], expected(pixels - 1000.0), atol=1e-6)
    _, volume, _ = opened(config())
    np.testing.assert_allclose(volume[0], scaled(pixels.astype(float)), atol=1e-6)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({}, "a.dcm: has no WindowCenter and WindowWidth"),
        ({"WindowCenter": 1, "WindowWidth": 0}, "WindowWidth 0; allowed: finite"),
        ({"WindowCenter": 1, "WindowWidth": 9, "VOILUTFunction": "ODD"}, "VOILUTFunction 'ODD'"),
    ],
)
def test_windows_of_files_that_are_none(config, tmp_path, tags, message):
    write(tmp_path / "a.dcm", drawn(4, 5), **tags)
    with pytest.raises(ValueError, match=message):
        open_dicom(config(dicom={"voi": True}), "train", 0)


# Files


def test_names_of_every_kind(config, tmp_path):
    pixels = drawn(7, 4, 5)
    names = ["a.dcm", "B.DCM", "c.IMA", "d", "1.2.840.11", "sub/e.dicom"]
    for number, name in enumerate(names):
        write(tmp_path / name, pixels[number], InstanceNumber=number)
    write_bare(tmp_path / "bare", pixels[6], InstanceNumber=6)
    found, volume, said = opened(config())
    assert found == [*names, "bare"]
    np.testing.assert_allclose(volume, scaled(pixels.astype(float)), atol=1e-6)
    assert said == []


def test_what_is_no_slice_is_counted(config, tmp_path):
    pixels = drawn(2, 4, 5)
    for number, values in enumerate(pixels):
        write(tmp_path / f"{number}.dcm", values, InstanceNumber=number)
    copy = pydicom.dcmread(tmp_path / "0.dcm")
    copy.save_as(tmp_path / "z_copy.dcm")
    other = {"SeriesInstanceUID": generate_uid()}
    write(tmp_path / "report.dcm", None, Modality="SR", **other)
    write(tmp_path / "shown.dcm", None, Modality="PR", **other)
    write(tmp_path / "scout.dcm", drawn(4, 5), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    colours = drawn(4, 15, high=255, kind=np.uint8)
    write(
        tmp_path / "dose.dcm",
        colours,
        PhotometricInterpretation="RGB",
        SamplesPerPixel=3,
        Columns=5,
        PlanarConfiguration=0,
        **other,
    )
    listing = data_set(None, SOPClassUID="1.2.840.10008.1.3.10")
    listing.save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
    (tmp_path / "README").write_text("about the study")
    names, volume, said = opened(config())
    assert names == ["0.dcm", "1.dcm"]
    np.testing.assert_allclose(volume, scaled(pixels.astype(float)), atol=1e-6)
    assert said == [
        f"{tmp_path}: 2 slices; passed over: 1 DICOMDIR, 1 PR without pixels, 1 SR without "
        "pixels, 1 copies, 1 in colours (RGB), 1 localizer, 1 no DICOM"
    ]


def test_several_series(config, tmp_path):
    pixels = drawn(3, 4, 5)
    write(tmp_path / "a.dcm", pixels[0], SeriesDescription="HEAD")
    other = {"SeriesInstanceUID": generate_uid(), "SeriesNumber": 7}
    for number in (2, 1):
        write(tmp_path / f"b{number}.dcm", pixels[number], InstanceNumber=number, **other)
    names, _, (said,) = opened(config())
    assert names == ["a.dcm", "b1.dcm", "b2.dcm"]
    assert said == (
        f"{tmp_path}: 2 series, 1 slices of 'HEAD' (CT), 2 slices of '7' (CT); all taken; "
        "data.dicom.series takes one"
    )
    for wanted in ("7", other["SeriesInstanceUID"]):
        names, volume, said = opened(config(dicom={"series": wanted}))
        assert names == ["b1.dcm", "b2.dcm"]
        np.testing.assert_allclose(volume, scaled(pixels[1:].astype(float)), atol=1e-6)
        assert said == []
    with pytest.raises(ValueError, match=r"data\.dicom\.series='FOOT': .* has 1 slices of 'HEAD'"):
        open_dicom(config(dicom={"series": "FOOT"}), "train", 0)


def test_series_of_other_units(config, tmp_path):
    write(tmp_path / "a.dcm", drawn(4, 5), SeriesDescription="HEAD")
    other = {"SeriesInstanceUID": generate_uid(), "SeriesDescription": "T1", "Modality": "MR"}
    write(tmp_path / "b.dcm", drawn(4, 5), **other)
    with pytest.raises(ValueError, match=r"of different kinds, 1 slices of 'HEAD' \(CT\), 1 sl"):
        open_dicom(config(), "train", 0)
    assert opened(config(dicom={"series": "T1"}))[0] == ["b.dcm"]


def frame_group(height, slope, intercept):
    return item(
        PlanePositionSequence=Sequence([item(ImagePositionPatient=[0, 0, height])]),
        PixelValueTransformationSequence=Sequence(
            [item(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="HU")]
        ),
        FrameVOILUTSequence=Sequence([item(WindowCenter=0, WindowWidth=1000 * slope)]),
    )


@pytest.mark.parametrize("alone", [False, True])
def test_frames_of_an_enhanced_file(config, tmp_path, alone):
    pixels = drawn(3, 4, 5)
    heights, slopes = (4, 0, 2), (1, 2, 3)
    groups = [frame_group(h, s, -10 * s) for h, s in zip(heights, slopes, strict=True)]
    shared = item(PlaneOrientationSequence=Sequence([item(ImageOrientationPatient=AXIAL)]))
    write(
        tmp_path / "e.dcm",
        pixels,
        SharedFunctionalGroupsSequence=Sequence([shared]),
        PerFrameFunctionalGroupsSequence=Sequence(groups),
    )
    root = tmp_path / "e.dcm" if alone else tmp_path
    names, volume, said = opened(config(root=str(root)))
    assert names == ["e.dcm#0001", "e.dcm#0002", "e.dcm#0000"]
    units = np.array([(pixels[i] - 10.0) * slopes[i] for i in (1, 2, 0)])
    np.testing.assert_allclose(volume, scaled(units), atol=1e-6)
    assert said == []
    _, volume, _ = opened(config(root=str(root), dicom={"voi": True}))
    widths = np.array([2000.0, 3000.0, 1000.0])[:, None, None]
    np.testing.assert_allclose(volume, np.clip((units + 0.5) / (widths - 1) + 0.5, 0, 1), atol=1e-6)


def test_plain_frames_keep_their_order(config, tmp_path):
    pixels = drawn(4, 3, 5, kind=np.uint8, high=255)
    write(tmp_path / "a.dcm", pixels, Modality="US")
    names, volume, _ = opened(config())
    assert names == [f"a.dcm#{number:04d}" for number in range(4)]
    np.testing.assert_allclose(volume, scaled(pixels.astype(float)), atol=1e-6)


def test_other_transfer_syntaxes(config, tmp_path):
    pixels = drawn(4, 5)
    file = data_set(pixels)
    file.compress(RLELossless)
    file.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_allclose(opened(config())[1][0], scaled(pixels.astype(float)), atol=1e-6)
    file = data_set(pixels.astype(">i2"))
    file.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    file["PixelData"].VR = "OW"
    options = {"implicit_vr": False, "little_endian": False, "enforce_file_format": True}
    pydicom.dcmwrite(tmp_path / "a.dcm", file, **options)
    np.testing.assert_allclose(opened(config())[1][0], scaled(pixels.astype(float)), atol=1e-6)


def test_pixels_that_need_a_decoder_say_which(config, tmp_path):
    file = data_set(drawn(4, 5))
    file.file_meta.TransferSyntaxUID = JPEGLSLossless
    file.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xf7 no picture \xff\xd9"])
    file["PixelData"].is_undefined_length = True
    file["PixelData"].VR = "OB"
    file.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with pytest.raises(ValueError, match=r"compressed as JPEG-LS .*which needs pip install") as it:
        open_dicom(config(), "train", 0)
    assert "\n" not in str(it.value)


# Whole folders


def test_splits_share_no_slice(config, tmp_path):
    for number in range(10):
        write(
            tmp_path / f"{number}.dcm",
            np.array([[number, 0]], np.int16),
            InstanceNumber=10 - number,
        )
    names = [open_dicom(config(test_fraction=0.3), split, 1).names for split in ("train", "test")]
    assert [len(found) for found in names] == [7, 3]
    assert set(names[0]) | set(names[1]) == {f"{number}.dcm" for number in range(10)}


def test_sizes(config, tmp_path):
    write(tmp_path / "a.dcm", drawn(4, 6))
    write(tmp_path / "b.dcm", drawn(8, 8))
    with pytest.raises(ValueError, match=r"b\.dcm: is 8x8 .* data\.resize=true"):
        open_dicom(config(), "train", 0)
    assert open_dicom(config(size=(5, 5), resize=True), "train", 0).shape == (5, 5, 1)


def test_without_pydicom(config, tmp_path, monkeypatch):
    (tmp_path / "a.dcm").write_text("")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ValueError, match=r"^data\.name='dicom' .* pip install 'nid_jax\[dicom\]'$"):
        open_dicom(config(), "train", 0)


@pytest.mark.parametrize("window", [(1.0,), (3.0, 3.0), (2.0, 1.0), (0.0, float("inf")), ("a", 1)])
def test_windows_that_are_none(config, tmp_path, window):
    write(tmp_path / "a.dcm", drawn(4, 5))
    with pytest.raises(ValueError, match=r"data\.dicom\.window="):
        open_dicom(config(dicom={"window": window}), "train", 0)


def test_keys_that_do_not_go_together(config, tmp_path):
    write(tmp_path / "a.dcm", drawn(4, 5))
    with pytest.raises(ValueError, match=r"data\.dicom\.voi=true: beside data\.dicom\.window"):
        open_dicom(config(dicom={"window": (0, 1), "voi": True}), "train", 0)
    with pytest.raises(ValueError, match=r"data\.range=\(0, 1\): of slices it is data\.dicom\.w"):
        open_dicom(config(range=(0, 1)), "train", 0)


def test_folders_without_slices(config, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no DICOM files"):
        open_dicom(config(), "train", 0)
    with pytest.raises(FileNotFoundError, match=r"data\.root="):
        open_dicom(config(root=str(tmp_path / "none")), "train", 0)
    write(tmp_path / "report.dcm", None, Modality="SR")
    with pytest.raises(ValueError, match="no gray slices; passed over: 1 SR without pixels"):
        open_dicom(config(), "train", 0)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"RescaleSlope": 0}, r"a\.dcm: RescaleSlope 0 and RescaleIntercept 0; allowed: finite"),
        (
            {"BitsStored": 12, "HighBit": 15},
            r"a\.dcm: BitsStored 12 of 16 bits with HighBit 15; all",
        ),
        ({"BitsStored": 17, "HighBit": 16}, r"a\.dcm: .*Bits ?Stored"),
        ({"SOPClassUID": CT, "Rows": 9}, r"a\.dcm: cannot be read as a DICOM slice \("),
    ],
)
def test_tags_that_cannot_be(config, tmp_path, tags, message):
    write(tmp_path / "a.dcm", drawn(4, 5), **tags)
    with pytest.raises(ValueError, match=message) as complaint:
        open_dicom(config(), "train", 0)
    assert "\n" not in str(complaint.value)


def test_slices_of_one_value(config, tmp_path):
    write(tmp_path / "a.dcm", np.full((4, 5), 5, np.int16))
    with pytest.raises(ValueError, match=r"all slices have the value 5; set data\.dicom\.window"):
        open_dicom(config(), "train", 0)


def test_damaged_files(config, tmp_path):
    write(tmp_path / "a.dcm", drawn(40, 50))
    whole = (tmp_path / "a.dcm").read_bytes()
    for content in (b"junk", whole[:-700], whole[:140]):
        (tmp_path / "a.dcm").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.dcm: cannot be read as a DICOM slice") as it:
            open_dicom(config(), "train", 0)
        assert "\n" not in str(it.value)


def test_padding_beyond_the_stored_bits(tmp_path, config):
    stored = np.arange(4000, 4024, dtype=np.uint16).reshape(4, 6) % 4096
    stored[:, 0] = 65535
    write(tmp_path / "a.dcm", stored, BitsStored=12, HighBit=11, PixelPaddingValue=65535)
    values = to_array(open_dicom(config(), "train", 0))[0, ..., 0]
    seen = stored[:, 1:].astype(float)
    np.testing.assert_allclose(values[:, 1:], (seen - seen.min()) / np.ptp(seen), atol=1e-6)
    assert not values[:, 0].any()
