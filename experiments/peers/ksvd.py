"""K-SVD on pixels: atoms without a function behind them, learned on sparse codes."""

import jax.numpy as jnp
import numpy as np
import scipy.sparse

from nid_jax.coding.gram import NormalEquations
from nid_jax.coding.greedy import omp_codes
from nid_jax.data.originals import held_out
from peers.cosines import DCT

# Signals that a pass over the atoms codes, a new choice each time.
SIGNALS = 4000
# Signals that no pass sees, by which the atoms of one pass are chosen.
JUDGES = 200


class KSVD:
    """Unit atoms [E, V] of signals free of their channels' means, by approximate K-SVD.

    Aharon, Elad & Bruckstein 2006; Rubinstein, Zibulevsky & Elad 2008. Begins with the E strongest
    waves of a cosine transform in decorrelated colours, and with signals where E is more than there
    are. A pass codes some signals by matching pursuit, then takes atom after atom to the leading
    direction of what the others leave of its signals, codes along; one that no code uses becomes a
    signal of largest error. The atoms are those of the pass that leaves least of signals held out,
    originals with their copies, in decibels: later ones may only learn the signals by heart.

    signals: [N, *grid, C]; names: 'name' or 'name/copy'; count: E; top_k: K; atoms_per_step: of the
    pursuit in training; criterion: of all pursuits, see `omp_codes`.
    """

    def __init__(
        self, signals, names, count, top_k, passes, *, atoms_per_step=1, criterion="gain", seed=0
    ):
        self.top_k, self.criterion, self.shape = top_k, criterion, signals.shape[1:]
        self.random = np.random.default_rng(seed)
        held = held_out(names)
        learned = signals[~held]
        rows = self.centred(learned)[0]
        # A few signals that are all of one original judge themselves.
        judges = self.centred(signals[held])[0] if held.any() else rows
        judges = judges[self.random.permutation(len(judges))[:JUDGES]]
        self.atoms = self._start(learned, rows, count)
        best, least = self.atoms.copy(), self._error(judges)
        for _ in range(passes):
            some = rows[self.random.permutation(len(rows))[:SIGNALS]]
            self.update(some, scipy.sparse.csc_matrix(self._codes(some, atoms_per_step)))
            error = self._error(judges)
            if error < least:
                best, least = self.atoms.copy(), error
        self.atoms = best

    def _error(self, rows):
        """Mean logarithm of what codes leave of rows."""
        left = np.square(rows - self._codes(rows) @ self.atoms).sum(1)
        return float(np.log(left + 1e-9).mean())

    def centred(self, signals):
        """[S, *grid, C] -> rows [S, V] without the means of channels, and the means [S, 1, C]."""
        rows = np.asarray(signals, np.float32).reshape(len(signals), -1, self.shape[-1])
        means = rows.mean(1, keepdims=True)
        return (rows - means).reshape(len(rows), -1), means

    def _start(self, signals, rows, count):
        values = rows.reshape(-1, self.shape[-1])
        colours = np.linalg.eigh(values.T @ values)[1].astype(np.float32)
        turned = signals @ colours
        waves = DCT(turned, count)
        atoms = waves.decode(np.eye(len(waves.kept), dtype=np.float32)) @ colours.T
        more = signals[self.random.permutation(len(signals))[: max(0, count - len(atoms))]]
        atoms = self.centred(np.concatenate([atoms, more]))[0]
        norms = np.linalg.norm(atoms, axis=1, keepdims=True)
        # The constant is no atom: each signal has its means.
        blank = norms[:, 0] < 1e-3 * norms.max()
        noise = self.random.standard_normal((blank.sum(), *self.shape))
        atoms[blank] = self.centred(noise)[0] if len(noise) else 0
        return atoms / np.linalg.norm(atoms, axis=1, keepdims=True)

    def _codes(self, rows, atoms_per_step=1):
        equations = NormalEquations(
            gram=jnp.asarray(self.atoms @ self.atoms.T),
            moments=jnp.asarray(rows @ self.atoms.T),
            energy=jnp.asarray(np.square(rows).sum(1)),
            atom_mean=jnp.zeros((len(self.atoms), 1)),
            target_mean=jnp.zeros((len(rows), 1)),
            count=jnp.float32(1),
            bias_weight=jnp.float32(1),
        )
        return np.asarray(omp_codes(equations, self.top_k, atoms_per_step, self.criterion).codes)

    def update(self, rows, codes):
        """One pass over the atoms. rows [S, V]; codes: sparse [S, E] by columns, changed too."""
        residual = rows - codes @ self.atoms
        worst = list(np.argsort(np.square(residual).sum(1)))
        for atom in self.random.permutation(len(self.atoms)):
            own = slice(codes.indptr[atom], codes.indptr[atom + 1])
            users, weights = codes.indices[own], codes.data[own]
            without = residual[users] + weights[:, None] * self.atoms[atom]
            direction = weights @ without
            if not direction.any():
                direction = rows[worst.pop()] if worst else self.atoms[atom]
            size = np.linalg.norm(direction)
            if size == 0:
                continue
            self.atoms[atom] = direction / size
            codes.data[own] = without @ self.atoms[atom]
            residual[users] = without - codes.data[own][:, None] * self.atoms[atom]

    def encode(self, signals):
        """[S, *grid, C] -> (codes [S, E], means [S, 1, C])."""
        rows, means = self.centred(signals)
        return self._codes(rows), means

    def decode(self, found):
        """Codes and means -> [S, *grid, C]."""
        codes, means = found
        rows = (codes @ self.atoms).reshape(len(codes), -1, self.shape[-1]) + means
        return rows.reshape(len(codes), *self.shape)
