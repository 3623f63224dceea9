"""Corrupted pictures: what hides them, what the masks say, folders written and read back."""

import json
import subprocess
import sys
from pathlib import Path

import ml_collections
import numpy as np
import pytest
from absl import flags
from PIL import Image

from nid_jax.data import ArrayCollection, Collection, open_collection, to_array
from nid_jax.data.corrupt import define_flags, parse, write
from nid_jax.data.corrupted import CorruptedCollection, corrupt, open_corrupted

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("stripes", "pixels", "text", "scribble")
SHAPES = [(25, 25, 1), (32, 32, 3), (17, 41, 3), (40, 13, 1), (24, 30, 2)]


def make_options(**changes):
    """All keys of data.corrupt."""
    options = {
        "kind": "stripes",
        "share": 0.13,
        "count": 1,
        "stripes": 5,
        "colour_scale": 1.0,
        "colour_shift": 0.0,
    }
    assert set(changes) <= set(options)
    return ml_collections.ConfigDict(options | changes, type_safe=False)


def random_picture(shape, seed=0):
    return np.random.default_rng(seed).uniform(0.01, 0.99, shape).astype(np.float32)


# One picture


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_is_where_the_picture_changed(kind, shape):
    options = make_options(kind=kind, count=2, share=0.2)
    image = random_picture(shape)
    before = image.copy()
    image.flags.writeable = False
    corrupted, seen = corrupt(image, options, 3, 5)
    assert corrupted.dtype == np.float32
    assert corrupted.shape == shape
    assert (seen.dtype, seen.shape) == (bool, shape[:2])
    assert 0 <= corrupted.min() <= corrupted.max() <= 1
    np.testing.assert_array_equal(seen, (corrupted == before).all(axis=-1))
    assert seen.any()
    assert not seen.all()


@pytest.mark.parametrize("kind", KINDS)
def test_seed_and_index_decide_and_nothing_else_does(kind):
    options, image = make_options(kind=kind), random_picture((32, 24, 3))
    first = corrupt(image, options, 3, 5)
    np.random.default_rng(0)
    for same, other in zip(first, corrupt(image, options, 3, 5), strict=True):
        np.testing.assert_array_equal(same, other)
    for seed, index in ((3, 6), (4, 5), (5, 3)):
        assert (corrupt(image, options, seed, index)[1] != first[1]).any()
    # The mask does not look at the picture.
    np.testing.assert_array_equal(corrupt(1 - image, options, 3, 5)[1], first[1])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("share", [1e-6, 0.02, 0.137, 0.5, 1.0, 1])
def test_pixels_show_exactly_the_share(share, shape):
    options, image = make_options(kind="pixels", share=share), random_picture(shape)
    corrupted, seen = corrupt(image, options, 0, 1)
    assert seen.sum() == max(1, round(share * shape[0] * shape[1]))
    np.testing.assert_array_equal(corrupted, image * seen[..., None])


def test_fewer_pixels_are_among_more_pixels():
    image = random_picture((20, 20, 1))
    few = corrupt(image, make_options(kind="pixels", share=0.05), 2, 0)[1]
    many = corrupt(image, make_options(kind="pixels", share=0.2), 2, 0)[1]
    assert many[few].all()


@pytest.mark.parametrize(
    ("shape", "tolerance"),
    [((25, 25, 1), 0.01), ((128, 128, 3), 0.002), ((33, 70, 3), 0.005), ((90, 31, 1), 0.005)],
)
@pytest.mark.parametrize("share", [0.13, 0.4])
def test_a_block_of_stripes_covers_the_share_inside_the_picture(share, shape, tolerance):
    directions, corners = set(), set()
    for index in range(12):
        options = make_options(share=share, stripes=4)
        corrupted, seen = corrupt(np.full(shape, 0.5), options, 0, index)
        assert abs((~seen).mean() - share) < tolerance
        rows, columns = np.nonzero(~seen)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert height * width == len(rows), "one full rectangle"
        assert abs(height / width / (shape[0] / shape[1]) - 1) < 0.2
        corners.add((rows.min(), columns.min()))
        block = corrupted[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        upright = (block == block[:1]).all()
        assert upright != (block == block[:, :1]).all()
        directions.add(bool(upright))
        line = block[0] if upright else block[:, 0]
        assert 1 + (line[1:] != line[:-1]).any(axis=-1).sum() == 4
        if shape[-1] == 3:
            np.testing.assert_allclose(np.ptp(line, axis=-1), 1, atol=1e-6)  # saturated colours
        else:
            assert ((line <= 0.2) | (line >= 0.8)).all()
    assert len(directions) == 2
    assert len(corners) > 6


def test_several_blocks():
    image = np.full((100, 100, 3), 0.5)
    hidden = [~corrupt(image, make_options(share=0.02, count=3), 0, at)[1] for at in range(8)]
    assert max(mask.mean() for mask in hidden) == pytest.approx(0.06, rel=0.05)
    assert all(0.02 <= mask.mean() <= 0.061 for mask in hidden)


@pytest.mark.parametrize("kind", ["text", "scribble"])
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_text_and_scribbles_hide_about_the_share(kind, count, share):
    options = make_options(kind=kind, share=share, count=count)
    for index in range(2):
        corrupted, seen = corrupt(np.full((64, 80, 3), 0.5), options, 0, index)
        assert 0 <= (~seen).mean() - share < 0.02
        colours = np.unique(corrupted[~seen], axis=0)
        assert len(colours) == count
        np.testing.assert_allclose(np.ptp(colours, axis=-1), 1, atol=1e-6)


def test_one_stroke_hangs_together_and_text_does_not():
    from skimage.measure import label

    options = make_options(kind="scribble", share=0.1)
    assert label(~corrupt(np.zeros((64, 64, 1)), options, 0, 3)[1], connectivity=2).max() == 1
    options = make_options(kind="text", share=0.1)
    assert label(~corrupt(np.zeros((64, 64, 1)), options, 0, 3)[1], connectivity=2).max() > 5


@pytest.mark.parametrize(("scale", "shift"), [(0.6, 0.2), (2, 0), (1.5, -0.4), (1, 1)])
def test_colours_change_before_the_mask(scale, shift):
    image = random_picture((21, 18, 3))
    for kind in ("none", "pixels", "stripes"):
        options = make_options(kind=kind, colour_scale=scale, colour_shift=shift, share=0.5)
        corrupted, seen = corrupt(image, options, 0, 0)
        expected = np.clip(image.astype(np.float64) * scale + shift, 0, 1)
        np.testing.assert_allclose(corrupted[seen], expected[seen], atol=1e-6)
        # What hides is drawn as it is, whatever the colours become.
        plain = make_options(kind=kind, share=0.5)
        np.testing.assert_array_equal(corrupted[~seen], corrupt(image, plain, 0, 0)[0][~seen])
        assert seen.all() == (kind == "none")


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 3), (3, 3, 1), (2, 40, 1)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_pictures_show_something_or_are_refused(kind, shape):
    options = make_options(kind=kind, share=0.5, count=3)
    try:
        outcome = corrupt(random_picture(shape), options, 0, 0)[1].any()
    except ValueError as error:
        outcome = str(error)
    reason = f"{kind} would hide all of a picture of {shape[0]}x{shape[1]}"
    refused = f"data.corrupt.share=0.5, data.corrupt.count=3: {reason}"
    assert outcome in ((True,) if kind == "pixels" else (True, refused))
    if kind == "stripes" and shape == (1, 1, 1):
        assert outcome == refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "blobs"}, "kind='blobs': allowed: none, stripes, pixels, text, scribble"),
        ({"count": 0}, "count=0: must be a whole number, at least 1"),
        ({"count": 1.5}, "count=1.5: must be a whole number, at least 1"),
        ({"stripes": -2}, "stripes=-2: must be a whole number, at least 1"),
        ({"share": 0}, "share=0: must be a number above 0 and below 1"),
        ({"share": 1.0}, "share=1.0: must be a number above 0 and below 1"),
        ({"share": 1.1, "kind": "pixels"}, "share=1.1: must be a number above 0 and at most 1"),
        ({"share": -0.1, "kind": "text"}, "share=-0.1: must be a number above 0 and below 1"),
        ({"share": float("nan")}, "share=nan: must be a number above 0 and below 1"),
        ({"share": "half"}, "share='half': must be a number above 0 and below 1"),
        ({"colour_scale": 0}, "colour_scale=0: must be a number above 0"),
        ({"colour_scale": float("inf")}, "colour_scale=inf: must be a number above 0"),
        ({"colour_shift": 1.5}, "colour_shift=1.5: must be a number from -1 to 1"),
        ({"colour_shift": float("nan")}, "colour_shift=nan: must be a number from -1 to 1"),
    ],
)
def test_bad_options(changes, message):
    with pytest.raises(ValueError, match="data.corrupt") as caught:
        corrupt(random_picture((9, 9, 1)), make_options(**changes), 0, 0)
    assert str(caught.value) == f"data.corrupt.{message}"


def test_what_cannot_be_corrupted():
    with pytest.raises(ValueError, match=r"^data\.corrupt: signals of shape \[4, 4\]; pictures"):
        corrupt(np.zeros((4, 4)), make_options(), 0, 0)
    with pytest.raises(ValueError, match=r"^seed=-1: must be 0 or more$"):
        corrupt(np.zeros((4, 4, 1)), make_options(), -1, 0)


# Collections of them


@pytest.mark.parametrize("kind", ["none", *KINDS])
def test_a_collection_corrupts_on_access(kind):
    values = np.stack([random_picture((12, 15, 3), seed) for seed in range(4)])
    options = make_options(kind=kind, share=0.3)
    clean = ArrayCollection(values, list("abcd"), "numbers")
    collection = CorruptedCollection(clean, options, 7)
    assert isinstance(collection, Collection)
    assert (len(collection), collection.names, collection.shape) == (4, list("abcd"), (12, 15, 3))
    assert kind in collection.title
    for index in (2, 0, -1):
        expected, seen = corrupt(values[index], options, 7, index % 4)
        np.testing.assert_array_equal(collection[index], expected)
        np.testing.assert_array_equal(collection.seen(index), seen)
        np.testing.assert_array_equal(collection.truth(index), values[index])
    for access in (collection.__getitem__, collection.seen, collection.truth):
        with pytest.raises(IndexError):
            access(4)


def test_a_collection_checks_its_options_at_once():
    clean = ArrayCollection(np.zeros((1, 5, 5, 1)), ["a"], "numbers")
    with pytest.raises(ValueError, match=r"data\.corrupt\.share=2: must be"):
        CorruptedCollection(clean, make_options(share=2), 0)


# Folders written and read back


@pytest.fixture
def make_config(data_config):
    """make(corrupt options, key of data=value, ...) -> a whole config."""

    def make(options=(), **changes):
        config = ml_collections.ConfigDict({"task": "inpainting", "seed": 4})
        config.data = data_config(**changes)
        config.data.corrupt = make_options(**dict(options))
        return config

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_back(tmp_path, make_config, data_config, kind):
    config = make_config({"kind": kind, "share": 0.2}, num_test=3, size=(20, 26), resize=True)
    written = write(config, tmp_path / "new" / "out")
    collection = open_corrupted(data_config(root=tmp_path / "new" / "out"), "test", 0)
    assert isinstance(collection, Collection)
    assert collection.names == ["0000_face_080", "0001_face_081", "0002_face_082"]
    assert len(collection) == 3
    assert collection.shape == (20, 26, 1)
    clean = to_array(open_collection(config.data, "test", 4))
    for index in range(3):
        picture, seen = corrupt(clean[index], config.data.corrupt, 4, index)
        half = 0.5 / 255 + 1e-6
        np.testing.assert_allclose(collection[index], picture, atol=half)
        np.testing.assert_array_equal(collection.seen(index), seen)
        np.testing.assert_allclose(collection.truth(index), clean[index], atol=half)
        np.testing.assert_array_equal(written[index], picture)
    for access in (collection.__getitem__, collection.seen, collection.truth):
        with pytest.raises(IndexError):
            access(3)
    record = json.loads((tmp_path / "new" / "out" / "corruption.json").read_text())
    assert record["options"] == config.data.corrupt.to_dict()
    assert (record["seed"], record["split"]) == (4, "test")
    assert record["names"]["0002_face_082.png"] == "face_082"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"], "nothing left behind"


def test_names_that_are_paths_stay_distinct(tmp_path, make_config, data_config):
    generator = np.random.default_rng(0)
    for name in ("a/b", "a_b", "c d"):
        path = tmp_path / "clean" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 9, 3)).astype(np.uint8)).save(path)
    config = make_config(name="folder", root=tmp_path / "clean", test_fraction=1.0)
    (tmp_path / "out").mkdir()  # an empty folder may be there
    write(config, tmp_path / "out")
    collection = open_corrupted(data_config(root=tmp_path / "out"), "test", 0)
    assert collection.names == ["0000_a_b", "0001_a_b", "0002_c_d"]
    assert collection.shape == (8, 9, 3)
    gray = open_corrupted(data_config(root=tmp_path / "out", gray=True, num_test=2), "test", 0)
    assert (len(gray), gray.shape) == (2, (8, 9, 1))
    luma = collection.truth(1).astype(np.float64) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(gray.truth(1)[..., 0], luma, atol=1e-6)


def test_a_folder_that_holds_something_is_left_alone(tmp_path, make_config):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"out: is there already; needs a new or an empty folder"):
        write(make_config(), tmp_path / "out")
    with pytest.raises(ValueError, match=r"notes\.txt: is there already"):
        write(make_config(), tmp_path / "out" / "notes.txt")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_nothing_is_left_of_a_folder_that_fails(tmp_path, make_config):
    np.save(tmp_path / "four.npy", np.zeros((2, 6, 6, 4), np.float32))
    config = make_config(name="array", root=tmp_path / "four.npy", test_fraction=1.0)
    with pytest.raises(ValueError, match=r"four\.npy.*: 4 channels; PNG files take 1 or 3"):
        write(config, tmp_path / "out")
    (tmp_path / "clean").mkdir()
    Image.fromarray(np.zeros((6, 6), np.uint8)).save(tmp_path / "clean" / "a.png")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "clean" / "b.png")
    content = (tmp_path / "clean" / "b.png").read_bytes()
    (tmp_path / "clean" / "b.png").write_bytes(content[:-30])
    config = make_config(name="folder", root=tmp_path / "clean", test_fraction=1.0)
    with pytest.raises(ValueError, match=r"b\.png: cannot be read as an image"):
        write(config, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean", "four.npy"]


@pytest.fixture
def folder(tmp_path):
    """Three pictures of 6x8; the first two have masks, the last two the truth."""
    generator = np.random.default_rng(5)
    for part, names in (("images", "abc"), ("masks", "ab"), ("truth", "bc")):
        (tmp_path / "given" / part).mkdir(parents=True)
        for name in names:
            pixels = generator.integers(0, 256, (6, 8)).astype(np.uint8)
            if part == "masks":
                pixels = np.where(pixels > 127, 255, 0).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "given" / part / f"{name}.png")
    return tmp_path / "given"


def test_masks_and_truth_may_be_missing(folder, data_config):
    collection = open_corrupted(data_config(root=folder), "test", 0)
    for index, name in enumerate("abc"):
        assert (collection.seen(index) is None) == (name == "c")
        assert (collection.truth(index) is None) == (name == "a")
    for part, name, read in (("masks", "b", collection.seen), ("truth", "b", collection.truth)):
        stored = np.asarray(Image.open(folder / part / f"{name}.png")) / 255
        np.testing.assert_allclose(np.squeeze(read(1)), stored, atol=1e-6)
    assert (collection.truth(2) != collection.truth(1)).any()
    assert collection.truth(-2) == pytest.approx(collection.truth(1))
    with pytest.raises(ValueError, match=r"data\.root=.*no clean pictures.*\(2 of 3 have one\)"):
        open_corrupted(data_config(root=folder), "train", 0)


def test_complete_truth_can_be_trained_on(folder, data_config):
    Image.fromarray(np.full((6, 8, 3), 51, np.uint8)).save(folder / "truth" / "a.png")
    train = open_corrupted(data_config(root=folder), "train", 0)
    assert train.names == ["a", "b", "c"]
    # One file in colour makes all of them colour, in both splits.
    assert train.shape == open_corrupted(data_config(root=folder), "test", 0).shape == (6, 8, 3)
    np.testing.assert_allclose(train[0], 0.2, atol=1e-6)
    stored = np.asarray(Image.open(folder / "truth" / "c.png"))[..., None] / 255
    np.testing.assert_allclose(train[2], np.repeat(stored, 3, axis=-1), atol=1e-6)
    assert train.seen(1) is None
    np.testing.assert_array_equal(train.truth(1), train[1])
    few = open_corrupted(data_config(root=folder, num_train=2), "train", 0)
    assert len(few) == 2


def test_only_pictures_without_masks_can_be_resized(folder, data_config):
    config = data_config(root=folder, size=(3, 4), resize=True)
    with pytest.raises(ValueError, match=r"data\.size=\(3, 4\).*a\.png is 6x8.* would mix"):
        open_corrupted(config, "test", 0)
    with pytest.raises(ValueError, match=r"is 6x8 .*expected 3x4; set data\.resize=true"):
        open_corrupted(data_config(root=folder, size=(3, 4)), "test", 0)
    for path in (folder / "masks").iterdir():
        path.unlink()
    (folder / "masks").rmdir()
    collection = open_corrupted(config, "test", 0)
    assert collection.shape == collection[0].shape == collection.truth(1).shape == (3, 4, 1)
    same = open_corrupted(data_config(root=folder, size=(6, 8), resize=True), "test", 0)
    assert same.shape == (6, 8, 1)


def black(folder):
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(folder / "masks" / "b.png")


def grey(folder):
    Image.fromarray(np.full((6, 8), 254, np.uint8)).save(folder / "masks" / "b.png")


def red(folder):
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[..., 0] = 255
    Image.fromarray(pixels).save(folder / "masks" / "b.png")


def turned(folder):
    Image.fromarray(np.full((8, 6), 255, np.uint8)).save(folder / "masks" / "b.png")


def lonely(folder):
    Image.fromarray(np.full((6, 8), 255, np.uint8)).save(folder / "masks" / "d.png")


def lonely_truth(folder):
    Image.fromarray(np.full((6, 8), 255, np.uint8)).save(folder / "truth" / "d.png")


def larger_truth(folder):
    Image.fromarray(np.full((9, 8), 255, np.uint8)).save(folder / "truth" / "b.png")


def damaged(folder):
    (folder / "masks" / "b.png").write_bytes(b"no picture")


def twice(folder):
    (folder / "images" / "a.jpg").write_bytes((folder / "images" / "a.png").read_bytes())


def no_images(folder):
    (folder / "images").rename(folder / "pictures")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (black, r"masks/b\.png: a mask that is black all over; some of it must be white"),
        (grey, r"masks/b\.png: a mask of other values than two; allowed: black .* and white"),
        (red, r"masks/b\.png: a mask of other values than two"),
        (
            turned,
            r"masks/b\.png: is 8x6 .*, its picture .*images/b\.png 6x8; both must be the same",
        ),
        (lonely, r"masks/d\.png: belongs to no picture; images/ has no d\.\*"),
        (lonely_truth, r"truth/d\.png: belongs to no picture"),
        (larger_truth, r"truth/b\.png: is 9x8 .*, its picture .*images/b\.png 6x8"),
        (damaged, r"masks/b\.png: cannot be read as an image"),
        (twice, r"images/a\.png: a\.jpg has the same name but for the extension"),
        (no_images, r"data\.root=.*: has no images/ inside"),
    ],
)
def test_folders_that_make_no_sense(folder, data_config, harm, message):
    harm(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        open_corrupted(data_config(root=folder), "test", 0)
    assert "\n" not in str(caught.value)


def test_roots_that_make_no_sense(tmp_path, data_config):
    with pytest.raises(ValueError, match=r"data\.root is empty: .*a folder with images/, or an"):
        open_corrupted(data_config(), "test", 0)
    with pytest.raises(FileNotFoundError, match=r"data\.root=.*nowhere': does not exist"):
        open_corrupted(data_config(root=tmp_path / "nowhere"), "test", 0)
    (tmp_path / "a.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.npz': must be a folder with images/, or an \.npy"):
        open_corrupted(data_config(root=tmp_path / "a.npz"), "test", 0)


# Arrays in which NaN is what is missing


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_is_missing(tmp_path, data_config, dtype):
    generator = np.random.default_rng(1)
    values = generator.uniform(0, 1, (4, 5, 7, 3)).astype(dtype)
    missing = generator.uniform(size=values.shape) < 0.2
    np.save(tmp_path / "a.npy", np.where(missing, np.nan, values))
    collection = open_corrupted(data_config(root=tmp_path / "a.npy", num_test=3), "test", 0)
    assert isinstance(collection, Collection)
    assert (len(collection), collection.shape) == (3, (5, 7, 3))
    for index in (0, 2, -1):
        seen = ~missing[:3][index].any(axis=-1)
        np.testing.assert_array_equal(collection.seen(index), seen)
        expected = np.where(seen[..., None], values[:3][index], 0)
        np.testing.assert_allclose(collection[index], expected, atol=1e-6)
        assert collection[index].dtype == np.float32
        assert collection.truth(index) is None
    gray = open_corrupted(data_config(root=tmp_path / "a.npy", gray=True), "test", 0)
    assert gray.shape == gray[0].shape == (5, 7, 1)
    with pytest.raises(IndexError):
        collection.seen(3)
    with pytest.raises(ValueError, match=r"no clean pictures to train on .*an \.npy has none"):
        open_corrupted(data_config(root=tmp_path / "a.npy"), "train", 0)
    with pytest.raises(ValueError, match=r"data\.size=\(4, 4\).*a\.npy is 5x7"):
        open_corrupted(data_config(root=tmp_path / "a.npy", size=(4, 4)), "test", 0)


def test_gray_arrays_need_no_channel_axis(tmp_path, data_config):
    values = np.random.default_rng(2).uniform(0, 1, (2, 4, 6))
    values[1, 2, 3] = np.nan
    np.save(tmp_path / "a.npy", values)
    collection = open_corrupted(data_config(root=tmp_path / "a.npy"), "test", 0)
    assert collection.shape == (4, 6, 1)
    assert collection.seen(0).all()
    assert np.argwhere(~collection.seen(1)).tolist() == [[2, 3]]


def harmed(**entries):
    """[2, 4, 6] numbers in [0, 1], `entries` in the second of them."""
    values = np.full((2, 4, 6), 0.5)
    values[1, 0, 0] = entries.get("value", 0.5)
    values[1] = entries.get("signal", values[1])
    return values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (harmed(value=np.inf), r"a\.npy, signal 1: 1 of 24 values are NaN or infinite"),
        (harmed(value=-np.inf), r"a\.npy, signal 1: 1 of 24 values are NaN or infinite"),
        (harmed(value=1.5), r"a\.npy, signal 1: floating-point values from 0\.5 to 1\.5"),
        (harmed(signal=np.nan), r"a\.npy: signal 1 is missing all over; some must be seen"),
        (np.zeros((2, 4, 6), np.uint8), r"a\.npy: values of type uint8; allowed: floats"),
        (np.zeros((4, 6)), r"a\.npy: an array of shape \[4, 6\]; expected \[S, H, W\]"),
        (np.zeros((0, 4, 6)), r"a\.npy: an array of shape \[0, 4, 6, 1\]; expected \[S, H, W\]"),
    ],
)
def test_arrays_that_make_no_sense(tmp_path, data_config, values, message):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(ValueError, match=message):
        open_corrupted(data_config(root=tmp_path / "a.npy"), "test", 0)


def test_a_damaged_array(tmp_path, data_config):
    np.save(tmp_path / "a.npy", harmed())
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"a\.npy: cannot be read as an \.npy"):
        open_corrupted(data_config(root=tmp_path / "a.npy"), "test", 0)


# The command

CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({config})
"""


@pytest.fixture
def config_file(tmp_path, make_config):
    path = tmp_path / "config.py"
    path.write_text(CONFIG.format(config=make_config(num_test=2).to_dict()))
    return path


@pytest.mark.slow
def test_the_command_writes_a_folder_and_says_so(tmp_path, config_file, data_config):
    command = [sys.executable, "-m", "nid_jax.data.corrupt", f"--config={config_file}"]
    command += [f"--output={tmp_path / 'out'}", "--config.data.corrupt.kind=pixels"]

    def run(*more):
        return subprocess.run(
            [*command, *more], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )

    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    said = f"2 pictures of 25x25, LFW faces, corrupted by pixels: {tmp_path / 'out'}\n"
    assert done.stdout == said
    collection = open_corrupted(data_config(root=tmp_path / "out"), "test", 0)
    assert [collection.seen(at).sum() for at in range(2)] == [round(0.13 * 625)] * 2
    again = run()
    assert (again.returncode, again.stdout) == (2, "")
    wanted = "is there already; needs a new or an empty folder"
    assert again.stderr == f"error: --output={tmp_path / 'out'}: {wanted}\n"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--output=out"], "--config is missing; such as --config=inpainting"),
        (["CONFIG"], "--output is missing; the folder that takes images, masks and truth"),
        (
            ["CONFIG", "--output=out", "--config.data.corrupt.shares=0.2"],
            "--config.data.corrupt.shares: the config has no key 'shares', did you mean 'share'?",
        ),
        (
            ["CONFIG", "--output=out", "--config.data.corrupt.share=half"],
            "--config.data.corrupt.share=half: could not convert string to float: 'half'",
        ),
        (
            ["--config=nowhere.py", "--output=out"],
            "--config=nowhere.py: cannot be read; such as --config=image",
        ),
        (
            ["BARE", "--output=out"],
            "BARE: the config has no key 'corrupt'",
        ),
        (["CONFIG", "--output=out", "--split=val"], "--split=val: value should be one of"),
        (["CONFIG", "--output=out", "--kind=text"], "Unknown command line flag 'kind'"),
        (["CONFIG", "--output=out", "text"], "unexpected argument 'text'; options are"),
    ],
)
def test_what_is_typed_wrong_is_one_line(config_file, capsys, given, message):
    bare = config_file.with_name("bare.py")
    bare.write_text(CONFIG.format(config={"data": {"name": "faces"}}))
    files = {"CONFIG": f"--config={config_file}", "BARE": f"--config={bare}"}
    argv = ["corrupt", *(files.get(word, word) for word in given)]
    values = flags.FlagValues()
    define_flags(values, argv)
    with pytest.raises(SystemExit) as stopped:
        parse(argv, values)
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert said.startswith(f"error: {message.replace('BARE', files['BARE'])}")
    assert said.count("\n") == 1
