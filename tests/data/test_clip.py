"""The built-in clip and its truth."""

import numpy as np
import pytest

from nid_jax.data import to_array
from nid_jax.data import video as video_module
from nid_jax.data.video import CUT_OUTS, Clip, Mover, covered, open_clip


def parts(clip):
    """Frames, backgrounds and masks of a clip, [T, ...]."""
    everything = range(len(clip))
    return (
        to_array(clip),
        np.stack([clip.truth(at) for at in everything]),
        np.stack([clip.foreground(at) for at in everything]),
    )


@pytest.mark.parametrize("gray", [False, True])
def test_frames_are_background_outside_the_foreground(video_config, gray):
    clip = open_clip(video_config(gray=gray), "train", 0)
    assert clip.shape == (96, 128, 1 if gray else 3)
    frames, truth, mask = parts(clip)
    assert (frames.dtype, mask.dtype, mask.shape) == (np.float32, bool, (60, 96, 128))
    np.testing.assert_array_equal(frames[~mask], truth[~mask])
    assert frames.min() >= 0
    assert frames.max() <= 1
    # What moves is not what it hides, nearly everywhere; and it does move.
    assert (np.abs(frames - truth).max(-1)[mask] > 0.02).mean() > 0.9
    assert (mask[1:] != mask[:-1]).any(axis=(1, 2)).all()


@pytest.mark.parametrize("seed", range(4))
def test_backgrounds_are_one_photograph_under_a_slow_light(video_config, seed):
    clip = open_clip(video_config(size=(24, 33), clip={"objects": seed + 1}), "train", seed)
    _, truth, mask = parts(clip)
    values = np.linalg.svd(truth.reshape(60, -1).astype(np.float64), compute_uv=False)
    assert values[2] > 3e-3 * values[0]
    assert values[3] < 1e-6 * values[0]
    assert truth.max() < 1  # no background was clipped
    # The light is affine in the place: so is the ratio of any two frames' light to the photograph.
    bright = (clip.photograph > 0.1).all(axis=-1)
    places = np.stack([np.ones(bright.sum()), *np.argwhere(bright).T], axis=-1)
    light = (truth / np.maximum(clip.photograph, 0.1))[:, bright]
    for channel in range(3):
        fitted = places @ np.linalg.lstsq(places, light[..., channel].T, rcond=None)[0]
        np.testing.assert_allclose(fitted.T, light[..., channel], atol=1e-5)
    assert np.abs(np.diff(light, axis=0)).max() < 0.03
    assert np.ptp(light, axis=0).max() > 0.1
    assert mask.mean(axis=0).max() <= 0.35
    assert mask.any(axis=(1, 2)).mean() > 0.5


def test_a_clip_is_a_function_of_its_seed(video_config):
    made = video_config(size=(20, 30), clip={"noise": 0.05})
    one, same, other = (open_clip(made, *at) for at in (("train", 3), ("test", 3), ("train", 4)))
    for first, second in zip(parts(one), parts(same), strict=True):
        np.testing.assert_array_equal(first, second)
    assert (parts(one)[2] != parts(other)[2]).any()
    assert one.names[:2] == ["frame_00000", "frame_00001"]
    np.testing.assert_array_equal(one[-1], one[59])
    with pytest.raises(IndexError):
        one.truth(60)


def test_noise(video_config):
    clean, noisy = (open_clip(video_config(clip={"noise": s}), "train", 0) for s in (0.0, 0.03))
    frames, truth, mask = parts(noisy)
    assert frames.min() >= 0
    assert frames.max() <= 1
    np.testing.assert_array_equal(truth, parts(clean)[1])
    np.testing.assert_array_equal(mask, parts(clean)[2])
    inner = (truth > 0.15) & (truth < 0.85) & ~mask[..., None]
    difference = (frames - truth)[inner]
    assert abs(difference.std() - 0.03) < 3e-4
    assert abs(difference.mean()) < 3e-4
    # New noise in every frame.
    both = inner[0] & inner[1]
    first, second = ((frames - truth)[at][both] for at in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03


def test_a_cut_out_where_its_pixels_fall_on_the_frames():
    generator = np.random.default_rng(0)
    photograph, pixels = (generator.random((*s, 3), np.float32) for s in ((20, 30), (8, 12)))
    centres = np.array([[9.5, 19.5], [2.5, 28.5]])
    clip = Clip(
        photograph,
        [Mover(pixels, np.array([4.0, 6.0]), centres)],
        (np.array([1.0, 0.5]), np.zeros((2, 2))),
        0.0,
        0,
    )
    rows, columns = np.mgrid[:20, :30]
    for at, (row, column) in enumerate(centres):
        mask = ((rows - row) / 4) ** 2 + ((columns - column) / 6) ** 2 < 1
        np.testing.assert_array_equal(clip.foreground(at), mask)
        expected = photograph.copy()
        for r, c in np.argwhere(mask):
            expected[r, c] = pixels[int(r - row + 3.5), int(c - column + 5.5)]
        np.testing.assert_allclose(clip[at], expected * clip.gain[at], atol=1e-5)


def test_ellipses_have_their_area():
    mask = covered((7.3, 4.1), (20.2, 15.7), (40, 31))
    assert abs(mask.sum() - np.pi * 7.3 * 4.1) < 0.05 * mask.sum()
    np.testing.assert_allclose(np.argwhere(mask).mean(axis=0), (20.2, 15.7), atol=0.3)
    assert not covered((3, 3), (-4, 10), (20, 20)).any()


def test_cut_outs_lie_within_their_photographs():
    from nid_jax.data.builtin import load_photographs

    photographs = load_photographs()
    for cut_out in CUT_OUTS:
        low, high = (np.array(cut_out.centre) + sign * np.array(cut_out.half) for sign in (-1, 1))
        assert (low >= 0).all()
        assert (high <= photographs[cut_out.photograph].shape[:2]).all()


@pytest.mark.parametrize(
    ("clip", "complaint"),
    [
        ({"num_frames": 11}, r"data\.clip\.num_frames=11: must be at least 12"),
        ({"objects": 0}, r"data\.clip\.objects=0: must be at least 1"),
        ({"noise": -0.1}, r"data\.clip\.noise=-0\.1: must be between 0 and 1"),
    ],
)
def test_bad_clips(video_config, clip, complaint):
    with pytest.raises(ValueError, match=complaint):
        open_clip(video_config(size=(8, 8), clip=clip), "train", 0)


def test_too_many_objects(video_config, monkeypatch):
    monkeypatch.setattr(video_module, "MAX_COVERAGE", 0.05)
    monkeypatch.setattr(video_module, "PATH_DRAWS", 5)
    with pytest.raises(
        ValueError, match=r"data\.clip\.objects=9: so many cover .*5% of the frames"
    ):
        open_clip(video_config(size=(12, 16), clip={"objects": 9}), "train", 0)
