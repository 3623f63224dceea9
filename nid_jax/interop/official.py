"""The official PyTorch code's names, options and tensors, and what they are called here.

VITA-Group/Neural-Implicit-Dict. Its model is a `SharedDictionary` with a codebook, conv or resnet
router. Shapes of the tensors tell nearly everything about it; activation, K and, for a codebook or
a conv router, the size of the images are in the options of its command line only.
"""

import difflib
import math
import re
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from nid_jax.fields import router_networks, routing

# Options of train_images.py, train_ct.py, train_sdf.py and train_single_image.py with their
# defaults. None: the script wants it, or it is a flag that takes no part in a config.
DEFAULTS = {
    "config": None,
    "log_dir": None,
    "ckpt_path": "",
    "gpuid": 0,
    "restart": False,
    "dataset": "yaleface",
    "data_dir": None,
    "image_path": None,
    "train_subset": 500,
    "test_subset": 500,
    "render_subset": 100,
    "patch_size": 16,
    "num_thetas": 127,
    "batch_size": 64,
    "chunk_size": 1024,
    "lr": 1e-4,
    "weight_decay": 0.0,
    "num_epochs": 5000,
    "warmup_epochs": 0,
    "loss_type": "l2",
    "loss_cv": 0.01,
    "loss_l1": 0.01,
    "l1_exp": 1.0,
    "inner_loop": "recursive",
    "test_only": False,
    "finetune": False,
    "model_type": None,
    "num_layers": 4,
    "hidden_dim": 256,
    "num_topk": 128,
    "num_experts": 1024,
    "pos_emb": "ffm",
    "act_type": "relu",
    "siren": False,
    "gate_type": "conv",
    "kernel": "exp",
    "ffm_map_size": 4096,
    "ffm_map_scale": 16.0,
    "gffm_map_size": 4096,
    "length_scale": 64.0,
    "matern_order": 0.5,
    "gamma_order": 1.0,
    "rq_order": 4.0,
    "poly_order": 4.0,
    "rbf_centers": 1024,
    "num_freqs": -1,
    "use_nyquist": False,
    "epochs_til_eval": 1,
    "epochs_til_render": 100,
    "epochs_til_ckpt": 100,
    "steps_til_summary": 100,
}
CHOICES = {
    "dataset": ("yaleface", "olivetti", "cifar10", "celeba", "imagefolder", "shepp"),
    "loss_type": ("l2", "l1"),
    "inner_loop": ("recursive", "random"),
    "pos_emb": ("Id", "rbf", "pe", "ffm", "gffm"),
    "act_type": ("relu", "sine"),
    "gate_type": ("conv", "resnet", "codebook"),
}
# The factor in every sine of the official trunk, the first layer's included.
OMEGA0 = 30.0
# Signals of more channels than this are no pictures; it tells channels from experts.
MOST_CHANNELS = 4

# Letters of a value in a message.
_SHOWN = 60
_LINE = re.compile(r"(?:--)?([A-Za-z][\w-]*)(?:\s*[=:]\s*|\s+|$)(.*)")


def read_options(path):
    """The options in a config file of the official code: {name: value}, those it gives only.

    Lines are 'name = value', 'name: value', 'name value' or a bare flag; # and ; begin comments.
    Raises FileNotFoundError, and ValueError naming file, line and option for one the official
    scripts do not have or a value that it cannot take.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no text: {error}") from error
    options = {}
    for number, line in enumerate(lines, 1):
        line = re.sub(r"(^|\s)[#;].*", "", line).strip()
        if not line or line.startswith(("[", "---")):
            continue
        found = _LINE.fullmatch(line)
        if not found:
            shown = line[:_SHOWN]
            raise ValueError(f"{path}, line {number}: {shown!r} is no option; name = value is one")
        name, text = found[1].replace("-", "_"), found[2].strip().strip("'\"")
        if name not in DEFAULTS:
            name = name[:_SHOWN]
            near = difflib.get_close_matches(name, DEFAULTS, 1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"{path}, line {number}: the official code has no option {name!r}{hint}"
            )
        options[name] = _value(name, text, f"{path}, line {number}")
    return options


def _value(name, text, where):
    default = DEFAULTS[name]
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    if isinstance(default, bool):
        words = {"": True, "true": True, "1": True, "false": False, "0": False}
        if text.lower() not in words:
            raise ValueError(f"{where}: {name}={shown!r}; allowed: true, false")
        return words[text.lower()]
    if isinstance(default, int | float):
        try:
            value = type(default)(text)
            value = value if math.isfinite(value) else math.inf
        except (ValueError, OverflowError):
            kind = "whole number" if isinstance(default, int) else "number"
            raise ValueError(f"{where}: {name}={shown!r}; a {kind} is wanted") from None
        if not math.isfinite(value):
            raise ValueError(f"{where}: {name}={shown!r}; a finite number is wanted")
        return value
    if name in CHOICES and text not in CHOICES[name]:
        raise ValueError(f"{where}: {name}={shown!r}; allowed: {', '.join(CHOICES[name])}")
    return text


@dataclass(frozen=True)
class Architecture:
    """What the shapes of a state dict tell of its model."""

    num_experts: int
    channels: int
    dims: int
    num_layers: int
    width: int
    embedding: str
    """A kind of `fields.embeddings`."""
    features: int
    """Size of the embedding."""
    router: str
    """A kind of `fields.routers`."""
    rows: int = 1
    """Codes in the codebook."""
    router_widths: tuple = ()
    """Width of the conv router, or the two of the resnet."""
    pixels: int = 0
    """Of the images that the resnet reads; 0 where the tensors do not tell."""


def architecture(state, num_experts=0):
    """The architecture of a state dict {name: array}.

    num_experts: E where it is known, to tell it from C; 0 otherwise. Raises ValueError naming the
    tensor that is missing, unknown or of another shape than its neighbours want.
    """
    for name, tensor in state.items():
        if not isinstance(tensor, np.ndarray) or tensor.dtype.kind != "f":
            raise ValueError(f"{name}: is no tensor of real numbers")
        if not np.isfinite(tensor).all():
            raise ValueError(f"{name}: holds numbers that are not finite")
    if "net.net.0.0.weight" in state:
        raise ValueError(
            "holds one network without experts (the official INRNet), and no dictionary"
        )
    layers = _layers(state)
    widths = {kernel.shape[0] for kernel in layers[:-1]}
    if len(widths) != 1:
        raise ValueError(f"experts.net: hidden layers of widths {sorted(widths)}; one is wanted")
    embedding, features, dims = _embedding(state, layers[0].shape[1])
    router, sizes = _router(state)
    outputs = sizes.pop("outputs")
    known = sizes.pop("channels", 0)
    experts, channels = _experts_and_channels(len(layers[-1]), outputs, known, num_experts)
    found = Architecture(
        experts, channels, dims, len(layers), widths.pop(), embedding, features, router, **sizes
    )
    _check_shapes(state, found)
    return found


def _layers(state):
    """Kernels [out, in] of the trunk and the heads, in order."""
    kernels = []
    while (name := f"experts.net.net.{len(kernels)}.0.weight") in state:
        kernels.append(_of_rank(state, name, 2))
    if len(kernels) < 2:
        raise ValueError(
            f"experts.net.net.{len(kernels)}.0.weight: is missing; an official dictionary has two "
            "layers or more"
        )
    return kernels


def _of_rank(state, name, rank):
    if name not in state:
        raise ValueError(f"{name}: is missing")
    if state[name].ndim != rank or 0 in state[name].shape:
        raise ValueError(f"{name}: has the shape {list(state[name].shape)}, {rank} axes are wanted")
    return state[name]


def _embedding(state, features):
    """(kind, size, dims) of the embedding in front of a first layer of `features` inputs."""
    if "experts.map.W" in state:
        raise ValueError(
            "experts.map.W: kernel features; the official code cannot make any that it can train"
        )
    if "experts.map.B" in state:
        frequencies = _of_rank(state, "experts.map.B", 2)
        return "fourier", 2 * len(frequencies), frequencies.shape[1]
    if "experts.map.centres" in state:
        centres = _of_rank(state, "experts.map.centres", 2)
        return "rbf", *centres.shape
    if features in (2, 3):
        return "identity", features, features
    # x and 2 F waves on each axis: an even number of features on 2 axes, an odd one on 3.
    dims = 3 if features % 2 else 2
    if (features - dims) % (2 * dims) or features < dims:
        raise ValueError(
            f"experts.net.net.0.0.weight: takes {features} features and no embedding comes with "
            "it; 2 or 3 (coordinates), 2 + 4 F or 3 + 6 F (positional encoding) are possible"
        )
    return "positional", features, dims


def _router(state):
    """(kind, {'outputs': E + C, and what else the tensors tell})."""
    gate = "gate_generator"
    if f"{gate}.codebook.weight" in state:
        table = _of_rank(state, f"{gate}.codebook.weight", 2)
        return "codebook", {"rows": len(table), "outputs": table.shape[1]}
    outputs = {"outputs": len(_of_rank(state, f"{gate}.fc.weight", 2))} if _has_fc(state) else {}
    if f"{gate}.convs.conv_theta.weight" in state and outputs:
        first = _of_rank(state, f"{gate}.convs.conv_theta.weight", 4)
        second = _of_rank(state, f"{gate}.convs.cnn.0.weight", 4)
        pixels = _of_rank(state, f"{gate}.convs.fc.weight", 2).shape[1]
        widths = (len(first), len(second))
        known = {"channels": first.shape[1], "router_widths": widths, "pixels": pixels}
        return "resnet", known | outputs
    if f"{gate}.convs.0.weight" in state and outputs:
        first = _of_rank(state, f"{gate}.convs.0.weight", 4)
        return "conv", {"channels": first.shape[1], "router_widths": (len(first),)} | outputs
    names = sorted(name for name in state if name.startswith(f"{gate}."))
    raise ValueError(
        f"{gate}: no router that is known among {', '.join(names) or 'no tensors'}; allowed: "
        "codebook, conv, resnet"
    )


def _has_fc(state):
    return "gate_generator.fc.weight" in state


def _experts_and_channels(products, outputs, channels, num_experts):
    """E and C from E C = products and E + C = outputs, and from whatever of them is known."""
    root = math.isqrt(max(outputs**2 - 4 * products, 0))
    small, large = (outputs - root) // 2, (outputs + root) // 2
    if small * large != products or small + large != outputs or small < 1:
        raise ValueError(
            f"gate_generator: gives {outputs} numbers and the last layer of experts {products}; no "
            "whole numbers E and C have E + C and E C like that"
        )
    pairs = [(large, small)] if small == large else [(large, small), (small, large)]
    if channels:
        pairs = [pair for pair in pairs if pair[1] == channels]
        what = f"images of {channels} channels"
    elif num_experts:
        pairs = [pair for pair in pairs if pair[0] == num_experts]
        what = f"num_experts={num_experts}"
    else:
        pairs = [pair for pair in pairs if pair[1] <= MOST_CHANNELS]
        what = f"{MOST_CHANNELS} channels at most"
    if len(pairs) == 1:
        return pairs[0]
    problem = "also the other way round" if pairs else f"neither fits {what}"
    raise ValueError(
        f"gate_generator: {large} experts of {small} channels, {problem}; give the number of "
        "experts: --num_experts, or num_experts in the official config"
    )


def expected_shapes(found):
    """{official name: shape} of everything that a state dict of this architecture holds."""
    sizes = (found.features, *[found.width] * (found.num_layers - 1))
    sizes += (found.num_experts * found.channels,)
    outputs, channels = found.num_experts + found.channels, found.channels
    shapes = {}

    def layer(name, *shape):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    if found.embedding == "fourier":
        shapes["experts.map.B"] = (found.features // 2, found.dims)
    if found.embedding == "rbf":
        shapes["experts.map.centres"] = (found.features, found.dims)
        shapes["experts.map.sigmas"] = (found.features,)
        shapes["experts.map.freq"] = (1, found.features)
    for i in range(found.num_layers):
        layer(f"experts.net.net.{i}.0", sizes[i + 1], sizes[i])
    gate = "gate_generator"
    if found.router == "codebook":
        shapes[f"{gate}.codebook.weight"] = (found.rows, outputs)
    elif found.router == "conv":
        (width,) = found.router_widths
        layer(f"{gate}.convs.0", width, channels, 5, 5)
        layer(f"{gate}.convs.2", width, width, 5, 5)
        layer(f"{gate}.fc", outputs, width)
    else:
        inner, outer = found.router_widths
        layer(f"{gate}.convs.conv_theta", inner, channels, 3, 3)
        layer(f"{gate}.convs.cnn.0", outer, inner, 3, 3)
        for block in range(2, 2 + router_networks.ResNet.blocks_count):
            for part in (0, 2):
                layer(f"{gate}.convs.cnn.{block}.convs.{part}", outer, outer, 5, 5)
        layer(f"{gate}.convs.cnn.6", outer, outer, 1, 1)
        layer(f"{gate}.convs.fc", 1, found.pixels)
        layer(f"{gate}.fc", outputs, outer)
    return shapes


def _check_shapes(state, found):
    expected = expected_shapes(found)
    for name in [*expected, *state]:
        if name not in state:
            raise ValueError(f"{name}: is missing; it belongs to a {found.router} router's model")
        if name not in expected:
            raise ValueError(f"{name}: is no tensor of the official {found.router} router's model")
        if state[name].shape != expected[name]:
            raise ValueError(
                f"{name}: has the shape {list(state[name].shape)}, its neighbours want "
                f"{list(expected[name])}"
            )


def parts(dictionary, router):
    """Official name -> [(our variable, ours to official layout, official to ours)].

    An official tensor that is two of ours comes as two pieces, experts first: of its first axis, of
    the codebook's table (which lies transposed) of its second.
    """
    transposed = (np.transpose, np.transpose)
    same = (np.asarray, np.asarray)
    found = {}
    if hasattr(dictionary.embedding, "centres"):
        found["experts.map.centres"] = [(dictionary.embedding.centres, *same)]
        found["experts.map.sigmas"] = [(dictionary.embedding.sigma, *same)]
    layers = list(zip(dictionary.kernels, dictionary.biases, strict=True))
    for i, (kernel, bias) in enumerate(layers):
        found[f"experts.net.net.{i}.0.weight"] = [(kernel, *transposed)]
        found[f"experts.net.net.{i}.0.bias"] = [(bias, *same)]
    # Output j of the last layer is channel j % C of expert j // C.
    shape = (dictionary.num_experts, dictionary.channels)
    last = f"experts.net.net.{len(layers)}.0"
    heads = (lambda a: a.T.reshape(-1, len(a)), lambda a: a.reshape(*shape, -1).T)
    found[f"{last}.weight"] = [(dictionary.head_kernel, *heads)]
    found[f"{last}.bias"] = [(dictionary.head_bias, np.ravel, lambda a: a.reshape(shape))]
    return found | _router_parts(router)


def _router_parts(router):
    transposed = (np.transpose, np.transpose)
    same = (np.asarray, np.asarray)
    gate, found = "gate_generator", {}
    if isinstance(router, routing.Codebook):
        pieces = [(router.codes, *transposed), (router.bias, *transposed)]
        return {f"{gate}.codebook.weight": pieces}

    def convolution(name, layer):
        kernel = (lambda a: a.transpose(3, 2, 0, 1), lambda a: a.transpose(2, 3, 1, 0))
        found[f"{gate}.convs.{name}.weight"] = [(layer.kernel, *kernel)]
        found[f"{gate}.convs.{name}.bias"] = [(layer.bias, *same)]

    if isinstance(router, router_networks.Conv):
        convolution("0", router.first)
        convolution("2", router.second)
    else:
        convolution("conv_theta", router.first)
        convolution("cnn.0", router.second)
        for i, block in enumerate(router.blocks):
            convolution(f"cnn.{i + 2}.convs.0", block.first)
            convolution(f"cnn.{i + 2}.convs.2", block.second)
        convolution("cnn.6", router.last)
        found[f"{gate}.convs.fc.weight"] = [(router.pixels.kernel, *transposed)]
        found[f"{gate}.convs.fc.bias"] = [(router.pixels.bias, *same)]
    both = (router.head, router.bias_head)
    found[f"{gate}.fc.weight"] = [(head.kernel, *transposed) for head in both]
    found[f"{gate}.fc.bias"] = [(head.bias, *same) for head in both]
    return found


def assign(dictionary, router, tensors):
    """Set the variables of both modules from {official name: array}: all that the names cover.

    Arrays may be weights, or Adam's moments of them. Fourier frequencies, which the official code
    does not train, are set where they are given. Raises KeyError for a name that is missing.
    """
    for name, pieces in parts(dictionary, router).items():
        tensor = tensors[name].T if name.endswith("codebook.weight") else tensors[name]
        start = 0
        for variable, _, to_ours in pieces:
            size = tensor.shape[0] if len(pieces) == 1 else variable.shape[-1]
            value = to_ours(tensor[start : start + size])
            variable.set_value(jnp.asarray(value.reshape(variable.shape), jnp.float32))
            start += size
    if "experts.map.B" in tensors:
        frequencies = jnp.asarray(tensors["experts.map.B"], jnp.float32)
        dictionary.embedding.frequencies.set_value(frequencies)


def to_official(dictionary, router):
    """{official name: array in the official layout} of modules that hold weights or gradients."""
    arrays = {}
    for name, pieces in parts(dictionary, router).items():
        tensor = np.concatenate([back(np.asarray(variable[...])) for variable, back, _ in pieces])
        arrays[name] = tensor.T if name.endswith("codebook.weight") else tensor
    return arrays


def cost(found, signals, points, pixels=0):
    """What a model costs: {'numbers': {'dictionary', 'router'}, 'operations': the same keys}.

    Numbers are those stored, fixed frequencies included. Operations are those of a forward pass,
    two to a multiply-add, of `signals` seen at `points` points that all share; embedding,
    activations and biases are not counted. Every expert is evaluated, whatever K is, as in the
    official code. pixels: of the images that a conv router reads.
    """
    shapes = expected_shapes(found)
    numbers, operations = {"dictionary": 0, "router": 0}, {"dictionary": 0, "router": 0}
    pixels = found.pixels or pixels
    for name, shape in shapes.items():
        part = "dictionary" if name.startswith("experts.") else "router"
        numbers[part] += math.prod(shape)
        if not name.endswith("weight") or "codebook" in name:
            continue
        if part == "dictionary":
            times = points
        elif len(shape) == 4:
            times = signals * pixels
        else:
            # The linear map over the pixels is applied to every channel.
            shared = found.router_widths[-1] if name.endswith("convs.fc.weight") else 1
            times = signals * shared
        operations[part] += 2 * times * math.prod(shape)
    operations["dictionary"] += 2 * points * signals * found.num_experts * found.channels
    return {"numbers": numbers, "operations": operations}
