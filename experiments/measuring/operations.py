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
        width = dictionary.width
        shared = points * network(dictionary.sizes) + 2 * points * width**2
        shared += 2 * channels * (experts * width**2 + experts**2 * width)
        own = 2 * channels * width * (points + experts)
    else:
        shared = points * experts * network(dictionary.sizes) + 2 * points * channels * experts**2
        own = 2 * points * channels * experts
    return shared / signals + own


def ridge(experts, signals):
    """A factor, and a solve that is corrected once and checked: two solves, two products."""
    return experts**3 / 3 / signals + 8 * experts**2


def gaussian(experts, signals, evaluations):
    """`ridge` and the inverse of the prior's covariance, once for each noise tried."""
    return evaluations * ((2 * experts**3 / 3 + 4 * experts**3) / signals + 8 * experts**2)


def lasso(experts, iterations):
    """A product with the Gram matrix an iteration."""
    return 2 * iterations * experts**2


def omp(experts, top_k):
    """k products of E numbers in step k, then a K x K factor and solves on the support."""
    return top_k**2 * experts + 4 * top_k * experts + 2 * top_k**3 / 3


def iht(experts, top_k, iterations):
    """Two products and a K x K factor a step."""
    return iterations * (4 * experts**2 + top_k**3 / 3)


def gradient_on_gram(experts, steps):
    """A product for the value and one for the gradient."""
    return 4 * steps * experts**2


def gradient_on_pixels(dictionary, points, signals, steps):
    """Codes folded into the heads, all points rendered, and the gradient of that."""
    trunk = points * network(dictionary.sizes) / signals
    fold = 2 * dictionary.width * dictionary.channels * (dictionary.num_experts + points)
    return steps * (trunk + 3 * fold)


def convolutions(points, channels, width, experts):
    """The conv router: two 5x5 convolutions and an affine map."""
    return 2 * (25 * points * (channels * width + width**2) + width * experts)


def cosine_transform(shape):
    """A product with a square matrix along every axis."""
    return 2 * math.prod(shape) * sum(shape)
