"""Low-rank refinement on the grid: planted backgrounds, noise, missing values, degenerate cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nid_jax.coding import refinement
from nid_jax.coding.refinement import check_atoms, refine_atoms

SIGNALS, POINTS = 40, 90


def planted(rank=2, channels=1, share=0.15, noise=0.0, seed=0):
    """(frames, background, what covers it): [S, P, C] each; cover bool."""
    generator = np.random.default_rng(seed)
    factors = generator.uniform(-1, 1, (SIGNALS, rank))
    factors[:, 0] = generator.uniform(1, 2, SIGNALS)
    atoms = generator.uniform(0.2, 1, (rank, POINTS * channels))
    background = (factors @ atoms).reshape(SIGNALS, POINTS, channels)
    cover = generator.random((SIGNALS, POINTS, 1)) < share
    sizes = generator.uniform(0.5, 2, cover.shape) * generator.choice([-1, 1], cover.shape)
    frames = background + np.where(cover, sizes, noise * generator.standard_normal(cover.shape))
    return frames.astype(np.float32), background.astype(np.float32), cover


def near(background, seed=1, amount=0.1):
    """A start of full rank about a background."""
    generator = np.random.default_rng(seed)
    return background + amount * generator.standard_normal(background.shape).astype(np.float32)


def error(found, truth):
    return float(np.sqrt(np.square(np.asarray(found) - truth).mean()))


@pytest.mark.parametrize(("rank", "channels"), [(1, 1), (2, 3), (3, 1)])
def test_it_finds_what_most_frames_show(rank, channels):
    frames, background, _ = planted(rank, channels)
    found = refine_atoms(near(background), frames, rank=rank, steps=40)
    assert found.shape == frames.shape
    assert error(found, background) < 1e-3
    values = np.linalg.svd(np.asarray(found).reshape(SIGNALS, -1), compute_uv=False)
    assert (values > 1e-5 * values[0]).sum() == rank


def test_under_noise_it_averages_as_least_squares_that_knows_the_cover():
    frames, background, cover = planted(2, 1, noise=0.02)
    found = refine_atoms(near(background), frames, rank=2, steps=40)
    # Float64 alternation of plain least squares over what is not covered.
    kept, data = ~cover[..., 0], frames[..., 0].astype(np.float64)
    factors = np.linalg.svd(background[..., 0].astype(np.float64), full_matrices=False)[0][:, :2]
    for _ in range(50):
        pairs = zip(kept.T, data.T, strict=True)
        atoms = np.stack([solve(factors[seen], x[seen]) for seen, x in pairs], 1)
        pairs = zip(kept, data, strict=True)
        factors = np.stack([solve(atoms.T[seen], x[seen]) for seen, x in pairs])
    best = error(factors @ atoms, background[..., 0])
    assert 0.9 * best < error(found, background) < 1.15 * best


def solve(design, target):
    return np.linalg.lstsq(design, target, rcond=None)[0]


@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize("rank", [1, 3])
def test_the_rank_is_found(rank, noise):
    frames, background, _ = planted(rank, noise=noise, seed=4)
    found = np.asarray(refine_atoms(near(background), frames))[..., 0]
    assert np.linalg.matrix_rank(found, tol=1e-3) == rank


def test_the_rank_is_at_most_the_starts():
    frames, background, _ = planted(3)
    left, values, right = np.linalg.svd(background[..., 0], full_matrices=False)
    start = ((left[:, :2] * values[:2]) @ right[:2])[..., None]
    found = np.asarray(refine_atoms(start, frames))[..., 0]
    assert np.linalg.matrix_rank(found, tol=1e-3) == 2


def test_what_was_not_seen_is_not_read():
    frames, background, _ = planted(2)
    generator = np.random.default_rng(5)
    seen = (generator.random(frames.shape[:2]) < 0.8).astype(np.float32)
    broken = np.where(seen[..., None] > 0, frames, np.nan).astype(np.float32)
    wild = np.where(seen[..., None] > 0, frames, 50.0).astype(np.float32)
    start = near(background)
    found = np.asarray(refine_atoms(start, broken, seen, rank=2, steps=40))
    np.testing.assert_array_equal(found, refine_atoms(start, wild, seen, rank=2, steps=40))
    # Also where nothing was seen it is the background that is found.
    assert error(found, background) < 2e-3


def test_a_point_seen_in_no_signal_keeps_its_place_in_the_start():
    frames, background, _ = planted(1)
    seen = np.ones(POINTS, np.float32)
    seen[7] = 0
    frames[:, 7] = 9.0
    found = np.asarray(refine_atoms(background, frames, seen, rank=1))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[:, 7], background[:, 7], rtol=2e-2)


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000))
def test_chunks_change_nothing(seed):
    frames, background, _ = planted(2, seed=seed)
    start = near(background, seed + 1)
    whole = refine_atoms(start, frames, rank=2, steps=6)
    held = refinement._HELD_NUMBERS
    try:
        refinement._HELD_NUMBERS = 17 * (SIGNALS + 4)
        pieces = refine_atoms(start, frames, rank=2, steps=6)
    finally:
        refinement._HELD_NUMBERS = held
    # Padding has weight zero, and only the order of sums differs.
    np.testing.assert_allclose(pieces, whole, atol=2e-4)


def test_degenerate_cases():
    frames, background, _ = planted(2)
    zeros = np.zeros_like(frames)
    np.testing.assert_array_equal(refine_atoms(zeros, frames), zeros)
    none = refine_atoms(background, frames, np.zeros(POINTS, np.float32), rank=2)
    np.testing.assert_allclose(none, background, atol=1e-4)
    # Nothing left to explain, and black frames.
    same = refine_atoms(background, background, rank=2)
    np.testing.assert_allclose(same, background, atol=1e-4)
    assert np.isfinite(np.asarray(refine_atoms(background, zeros, rank=2))).all()
    # One signal is its own background.
    one = refine_atoms(background[:1], frames[:1])
    np.testing.assert_allclose(one, frames[:1], atol=1e-4)
    # A rank beyond what there is.
    more = refine_atoms(background[:3], frames[:3], rank=10)
    assert np.isfinite(np.asarray(more)).all()


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ((-1, 0.1, 5), "fit.refine.rank: -1"),
        ((1.5, 0.1, 5), "fit.refine.rank: 1.5"),
        ((0, 0.0, 5), "fit.refine.share: 0.0"),
        ((0, 1.0, 5), "fit.refine.share: 1.0"),
        ((0, float("nan"), 5), "fit.refine.share: nan"),
        ((0, 0.1, 0), "fit.refine.steps: 0"),
    ],
)
def test_options_that_are_refused(options, key):
    with pytest.raises(ValueError, match=key):
        check_atoms(*options)
