"""A router that reads point clouds: PointNet without its alignment networks.

Qi et al. 2017, "PointNet: deep learning on point sets": one network for every point, the maximum of
its outputs over the points, and a network for what is left. The order of the points does not
matter, nor do repeated points; with the mean beside the maximum only the order does not.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from nid_jax.fields.router_networks import Dense, Network

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
        self, num_experts, channels, point_features=6, width=256, pool="max", noise=False, *, rngs
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

    def features(self, signals):
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


def _layers(sizes, rngs):
    pairs = zip(sizes[:-1], sizes[1:], strict=True)
    return nnx.List([_Layer(fan_in, fan_out, rngs=rngs) for fan_in, fan_out in pairs])


class _Layer(Dense):
    """A dense layer for a relu after it: He et al. 2015, so that features keep their size."""

    def __init__(self, features, outputs, *, rngs):
        super().__init__(features, outputs, rngs=rngs)
        # Dense draws a variance of 1 / (3 F); a relu wants 2 / F.
        self.kernel[...] = self.kernel[...] * 6**0.5
