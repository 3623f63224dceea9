"""Conversion of LPIPS weights: files of random numbers in, the same numbers out."""

import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from nid_jax import metrics
from nid_jax.interop import lpips as conversion
from nid_jax.metrics import perceptual

# (place among the features, outputs, inputs, size) of every convolution in torchvision's files.
TRUNKS = {
    "alex": [
        (0, 64, 3, 11),
        (3, 192, 64, 5),
        (6, 384, 192, 3),
        (8, 256, 384, 3),
        (10, 256, 256, 3),
    ],
    "vgg": [
        (0, 64, 3, 3),
        (2, 64, 64, 3),
        (5, 128, 64, 3),
        (7, 128, 128, 3),
        (10, 256, 128, 3),
        (12, 256, 256, 3),
        (14, 256, 256, 3),
        (17, 512, 256, 3),
        *((place, 512, 512, 3) for place in (19, 21, 24, 26, 28)),
    ],
}
TAPS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}


def trunk_state(network, seed=0):
    rng, state = np.random.default_rng(seed), {}
    for place, outputs, inputs, size in TRUNKS[network]:
        shape = (outputs, inputs, size, size)
        scale = np.float32(np.sqrt(2 / (inputs * size * size)))
        state[f"features.{place}.weight"] = scale * rng.standard_normal(shape, dtype=np.float32)
        state[f"features.{place}.bias"] = rng.random(outputs, dtype=np.float32)
    # The rest of a classifier's file, which is not read.
    return state | {"classifier.1.bias": np.zeros(7, np.float32)}


def linear_state(network, seed=0):
    rng = np.random.default_rng([seed, 1])
    return {
        f"lin{at}.model.1.weight": rng.random((1, count, 1, 1), dtype=np.float32)
        for at, count in enumerate(TAPS[network])
    }


def write_torch(path, state):
    """A file as torch.save writes it of a state dict {name: float32 array}, opcode by opcode."""

    def text(word):
        return b"X" + struct.pack("<I", len(word)) + word.encode()

    def whole(number):
        return b"J" + struct.pack("<i", number)

    def row(values):
        return b"(" + b"".join(map(whole, values)) + b"t"

    ordered = b"ccollections\nOrderedDict\n)R"
    pickled = b"\x80\x02" + ordered + b"("
    with zipfile.ZipFile(path, "w") as archive:
        for at, (name, array) in enumerate(state.items()):
            strides = [step // 4 for step in array.strides]
            storage = text("storage") + b"ctorch\nFloatStorage\n" + text(str(at)) + text("cpu")
            pickled += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n("
            pickled += b"(" + storage + whole(array.size) + b"tQ" + whole(0)
            pickled += row(array.shape) + row(strides) + b"\x89" + ordered + b"tR"
            archive.writestr(f"archive/data/{at}", array.astype("<f4").tobytes())
        archive.writestr("archive/data.pkl", pickled + b"u.")
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Paths of a trunk and a linear file of AlexNet."""
    folder = tmp_path_factory.mktemp("alex")
    trunk = write_torch(folder / "trunk.pth", trunk_state("alex"))
    return trunk, write_torch(folder / "linear.pth", linear_state("alex"))


@pytest.fixture
def command(environment):
    """command(name=value, ...) -> what the conversion command did, as a process of its own."""

    def run(**options):
        words = [f"--{name}={value}" for name, value in options.items()]
        return subprocess.run(
            [sys.executable, "-m", "nid_jax.interop.lpips", *words],
            capture_output=True,
            text=True,
            timeout=240,
            env=environment,
        )

    return run


@pytest.mark.parametrize("network", ["alex", "vgg"])
def test_every_tensor_finds_its_place(network, tmp_path):
    trunk, linear = trunk_state(network), linear_state(network)
    write_torch(tmp_path / "trunk.pth", trunk)
    write_torch(tmp_path / "linear.pth", linear)
    output = tmp_path / "new" / "weights.npz"
    conversion.write(tmp_path / "trunk.pth", tmp_path / "linear.pth", network, output)
    weights = perceptual.load_weights(output)
    assert weights.network == network
    places = [place for place, *_ in TRUNKS[network]]
    for place, kernel, bias in zip(places, weights.kernels, weights.biases, strict=True):
        expected = np.moveaxis(trunk[f"features.{place}.weight"], (0, 1), (3, 2))
        np.testing.assert_array_equal(kernel, expected)
        np.testing.assert_array_equal(bias, trunk[f"features.{place}.bias"])
    for at, values in enumerate(weights.linear):
        np.testing.assert_array_equal(values, linear[f"lin{at}.model.1.weight"][0, :, 0, 0])


def test_command(command, files, tmp_path):
    output = tmp_path / "alex.npz"
    done = command(trunk=files[0], linear=files[1], network="alex", output=output)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"LPIPS weights, network alex: {output}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["alex.npz"]
    images = np.random.default_rng(0).random((2, 1, 40, 40, 3), dtype=np.float32)
    assert metrics.lpips(*images, perceptual.load_weights(output)) > 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        *(
            pytest.param(change, expected, marks=pytest.mark.slow)
            for change, expected in (
                ({"network": "squeeze"}, "--network=squeeze: value should be one of <alex|vgg>"),
                ({"output": ""}, "--output is missing; File to write, NAME.npz."),
                ({"wrong": 1}, "Unknown command line flag 'wrong'"),
            )
        ),
        ({"trunk": "none.pth"}, "none.pth: no such file"),
    ],
)
def test_wrong_commands(command, files, tmp_path, change, expected):
    options = {"trunk": files[0], "linear": files[1], "network": "alex"}
    done = command(**options | {"output": tmp_path / "alex.npz"} | change)
    assert done.returncode == 2
    assert done.stderr == f"error: {expected}\n"
    assert not list(tmp_path.iterdir())


def changed(state, **arrays):
    """The state dict with other arrays; None takes one out."""
    state = state | {name.replace("_", "."): array for name, array in arrays.items()}
    return {name: array for name, array in state.items() if array is not None}


NOTHING_MORE = np.zeros(192, np.float32)


@pytest.mark.parametrize(
    ("trunk", "linear", "expected"),
    [
        ({"features_3_bias": None}, {}, "trunk.pth: has no tensor features.3.bias, which network"),
        ({"features_3_bias": NOTHING_MORE[:64]}, {}, r"features.3.bias has shape \(64,\); network"),
        ({"features_3_bias": NOTHING_MORE + np.inf}, {}, "features.3.bias holds values that are"),
        ({}, {"lin1_model_1_weight": None}, "linear.pth: has no tensor lin1.model.1.weight"),
        (
            {},
            {"lin1_model_1_weight": NOTHING_MORE.reshape(1, -1, 1, 1) - 1},
            "linear.pth: linear1 holds negative weights",
        ),
    ],
)
def test_wrong_files(tmp_path, trunk, linear, expected):
    write_torch(tmp_path / "trunk.pth", changed(trunk_state("alex"), **trunk))
    write_torch(tmp_path / "linear.pth", changed(linear_state("alex"), **linear))
    output = tmp_path / "alex.npz"
    with pytest.raises(ValueError, match=expected) as raised:
        conversion.write(tmp_path / "trunk.pth", tmp_path / "linear.pth", "alex", output)
    assert "\n" not in str(raised.value)
    assert not output.exists()


def test_the_other_network_and_another_suffix(files, tmp_path):
    with pytest.raises(ValueError, match=r"features.0.weight has shape \(64, 3, 11, 11\)"):
        conversion.convert(*files, "vgg")
    with pytest.raises(ValueError, match="network: 'squeeze' is unknown; allowed: 'alex', 'vgg'"):
        conversion.convert(*files, "squeeze")
    with pytest.raises(ValueError, match=r"pth: must end in \.npz"):
        conversion.write(*files, "alex", tmp_path / "alex.pth")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("network", ["alex", "vgg"])
def test_files_that_pytorch_writes(network, zipped, tmp_path):
    torch = pytest.importorskip("torch")
    paths = []
    for name, state in (("trunk", trunk_state(network)), ("linear", linear_state(network))):
        paths.append(tmp_path / f"{name}.pth")
        tensors = {key: torch.from_numpy(array) for key, array in state.items()}
        torch.save(tensors, paths[-1], _use_new_zipfile_serialization=zipped)
    converted = perceptual.arrays(conversion.convert(*paths, network))
    written = [
        write_torch(tmp_path / f"{path.stem}_own.pth", state)
        for path, state in zip(paths, (trunk_state(network), linear_state(network)), strict=True)
    ]
    expected = perceptual.arrays(conversion.convert(*written, network))
    assert converted.keys() == expected.keys()
    for name, array in converted.items():
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize("network", ["alex", "vgg"])
def test_linear_weights_of_the_package(network, tmp_path):
    pytest.importorskip("torch")
    import importlib.util

    found = importlib.util.find_spec("lpips")
    if found is None:
        pytest.skip("the lpips package is not installed")
    (folder,) = found.submodule_search_locations
    trunk = write_torch(tmp_path / "trunk.pth", trunk_state(network))
    weights = conversion.convert(trunk, f"{folder}/weights/v0.1/{network}.pth", network)
    assert [len(linear) for linear in weights.linear] == list(TAPS[network])
    assert all(float(linear.max()) > 0.1 for linear in weights.linear)
