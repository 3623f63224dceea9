"""Rounds of expectation maximisation over a collection, each signal as it was measured.

Signals of one way and alike in their weights share a factorisation. Signals that show some of what
one operator measures read their kernels from those of all it measures. Where all differ, as
scattered sensors do, points are padded to few lengths with weight 0, so that few shapes are
compiled.

A round takes a factorisation of min(M, N) rows and products with N columns for every distinct way
and block: measured on one core, 0.02 s for 437 of 625 pixels known of a face, 0.05 s for 312 points
of its own under 624 features. Memory is that of some ten matrices [K, N, N] and three kernels
[K, P, P] of a pool, in float64, beside at most 512 MiB of rows that are kept for the next round.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Bool, Float, Int

from nid_jax.coding import expectation, gram
from nid_jax.coding.expectation import Expected, Gaussian, Rows, Target
from nid_jax.coding.operators import Operator
from nid_jax.errors import ArgumentError
from nid_jax.files import atomic_path
from nid_jax.fitting import ways
from nid_jax.notices import say
from nid_jax.running.listening import Listener, nobody
from nid_jax.storage import arrays

SPECTRUM_ROUNDS = 15
"""Rounds of variances and noise alone, before covariances are learned, at least."""
SHRINKAGES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Shares of the target, what the likelihood of signals held out chooses from."""

UNCHOSEN_SHRINKAGE = 0.1
"""Where no signal can be held out."""

# Rounds of variances to so many with covariances: signals that need many of these, as few of their
# points are known, need many of those, which cost a part of it.
_SPECTRUM_SHARE = 15 / 8
# Rounds with covariances on the signals that are not held out before shrinkages are compared.
_CHOICE_ROUNDS = 3
# The noise goes no lower than this part of the measurements' variance: full grids of as many
# features as points would have none.
_LEAST_NOISE = 1e-5
# Fewer signals alike are padded to a length that others have, where ways have more sizes.
_FEW_SIGNALS, _FEW_SHAPES = 16, 8
# Batches of signals that are measured apart grow by this factor.
_BATCH_STEP = 8
# Numbers of kernels of a pool, of rows of a batch, and of rows that are kept from round to round.
_POOL_NUMBERS, _BATCH_NUMBERS, _KEPT_NUMBERS = 2**26, 2**22, 2**26
# Measurements that a mean square is taken over, and numbers of a piece of very many: of so many
# times the columns at least, as a triangle is factored again with every piece.
_FEW_ROWS, _PIECE_NUMBERS, _ROWS_PER_COLUMN = 1024, 2**23, 4
# Of more rows than so many times the coefficients a signal's own triangle is the smaller problem.
_POOL_ROWS = 1.5


_KINDS: dict[str, arrays.Kind] = {
    "mean": ("f", 2),
    "covariance": ("f", 3),
    "noise": ("f", 0),
    "likelihoods": ("f", 1),
    "target": ("f", 2),
    "target_noise": ("f", 0),
    "shrinkage": ("f", 0),
    "of": ("iu", 0),
}


class Columns(Protocol):
    """What coefficients are weights of, and how measurements fall into blocks of them."""

    blocks: int
    coefficients: int
    channels: int

    def rows(self, operator: Operator) -> tuple[jax.Array, jax.Array]:
        """(design [M, N], constants [M, Q]) of an operator's measurements, traced; M may count
        channels too."""
        ...

    def values(self, measurements: Float[np.ndarray, "S M C"]) -> Float[np.ndarray, "S M K"]:
        """Measurements as the rows have them."""
        ...


@dataclasses.dataclass(frozen=True)
class State:
    """Where the rounds are."""

    gaussian: Gaussian
    target: Target | None = None
    shrinkage: float | None = None
    likelihoods: tuple[float, ...] = ()
    """Of every round so far, of the Gaussian it began with; with the penalty from the round on that
    begins with a target, where they begin anew."""

    @property
    def round(self) -> int:
        """How many there were."""
        return len(self.likelihoods)

    def save(self, path: Path, of: int) -> None:
        """Write as .npz, whole or not at all. of: a number that tells this run from others."""
        found: dict[str, Any] = self.gaussian._asdict()
        if self.target is not None:
            found |= {
                "target": np.asarray(self.target.variances),
                "target_noise": np.float64(self.target.noise),
                "shrinkage": np.float64(self.shrinkage or 0),
            }
        with atomic_path(path) as temporary:
            np.savez(temporary, of=np.int64(of), likelihoods=np.array(self.likelihoods), **found)

    @classmethod
    def load(cls, path: Path, of: int) -> "State | None":
        """What `save` wrote; None where there is nothing, or another run's. ValueError for a
        damaged file."""
        if not path.exists():
            return None
        found = arrays.read(path, _KINDS, optional=("target", "target_noise", "shrinkage"))
        # Rounds from before the noise had a target are none to go on from.
        if int(found["of"]) != of or ("target" in found) != ("target_noise" in found):
            return None
        with gram.working_precision("float64"):
            names = ("mean", "covariance", "noise")
            gaussian = Gaussian(*(jnp.asarray(found[name]) for name in names))
            target = None
            if "target_noise" in found:
                target = Target(*(jnp.asarray(found[name]) for name in ("target", "target_noise")))
        shrinkage = float(found["shrinkage"]) if "shrinkage" in found else None
        return cls(gaussian, target, shrinkage, tuple(found["likelihoods"].tolist()))


@dataclasses.dataclass(frozen=True)
class Told:
    """Who is told how far rounds are."""

    after: Callable[[State], bool] = lambda state: True
    """Called with the state after every round; False stops."""
    choosing: Listener = nobody
    """Called after every sum over signals of the choice of the shrinkage with how many are done of
    how many: they take as long as rounds, and are none of them."""


UNTOLD = Told()


def spectrum_rounds(rounds: int) -> int:
    """Rounds of variances alone before so many with covariances."""
    return max(SPECTRUM_ROUNDS, int(_SPECTRUM_SHARE * rounds))


def learned(
    columns: Columns,
    measured: Any,
    held: Bool[np.ndarray, " S"],
    spectrum: Float[np.ndarray, " N"],
    rounds: int,
    shrinkage: float | None,
    state: State | None = None,
    told: Told = UNTOLD,
) -> State:
    """The Gaussian of coefficients of a collection's signals.

    Args:
      columns: what coefficients are weights of.
      measured: ways, way(i), values(i) and weights(i), see `tasks.Measured`.
      held: bool [S], signals that choose the shrinkage; all are learned from in the end.
      spectrum: variances of the coefficients to begin with, beside one another.
      rounds: with covariances, after `spectrum_rounds` of variances alone.
      shrinkage: share of the target in the covariance, in [0, 1); None chooses.
      state: to go on from; None begins.
      told: of every round.

    The state is the same, bit for bit, whether rounds were interrupted or not. Raises ArgumentError
    naming the round after which signals have no likelihood.
    """
    with gram.working_precision("float64"):
        signals = SignalsByWay(columns, measured, held)
        everything = np.arange(len(held))
        start, least_noise = _start(signals, spectrum, everything)
        state = start if state is None else state
        first = spectrum_rounds(rounds)
        while state.round < first + rounds:
            if state.round == first and state.target is None:
                if shrinkage is None:
                    shrinkage = _chosen_shrinkage(signals, spectrum, held, told.choosing)
                state = _with_target(state, shrinkage, spectrum)
            state = _next(signals, state, everything, least_noise)
            if not told.after(state):
                break
    return state


class Levels(NamedTuple):
    """How the level of a signal, the coefficients of its constants, goes with its others.

    mean [L]; covariance [L, L]; slope [K, N, Q], the regression of a block's levels on its
    coefficients. L = K Q, blocks one after another.
    """

    mean: Float[np.ndarray, " L"]
    covariance: Float[np.ndarray, "L L"]
    slope: Float[np.ndarray, "K N Q"]


def levels(columns: Columns, measured: Any, gaussian: Gaussian, count: int) -> Levels:
    """Of the first `count` signals, of which `learned` found the Gaussian."""
    with gram.working_precision("float64"):
        parts = SignalsByWay(columns, measured, np.zeros(count, bool)).levels(gaussian)
    best = np.concatenate([np.asarray(part.best).reshape(len(part.best), -1) for part in parts])
    blocks = np.sum([np.asarray(part.spare) for part in parts], 0) / count
    covariance = np.cov(best.T, bias=True).reshape(best.shape[1], -1)
    covariance = covariance + scipy.linalg.block_diag(*blocks)
    slope = np.sum([np.asarray(part.cross) for part in parts], 0) / count
    return Levels(best.mean(0), covariance, slope)


def _start(signals, spectrum, which):
    """Where rounds over some signals begin, and the least noise of theirs."""
    variances, energy = signals.variances(which)
    return State(expectation.started(spectrum, variances, energy)), _LEAST_NOISE * variances.mean()


def _with_target(state, shrinkage, spectrum):
    """The state after rounds of variances alone, which are the target from now on, smoother."""
    variances = jnp.diagonal(state.gaussian.covariance, axis1=1, axis2=2)
    variances = expectation.smoothed(variances, spectrum)
    covariance = jax.vmap(jnp.diag)(variances)
    gaussian, target = state.gaussian, Target(variances, state.gaussian.noise)
    gaussian = gaussian._replace(covariance=covariance)
    return dataclasses.replace(state, gaussian=gaussian, target=target, shrinkage=shrinkage)


def _next(signals, state, which, least_noise):
    """The state after one more round over some signals."""
    sums = signals.expected(state.gaussian, which, diagonal=state.target is None)
    shrinkage = state.shrinkage or 0.0
    target, counts = state.target, (len(which), float(sums.values))
    likelihood = float(sums.likelihood)
    likelihood += expectation.penalty(state.gaussian, target, shrinkage, *counts)
    _check_likelihood(likelihood, f"round {state.round + 1}")
    if target is None:
        gaussian = expectation.varied(state.gaussian, sums, least_noise)
    else:
        gaussian = expectation.maximised(state.gaussian, sums, target, shrinkage, least_noise)
    likelihoods = (*state.likelihoods, likelihood)
    return dataclasses.replace(state, gaussian=gaussian, likelihoods=likelihoods)


def _check_likelihood(found, where):
    if not math.isfinite(found):
        allowed = "a finite one, as of finite measurements in one unit"
        raise ArgumentError("measurements", f"log likelihood {found} in {where}", allowed)


def _chosen_shrinkage(signals, spectrum, held, choosing):
    """The one of `SHRINKAGES` under which signals held out are most likely.

    Rounds of their own, over the others alone: of the held out ones nothing is known to them.
    `SPECTRUM_ROUNDS` of variances do, however many come before the covariances: of 300 days of
    weather 75 chose the same, by the same differences of likelihood to 5%.
    """
    if not held.any() or held.all():
        return unchosen_shrinkage()
    others = np.flatnonzero(~held)
    state, least_noise = _start(signals, spectrum, others)
    rounds = SPECTRUM_ROUNDS + _CHOICE_ROUNDS
    total = rounds + len(SHRINKAGES)
    for number in range(rounds):
        if number == SPECTRUM_ROUNDS:
            state = _with_target(state, SHRINKAGES[2], spectrum)
        state = _next(signals, state, others, least_noise)
        choosing(number + 1, total)
    mean, spread = expectation.moments(state.gaussian, signals.expected(state.gaussian, others))
    scores = {}
    for shrinkage in SHRINKAGES:
        covariance = expectation.shrunk(spread, state.target.variances, shrinkage)
        gaussian = Gaussian(mean, covariance, state.gaussian.noise)
        scores[shrinkage] = float(signals.expected(gaussian, np.flatnonzero(held)).likelihood)
        _check_likelihood(scores[shrinkage], f"signals held out, shrinkage {shrinkage}")
        choosing(rounds + len(scores), total)
    return max(scores, key=scores.__getitem__)


class SignalsByWay:
    """The signals of a collection by the way in which they were measured."""

    def __init__(self, columns: Columns, measured: Any, held: Bool[np.ndarray, " S"]):
        self.columns, self.measured, self.held = columns, measured, held
        self.count = count = len(held)
        self.ways = np.array([measured.way_of(index) for index in range(count)])
        kinds = [(self.ways[index], self._digest(index)) for index in range(count)]
        self.kinds = np.unique(np.array(kinds), axis=0, return_inverse=True)[1].reshape(-1)
        """Numbers of what measured each signal, weights included."""
        self.kept: dict[Any, Any] = {}
        self.kept_numbers = 0
        sizes = {measured.ways[way].num_measurements for way in np.unique(self.ways)}
        self.few_shapes = len(sizes) <= _FEW_SHAPES
        self.counts = np.array([ways.count_seen(measured, index) for index in range(count)])
        single = np.flatnonzero(self.counts == 1)
        if len(single):
            say(
                f"signals: {len(single)} of {count} have 1 measurement (signal {single[0]}), which "
                "says only their level; nothing of their shape is learned from them"
            )
        self._measure = jax.jit(columns.rows)
        self._measure_apart = jax.jit(lambda stacked: jax.lax.map(columns.rows, stacked))

    def _digest(self, index):
        """A number that tells a signal's weights from others."""
        if self.measured.weights is None:
            return 0
        weights = np.ascontiguousarray(self.measured.weights(index))
        return int.from_bytes(hashlib.blake2b(weights.data, digest_size=7).digest(), "big")

    def variances(self, which: Int[np.ndarray, " n"]) -> tuple[Float[np.ndarray, " K"], float]:
        """Of the measurements of each block, and the mean square of a column, by some of these."""
        few = np.unique(np.linspace(0, len(which) - 1, min(len(which), 64)).astype(int))
        chosen = which[few]
        squares, values, energies = np.zeros(self.columns.blocks), 0, []
        for index in map(int, chosen):
            weights, seen = ways.weights_of(self.measured, index), self.measured.values(index)
            seen = seen if weights is None else seen[weights > 0]
            centred = self.columns.values(np.asarray(seen - seen.mean(0), np.float64)[None])[0]
            squares += np.square(centred).sum(0)
            values += len(centred)
            if self.ways[index] not in self.ways[chosen[chosen < index]]:
                operator = ways.operator_of(self.measured, index)
                if operator.run_length is not None:
                    places = np.linspace(0, operator.num_measurements - 1, _FEW_ROWS).astype(int)
                    operator = _plain(operator.of_measurements(places))
                energies.append(float(jnp.square(self._design(operator)[0]).mean()))
        tiny = float(np.finfo(np.float32).tiny)
        return np.maximum(squares / values, tiny), max(float(np.mean(energies)), tiny)

    def expected(
        self, gaussian: Gaussian, which: Int[np.ndarray, " n"], *, diagonal: bool = False
    ) -> Expected:
        """Sums over some of the signals. diagonal: see `expectation.expected`."""
        total = expectation.nothing_of(gaussian, diagonal=diagonal)
        apart: list[int] = []
        for part in ways.parts_of(self.ways[which]):
            mine = which[part]
            whole = self.measured.ways[self.ways[mine[0]]].run_length is None
            groups = [mine[kind] for kind in ways.parts_of(self.kinds[mine])]
            rest: list[int] = []
            for group in groups:
                many = self.counts[group[0]] * self.columns.coefficients > _PIECE_NUMBERS
                enough = len(group) >= (2 if self.few_shapes else _FEW_SIGNALS)
                if enough or whole or many:
                    total = total + self._shared(gaussian, group, diagonal=diagonal)
                else:
                    rest += group.tolist()
            if rest and self.measured.weights is not None and self._pools(rest):
                total = total + self._pooled(gaussian, np.array(rest), diagonal=diagonal)
            else:
                apart += rest
        return (
            total + self._apart(gaussian, np.array(apart, int), diagonal=diagonal)
            if apart
            else total
        )

    def levels(self, gaussian: Gaussian) -> list[expectation.Levels]:
        """Of all signals, in parts; each in its own way where it can be cut to what was seen."""
        found, apart = [], []
        for mine in ways.parts_of(self.ways):
            whole = self.measured.ways[self.ways[mine[0]]].run_length is None
            for group in (mine[kind] for kind in ways.parts_of(self.kinds[mine])):
                many = self.counts[group[0]] * self.columns.coefficients > _PIECE_NUMBERS
                if len(group) > 1 or many or whole:
                    found += [
                        expectation.levels(gaussian, self._rows_of(some))
                        for some in self._some(group)
                    ]
                else:
                    apart += group.tolist()
        for length, some in self._by_length(np.array(apart, int)):
            found.append(expectation.levels_apart(gaussian, self._rows_apart(some, length)))
        return found

    # ---- one way, alike ---------------------------------------------------------------------

    def _shared(self, gaussian, which, *, diagonal):
        total = expectation.nothing_of(gaussian, diagonal=diagonal)
        for some in self._some(which):
            filled = min(ways.padded_length(len(some)), self._most(which))
            key = ("shared", *some.tolist())
            rows = self._known(key, self._rows_of, some, filled)
            total = total + expectation.expected(gaussian, rows, diagonal=diagonal)
        return total

    def _most(self, which):
        """How many signals of one way are held at a time."""
        return max(1, _BATCH_NUMBERS // self._values_of(which[0]))

    def _some(self, which):
        """Signals of one way, as many at a time as are held."""
        size = self._most(which)
        return [which[first : first + size] for first in range(0, len(which), size)]

    def _rows_of(self, which, filled=0):
        """`Rows` of signals measured alike, reduced, of many measurements some at a time.

        filled: up to so many signals, by some of which nothing is read."""
        operator = ways.operator_of(self.measured, int(which[0]))
        weights = ways.weights_of(self.measured, int(which[0]))
        values = np.stack([self.measured.values(int(index)) for index in which])
        values = np.pad(values, ((0, max(0, filled - len(which))), (0, 0), (0, 0)))
        count = values.shape[1]
        roots = np.ones(count) if weights is None else np.sqrt(weights)
        columns = self.columns.coefficients
        size = max(_ROWS_PER_COLUMN * columns, _PIECE_NUMBERS // columns)
        known: Any = None
        rest: Any = 0.0
        for own, places, inside in _cut(operator, count, size):
            root = inside * roots[places]
            design, constants = self._design(own)
            y = self._values(values[:, places], root)
            scale = np.repeat(root, len(design) // len(root))[:, None]
            rows = [scale * design, scale * constants, jnp.asarray(y)]
            if known is not None:
                rows = [jnp.concatenate(both, -2) for both in zip(known, rows, strict=True)]
            *known, more = expectation.reduced(*rows)
            rest += more
        seen = (roots > 0).sum() * (y.shape[1] // len(root))
        design, constants, y = known
        numbers = (jnp.asarray(np.float64(number)) for number in (seen, len(which)))
        return Rows(design, constants, y, rest, *numbers)

    def _design(self, operator):
        return expectation.as_float64(self._measure(operator))

    def _values(self, values, roots):
        """Measurements [S, M, C] times roots of weights [M] or [S, M]; what has none is not read.

        -> [S, rows, K]."""
        values = np.where(roots[..., None] > 0, values, 0).astype(np.float64) * roots[..., None]
        return self.columns.values(values)

    def _values_of(self, index):
        return ways.operator_of(self.measured, int(index)).num_measurements * self.columns.channels

    def _known(self, key, make, *given):
        """What was made of this before, or is made now and kept where memory holds it."""
        if key not in self.kept:
            made = make(*given)
            numbers = sum(math.prod(np.shape(leaf)) for leaf in jax.tree.leaves(made))
            if self.kept_numbers + numbers > _KEPT_NUMBERS:
                return made
            self.kept[key] = made
            self.kept_numbers += numbers
        return self.kept[key]

    # ---- some of what one operator measures -------------------------------------------------

    def _pools(self, which):
        """Whether kernels of all that the operator measures are held, and are the smaller ones."""
        rows = self._values_of(which[0]) // self._per_row()
        most = self.counts[np.array(which)].max() * self.columns.channels // self._per_row()
        held = self.columns.blocks * rows**2 <= _POOL_NUMBERS
        return held and most <= _POOL_ROWS * self.columns.coefficients

    def _per_row(self):
        """Values of one row: channels that are blocks share their rows."""
        return self.columns.channels if self.columns.blocks > 1 else 1

    def _pooled(self, gaussian, which, *, diagonal):
        operator = ways.operator_of(self.measured, int(which[0]))
        key = ("way", self.ways[which[0]])
        pool = expectation.pool(gaussian, *self._known(key, self._design, operator))
        sums = expectation.pool_nothing(pool)
        for length, some in self._by_length(which):
            shown = self._known(("shown", length, *some.tolist()), self._shown, some, length)
            sums = expectation.pool_added(sums, pool, shown, gaussian.noise)
        return expectation.pool_expected(sums, pool, diagonal=diagonal)

    def _shown(self, which, length):
        """`Shown` of signals, filled up to a length."""
        repeated = self.columns.channels // self._per_row()
        found = []
        for index in which:
            roots = np.sqrt(np.asarray(ways.weights_of(self.measured, int(index)), np.float64))
            values = self._values(self.measured.values(int(index))[None], roots)[0]
            roots = np.repeat(roots, repeated)
            places = np.flatnonzero(roots)
            more = length * repeated - len(places)
            found.append(
                (
                    np.pad(places, (0, more)),
                    np.pad(roots[places], (0, more)),
                    np.pad(values[places], ((0, more), (0, 0))),
                )
            )
        places, roots, values = map(np.stack, zip(*found, strict=True))
        return expectation.Shown(*map(jnp.asarray, (places, roots, values)))

    def _by_length(self, which) -> Iterator[tuple[int, np.ndarray]]:
        """Signals by the length that their measurements are padded to, some at a time."""
        by_form: dict[tuple, list[int]] = {}
        for index in which:
            form = ways.form_of(ways.operator_of(self.measured, int(index)))
            # Those held out are in batches of their own, which serve all as well.
            key = (ways.padded_length(self.counts[index]), bool(self.held[index]), *form)
            by_form.setdefault(key, []).append(int(index))
        for (length, *_), mine in sorted(by_form.items()):
            numbers = length * (self.columns.coefficients + 2 * self.columns.channels)
            for some in _in_few_sizes(np.array(mine), max(1, _BATCH_NUMBERS // int(numbers))):
                yield length, some

    # ---- each in its own way ----------------------------------------------------------------

    def _apart(self, gaussian, which, *, diagonal):
        total = expectation.nothing_of(gaussian, diagonal=diagonal)
        for length, some in self._by_length(which):
            key = ("apart", length, *some.tolist())
            rows = self._known(key, self._rows_apart, some, length)
            total = total + expectation.expected_apart(gaussian, rows, diagonal=diagonal)
        return total

    def _rows_apart(self, which, length):
        """`Rows` with an axis of signals in front."""
        padded = [ways.padded(self.measured, int(index), length) for index in which]
        operators, values, weights = zip(*padded, strict=True)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *operators)
        design, constants = expectation.as_float64(self._measure_apart(stacked))
        roots = np.sqrt(np.stack(weights))
        y = jnp.asarray(self._values(np.stack(values), roots))
        counts = (roots > 0).sum(1).astype(np.float64) * (design.shape[1] // length)
        scale = jnp.repeat(jnp.asarray(roots), design.shape[1] // length, 1)[..., None]
        found = jax.lax.map(
            lambda inputs: expectation.reduced(*inputs),
            (scale * design, scale * constants, y[:, None]),
        )
        design, constants, y, rest = found
        return Rows(design, constants, y, rest, jnp.asarray(counts), jnp.ones(len(counts)))


def unchosen_shrinkage() -> float:
    """The shrinkage where there is no signal to choose it by: that is said."""
    say(f"signals: none to be held out; their shrinkage is taken as {UNCHOSEN_SHRINKAGE:g}")
    return UNCHOSEN_SHRINKAGE


def _in_few_sizes(which, most):
    """Signals in batches of 1, 8, 64, .. at most `most` of them: few shapes, and none filled up."""
    size = _BATCH_STEP ** int(math.log(most, _BATCH_STEP) + 1e-9)
    first = 0
    while first < len(which):
        while size > len(which) - first:
            size //= _BATCH_STEP
        yield which[first : first + size]
        first += size


def _cut(operator, count, size):
    """A local operator of many measurements in parts of one size, the last filled up; another as it
    is. Yields (operator, numbers of measurements, whether each counts)."""
    if operator.run_length is None or count <= 2 * size:
        yield operator, np.arange(count), np.ones(count)
        return
    for first in range(0, count, size):
        places = np.arange(first, first + size)
        kept = np.minimum(places, count - 1)
        yield _plain(operator.of_measurements(kept)), kept, (places < count).astype(float)


def _plain(operator):
    """A local operator as one class, so that one compiled function serves all of its kind."""
    return Operator(operator.points, operator.factors, None, operator.run_length)
