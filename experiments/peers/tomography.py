"""Classical reconstructions from projections: filtered back projection and total variation.

Sinograms here are [A, D], angles (degrees, over [0, 180)) and detectors, and geometry is
scikit-image's: an image of N x N pixels has D = N detectors, and both pixel N//2 along either axis
and detector N//2 lie on the centre of rotation. total_variation() takes any geometry through the
matrix of system_matrix(). Reconstructions are float64 in [0, 1].
"""

import numpy as np
from scipy import sparse
from skimage.transform import iradon


def filtered_back_projection(sinogram, angles, size, filter_name="ramp"):
    """Filtered back projection (Kak and Slaney 1988); [A, D] -> [size, size]."""
    image = iradon(
        np.asarray(sinogram, float).T, np.asarray(angles, float), size, filter_name=filter_name
    )
    return np.clip(image, 0, 1)


def system_matrix(angles, detectors, shape, centre=(0.0, 0.0), offset=0.0, samples_per_pixel=2):
    """Line integrals of an image as a matrix, float64 CSR [A * detectors, H * W].

    The ray of angle theta at s_j = j - (detectors - 1)/2 + offset runs through
    (row, column) = (t cos(theta) - s sin(theta), t sin(theta) + s cos(theta)), in pixels from the
    centre of rotation, itself `centre` pixels from the middle of the image of `shape` = (rows,
    columns). The image is interpolated bilinearly, and with zero beyond its edge, at t = k /
    samples_per_pixel, k whole, and the samples summed by their spacing. One sample a pixel in
    scikit-image's geometry is its radon().
    """
    middle = (np.array(shape) - 1) / 2 + centre
    positions = np.arange(detectors) - (detectors - 1) / 2 + offset
    # As far as any corner's nearest sample.
    farthest = np.linalg.norm(np.maximum(middle, np.array(shape) - 1 - middle) + 1)
    last = int(np.ceil(farthest * samples_per_pixel))
    t = np.arange(-last, last + 1) / samples_per_pixel
    ray = np.arange(detectors)[:, None]
    blocks = []
    for theta in np.deg2rad(np.asarray(angles, float)):
        across = positions[:, None]
        row = middle[0] + t * np.cos(theta) - across * np.sin(theta)
        column = middle[1] + t * np.sin(theta) + across * np.cos(theta)
        entries = [
            _corner(ray, row, column, shape, down, right) for down in (0, 1) for right in (0, 1)
        ]
        rays, pixels, weights = (np.concatenate(parts) for parts in zip(*entries, strict=True))
        block = sparse.coo_matrix(
            (weights / samples_per_pixel, (rays, pixels)), (detectors, shape[0] * shape[1])
        )
        blocks.append(block.tocsr())
    return sparse.vstack(blocks, format="csr")


def _corner(ray, row, column, shape, down, right):
    """Rays, pixels and bilinear weights of one of the four pixels around every sample."""
    top, left = np.floor(row), np.floor(column)
    weight = np.abs(1 - down - (row - top)) * np.abs(1 - right - (column - left))
    top, left = top.astype(int) + down, left.astype(int) + right
    used = (top >= 0) & (top < shape[0]) & (left >= 0) & (left < shape[1]) & (weight > 0)
    pixel = top * shape[1] + left
    return np.broadcast_to(ray, used.shape)[used], pixel[used], weight[used]


def total_variation(sinogram, matrix, shape, weight, iterations=500):
    """The image x in [0, 1] of least |A x - b|^2 / 2 + weight * TV(x); [A, D] -> [*shape].

    TV: isotropic, the sum over pixels of the length of the gradient (forward differences).
    matrix: A of system_matrix(); b: the sinogram.
    By the primal-dual method of Chambolle and Pock (2011) with the diagonal steps of Pock and
    Chambolle (2011), so that the norm of A need not be known.
    """
    measured = np.asarray(sinogram, float).ravel()
    adjoint = matrix.T.tocsr()
    # Every gradient has two entries of size 1, and every pixel is in at most four of them.
    dual_step = 1 / np.maximum(np.asarray(matrix.sum(1)).ravel(), 1e-6)
    step = 1 / (np.asarray(matrix.sum(0)).ravel() + 4)
    image = np.zeros(matrix.shape[1])
    ahead = image
    ray_dual, slope_dual = np.zeros(len(measured)), np.zeros((2, *shape))
    for _ in range(iterations):
        ray_dual = ray_dual + dual_step * (matrix @ ahead - measured)
        ray_dual /= 1 + dual_step
        slope_dual = slope_dual + 0.5 * _gradient(ahead.reshape(shape))
        slope_dual /= np.maximum(1, np.hypot(*slope_dual) / max(weight, 1e-300))
        descent = adjoint @ ray_dual - _divergence(slope_dual).ravel()
        new = np.clip(image - step * descent, 0, 1)
        ahead, image = 2 * new - image, new
    return image.reshape(shape)


def _gradient(image):
    """Forward differences along rows and columns, [2, H, W]; zero at the last of each."""
    down = np.diff(image, axis=0, append=image[-1:])
    return np.stack([down, np.diff(image, axis=1, append=image[:, -1:])])


def _divergence(slopes):
    """Minus the adjoint of _gradient, [2, H, W] -> [H, W]."""
    total = np.zeros(slopes.shape[1:])
    total[:-1] += slopes[0, :-1]
    total[1:] -= slopes[0, :-1]
    total[:, :-1] += slopes[1, :, :-1]
    total[:, 1:] -= slopes[1, :, :-1]
    return total
