"""A router that reads point clouds: PointNet without its alignment networks.

Qi et al. 2017, "PointNet: deep learning on point sets": one network for every point, the maximum of
its outputs over the points, and a network for what is left. The order of the points does not
matter, nor do repeated points; with the mean beside the maximum only the order does not.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from nid_jax.fields.router_networks import Network, affine

POOLS = ("max", "max+mean")

# Widths of the layers before the pooled one.
_WIDTHS = (64, 128)


class PointEncoder(Network):
    """Codes from clouds [B, Q, F] of any number of points Q; no grid is read.

    F is 6 for positions and normals, 4 for positions and values, or whatever the caller measures
    at a point. A last layer of `width` features is pooled over the points.
    """

    reads = "clouds"

    def __init__(
        self,
        num_experts: int,
        channels: int,
        point_features: int = 6,
        width: int = 256,
        pool: str = "max",
        noise: bool = False,
        *,
        rngs: nnx.Rngs,
    ):
        """pool: 'max', or 'max+mean' (both, side by side). Raises ValueError for another."""
        if pool not in POOLS:
            raise ValueError(f"router.pool: {pool!r} is unknown; allowed: {', '.join(POOLS)}")
        if point_features < 1:
            raise ValueError(f"router.point_features: {point_features}; allowed: 1 or more")
        super().__init__(num_experts, channels, width, noise, rngs=rngs)
        self.point_features, self.pool = point_features, pool
        sizes = (point_features, *_WIDTHS, width)
        self.layers = _layers(sizes, rngs)
        self.after = _layers((width * len(pool.split("+")), width), rngs)

    def features(self, signals: Float[Array, "B Q F"]) -> Float[Array, "B width"]:
        """Clouds [B, Q, F] -> [B, width]. Raises ValueError for another shape, or no points."""
        if signals.ndim != 3 or signals.shape[1] < 1 or signals.shape[2] != self.point_features:
            raise ValueError(
                f"router.kind: point reads clouds of shape (signals, points, "
                f"{self.point_features}) (router.point_features), got {tuple(signals.shape)}"
            )
        for layer in self.layers:
            signals = jax.nn.relu(layer(signals))
        pooled = signals.max(1)
        if self.pool == "max+mean":
            pooled = jnp.concatenate([pooled, signals.mean(1)], -1)
        for layer in self.after:
            pooled = jax.nn.relu(layer(pooled))
        return pooled


def _layers(sizes: Sequence[int], rngs: nnx.Rngs) -> nnx.List:
    """Affine maps with a relu after each: He et al. 2015, so that features keep their size."""
    draw = jax.nn.initializers.variance_scaling(2.0, "fan_in", "uniform")
    pairs = zip(sizes[:-1], sizes[1:], strict=True)
    return nnx.List([affine(*pair, draw, rngs=rngs) for pair in pairs])
