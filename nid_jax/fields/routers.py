"""The router that a config names."""

import difflib
from typing import Any

from flax import nnx
from ml_collections import ConfigDict

from nid_jax import errors
from nid_jax.fields import router_networks, routing
from nid_jax.fields.point_encoder import PointEncoder

KINDS = ("codebook", "linear", "conv", "resnet", "point", "none")


def build_router(
    config_router: ConfigDict,
    num_experts: int,
    channels: int,
    grid_shape: tuple[int, ...],
    num_signals: int,
    *,
    rngs: nnx.Rngs,
) -> routing.Router | None:
    """Router from `config.router`, for signals [*grid_shape, channels]; None for kind 'none'.

    Reads kind and top_k, and where present max_norm, scale (codebook), width (conv; the second of
    the resnet's widths, the first being half of it; of the point router), widths (resnet), pool
    (conv, point), point_features (point; clouds [Q, F] are its signals, whatever the grid) and
    noise. Raises ValueError for an unknown kind, a top_k over num_experts, and a conv or resnet
    router for signals that are not images.
    """

    def value(name: str, default: Any) -> Any:
        return getattr(config_router, name, default)

    kind = config_router.kind
    routing.check_top_k(value("top_k", 0), num_experts)
    noise = bool(value("noise", False))
    width = int(value("width", 0)) or 256
    if kind == "none":
        return None
    if kind == "codebook":
        limits = {"max_norm": value("max_norm", 0.0), "scale": value("scale", 0.0)}
        with errors.named("router", only=limits):
            return routing.Codebook(
                num_signals, num_experts, channels, **limits, noise=noise, rngs=rngs
            )
    if kind == "linear":
        return router_networks.Linear(num_experts, channels, grid_shape, noise, rngs=rngs)
    if kind == "conv":
        pool = value("pool", "mean")
        return router_networks.Conv(
            num_experts, channels, grid_shape, width, pool, noise, rngs=rngs
        )
    if kind == "resnet":
        widths = tuple(value("widths", ())) or (max(width // 2, 1), width)
        return router_networks.ResNet(num_experts, channels, grid_shape, widths, noise, rngs=rngs)
    if kind == "point":
        features, pool = int(value("point_features", 6)), value("pool", "max")
        return PointEncoder(num_experts, channels, features, width, pool, noise, rngs=rngs)
    near = difflib.get_close_matches(str(kind), KINDS, 1, 0.0)
    raise ValueError(
        f"router.kind: {kind!r} is unknown, did you mean {near[0]!r}? allowed: {', '.join(KINDS)}"
    )
