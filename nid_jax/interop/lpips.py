"""Convert the weights of LPIPS from the files of torchvision and of the lpips package.

python -m nid_jax.interop.lpips --trunk=FILE.pth --linear=FILE.pth --network=alex --output=FILE.npz

The trunk is torchvision's alexnet or vgg16 (a state dict with features.N.weight and .bias), the
linear file the package's weights/v0.1/alex.pth or vgg.pth (lin0.model.1.weight to lin4). Nothing in
them is executed. nid_jax.metrics.perceptual.load_weights reads what is written.
"""

from nid_jax.running import stopping

if __name__ == "__main__":
    stopping.begin()  # what follows takes its time

import sys
from pathlib import Path

import numpy as np

from nid_jax import notices
from nid_jax.files import atomic_path, local
from nid_jax.interop import torch_file
from nid_jax.metrics import perceptual


def convert(trunk, linear, network):
    """LpipsWeights from the paths of a trunk and of its linear weights.

    network: 'alex' or 'vgg'. Raises FileNotFoundError, and ValueError naming the file for one that
    is damaged, of another network, without one of the tensors, or with values that are not finite
    or (linear weights) negative.
    """
    convolutions = perceptual.check_network(network)
    trunk_state, linear_state = _state_dict(trunk), _state_dict(linear)
    named = {}
    for at, layer in enumerate(convolutions):
        kernel = _tensor(
            trunk_state,
            f"features.{layer.layer}.weight",
            (layer.outputs, layer.inputs, layer.size, layer.size),
            trunk,
            network,
        )
        # PyTorch has outputs first and inputs next, a convolution here has them last.
        named[f"kernel{at}"] = kernel.transpose(2, 3, 1, 0)
        bias = f"features.{layer.layer}.bias"
        named[f"bias{at}"] = _tensor(trunk_state, bias, (layer.outputs,), trunk, network)
    taps = [layer for layer in convolutions if layer.tap]
    for at, layer in enumerate(taps):
        name, shape = f"lin{at}.model.1.weight", (1, layer.outputs, 1, 1)
        named[f"linear{at}"] = _tensor(linear_state, name, shape, linear, network).ravel()
    return perceptual.weights_from_arrays(network, named, linear)


def _state_dict(path):
    state = torch_file.read_torch(Path(path).expanduser())
    if not isinstance(state, dict):
        raise ValueError(f"{path}: holds a {type(state).__name__}; a state dict is wanted")
    return state


def _tensor(state, name, shape, path, network):
    if not isinstance(state.get(name), np.ndarray):
        raise ValueError(f"{path}: has no tensor {name}, which network {network!r} needs")
    perceptual.check_array(state[name], shape, f"{path}: {name}", network)
    return state[name]


def write(trunk, linear, network, output):
    """Convert and write the .npz file `output`, whole or not at all.

    Raises ValueError for a name that does not end in .npz, and what `convert` raises.
    """
    output = local(output, "--output")
    if output.suffix != ".npz":
        raise ValueError(f"--output={output}: must end in .npz")
    weights = convert(trunk, linear, network)
    with atomic_path(output) as temporary:
        np.savez(temporary, **perceptual.arrays(weights))


def main():
    """The command line; whatever is wrong with it is one line, and exit status 2."""
    from absl import app, flags

    flags.DEFINE_string("trunk", None, "State dict of torchvision's alexnet or vgg16.")
    flags.DEFINE_string("linear", None, "Linear weights of the lpips package, version 0.1.")
    flags.DEFINE_enum("network", None, list(perceptual.NETWORKS), "What the files are of.")
    flags.DEFINE_string("output", None, "File to write, NAME.npz.")
    app.run(lambda argv: _command(flags.FLAGS), flags_parser=lambda argv: _parse(argv, flags.FLAGS))


def _parse(argv, values):
    from absl import flags

    try:
        rest = values(argv)
    except flags.Error as error:
        _complain(str(error).removeprefix("flag "))
    for name in ("trunk", "linear", "network", "output"):
        if not values[name].value:
            _complain(f"--{name} is missing; {values[name].help}")
    if len(rest) > 1:
        _complain(f"unexpected argument {rest[1]!r}; options are --name=value")
    return rest


def _command(values):
    try:
        write(values.trunk, values.linear, values.network, values.output)
    except (ValueError, FileNotFoundError) as error:
        _complain(error)
    except OSError as error:
        _complain(f"{error.filename}: {error.strerror}" if error.filename else error)
    print(f"LPIPS weights, network {values.network}: {values.output}")


def _complain(message):
    print("error:", notices.one_line(message), file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    with stopping.command():
        main()
