"""Masks as people have them: values, files, transparency, and which way round they are."""

import warnings

import numpy as np
import pytest
from PIL import Image

from nid_jax.data import holes, open_collection
from nid_jax.notices import Notice
from tests.data.tiffs import write_tiff

GENERATOR = np.random.default_rng(0)
SEEN = GENERATOR.random((24, 30)) < 0.7
SEEN[:4] = True


def save(path, values, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)


@pytest.fixture
def root(tmp_path):
    """Three pictures of which a block is painted over; no masks, no truth yet."""
    for number in range(3):
        truth = GENERATOR.integers(60, 200, (24, 30)).astype(np.uint8)
        save(tmp_path / "clean" / f"{number}.png", truth)
        given = truth.copy()
        given[hole(number)] = 0
        save(tmp_path / "images" / f"{number}.png", given)
    return tmp_path


def hole(number):
    """Where a picture is painted over, bool [24, 30]."""
    hidden = np.zeros((24, 30), bool)
    hidden[4 + number : 14, 5:20] = True
    return hidden


def opened(data_config, root, **changes):
    return open_collection(data_config(name="corrupted", root=root, **changes), "test", 0)


# One mask


@pytest.mark.parametrize("white", [255, 1, 200])
@pytest.mark.parametrize("black", [0, 0.25])
def test_two_values_are_black_and_white_whatever_they_are(tmp_path, white, black):
    values = np.where(SEEN, white, int(black * white)).astype(np.uint8)
    save(tmp_path / "m.png", values)
    mask = holes.read_mask(tmp_path / "m.png")
    np.testing.assert_array_equal(mask.seen, SEEN)
    assert not mask.soft
    assert not mask.coloured
    np.testing.assert_array_equal(holes.read_mask(tmp_path / "m.png", "white").seen, ~SEEN)


def test_soft_masks_are_cut_at_half_of_their_range(tmp_path):
    ramp = np.tile(np.linspace(40, 120, 30).round(), (24, 1)).astype(np.uint8)
    save(tmp_path / "m.png", ramp)
    mask = holes.read_mask(tmp_path / "m.png")
    assert mask.soft
    np.testing.assert_array_equal(mask.seen, ramp > 80)
    block = np.zeros((24, 30), np.uint8)
    block[5:14, 7:18] = 255
    save(tmp_path / "m.jpg", block, quality=60)
    mask = holes.read_mask(tmp_path / "m.jpg")
    assert mask.soft
    np.testing.assert_array_equal(mask.seen, block > 0)


def test_masks_of_other_types(tmp_path):
    for values in ((SEEN * 65535).astype(np.uint16), SEEN, SEEN.astype(np.float32)):
        name = "m.png" if values.dtype != np.float32 else "m.tif"
        save(tmp_path / name, values)
        np.testing.assert_array_equal(holes.read_mask(tmp_path / name).seen, SEEN)
    save(tmp_path / "m.tif", (SEEN * 255).astype(np.float32))
    np.testing.assert_array_equal(holes.read_mask(tmp_path / "m.tif").seen, SEEN)
    indexed = Image.fromarray(SEEN.astype(np.uint8), "P")
    indexed.putpalette([0, 0, 0, 128, 0, 0])  # black, and dark red
    indexed.save(tmp_path / "p.png")
    mask = holes.read_mask(tmp_path / "p.png")
    np.testing.assert_array_equal(mask.seen, SEEN)
    assert mask.coloured
    # Black paint on a transparent ground.
    paint = np.zeros((24, 30, 4), np.uint8)
    paint[..., 3] = np.where(SEEN, 0, 255)
    save(tmp_path / "a.png", paint)
    np.testing.assert_array_equal(holes.read_mask(tmp_path / "a.png").seen, SEEN)


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, np.float32])
def test_arrays(tmp_path, kind):
    np.save(tmp_path / "m.npy", SEEN.astype(kind))
    np.savez(tmp_path / "m.npz", mask=SEEN.astype(kind)[..., None])
    for name in ("m.npy", "m.npz"):
        np.testing.assert_array_equal(holes.read_mask(tmp_path / name).seen, SEEN)
        assert holes.mask_size(tmp_path / name) == (24, 30)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((3, 4, 5)), r"m\.npy: holds 1 arrays, the first of shape \[3, 4, 5\] .*\[H, W\]"),
        (np.zeros((0, 4)), r"m\.npy: holds 1 arrays, the first of shape \[0, 4\]"),
        (np.full((3, 4), np.nan), r"m\.npy: 12 of 12 values are NaN"),
        (np.zeros((3, 4), bool), r"m\.npy: a mask that is black all over"),
        (np.full((3, 4), 7), r"m\.npy: a mask that is 7 all over, of 0 to 1"),
        (np.array([["a"]]), r"m\.npy: holds 1 arrays.* type <U1"),
    ],
)
def test_arrays_that_are_no_masks(tmp_path, values, message):
    np.save(tmp_path / "m.npy", values)
    with pytest.raises(ValueError, match=message):
        holes.read_mask(tmp_path / "m.npy")
    (tmp_path / "m.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"m\.npy: cannot be read as an array file"):
        holes.read_mask(tmp_path / "m.npy")


# Folders


@pytest.mark.parametrize("kind", ["png", "jpg", "npy"])
def test_masks_of_any_kind_are_found_by_name(root, data_config, kind, recwarn):
    for number in range(3):
        white = ~hole(number)
        path = root / "masks" / f"{number}.{kind}"
        path.parent.mkdir(exist_ok=True)
        np.save(path, white) if kind == "npy" else save(path, (white * 255).astype(np.uint8))
    collection = opened(data_config, root)
    for number in range(3):
        np.testing.assert_array_equal(collection.seen(number), ~hole(number))
    said = [str(line.message) for line in recwarn.list if line.category is Notice]
    soft = f"{root / 'masks'}: 3 of 3 masks (0.jpg) have more than two values; cut at half of their"
    assert [line.startswith(soft) for line in said] == ([True] if kind == "jpg" else [])


@pytest.mark.parametrize("truth", [True, False])
def test_masks_the_wrong_way_round_are_said_and_turned_by_a_key(root, data_config, truth, recwarn):
    if truth:
        (root / "clean").rename(root / "truth")
    for number in range(3):
        save(root / "masks" / f"{number}.png", (hole(number) * 255).astype(np.uint8))
    why = "what the masks hide is as in truth/" if truth else "what the masks show is of one value"
    with pytest.warns(Notice, match=f"{why}.*; what is black is taken .*data.masks.hidden=white"):
        collection = opened(data_config, root)
    np.testing.assert_array_equal(collection.seen(1), hole(1))
    recwarn.clear()
    collection = opened(data_config, root, masks={"hidden": "white"})
    np.testing.assert_array_equal(collection.seen(1), ~hole(1))
    assert not [line for line in recwarn.list if line.category is Notice]
    with pytest.raises(ValueError, match=r"data\.masks\.hidden='gray': must be 'black' or 'white'"):
        opened(data_config, root, masks={"hidden": "gray"})


def test_masks_that_hide_nearly_everything_are_said(root, data_config):
    seen = GENERATOR.random((24, 30)) < 0.05
    for number in range(3):
        # What is shown varies too.
        save(root / "masks" / f"{number}.png", (seen * 255).astype(np.uint8))
    with pytest.warns(Notice, match=r"the masks hide 9\d% of the pictures; .*hidden=white"):
        opened(data_config, root)
    # Where the truth shows that they are right, nothing is said.
    (root / "clean").rename(root / "truth")
    for number in range(3):
        given = np.array(Image.open(root / "truth" / f"{number}.png"))
        given[~seen] = 0
        save(root / "images" / f"{number}.png", given)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        opened(data_config, root)


def test_masks_that_hide_nothing_and_coloured_ones_are_counted(root, data_config):
    for number in range(2):
        save(root / "masks" / f"{number}.png", np.full((24, 30), 255, np.uint8))
    red = np.zeros((24, 30, 3), np.uint8)
    red[~hole(2)] = 200, 0, 0
    save(root / "masks" / "2.png", red)
    with pytest.warns(Notice) as said:
        collection = opened(data_config, root)
    lines = [str(line.message) for line in said]
    assert f"{root / 'masks'}: 2 of 3 masks (0.png) hide nothing" in lines
    assert any("1 of 3 masks (2.png) have colours; taken by their brightness" in x for x in lines)
    np.testing.assert_array_equal(collection.seen(2), ~hole(2))


def test_transparent_pixels_are_missing(root, data_config):
    values = GENERATOR.integers(0, 256, (24, 30, 4)).astype(np.uint8)
    values[..., 3] = np.where(hole(1), 0, 255)
    values[0, 0, 3], values[0, 1, 3] = 200, 100  # soft edges: seen, and not
    save(root / "images" / "1.png", values)
    with pytest.warns(
        Notice, match=r"1 of 3 pictures have transparent pixels \(1\.png\); taken as"
    ):
        collection = opened(data_config, root)
    seen = ~hole(1)
    seen[0, 1] = False
    np.testing.assert_array_equal(collection.seen(1), seen)
    # The colours are those of the file, whatever their transparency; what is missing is 0.
    expected = np.where(seen[..., None], values[..., :3] / 255, 0)
    np.testing.assert_allclose(collection[1], expected, atol=1e-6)
    assert collection.unmeasured
    assert collection.seen(0).all()
    save(root / "masks" / "0.png", (~hole(0) * np.uint8(255)).astype(np.uint8))
    with pytest.raises(
        ValueError, match=r"1\.png: has transparent pixels and no mask, while 1 of 3"
    ):
        opened(data_config, root)
    # With masks, transparency is what it is in any picture.
    for number in (1, 2):
        save(root / "masks" / f"{number}.png", (~hole(number) * 255).astype(np.uint8))
    collection = opened(data_config, root)
    alpha = values[..., 3:] / 255
    np.testing.assert_allclose(collection[1], values[..., :3] / 255 * alpha + 1 - alpha, atol=1e-6)
    assert not collection.unmeasured


def test_premultiplied_transparency_is_divided_out(root, data_config):
    alpha = np.where(hole(0), 0, GENERATOR.integers(40000, 65536, (24, 30)))
    colour = GENERATOR.integers(0, 65536, (24, 30))
    values = np.stack([(colour * (alpha / 65535)).round(), alpha], axis=-1).astype(np.uint16)
    (root / "images" / "0.png").unlink()
    write_tiff(root / "images" / "0.tif", values, 1, tags={338: (3, [1])})
    with pytest.warns(Notice, match="transparent pixels"):
        collection = opened(data_config, root)
    expected = np.where(hole(0), 0, colour / 65535)
    np.testing.assert_allclose(collection[0][..., 0], expected, atol=3e-5)


def test_missing_values_of_any_range(tmp_path, data_config):
    values = GENERATOR.random((2, 5, 6)) * 255
    values[0, 0, 0], values[1, 2, 3] = 255, np.nan
    np.save(tmp_path / "a.npy", values)
    with pytest.warns(Notice, match=r"a\.npy: values from .* to 255; taken as from 0 to 255"):
        collection = opened(data_config, tmp_path / "a.npy")
    np.testing.assert_allclose(collection[0][..., 0], values[0] / 255, atol=1e-6)
    assert collection[1][2, 3, 0] == 0
    collection = opened(data_config, tmp_path / "a.npy", range=(0, 510))
    np.testing.assert_allclose(collection[0][..., 0], values[0] / 510, atol=1e-6)


def test_white_masks_hide_where_they_are_transparent(tmp_path):
    values = np.full((24, 30, 4), 255, np.uint8)
    values[..., 3] = 255 * SEEN
    save(tmp_path / "m.png", values)
    mask = holes.read_mask(tmp_path / "m.png")
    np.testing.assert_array_equal(mask.seen, SEEN)
    assert mask.clear
    assert not mask.soft
