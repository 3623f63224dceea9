"""LPIPS on random weights, against float64 numpy and, where they are installed, PyTorch modules."""

import functools
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nid_jax import metrics
from nid_jax.metrics import perceptual

# torchvision's two networks once more, as `nn.Sequential` lists them: outputs, size, stride and
# padding of a convolution, or (size, stride) of a pooling; a star marks what LPIPS looks at.
ALEX = "64,11,4,2* 3,2 192,5,1,2* 3,2 384,3,1,1* 256,3,1,1* 256,3,1,1*"
BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
VGG = " 2,2 ".join(" ".join([f"{width},3,1,1"] * depth) + "*" for width, depth in BLOCKS)
LAYERS = {"alex": ALEX, "vgg": VGG}
# Where torchvision's `features` have them.
TAPS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}
SIZES = [("alex", (64, 64)), ("alex", (41, 90)), ("vgg", (64, 64)), ("vgg", (19, 46))]


def layers_of(network):
    """(numbers, tap) of each convolution and pooling."""
    for word in LAYERS[network].split():
        yield tuple(map(int, word.rstrip("*").split(","))), word.endswith("*")


@functools.cache
def random_arrays(network):
    """Named arrays of a network: noise at the scale that keeps features from dying out."""
    rng, named = np.random.default_rng(len(network)), {}
    for name, shape in perceptual.expected_shapes(network).items():
        if name.startswith("kernel"):
            scale = np.float32(np.sqrt(2 / np.prod(shape[:3])))
            named[name] = scale * rng.standard_normal(shape, dtype=np.float32)
        elif name.startswith("bias"):
            named[name] = np.float32(0.1) * rng.standard_normal(shape, dtype=np.float32)
        else:
            named[name] = rng.random(shape, dtype=np.float32)
    return named


def random_images(seed, size, count=2, channels=3):
    rng = np.random.default_rng([seed, 1])
    truth = rng.random((count, *size, channels), dtype=np.float32)
    noisy = truth + 0.2 * rng.standard_normal(truth.shape, dtype=np.float32)
    return np.clip(noisy, 0, 1), truth


def windows(x, size, stride):
    """[S, h, w, C, size, size] views of x [S, H, W, C]."""
    view = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return view[:, ::stride, ::stride]


def numpy_features(network, named, images):
    """What LPIPS compares, in float64: unit vectors along the last axis, for each tap."""
    x = (2 * images.astype(np.float64) - 1 - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]
    at, taps = 0, []
    for numbers, tap in layers_of(network):
        if len(numbers) == 2:
            x = windows(x, *numbers).max(axis=(-2, -1))
            continue
        _, size, stride, padding = numbers
        x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        x = np.tensordot(windows(x, size, stride), named[f"kernel{at}"], ([4, 5, 3], [0, 1, 2]))
        x = np.maximum(x + named[f"bias{at}"], 0)
        at += 1
        if tap:
            taps.append(x / (np.linalg.norm(x, axis=-1, keepdims=True) + 1e-10))
    return taps


def numpy_lpips(network, named, prediction, truth):
    taps = numpy_features(network, named, np.concatenate([prediction, truth]))
    pairs = (np.split(features, 2) for features in taps)
    return sum(
        ((a - b) ** 2 @ named[f"linear{at}"]).mean(axis=(1, 2)) for at, (a, b) in enumerate(pairs)
    )


def torch_trunk(network):
    """torchvision's alexnet or vgg16 up to its last relu, built of torch.nn."""
    from torch import nn

    modules, channels = [], 3
    for numbers, _ in layers_of(network):
        if len(numbers) == 2:
            modules.append(nn.MaxPool2d(*numbers))
            continue
        modules += [nn.Conv2d(channels, *numbers), nn.ReLU(inplace=True)]
        channels = numbers[0]
    return nn.Sequential(*modules)


def fill(trunk, named):
    """Give a trunk of torch.nn the arrays' values."""
    import torch

    convolutions = [module for module in trunk if isinstance(module, torch.nn.Conv2d)]
    for at, module in enumerate(convolutions):
        kernel = named[f"kernel{at}"].transpose(3, 2, 0, 1)
        module.weight.data = torch.from_numpy(kernel.copy())
        module.bias.data = torch.from_numpy(named[f"bias{at}"])
    return trunk


def to_torch(images):
    import torch

    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


@pytest.mark.parametrize(
    ("network", "size"),
    [
        pytest.param(*case, marks=[pytest.mark.slow] if case == ("vgg", (64, 64)) else [])
        for case in SIZES
    ],
)
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_lpips_is_that_of_numpy_in_float64(network, size, seed):
    named = random_arrays(network)
    prediction, truth = random_images(seed, size, count=1)
    weights = perceptual.weights_from_arrays(network, named, "random")
    expected = numpy_lpips(network, named, prediction, truth)
    assert (expected > 0.01).all()
    np.testing.assert_allclose(metrics.lpips(prediction, truth, weights), expected, rtol=5e-6)


@pytest.fixture(scope="module")
def alex():
    return perceptual.weights_from_arrays("alex", random_arrays("alex"), "random")


def test_images_are_scored_one_by_one(alex, monkeypatch):
    prediction, truth = random_images(1, (33, 35), count=5)
    whole = metrics.lpips(prediction, truth, alex)
    assert whole.shape == (5,)
    # Two at a time, and one left over.
    monkeypatch.setattr(perceptual, "_CHUNK_PIXELS", 2 * 33 * 35)
    np.testing.assert_allclose(metrics.lpips(prediction, truth, alex), whole, rtol=1e-5)
    np.testing.assert_allclose(metrics.lpips(truth, prediction, alex), whole, rtol=1e-5)
    np.testing.assert_allclose(metrics.lpips(truth, truth, alex), np.zeros(5), atol=1e-12)


def test_grey_is_the_same_in_every_channel(alex):
    prediction, truth = random_images(2, (33, 35), count=5, channels=1)
    coloured = metrics.lpips(np.repeat(prediction, 3, -1), np.repeat(truth, 3, -1), alex)
    np.testing.assert_allclose(metrics.lpips(prediction, truth, alex), coloured, rtol=1e-5)


@pytest.mark.parametrize(("network", "side"), [("alex", 31), ("vgg", 16)])
def test_smallest_image(network, side):
    assert perceptual.smallest_side(network) == side


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((1, 40, 40, 3), (2, 40, 40, 3), "must be equal"),
        ((1, 40, 40, 2), (1, 40, 40, 2), r"\[S, H, W, 1 or 3\]"),
        ((40, 40, 3), (40, 40, 3), r"\[S, H, W, 1 or 3\]"),
        ((1, 40, 30, 3), (1, 40, 30, 3), "31x31 pixels or more; got 40x30"),
    ],
)
def test_wrong_images(alex, first, second, expected):
    with pytest.raises(ValueError, match=expected):
        metrics.lpips(np.zeros(first), np.zeros(second), alex)


def test_weights_are_read_as_they_were_written(alex, tmp_path):
    np.savez(tmp_path / "alex.npz", **perceptual.arrays(alex))
    read = perceptual.load_weights(tmp_path / "alex.npz")
    assert read.network == "alex"
    prediction, truth = random_images(3, (33, 35), count=5)
    np.testing.assert_array_equal(
        metrics.lpips(prediction, truth, read), metrics.lpips(prediction, truth, alex)
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"network": np.asarray("resnet")}, "network: 'resnet' is unknown; allowed: 'alex', 'vgg'"),
        ({"network": np.asarray("vgg")}, "kernel0 has shape .11, 11, 3, 64.; network 'vgg' has"),
        ({"network": None}, "is not a file of LPIPS weights"),
        ({"bias2": None}, "has no bias2"),
        ({"bias2": np.full(384, np.nan)}, "bias2 holds values that are not finite"),
        ({"bias2": np.arange(384)}, "bias2 holds values that are not finite numbers"),
        ({"linear4": np.full(256, -0.1)}, "linear4 holds negative weights"),
    ],
)
def test_wrong_weights(alex, tmp_path, change, expected):
    changed = {**perceptual.arrays(alex), **change}
    path = tmp_path / "changed.npz"
    np.savez(path, **{name: value for name, value in changed.items() if value is not None})
    with pytest.raises(ValueError, match=rf"changed\.npz: {expected}") as raised:
        perceptual.load_weights(path)
    assert "\n" not in str(raised.value)


def test_files_that_hold_no_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.npz: no such file; python -m nid_jax"):
        perceptual.load_weights(tmp_path / "none.npz")
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.save(tmp_path / "object.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "text.npz").write_text("weights")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.savez(tmp_path / "whole.npz", network=np.asarray("alex"), kernel0=np.zeros(999))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:-300])
    changed = bytearray((tmp_path / "whole.npz").read_bytes())
    changed[5000] ^= 1
    (tmp_path / "changed.npz").write_bytes(changed)
    names = ("array.npy", "object.npy", "text.npz", "empty.npz", "cut.npz", "changed.npz")
    for name in names:
        with pytest.raises(ValueError, match="is not a file of LPIPS weights"):
            perceptual.load_weights(tmp_path / name)


@pytest.mark.parametrize("network", ["alex", "vgg"])
def test_pytorch_has_the_same_smallest_image(network):
    torch = pytest.importorskip("torch")
    trunk = torch_trunk(network)
    side = perceptual.smallest_side(network)
    assert 0 not in trunk(torch.zeros(1, 3, side, side)).shape
    with pytest.raises(RuntimeError, match="too small"):
        trunk(torch.zeros(1, 3, side, side - 1))


@pytest.mark.parametrize(("network", "size"), SIZES)
def test_features_are_those_of_pytorch(network, size):
    torch = pytest.importorskip("torch")
    named = random_arrays(network)
    trunk = fill(torch_trunk(network), named)
    images, _ = random_images(4, size)
    shift = np.array([-0.030, -0.088, -0.188], np.float32)
    x = to_torch((2 * images - 1 - shift) / np.array([0.458, 0.448, 0.450], np.float32))
    weights = perceptual.weights_from_arrays(network, named, "random")
    ours = iter(perceptual._features(images, weights))
    with torch.no_grad():
        for at, module in enumerate(trunk):
            x = module(x)
            if at in TAPS[network]:
                expected = x.numpy().transpose(0, 2, 3, 1)
                np.testing.assert_allclose(next(ours), expected, atol=5e-6 * expected.max())
    assert not list(ours)


@pytest.mark.parametrize(("network", "size"), SIZES)
def test_lpips_is_that_of_the_package(network, size, monkeypatch):
    torch = pytest.importorskip("torch")
    named = random_arrays(network)
    model = package_model(network, named, monkeypatch)
    prediction, truth = random_images(5, size)
    with torch.no_grad():
        expected = model(to_torch(prediction), to_torch(truth), normalize=True).numpy().ravel()
    weights = perceptual.weights_from_arrays(network, named, "random")
    np.testing.assert_allclose(metrics.lpips(prediction, truth, weights), expected, rtol=5e-6)


def package_model(network, named, monkeypatch):
    """The package's own LPIPS, with the trunk above in place of torchvision's."""
    import torch

    trunk = types.SimpleNamespace(features=fill(torch_trunk(network), named))
    models = types.ModuleType("torchvision.models")
    models.alexnet = models.vgg16 = lambda pretrained: trunk
    package = types.ModuleType("torchvision")
    package.models = models
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    lpips = pytest.importorskip("lpips")
    monkeypatch.setattr(lpips.pretrained_networks, "tv", models)
    model = lpips.LPIPS(net=network, pretrained=False, verbose=False)
    for at, linear in enumerate(model.lins):
        linear.model[1].weight.data = torch.from_numpy(named[f"linear{at}"])[None, :, None, None]
    return model
