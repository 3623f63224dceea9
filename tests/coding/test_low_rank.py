"""Low-rank refinement on the grid: planted backgrounds, noise, missing values, degenerate cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nid_jax.coding import low_rank, operators
from nid_jax.coding.low_rank import LowRank
from nid_jax.errors import ArgumentError

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


def refined(start, frames, weights=None, **fields):
    shape = (start.shape[1],)
    return LowRank(**fields).refine(operators.sample(shape), shape, start, frames, weights)


def error(found, truth):
    return float(np.sqrt(np.square(np.asarray(found) - truth).mean()))


@pytest.mark.parametrize(("rank", "channels"), [(1, 1), (2, 3), (3, 1)])
def test_it_finds_what_most_frames_show(rank, channels):
    frames, background, _ = planted(rank, channels)
    found = refined(near(background), frames, rank=rank, steps=40)
    assert found.shape == frames.shape
    assert error(found, background) < 1e-3
    values = np.linalg.svd(np.asarray(found).reshape(SIGNALS, -1), compute_uv=False)
    assert (values > 1e-5 * values[0]).sum() == rank


def test_under_noise_it_averages_as_least_squares_that_knows_the_cover():
    frames, background, cover = planted(2, 1, noise=0.02)
    found = refined(near(background), frames, rank=2, steps=40)
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
    found = np.asarray(refined(near(background), frames))[..., 0]
    assert np.linalg.matrix_rank(found, tol=1e-3) == rank


def lossy(noise, seed=0):
    """(frames [S, P, 1], moving): one background under one light, a strip moving before it.

    The noise lasts: as in a coding, a value keeps its error until it is coded anew, after 4 to 9
    frames and together with 15 neighbours.
    """
    generator = np.random.default_rng(seed)
    background = np.outer(0.9 + 0.1 * np.sin(np.arange(48) / 12), generator.uniform(0.2, 1, 600))
    error = np.empty_like(background)
    for block in range(0, 600, 16):
        at = 0
        while at < 48:
            run = generator.integers(4, 10)
            error[at : at + run, block : block + 16] = (
                noise * generator.standard_normal(16)[: 600 - block]
            )
            at += run
    places = np.arange(600)[None, :] - 12 * np.arange(48)[:, None]
    moving = (places >= 0) & (places < 100)
    frames = np.where(moving, 0.6, background) + error
    return frames[..., None].astype(np.float32), moving


@pytest.mark.slow
def test_noise_that_lasts_is_no_rank(monkeypatch):
    frames, moving = lossy(0.01)
    left, values, right = np.linalg.svd(frames[..., 0], full_matrices=False)
    start = ((left[:, :10] * values[:10]) @ right[:10])[..., None]
    found = np.asarray(refined(start, frames))[..., 0]
    assert np.linalg.matrix_rank(found, tol=1e-3) <= 2
    missed = np.abs(frames[..., 0] - found) < 0.05
    level = np.abs(0.6 - found) > 0.1
    assert missed[moving & level].mean() < 0.02
    # Without a look at what was held out the noise has directions, and they hide what moves.
    monkeypatch.setattr(low_rank, "_foretells", lambda *pieces: True)
    all_kept = np.asarray(refined(start, frames))[..., 0]
    assert np.linalg.matrix_rank(all_kept, tol=1e-3) > 2


def test_what_is_held_out_is_foretold_as_by_plain_regressions():
    """Cauchy's loss over signals held out, with NumPy."""
    frames, background, cover = planted(2, noise=0.02)
    values, atoms = frames[..., 0].T, np.linalg.svd(background[..., 0])[2][:2].T
    factors = np.linalg.lstsq(atoms, background[..., 0].T, rcond=None)[0].T
    factors, turn = np.linalg.qr(factors)
    atoms = (atoms @ turn.T).astype(np.float32)
    known = (~cover[..., 0]).astype(np.float32).T
    chunks = low_rank._Chunks(values[None], known[None])
    given = atoms[None], factors.astype(np.float32), chunks, 0.02
    residual = np.abs(values - atoms @ factors.T)
    width = max(4.685 * 1.4826 * np.median(residual[known > 0]), 3e-3 * np.sqrt(values.var()))
    weight = known * (np.maximum(1 - (residual / width) ** 2, 0) ** 2 + 1e-12)
    losses = []
    fold = np.arange(SIGNALS) * 3 // SIGNALS
    for number in range(3):
        seen, held = fold != number, fold == number
        for row, w, k in zip(values, weight, known, strict=True):
            root = np.sqrt(w[seen])
            atom = solve(factors[seen] * root[:, None], row[seen] * root)
            error = (row[held] - factors[held] @ atom)[k[held] > 0]
            losses.append(np.log1p((error / 0.02) ** 2))
    expected = np.concatenate(losses).mean()
    assert float(low_rank._loss_held_out(*given)) == pytest.approx(expected, rel=0.02)


def test_the_rank_is_at_most_the_starts():
    frames, background, _ = planted(3)
    left, values, right = np.linalg.svd(background[..., 0], full_matrices=False)
    start = ((left[:, :2] * values[:2]) @ right[:2])[..., None]
    found = np.asarray(refined(start, frames))[..., 0]
    assert np.linalg.matrix_rank(found, tol=1e-3) == 2


def test_what_was_not_seen_is_not_read():
    frames, background, _ = planted(2)
    generator = np.random.default_rng(5)
    seen = (generator.random(frames.shape[:2]) < 0.8).astype(np.float32)
    broken = np.where(seen[..., None] > 0, frames, np.nan).astype(np.float32)
    wild = np.where(seen[..., None] > 0, frames, 50.0).astype(np.float32)
    start = near(background)
    found = np.asarray(refined(start, broken, seen, rank=2, steps=40))
    np.testing.assert_array_equal(found, refined(start, wild, seen, rank=2, steps=40))
    # Also where nothing was seen it is the background that is found.
    assert error(found, background) < 2e-3


def test_a_point_seen_in_no_signal_keeps_its_place_in_the_start():
    frames, background, _ = planted(1)
    seen = np.ones(POINTS, np.float32)
    seen[7] = 0
    frames[:, 7] = 9.0
    found = np.asarray(refined(background, frames, seen, rank=1))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[:, 7], background[:, 7], rtol=2e-2)


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000))
def test_chunks_change_nothing(seed):
    frames, background, _ = planted(2, seed=seed)
    start = near(background, seed + 1)
    whole = refined(start, frames, rank=2, steps=6)
    held = low_rank._HELD_NUMBERS
    try:
        low_rank._HELD_NUMBERS = 17 * (SIGNALS + 4)
        pieces = refined(start, frames, rank=2, steps=6)
    finally:
        low_rank._HELD_NUMBERS = held
    # Padding has weight zero, and only the order of sums differs.
    np.testing.assert_allclose(pieces, whole, atol=2e-4)


def test_degenerate_cases():
    frames, background, _ = planted(2)
    zeros = np.zeros_like(frames)
    np.testing.assert_array_equal(refined(zeros, frames), zeros)
    none = refined(background, frames, np.zeros(POINTS, np.float32), rank=2)
    np.testing.assert_allclose(none, background, atol=1e-4)
    # Nothing left to explain, and black frames.
    same = refined(background, background, rank=2)
    np.testing.assert_allclose(same, background, atol=1e-4)
    assert np.isfinite(np.asarray(refined(background, zeros, rank=2))).all()
    # One signal is its own background.
    one = refined(background[:1], frames[:1])
    np.testing.assert_allclose(one, frames[:1], atol=1e-4)
    # A rank beyond what there is.
    more = refined(background[:3], frames[:3], rank=10)
    assert np.isfinite(np.asarray(more)).all()


def test_a_mask_of_the_operator_weighs_too():
    frames, background, _ = planted(2)
    start, seen = near(background), np.random.default_rng(5).random(POINTS) < 0.8
    plain = refined(start, frames, seen.astype(np.float32), rank=2, steps=6)
    masked = LowRank(2, steps=6).refine(operators.mask((POINTS,), seen), (POINTS,), start, frames)
    np.testing.assert_array_equal(masked, plain)


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"rank": -1}, "rank: -1"),
        ({"rank": 1.5}, "rank: 1.5"),
        ({"rank": float("nan")}, "rank: nan"),
        ({"share": 0.0}, "share: 0.0"),
        ({"share": 1.0}, "share: 1.0"),
        ({"share": float("nan")}, "share: nan"),
        ({"steps": 0}, "steps: 0"),
    ],
)
def test_fields_that_are_refused(fields, wrong):
    with pytest.raises(ArgumentError, match=f"^{wrong}; allowed"):
        LowRank(**fields)


def test_measurements_that_are_not_the_grids_are_refused():
    frames, background, _ = planted(1)
    with pytest.raises(
        ArgumentError, match=r"^measurements: \[40, 89, 1\]; allowed: \[40, 90, 1\]"
    ):
        refined(background, frames[:, 1:])
