"""Signals from array files: their axes, types, and which array of several."""

import warnings

import numpy as np
import pytest
from scipy.io import savemat

from nid_jax.data import open_collection, to_array
from nid_jax.notices import Notice
from nid_jax.tasks import image


def opened(config, split="train"):
    """(signals [S, *grid, C], notices) of a split."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", Notice)
        values = to_array(open_collection(config, split, 0))
    return values, [str(notice.message) for notice in said]


@pytest.mark.parametrize(("kind", "full"), [("uint8", 255), ("uint16", 65535)])
@pytest.mark.parametrize("shape", [(6, 4, 5), (6, 4, 5, 3)])
def test_integer_arrays(tmp_path, data_config, kind, full, shape):
    values = np.random.default_rng(0).integers(0, full + 1, shape).astype(kind)
    np.savez(tmp_path / "x.npz", train=values, test=values[:2])
    config = data_config(name="array", root=tmp_path / "x.npz")
    train, test = (to_array(open_collection(config, s, 0)) for s in ("train", "test"))
    expected = values.reshape(6, 4, 5, -1) / full
    np.testing.assert_allclose(train, expected, atol=1e-7)
    np.testing.assert_allclose(test, expected[:2], atol=1e-7)


@pytest.mark.parametrize("extension", ["npy", "npz"])
def test_one_array_is_split(tmp_path, data_config, extension):
    values = np.random.default_rng(0).random((12, 4, 5))
    path = tmp_path / f"x.{extension}"
    np.save(path, values) if extension == "npy" else np.savez(path, values)
    config = data_config(name="array", root=path)
    train, test = (open_collection(config, s, 5) for s in ("train", "test"))
    assert (len(train), len(test)) == (9, 3)
    both = dict(zip(train.names + test.names, [*train, *test], strict=True))
    joined = np.stack([both[f"signal_{i:05d}"] for i in range(12)])
    np.testing.assert_allclose(joined[..., 0], values, atol=1e-7)
    gray = open_collection(data_config(name="array", root=path, gray=True), "test", 5)
    np.testing.assert_array_equal(to_array(gray), to_array(test))


def test_array_gray_and_resize(tmp_path, data_config):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((4, 8, 8, 3)))
    config = data_config(name="array", root=tmp_path / "x.npy", gray=True, size=(4, 6))
    with pytest.raises(ValueError, match=r"x\.npy: is 8x8 .*expected 4x6.*data\.resize"):
        open_collection(config, "test", 0)
    config.resize = True
    assert open_collection(config, "test", 0)[0].shape == (4, 6, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.full((2, 3, 3), 1.25),
            r"x\.npy: values from 1\.25 to 1\.25 .*data\.range=\(low, high\)",
        ),
        (np.array([[[0.0, np.nan]], [[np.nan] * 2]]), r"x\.npy: signal 1 has no value at all"),
        (np.array([[[0.0, np.inf]]] * 2), r"x\.npy: signal 0 holds infinity; allowed: finite"),
        (np.full((2, 3, 3), -7), r"x\.npy: values from -7 to -7 of type int64.*data\.range="),
        (np.zeros(6), r"x\.npy: an array of shape \[6\]; expected pictures \[S, H, W\] or"),
        (
            np.zeros((2, 9, 8, 8, 8)),
            r"x\.npy: data\.layout: ''; allowed: for an array of shape .*8\]",
        ),
        (np.zeros((0, 3, 3)), r"x\.npy: .*not empty"),
        (np.zeros((2, 3, 3), complex), r"x\.npy: values of type complex128"),
        (np.array([{"a": 1}], dtype=object), r"x\.npy: cannot be read as an array file"),
    ],
)
def test_bad_arrays_are_named(tmp_path, data_config, values, message):
    np.save(tmp_path / "x.npy", values, allow_pickle=True)
    with pytest.raises(ValueError, match=message):
        open_collection(data_config(name="array", root=tmp_path / "x.npy"), "train", 0)


def test_nan_is_what_was_not_measured(tmp_path, data_config):
    draw = np.random.default_rng()
    values = draw.uniform(size=(8, 5, 6, 3)).astype(np.float32)
    given, missing = values.copy(), draw.uniform(size=(8, 5, 6)) < 0.3
    missing[:, 0, 0], missing[:, 0, 1] = False, True
    # One channel is enough.
    given[missing, draw.integers(3)] = np.nan
    np.save(tmp_path / "x.npy", given)
    for gray in (False, True):
        config = data_config(name="array", root=tmp_path / "x.npy", gray=gray)
        said = f"{missing.mean():.1%} of the samples are NaN, in 8 of 8 signals; taken as not"
        with pytest.warns(Notice, match=said):
            parts = [open_collection(config, split, 0) for split in ("train", "test")]
        assert [len(part) for part in parts] == [6, 2]
        for part in parts:
            for index, name in enumerate(part.names):
                number = int(name[-5:])
                np.testing.assert_array_equal(part.seen(index), ~missing[number])
                found = part[index][~missing[number]]
                wanted = values[number][~missing[number]]
                weights = [[0.299], [0.587], [0.114]]
                np.testing.assert_allclose(found, wanted @ weights if gray else wanted, rtol=1e-5)
                assert not part[index][missing[number]].any()
    with pytest.raises(ValueError, match=r"data\.size=\(3, 3\).*missing values, which resizing"):
        open_collection(
            data_config(name="array", root=config.root, size=3, resize=True), "train", 0
        )
    with pytest.raises(ValueError, match="of its frames are NaN; allowed: whole frames"):
        open_collection(data_config(name="array", root=config.root, layout="THWC"), "train", 0)


def test_what_is_missing_has_no_truth(tmp_path, data_config):
    values = np.random.default_rng(0).uniform(size=(8, 5, 6))
    values[::2, 2, 3] = np.nan
    np.save(tmp_path / "x.npy", values)
    with pytest.warns(Notice, match="0.* of the samples are NaN, in 4 of 8"):
        part = open_collection(data_config(name="array", root=tmp_path / "x.npy"), "train", 0)
    measured = image.sampled(part)
    for index, name in enumerate(part.names):
        known = int(name[-5:]) % 2 == 1
        assert measured.weights(index).sum() == 30 - (not known)
        assert (measured.truth(index) is not None) == known
    assert measured.truths(len(part)) is None


def test_bad_array_files(tmp_path, data_config):
    with pytest.raises(FileNotFoundError, match=r"data\.root=.*no such file"):
        open_collection(data_config(name="array", root=tmp_path / "x.npy"), "train", 0)
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(FileNotFoundError, match="is a folder, not a file"):
        open_collection(data_config(name="array", root=tmp_path / "folder.npy"), "train", 0)
    for suffix, way in ((".png", ""), (".h5", "h5py"), (".csv", "loadtxt"), (".pt", "torch")):
        with pytest.raises(ValueError, match=rf"reads \.npy, \.npz and \.mat files.*{way}"):
            open_collection(data_config(name="array", root=tmp_path / f"x{suffix}"), "train", 0)
    for extension in ("npy", "npz"):
        path = tmp_path / f"broken.{extension}"
        np.savez(tmp_path / "whole.npz", np.zeros((2, 9, 9)))
        np.save(tmp_path / "whole.npy", np.zeros((2, 9, 9)))
        path.write_bytes((tmp_path / f"whole.{extension}").read_bytes()[:300])
        with pytest.raises(ValueError, match=rf"broken\.{extension}: cannot be read"):
            open_collection(data_config(name="array", root=path), "train", 0)
    np.savez(tmp_path / "odd.npz", a=np.zeros((2, 3, 3)), b=np.zeros((2, 3, 3)))
    with pytest.raises(ValueError, match=r"holds the arrays \['a', 'b'\]; expected 'train'"):
        open_collection(data_config(name="array", root=tmp_path / "odd.npz"), "train", 0)


# Axes


def test_one_picture_is_said_to_look_like_one(tmp_path, data_config):
    values = np.random.default_rng(0).integers(0, 255, (64, 48, 3), np.uint8)
    path = tmp_path / "one_picture.npy"
    np.save(path, values)
    config = data_config(name="array", root=path, test_fraction=0)
    signals, said = opened(config)
    np.testing.assert_allclose(signals[..., 0], values / 255, atol=1e-7)
    assert said == [
        f"{path}: an array of shape [64, 48, 3] looks like one picture, channels last; taken as "
        "SHW, 64 signals of 48 x 3; data.layout=HWC says otherwise"
    ]
    config.layout = "HWC"
    for split in ("train", "test"):
        signals, said = opened(config, split)
        np.testing.assert_allclose(signals, values[None] / 255, atol=1e-7)
        assert said == [f"{path}: one signal of 64 x 48, which is both learned from and fitted"]


@pytest.mark.parametrize("order", ["F", "C"])
def test_channels_first(tmp_path, data_config, order):
    values = np.random.default_rng(0).integers(0, 255, (10, 3, 32, 31), np.uint8)
    np.save(tmp_path / "x.npy", np.asarray(values, order=order))
    config = data_config(name="array", root=tmp_path / "x.npy", test_fraction=0)
    expected = np.moveaxis(values, 1, -1) / 255
    signals, (said,) = opened(config)
    np.testing.assert_allclose(signals, expected, atol=1e-7)
    assert "taken as SCHW, 10 signals of 32 x 31, 3 channels; data.layout=SDHW" in said
    config.layout = "SCHW"
    signals, said = opened(config)
    np.testing.assert_allclose(signals, expected, atol=1e-7)
    assert said == []


def test_volumes(tmp_path, data_config):
    values = np.random.default_rng(0).random((6, 7, 8, 9))
    np.savez(tmp_path / "x.npz", train=values, test=values[:2])
    config = data_config(name="array", root=tmp_path / "x.npz")
    signals, (said,) = opened(config)
    np.testing.assert_allclose(signals[..., 0], values, atol=1e-7)
    assert "taken as SDHW, 6 signals of 7 x 8 x 9; data.layout=SHWC" in said
    config.size = (5, 5)
    with pytest.raises(ValueError, match=r"data\.size=\(5, 5\): .*\[7, 8, 9\]; allowed: \(\)"):
        opened(config)
    colour = np.random.default_rng(0).random((2, 5, 6, 7, 3))
    np.save(tmp_path / "x.npy", colour)
    config = data_config(name="array", root=tmp_path / "x.npy", test_fraction=0, gray=True)
    config.layout = "SDHWC"
    signals, said = opened(config)
    np.testing.assert_allclose(signals[..., 0], colour @ [0.299, 0.587, 0.114], atol=1e-6)
    assert said == []


def test_one_gray_picture(tmp_path, data_config):
    values = np.random.default_rng(0).random((9, 7))
    np.save(tmp_path / "x.npy", values)
    signals, (said,) = opened(data_config(name="array", root=tmp_path / "x.npy"), "test")
    np.testing.assert_allclose(signals, values[None, ..., None], atol=1e-7)
    assert said.endswith("one signal of 9 x 7, which is both learned from and fitted")


@pytest.mark.parametrize("layout", ["", "THWC"])
def test_frames_are_not_split(tmp_path, data_config, layout):
    values = np.random.default_rng(0).integers(0, 256, (10, 6, 7, 3), np.uint8)
    np.save(tmp_path / "x.npy", values)
    config = data_config(name="array", root=tmp_path / "x.npy", layout=layout)
    if not layout:
        config.time = "codes"  # of a video's config
    for split in ("train", "test"):
        signals, said = opened(config, split)
        np.testing.assert_allclose(signals, values / 255, atol=1e-7)
        assert said == []


def test_a_layout_that_cannot_be(tmp_path, data_config):
    np.save(tmp_path / "x.npy", np.zeros((4, 5, 6)))
    for layout in ("SHWC", "SHX", "SDW"):
        config = data_config(name="array", root=tmp_path / "x.npy", layout=layout)
        with pytest.raises(ValueError, match=rf"x\.npy: data\.layout: '{layout}'; allowed: "):
            opened(config)
    config = data_config(name="faces", layout="SHW")
    with pytest.raises(
        ValueError, match=r"data\.layout='SHW': is for data\.name='array' and 'idx' alone"
    ):
        opened(config)


# Types


@pytest.mark.parametrize("kind", ["<f2", "<f4", ">f4", "<f8", ">f8", "longdouble"])
def test_floats_of_every_kind(tmp_path, data_config, kind):
    values = np.random.default_rng(0).random((4, 5, 6)).astype(kind)
    np.save(tmp_path / "x.npy", values)
    signals, _ = opened(data_config(name="array", root=tmp_path / "x.npy", test_fraction=0))
    np.testing.assert_allclose(signals[..., 0], values.astype(np.float64), atol=1e-7)


def test_bits_and_words_of_other_byte_order(tmp_path, data_config):
    draw = np.random.default_rng(0)
    for values, full in (
        (draw.random((4, 5, 6)) < 0.5, 1),
        (draw.integers(0, 65536, (4, 5, 6)).astype(">u2"), 65535),
    ):
        np.save(tmp_path / "x.npy", values)
        signals, _ = opened(data_config(name="array", root=tmp_path / "x.npy", test_fraction=0))
        np.testing.assert_allclose(signals[..., 0], values / full, atol=1e-7)


def test_values_of_other_ranges(tmp_path, data_config):
    draw, path = np.random.default_rng(0), tmp_path / "x.npy"
    to_255 = draw.random((10, 25, 25)) * 255
    deep = draw.integers(0, 4096, (10, 25, 25)).astype(np.uint16)
    deep[0, 0, 0] = 4095
    for values, expected, text in (
        (to_255, to_255 / 255, "taken as from 0 to 255; data.range=(low, high) says otherwise"),
        (to_255 / 127.5 - 1, to_255 / 255, "taken as from -1 to 1; data.range=(low, high)"),
        (to_255.astype(np.int64), to_255.astype(int) / 255, "taken as from 0 to 255; data.range="),
        (deep, deep / 65535, "taken as they are, dark; data.range=(0, 4095) says otherwise"),
    ):
        np.save(path, values)
        signals, (said,) = opened(data_config(name="array", root=path, test_fraction=0))
        np.testing.assert_allclose(signals[..., 0], expected, atol=1e-6)
        assert text in said
    signals, said = opened(data_config(name="array", root=path, test_fraction=0, range=(0, 4095)))
    np.testing.assert_allclose(signals[..., 0], deep / 4095, atol=1e-6)
    assert said == []
    signals, (said,) = opened(
        data_config(name="array", root=path, test_fraction=0, range=(1000, 3000))
    )
    np.testing.assert_allclose(signals[..., 0], np.clip((deep - 1000.0) / 2000, 0, 1), atol=1e-6)
    outside = ((deep < 1000) | (deep > 3000)).sum()
    assert said == f"{path}: {outside} of 6250 values lie outside (1000, 3000); cut"


def test_one_range_for_all_signals(tmp_path, data_config):
    """A dark signal stays dark beside a bright one."""
    values = np.stack([np.full((5, 6), 20.0), np.full((5, 6), 200.0)])
    np.save(tmp_path / "x.npy", values)
    signals, _ = opened(data_config(name="array", root=tmp_path / "x.npy", test_fraction=0))
    np.testing.assert_allclose(signals[:, 0, 0, 0], [20 / 255, 200 / 255], atol=1e-6)


# Several arrays


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("x_train", "x_test"), ("y_train", "y_test")),
        (("train_images", "test_images"), ("train_labels", "test_labels", "val_images")),
        (("X_train", "X_test"), ()),
        (("train", "test"), ("mean",)),
    ],
)
def test_arrays_for_each_split(tmp_path, data_config, names, labels):
    draw = np.random.default_rng(0)
    arrays = {name: draw.random((6 + i, 5, 6)) for i, name in enumerate(names)}
    others = {name: np.zeros(3) for name in labels}
    np.savez(tmp_path / "x.npz", **others, **arrays)
    config = data_config(name="array", root=tmp_path / "x.npz")
    for split, name in zip(("train", "test"), names, strict=True):
        signals, said = opened(config, split)
        np.testing.assert_allclose(signals[..., 0], arrays[name], atol=1e-7)
        passed = f"passed over: {', '.join(sorted(labels))}"
        assert len(said) == bool(labels)
        assert all(text.endswith(passed) for text in said)


def test_signals_and_their_labels(tmp_path, data_config):
    values = np.random.default_rng(0).random((5, 4, 6))
    objects = np.array([{"a": 1}], dtype=object)
    for name in ("x.npz", "x.mat"):
        path = tmp_path / name
        if name == "x.npz":
            np.savez(path, x=values, y=np.eye(5), info=objects)
        else:
            savemat(path, {"x": values, "y": np.arange(5.0), "info": {"a": 1}})
        signals, (said,) = opened(data_config(name="array", root=path, test_fraction=0))
        np.testing.assert_allclose(signals[..., 0], values, atol=1e-7)
        assert said == f"{path}: signals are x; passed over: info, y"


def test_matlab_has_signals_last(tmp_path, data_config):
    values = np.random.default_rng(0).integers(0, 256, (8, 9, 3, 5), np.uint8)
    savemat(tmp_path / "x.mat", {"pictures": values})
    config = data_config(name="array", root=tmp_path / "x.mat", layout="HWCS", test_fraction=0)
    signals, _ = opened(config)
    np.testing.assert_allclose(signals, np.moveaxis(values, -1, 0) / 255, atol=1e-7)


def test_objects_alone(tmp_path, data_config):
    np.savez(tmp_path / "x.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"x\.npz: holds objects, which are never unpickled"):
        opened(data_config(name="array", root=tmp_path / "x.npz"))


def test_both_splits_have_one_range(tmp_path, data_config):
    train = np.random.default_rng(0).integers(-255, 256, (6, 5, 4)) / 255
    test = np.abs(train)
    np.savez(tmp_path / "x.npz", x_train=train, x_test=test)
    config = data_config(name="array", root=tmp_path / "x.npz")
    np.testing.assert_allclose(opened(config, "test")[0][..., 0], (test + 1) / 2, atol=1e-6)
    np.savez(tmp_path / "x.npz", x_train=255 * train.clip(0), x_test=test)
    signals, said = opened(config, "test")
    np.testing.assert_allclose(signals[..., 0], test / 255, atol=1e-6)
    assert any("are they on two scales?" in line for line in said)


def test_nearly_black_and_empty_arrays(tmp_path, data_config):
    config = data_config(name="array", root=tmp_path / "x.npy", test_fraction=0)
    np.save(tmp_path / "x.npy", np.eye(4, dtype=np.uint8)[None].repeat(3, 0))
    _, (said,) = opened(config)
    assert "uint8 values of 0 and 1 alone, of 255; taken as they are, dark; data.range=" in said
    np.save(tmp_path / "x.npy", np.zeros((0, 5, 5), np.int64))
    with pytest.raises(ValueError, match=r"shape \[0, 5, 5\]; expected pictures .*not empty"):
        opened(config)
