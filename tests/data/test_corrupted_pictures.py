"""Corrupted pictures: what hides them, what the masks say, collections that corrupt on access."""

import numpy as np
import pytest

from nid_jax.data import ArrayCollection, Collection
from nid_jax.data.corrupted import CorruptedCollection, corrupt
from tests.data.corrupt_options import KINDS, make_options

SHAPES = [(25, 25, 1), (32, 32, 3), (17, 41, 3), (40, 13, 1), (24, 30, 2)]


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
