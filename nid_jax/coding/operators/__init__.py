"""Linear operators from a continuous signal to what was measured of it.

`A @ signal` is what A measures of a function of points or of samples at `A.points`, and
`A.T @ measurements` the adjoint. Operators are added, multiplied by numbers, stacked, masked and
put one behind another; docs/operators.md tells of all kinds and of a user's own.
"""

from nid_jax.coding.operators.algebra import Matrix, Selection, Stack, matrix, select, stack
from nid_jax.coding.operators.base import Chain, Combination, Operator, reduce_runs
from nid_jax.coding.operators.beams import (
    FanBeam,
    ParallelBeam,
    checked_angles,
    fan_beam,
    parallel_beam,
)
from nid_jax.coding.operators.by_name import KINDS, build_operator
from nid_jax.coding.operators.checks import checked_shape, combined_weights, register
from nid_jax.coding.operators.conventions import CONVENTIONS, Convention, checked_convention
from nid_jax.coding.operators.frequencies import (
    Fourier,
    NonuniformFourier,
    fourier,
    fourier_samples,
    nonuniform_fourier,
    radial_frequencies,
    spiral_frequencies,
)
from nid_jax.coding.operators.runs import Areas, Blur, Downsample, areas, blur, downsample
from nid_jax.coding.operators.sampling import (
    Mask,
    Masked,
    PointDerivatives,
    Sample,
    mask,
    masked,
    point_derivatives,
    random_mask,
    sample,
)

__all__ = [
    "CONVENTIONS",
    "KINDS",
    "Areas",
    "Blur",
    "Chain",
    "Combination",
    "Convention",
    "Downsample",
    "FanBeam",
    "Fourier",
    "Mask",
    "Masked",
    "Matrix",
    "NonuniformFourier",
    "Operator",
    "ParallelBeam",
    "PointDerivatives",
    "Sample",
    "Selection",
    "Stack",
    "areas",
    "blur",
    "build_operator",
    "checked_angles",
    "checked_convention",
    "checked_shape",
    "combined_weights",
    "downsample",
    "fan_beam",
    "fourier",
    "fourier_samples",
    "mask",
    "masked",
    "matrix",
    "nonuniform_fourier",
    "parallel_beam",
    "point_derivatives",
    "radial_frequencies",
    "random_mask",
    "reduce_runs",
    "register",
    "sample",
    "select",
    "spiral_frequencies",
    "stack",
]
