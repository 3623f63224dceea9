"""Rounds of expectation maximisation beside the textbook's, computed densely in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nid_jax.coding import expectation, gram
from nid_jax.coding.expectation import Gaussian, Rows, Target

BLOCKS, COEFFICIENTS = 2, 4


def gaussian_of(draw):
    """A random Gaussian of every block, and a noise."""
    half = draw.normal(size=(BLOCKS, COEFFICIENTS, COEFFICIENTS))
    covariance = half @ half.swapaxes(1, 2) + 0.1 * np.eye(COEFFICIENTS)
    return Gaussian(
        jnp.asarray(draw.normal(size=(BLOCKS, COEFFICIENTS))),
        jnp.asarray(covariance),
        jnp.asarray(draw.uniform(0.1, 0.5)),
    )


def rows_of(draw, rows, signals, constants=1):
    """Random rows of signals measured alike, nothing left out."""
    values = jnp.asarray(draw.normal(size=(signals, rows, BLOCKS)))
    return Rows(
        jnp.asarray(draw.normal(size=(rows, COEFFICIENTS))),
        jnp.asarray(draw.normal(size=(rows, constants))),
        values,
        jnp.zeros((signals, BLOCKS)),
        jnp.asarray(float(rows)),
        jnp.asarray(float(signals)),
    )


def by_the_book(gaussian, rows):
    """(likelihood, sum of E[w], sum of E[w w^T], sum of E|noise|^2), bias with a flat density."""
    likelihood, first, second, squares = 0.0, [], [], 0.0
    design, constants = np.asarray(rows.design), np.asarray(rows.constants)
    noise = float(gaussian.noise)
    basis, triangle = np.linalg.qr(constants, mode="complete")
    free = basis[:, constants.shape[1] :]
    level = np.log(np.abs(np.diag(triangle))).sum()
    both = np.concatenate([design, constants], 1)
    for block in range(BLOCKS):
        mean, covariance = (np.asarray(leaf[block]) for leaf in gaussian[:2])
        values = np.asarray(rows.values[..., block])
        kernel = free.T @ (design @ covariance @ design.T + noise * np.eye(len(design))) @ free
        right = (values - design @ mean) @ free
        quadratic = np.einsum("si,ij,sj->", right, np.linalg.inv(kernel), right)
        size = len(values) * (np.linalg.slogdet(2 * np.pi * kernel)[1] + 2 * level)
        likelihood += -0.5 * (size + quadratic)
        prior = np.zeros((both.shape[1],) * 2)
        prior[:COEFFICIENTS, :COEFFICIENTS] = np.linalg.inv(covariance)
        spread = np.linalg.inv(prior + both.T @ both / noise)
        start = np.pad(np.linalg.inv(covariance) @ mean, (0, constants.shape[1]))
        found = (start + values @ both / noise) @ spread
        codes = found[:, :COEFFICIENTS]
        first.append(codes.sum(0))
        second.append(codes.T @ codes + len(values) * spread[:COEFFICIENTS, :COEFFICIENTS])
        squares += np.square(values - found @ both.T).sum()
        squares += len(values) * np.trace(both @ spread @ both.T)
    return likelihood, np.array(first), np.array(second), squares


def assert_like_the_book(gaussian, sums, rows):
    """Sums say what the book says of the same rows."""
    likelihood, first, second, squares = by_the_book(gaussian, rows)
    signals = len(rows.values)
    mean, spread = expectation.moments(gaussian, sums)
    wanted = first / signals
    np.testing.assert_allclose(sums.likelihood, likelihood, rtol=1e-9)
    np.testing.assert_allclose(sums.misfit + sums.spare, squares, rtol=1e-8)
    np.testing.assert_allclose(mean, wanted, rtol=1e-7, atol=1e-9)
    outer = wanted[:, :, None] * wanted[:, None, :]
    np.testing.assert_allclose(spread, second / signals - outer, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("rows", "constants"), [(3, 1), (9, 1), (9, 2)])
def test_a_round_is_that_of_the_textbook(rows, constants):
    draw = np.random.default_rng(1)
    with gram.working_precision("float64"):
        gaussian, seen = gaussian_of(draw), rows_of(draw, rows, 5, constants)
        assert_like_the_book(gaussian, expectation.expected(gaussian, seen), seen)
        # Of more rows than unknowns a triangle says the same.
        found = expectation.reduced(seen.design, seen.constants, seen.values)
        assert len(found[0]) <= COEFFICIENTS + constants
        sums = expectation.expected(gaussian, Rows(*found, seen.count, seen.signals))
        assert_like_the_book(gaussian, sums, seen)


def test_rows_of_zeros_and_signals_of_nothing_add_nothing():
    draw = np.random.default_rng(2)
    with gram.working_precision("float64"):
        gaussian, seen = gaussian_of(draw), rows_of(draw, 5, 1)
        padded = Rows(
            jnp.pad(seen.design, ((0, 3), (0, 0))),
            jnp.pad(seen.constants, ((0, 3), (0, 0))),
            jnp.pad(seen.values, ((0, 0), (0, 3), (0, 0))),
            seen.rest,
            seen.count,
            seen.signals,
        )
        both = jax.tree.map(lambda leaf: jnp.stack([leaf, jnp.zeros_like(leaf)]), padded)
        sums = expectation.expected_apart(gaussian, both)
        assert sums.signals == 1
        assert_like_the_book(gaussian, sums, seen)


def test_signals_that_show_some_of_a_pool_are_those_of_their_own_rows():
    draw = np.random.default_rng(3)
    with gram.working_precision("float64"):
        gaussian, seen = gaussian_of(draw), rows_of(draw, 7, 3)
        weights = draw.uniform(0.5, 2, size=(3, 7)) * (draw.uniform(size=(3, 7)) < 0.7)
        weights[:, :2] = 1
        apart, shown = expectation.nothing(BLOCKS, COEFFICIENTS), []
        for values, own in zip(seen.values, weights, strict=True):
            places = np.flatnonzero(own)
            root = np.sqrt(own[places])[:, None]
            one = Rows(
                root * seen.design[places],
                root * seen.constants[places],
                root * values[places][None],
                jnp.zeros((1, BLOCKS)),
                jnp.asarray(float(len(places))),
                jnp.asarray(1.0),
            )
            apart = apart + expectation.expected(gaussian, one)
            more = 7 - len(places)
            shown.append(
                (
                    np.pad(places, (0, more)),
                    np.pad(root[:, 0], (0, more)),
                    np.pad(root * values[places], ((0, more), (0, 0))),
                )
            )
        stacked = expectation.Shown(
            *(jnp.asarray(np.stack(part)) for part in zip(*shown, strict=True))
        )
        pool = expectation.pool(gaussian, seen.design, seen.constants)
        sums = expectation.pool_added(expectation.pool_nothing(pool), pool, stacked, gaussian.noise)
        found = expectation.pool_expected(sums, pool)
        for one, other in zip(found, apart, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-9)


def test_the_penalised_likelihood_is_highest_at_the_shrunk_covariance():
    draw = np.random.default_rng(4)
    with gram.working_precision("float64"):
        spread, variances = (
            gaussian_of(draw),
            jnp.asarray(draw.uniform(1, 2, (BLOCKS, COEFFICIENTS))),
        )
        share, signals, target = 0.3, 10, Target(variances, spread.noise)

        def value(covariance):
            of = spread._replace(covariance=covariance)
            own = sum(
                np.linalg.slogdet(one)[1] + np.trace(np.linalg.solve(one, seen))
                for one, seen in zip(covariance, spread.covariance, strict=True)
            )
            return expectation.penalty(of, target, share, signals, 1) - 0.5 * signals * own

        best = expectation.shrunk(spread.covariance, variances, share)
        step = jnp.asarray(draw.normal(size=best.shape))
        step = 0.05 * (step + step.swapaxes(1, 2))
        assert value(best) > max(value(best + step), value(best - step))


def uncorrelated(draw):
    """A Gaussian of variances alone."""
    known = gaussian_of(draw)
    variances = draw.uniform(0.3, 2, (BLOCKS, COEFFICIENTS))
    return known._replace(covariance=jnp.asarray([np.diag(own) for own in variances]))


def traces_by_the_book(gaussian, rows):
    """(sum of diag(X^T P X) [K, N], sum of tr P) of all signals, by what is orthogonal to the
    constants."""
    design, constants = np.asarray(rows.design), np.asarray(rows.constants)
    free = np.linalg.qr(constants, mode="complete")[0][:, constants.shape[1] :]
    diagonals, trace = [], 0.0
    for covariance in np.asarray(gaussian.covariance):
        kernel = design @ covariance @ design.T + float(gaussian.noise) * np.eye(len(design))
        precision = free @ np.linalg.inv(free.T @ kernel @ free) @ free.T
        diagonals.append(len(rows.values) * np.diag(design.T @ precision @ design))
        trace += len(rows.values) * np.trace(precision)
    return np.array(diagonals), trace


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("reduced", [False, True])
def test_variances_and_noise_follow_the_slope_of_the_likelihood(seed, reduced):
    draw = np.random.default_rng([5, seed])
    with gram.working_precision("float64"):
        gaussian, seen = uncorrelated(draw), rows_of(draw, 9, 6)
        rows = seen
        if reduced:
            found = expectation.reduced(seen.design, seen.constants, seen.values)
            rows = Rows(*found, seen.count, seen.signals)
        sums = expectation.expected(gaussian, rows, diagonal=True)
        after = expectation.varied(gaussian, sums, 0.0)

        def slope(change):
            step = 1e-5
            high, low = (by_the_book(change(s), seen)[0] for s in (step, -step))
            return (high - low) / (2 * step)

        diagonals, trace = traces_by_the_book(gaussian, seen)
        noise = float(gaussian.noise)
        ratio = 1 + 2 * slope(lambda s: gaussian._replace(noise=gaussian.noise + s)) / trace
        wanted = noise * max(0.25, np.sqrt(ratio))
        np.testing.assert_allclose(after.noise, wanted, rtol=1e-5)
        for block, place in np.ndindex(BLOCKS, COEFFICIENTS):

            def moved(step, at=(block, place, place)):
                covariance = gaussian.covariance.at[at].add(step)
                return gaussian._replace(covariance=covariance)

            certain = diagonals[block, place]
            step = float(sums.first[block, place]) ** 2 / len(seen.values)
            ratio = 1 + (2 * slope(moved) - step) / certain
            np.testing.assert_allclose(
                after.covariance[block, place, place],
                gaussian.covariance[block, place, place] * max(0.25, np.sqrt(max(ratio, 0))),
                rtol=1e-4,
            )


def test_sums_of_diagonals_and_of_whole_moments_do_not_add_up():
    """Of one block they would be broadcast, and no shape would tell."""
    diagonal, whole = (expectation.nothing(1, COEFFICIENTS, diagonal=d) for d in (True, False))
    with pytest.raises(ValueError, match=r"second: \(1, 4\) and \(1, 4, 4\); allowed: both whole"):
        diagonal + whole
    assert (whole + whole).second.shape == (1, COEFFICIENTS, COEFFICIENTS)


def test_of_uncorrelated_coefficients_the_diagonal_says_what_the_whole_does():
    draw = np.random.default_rng(10)
    with gram.working_precision("float64"):
        gaussian, seen = uncorrelated(draw), rows_of(draw, 5, 3)
        whole, alone = (expectation.expected(gaussian, seen, diagonal=d) for d in (False, True))
        assert_same_but_for_the_diagonal(whole, alone)
        assert_like_the_book(gaussian, whole, seen)
        apart = jax.tree.map(lambda leaf: leaf[None], seen)
        assert_same_but_for_the_diagonal(
            whole, expectation.expected_apart(gaussian, apart, diagonal=True)
        )
        pool = expectation.pool(gaussian, seen.design, seen.constants)
        places = jnp.tile(jnp.arange(5), (3, 1))
        shown = expectation.Shown(places, jnp.ones((3, 5)), seen.values)
        sums = expectation.pool_added(expectation.pool_nothing(pool), pool, shown, gaussian.noise)
        assert_same_but_for_the_diagonal(
            whole, expectation.pool_expected(sums, pool, diagonal=True)
        )


def assert_same_but_for_the_diagonal(whole, alone):
    """Sums with a matrix and with its diagonal alone."""
    diagonal = jnp.diagonal(whole.second, axis1=1, axis2=2)
    for one, other in zip(whole._replace(second=diagonal), alone, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_variances_alone_make_signals_more_likely_in_every_round(seed):
    draw = np.random.default_rng([6, seed])
    with gram.working_precision("float64"):
        gaussian, seen = uncorrelated(draw), rows_of(draw, 6, 8)
        before = -np.inf
        for _ in range(30):
            sums = expectation.expected(gaussian, seen, diagonal=True)
            likelihood = by_the_book(gaussian, seen)[0]
            assert likelihood >= before - 1e-9 * abs(likelihood)
            before, gaussian = likelihood, expectation.varied(gaussian, sums, 1e-6)


def test_covariances_and_noise_are_drawn_to_the_target():
    draw = np.random.default_rng(7)
    with gram.working_precision("float64"):
        gaussian, seen = gaussian_of(draw), rows_of(draw, 6, 8)
        sums = expectation.expected(gaussian, seen)
        target = Target(jnp.ones((BLOCKS, COEFFICIENTS)), jnp.asarray(0.7))
        after = expectation.maximised(gaussian, sums, target, 0.2, 0.0)
        mean, spread = expectation.moments(gaussian, sums)
        np.testing.assert_array_equal(after.mean, mean)
        wanted = 0.8 * spread + 0.2 * np.eye(COEFFICIENTS)
        np.testing.assert_allclose(after.covariance, wanted, rtol=1e-12)
        squares = by_the_book(gaussian, seen)[3]
        measured = 8 * 6 * BLOCKS
        np.testing.assert_allclose(after.noise, 0.8 * squares / measured + 0.2 * 0.7, rtol=1e-9)
        assert expectation.maximised(gaussian, sums, target, 0.2, 3.0).noise == 3


def test_the_penalised_likelihood_rises_in_every_round():
    draw = np.random.default_rng(8)
    with gram.working_precision("float64"):
        gaussian, seen = gaussian_of(draw), rows_of(draw, 6, 8)
        target = Target(jnp.ones((BLOCKS, COEFFICIENTS)), jnp.asarray(0.7))
        before = -np.inf
        for _ in range(10):
            sums = expectation.expected(gaussian, seen)
            found = by_the_book(gaussian, seen)[0]
            found += expectation.penalty(gaussian, target, 0.4, 8, float(sums.values))
            assert found > before
            before, gaussian = found, expectation.maximised(gaussian, sums, target, 0.4, 0.0)


def test_variances_are_smoothed_along_the_spectrum():
    draw = np.random.default_rng(9)
    variances, spectrum = draw.uniform(size=(2, 40)), draw.permutation(np.arange(40.0))
    found = np.asarray(expectation.smoothed(jnp.asarray(variances), spectrum))
    for place, rank in enumerate(spectrum.astype(int)):
        first = min(max(rank - 4, 0), 40 - 8)
        alike = [np.flatnonzero(spectrum == other)[0] for other in range(first, first + 8)]
        wanted = (variances[:, place] + variances[:, alike].mean(1)) / 2
        np.testing.assert_allclose(found[:, place], wanted, rtol=1e-5)
    # Fewer features than a band: all of them are one.
    few = np.asarray(expectation.smoothed(jnp.asarray(variances[:, :3]), spectrum[:3]))
    mean = variances[:, :3].mean(1, keepdims=True)
    np.testing.assert_allclose(few, (variances[:, :3] + mean) / 2, rtol=1e-5)
