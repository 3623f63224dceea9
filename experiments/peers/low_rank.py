"""What a dictionary is compared with on video: low rank + sparse. T frames of V values."""

import numpy as np
import scipy.linalg

MU_START = 1.25  # over the largest singular value of the matrix
MU_GROWTH = 1.5
MU_MOST = 1e7  # times the first


def principal_component_pursuit(matrix, lam=None, tolerance=1e-7, max_iterations=1000):
    """A matrix as low rank + sparse: the least |L|_* + lam |S|_1 with L + S = matrix.

    Inexact augmented Lagrangian method (Lin, Chen and Ma 2010, algorithm 5), which solves
    principal component pursuit (Candes et al. 2011); the penalty starts at 1.25 over the largest
    singular value and grows by 1.5, as in the authors' program.
    matrix: [T, V]; lam: weight of the sparse part, 1/sqrt(max(T, V)) where None; tolerance: of
    |matrix - L - S| relative to |matrix|, Frobenius norms. Computed in float64.
    Returns (L, S, iterations), L and S [T, V] in the matrix's type. Raises RuntimeError when
    max_iterations do not reach the tolerance.
    """
    matrix = np.asarray(matrix)
    data = np.array(matrix, np.float64)
    lam = 1 / np.sqrt(max(data.shape)) if lam is None else lam
    norm, spectral = np.linalg.norm(data), np.linalg.norm(data, 2)
    if norm == 0:
        return np.zeros_like(matrix), np.zeros_like(matrix), 0
    multiplier = data / max(spectral, np.abs(data).max() / lam)
    sparse = np.zeros_like(data)
    mu = MU_START / spectral
    mu_most = MU_MOST * mu
    for iteration in range(1, max_iterations + 1):
        low_rank = _shrink_singular(data - sparse + multiplier / mu, 1 / mu)
        rest = data - low_rank + multiplier / mu
        sparse = rest - np.clip(rest, -lam / mu, lam / mu)
        residual = data - low_rank - sparse
        multiplier += mu * residual
        mu = min(mu * MU_GROWTH, mu_most)
        error = np.linalg.norm(residual) / norm
        if error < tolerance:
            return low_rank.astype(matrix.dtype), sparse.astype(matrix.dtype), iteration
    raise RuntimeError(
        f"principal component pursuit: residual {error:.1e} after {max_iterations} iterations, "
        f"above {tolerance:.1e}"
    )


def _shrink_singular(matrix, threshold):
    """The matrix with its singular values lowered by `threshold`, those below it gone.

    From the eigenvectors of the smaller Gram matrix, many times as fast as an SVD. Singular values
    below 1e-8 of the largest drown in its rounding; no threshold here is below 5e-8 of it.
    """
    if len(matrix) > matrix.shape[1]:
        return _shrink_singular(matrix.T, threshold).T
    squares, vectors = scipy.linalg.eigh(matrix @ matrix.T)
    values = np.sqrt(np.maximum(squares, 0))
    kept = values > threshold
    vectors, values = vectors[:, kept], values[kept]
    return (vectors * (1 - threshold / values)) @ (vectors.T @ matrix)
