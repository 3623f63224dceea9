"""Operations that a fit costs, counted from its formulas.

The rule: a multiply-add is two operations; matrix products, factorisations, triangular solves and
the layers of networks count, elementwise work and transforms of few numbers do not; the gradient of
a network costs twice its value. What the signals of one fit share (the atoms at the points, their
Gram matrix, its factor) is divided by the number of signals. Rendering the result is not counted.
"""

import math

RULE = " ".join(__doc__.split("The rule: ")[1].split())


def network(sizes):
    """One point through a network."""
    return 2 * sum(a * b for a, b in zip(sizes[:-1], sizes[1:], strict=True))


def network_fit(sizes, points, steps):
    """One signal: `steps` gradients of its own network at all points."""
    return 3 * steps * points * network(sizes)


def equations(dictionary, points, signals):
    """The normal equations of one signal: the trunk's Gram matrix, the heads, the moments.

    For an independent dictionary the atoms at all points and their products.
    """
    experts, channels = dictionary.num_experts, dictionary.channels
    if dictionary.kind == "shared":
        width = dictionary.num_features
        shared = points * network(dictionary.sizes) + 2 * points * width**2
        shared += 2 * channels * (experts * width**2 + experts**2 * width)
        own = 2 * channels * width * (points + experts)
    else:
        shared = points * experts * network(dictionary.sizes) + 2 * points * channels * experts**2
        own = 2 * points * channels * experts
    return shared / signals + own


def solve(solver, experts, signals, top_k=0, steps=0):
    """Codes of one of `signals` signals from their normal equations, by the name of the solver.

    ridge: a factor, and a solve that is corrected once and checked: two solves, two products.
    gaussian: the same and the inverse of the prior's covariance, once for each of `steps` noises.
    lasso: a product with the Gram matrix a step. omp: k products of E numbers in step k, then a
    K x K factor and solves on the support. iht: two products and a K x K factor a step. gradient:
    a product for the value and one for the gradient.
    """
    cube, square = experts**3, experts**2
    return {
        "ridge": cube / 3 / signals + 8 * square,
        "gaussian": steps * ((2 * cube / 3 + 4 * cube) / signals + 8 * square),
        "lasso": 2 * steps * square,
        "omp": top_k**2 * experts + 4 * top_k * experts + 2 * top_k**3 / 3,
        "iht": steps * (4 * square + top_k**3 / 3),
        "gradient": 4 * steps * square,
    }[solver]


def gradient_on_pixels(dictionary, points, signals, steps):
    """Codes folded into the heads, all points rendered, and the gradient of that."""
    trunk = points * network(dictionary.sizes) / signals
    fold = 2 * dictionary.num_features * dictionary.channels * (dictionary.num_experts + points)
    return steps * (trunk + 3 * fold)


def convolutions(points, channels, width, read, experts):
    """The conv router: two 5x5 convolutions and an affine map of `read` pixels, 1 where pooled."""
    return 2 * (25 * points * (channels * width + width**2) + read * width * experts)


def cosine_transform(shape):
    """A product with a square matrix along every axis."""
    return 2 * math.prod(shape) * sum(shape)
