"""The official model once more, in float64 and NumPy, and weights of any size for it."""

import math

import numpy as np


def conv(image, state, name):
    """'Same' convolution of [B, C, H, W]."""
    kernel = state[f"{name}.weight"].astype(float)
    reach = kernel.shape[-1] // 2
    padded = np.pad(image, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[-2:], axis=(2, 3))
    bias = state[f"{name}.bias"].astype(float)
    return np.einsum("bchwij,ocij->bohw", windows, kernel, optimize=True) + bias[:, None, None]


def linear(x, state, name):
    return x @ state[f"{name}.weight"].astype(float).T + state[f"{name}.bias"]


def relu(x):
    return np.maximum(x, 0)


def logits(state, ids, signals):
    """Gates and biases [B, E + C], of any of the three routers."""
    gate = "gate_generator"
    if f"{gate}.codebook.weight" in state:
        rows = state[f"{gate}.codebook.weight"].astype(float)[ids]
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.where(norms > 1, rows / (norms + 1e-7), rows)
    images = signals.astype(float).transpose(0, 3, 1, 2)
    if f"{gate}.convs.conv_theta.weight" not in state:
        x = relu(conv(relu(conv(images, state, f"{gate}.convs.0")), state, f"{gate}.convs.2"))
        return linear(x.sum((2, 3)), state, f"{gate}.fc")
    x = relu(conv(images, state, f"{gate}.convs.conv_theta"))
    x = relu(conv(x, state, f"{gate}.convs.cnn.0"))
    for block in range(2, 6):
        inner = relu(conv(x, state, f"{gate}.convs.cnn.{block}.convs.0"))
        x = relu(x + relu(conv(inner, state, f"{gate}.convs.cnn.{block}.convs.2")))
    x = relu(conv(x, state, f"{gate}.convs.cnn.6"))
    x = linear(x.reshape(*x.shape[:2], -1), state, f"{gate}.convs.fc")[..., 0]
    return linear(relu(x), state, f"{gate}.fc")


def embedded(state, x, octaves=0):
    if "experts.map.B" in state:
        turns = x @ state["experts.map.B"].astype(float).T
        return np.concatenate([np.sin(turns), np.cos(turns)], 1)
    if "experts.map.centres" in state:
        squares = np.square(x[:, None] - state["experts.map.centres"]).sum(-1)
        return np.exp(-np.square(squares * state["experts.map.sigmas"]))
    waves = [x]
    for octave in range(octaves):
        for axis in range(x.shape[1]):
            phase = 2.0**octave * np.pi * x[:, axis]
            waves += [np.sin(phase)[:, None], np.cos(phase)[:, None]]
    return np.concatenate(waves, 1)


def forward(state, shape, x, ids, signals):
    """(gates [B, E] top-k'ed and dense, predictions [B, P, C] of both)."""
    count = sum(name.startswith("experts.net") for name in state) // 2
    x = embedded(state, x.astype(float), shape["octaves"])
    for i in range(count):
        x = linear(x, state, f"experts.net.net.{i}.0")
        if i < count - 1:
            x = relu(x) if shape["activation"] == "relu" else np.sin(30 * x)
    experts, channels = shape["num_experts"], shape["channels"]
    basis = x.reshape(len(x), experts, channels)
    routed = logits(state, ids, signals)
    dense, bias = routed[:, :experts], routed[:, experts:]
    sparse = np.zeros_like(dense)
    for row, kept in zip(sparse, dense, strict=True):
        chosen = np.argsort(-abs(kept))[: shape["top_k"]]
        row[chosen] = kept[chosen]
    return [(g, np.einsum("be,pec->bpc", g, basis) + bias[:, None]) for g in (sparse, dense)]


def random_state(shape, rng):
    """A state dict of any size, in the official order."""
    state = {}

    def layer(name, *sizes):
        bound = 1 / np.sqrt(np.prod(sizes[1:]))
        state[f"{name}.weight"] = rng.uniform(-bound, bound, sizes).astype("f4")
        state[f"{name}.bias"] = rng.uniform(-bound, bound, sizes[:1]).astype("f4")

    features = shape["dims"] + 2 * shape["dims"] * shape["octaves"]
    if shape["embedding"] == "fourier":
        features = 2 * shape["features"]
        state["experts.map.B"] = rng.normal(0, 3, (shape["features"], shape["dims"])).astype("f4")
    if shape["embedding"] == "rbf":
        features = shape["features"]
        state["experts.map.centres"] = rng.uniform(-1, 1, (features, shape["dims"])).astype("f4")
        state["experts.map.sigmas"] = rng.uniform(1, 4, features).astype("f4")
        state["experts.map.freq"] = np.ones((1, features), "f4")
    width, outputs = shape["width"], shape["num_experts"] + shape["channels"]
    sizes = [features, *[width] * (shape["num_layers"] - 1)]
    sizes.append(shape["num_experts"] * shape["channels"])
    for i in range(shape["num_layers"]):
        layer(f"experts.net.net.{i}.0", sizes[i + 1], sizes[i])
        if shape["activation"] == "sine" and i:
            # SIREN's start; without it thirty times the sum makes noise of any rounding.
            state[f"experts.net.net.{i}.0.weight"] *= math.sqrt(6) / 30
    gate, (inner, outer) = "gate_generator", shape["router_widths"]
    if shape["router"] == "codebook":
        state[f"{gate}.codebook.weight"] = rng.normal(0, 0.3, (shape["rows"], outputs)).astype("f4")
    elif shape["router"] == "conv":
        layer(f"{gate}.convs.0", inner, shape["channels"], 5, 5)
        layer(f"{gate}.convs.2", inner, inner, 5, 5)
        layer(f"{gate}.fc", outputs, inner)
    else:
        layer(f"{gate}.convs.conv_theta", inner, shape["channels"], 3, 3)
        layer(f"{gate}.convs.cnn.0", outer, inner, 3, 3)
        for block in range(2, 6):
            layer(f"{gate}.convs.cnn.{block}.convs.0", outer, outer, 5, 5)
            layer(f"{gate}.convs.cnn.{block}.convs.2", outer, outer, 5, 5)
        layer(f"{gate}.convs.cnn.6", outer, outer, 1, 1)
        layer(f"{gate}.convs.fc", 1, int(np.prod(shape["size"])))
        layer(f"{gate}.fc", outputs, outer)
    return state


def shape_of(router, size, experts, channels, top_k, layers, activation, embedding, features=1):
    """A shape as the tests below read it."""
    return {
        "router": router,
        "size": size,
        "num_experts": experts,
        "channels": channels,
        "top_k": top_k,
        "num_layers": layers,
        "activation": activation,
        "embedding": embedding,
        "features": features,
        "dims": len(size),
        "width": 2 * features + 5,
        "octaves": features if embedding == "positional" else 0,
        "router_widths": (features + 1, 3),
        "rows": 4,
    }
