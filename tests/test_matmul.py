"""Products of layers in a chosen precision, beside the same rounding by integers in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from nid_jax import numerics
from nid_jax.fields import experts, model
from nid_jax.fields.embeddings import Identity
from nid_jax.fields.experts import Layers
from nid_jax.fields.independent import IndependentDictionary
from nid_jax.fields.routing import Gates
from nid_jax.fields.shared import SharedDictionary

REDUCED = numerics.MATMULS[1:]
DRAW = np.random.default_rng()


def rounded(x, bits):
    """Of float32, to so many bits of mantissa, halves to even: on the bits, as integers."""
    drop = np.uint64(23 - bits)
    one = np.uint64(1)
    whole = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    half = (one << (drop - one)) - one + ((whole >> drop) & one)
    return (((whole + half) >> drop) << drop).astype(np.uint32).view(np.float32)


def by_hand(left, right, matmul):
    """The product in float64 of what a matrix unit would read."""
    if matmul != "bfloat16_3x":
        bits = {"tf32": 10, "bfloat16": 7}[matmul]
        return rounded(left, bits).astype(float) @ rounded(right, bits).astype(float)
    high, wide = rounded(left, 7), rounded(right, 7)
    low, narrow = rounded(left - high, 7), rounded(right - wide, 7)
    high, low, wide, narrow = (part.astype(float) for part in (high, low, wide, narrow))
    return high @ wide + high @ narrow + low @ wide


@pytest.fixture(scope="module")
def operands():
    sizes = 10.0 ** DRAW.uniform(-3, 3, (2, 17, 17))
    return (sizes * DRAW.standard_normal((2, 17, 17))).astype(np.float32)


@pytest.mark.parametrize("matmul", REDUCED)
def test_products_are_rounded_as_by_hand(operands, matmul):
    left, right = operands
    found = np.asarray(numerics.product("pi,io->po", left, right, matmul), float)
    scale = np.abs(left).astype(float) @ np.abs(right)
    exact = left.astype(float) @ right
    wanted = by_hand(left, right, matmul)
    # Of sums in float32; what the rounding itself takes is far more.
    assert (np.abs(found - wanted) <= 5e-7 * scale).all()
    assert (np.abs(exact - wanted) / scale).max() > (1e-6 if matmul == "bfloat16_3x" else 1e-4)


def test_float32_is_what_it_was(operands):
    left, right = operands
    found = numerics.product("pi,io->po", left, right, "float32")
    np.testing.assert_array_equal(found, numerics.einsum("pi,io->po", left, right))
    text = jax.jit(lambda a, b: numerics.product("pi,io->po", a, b, "float32")).lower(left, right)
    same = jax.jit(lambda a, b: numerics.einsum("pi,io->po", a, b)).lower(left, right)
    assert text.as_text() == same.as_text()


def test_double_precision_stays(operands):
    with jax.enable_x64(True):
        left, right = (jnp.asarray(one, jnp.float64) for one in operands)
        found = numerics.product("pi,io->po", left, right, "bfloat16")
    np.testing.assert_allclose(found, operands[0].astype(float) @ operands[1], rtol=1e-9)


@pytest.mark.parametrize(
    ("matmul", "cuda", "tpu"),
    [
        ("tf32", "lhs_precision_type = tf32", "precision = [HIGH, HIGH]"),
        ("bfloat16_3x", "num_primitive_operations = 3", "precision = [HIGH, HIGH]"),
        ("bfloat16", "lhs_precision_type = bf16", "contracting_dims = [1] x [0] :"),
    ],
)
def test_every_platform_takes_its_own(operands, matmul, cuda, tpu):
    """Derivatives too; of float32 products there are none left."""

    def loss(left, right):
        return jnp.square(numerics.product("pi,io->po", left, right, matmul)).sum()

    for platform, wanted in (("cuda", cuda), ("tpu", tpu)):
        exported = jax.export.export(jax.jit(jax.grad(loss)), platforms=[platform])
        lines = exported(*operands).mlir_module().splitlines()
        products = [line for line in lines if "stablehlo.dot_general" in line]
        assert len(products) >= 2
        assert wanted in products[0]
        assert not any("HIGHEST" in line for line in products)
        assert not any("reduce_precision" in line for line in lines)


def dictionaries(matmul):
    layers, rngs = Layers(3, 8, "sine", 30.0, matmul), nnx.Rngs(0)
    return [
        SharedDictionary(Identity(2), 5, 2, layers, rngs=rngs),
        IndependentDictionary(Identity(2), 5, 2, layers, rngs=rngs),
    ]


@pytest.mark.parametrize("matmul", REDUCED)
def test_dictionaries_multiply_so(matmul):
    """Every layer of both kinds, by hand in float64 but for the rounding."""
    x = DRAW.uniform(-1, 1, (9, 2)).astype(np.float32)
    for dictionary in dictionaries(matmul):
        shared = dictionary.kind == "shared"
        kernels = [np.asarray(kernel[...]) for kernel in dictionary.kernels]
        biases = [np.asarray(bias[...]) for bias in dictionary.biases]
        if shared:
            heads = np.asarray(dictionary.head_kernel[...]).swapaxes(1, 2)
            kernels = [np.stack([kernel] * 5) for kernel in kernels] + [heads.swapaxes(0, 1)]
            biases = [np.stack([bias] * 5) for bias in biases]
            biases += [np.asarray(dictionary.head_bias[...])]
        wanted = []
        for expert in range(5):
            values = x
            for kernel, bias in zip(kernels[:-1], biases[:-1], strict=True):
                z = by_hand(values, kernel[expert], matmul) + bias[expert]
                values = np.sin(30 * z).astype(np.float32)
            wanted.append(by_hand(values, kernels[-1][expert], matmul) + biases[-1][expert])
        # A sine of float32 differs in its last bits, and with it now and then what is rounded.
        tolerance = {"bfloat16_3x": 1e-4, "tf32": 3e-3, "bfloat16": 2e-2}[matmul]
        found = np.asarray(dictionary.basis(x))
        np.testing.assert_allclose(found, np.stack(wanted, 1), atol=tolerance)
        assert np.abs(found - np.asarray(dictionary.multiplied("float32").basis(x))).max() > 0


def test_what_is_folded_is_multiplied_so():
    dictionary = dictionaries("bfloat16")[0]
    x = DRAW.uniform(-1, 1, (9, 2)).astype(np.float32)
    codes = DRAW.normal(size=(3, 5)).astype(np.float32)
    gates = Gates(jnp.asarray(codes, jnp.float32), None, None, jnp.zeros((3, 2)))
    kernel, bias = dictionary.folded_heads(gates)
    features = np.asarray(dictionary.features(x))
    wanted = [by_hand(features, np.asarray(one), "bfloat16") for one in kernel]
    found = dictionary.combine(x, gates, "fold")
    np.testing.assert_allclose(found, np.stack(wanted) + bias[:, None], atol=1e-4)
    # Codes are folded in full.
    exact = np.einsum("hce,se->shc", np.asarray(dictionary.head_kernel[...], float), codes)
    np.testing.assert_allclose(kernel, exact, atol=1e-5)


def test_other_precisions_are_refused():
    message = "^matmul: 'half'; allowed: float32, bfloat16_3x, tf32, bfloat16$"
    with pytest.raises(ValueError, match=message):
        Layers(2, 3, "sine", 30.0, "half")
    with pytest.raises(ValueError, match=message):
        dictionaries("float32")[0].multiplied("half")
    with pytest.raises(ValueError, match=message):
        experts.check_matmul("half")


CONFIG = {
    "dictionary": {
        "kind": "shared",
        "num_experts": 3,
        "num_layers": 2,
        "width": 5,
        "activation": "relu",
        "omega0": 30.0,
        "embedding": {"kind": "identity"},
    },
    "router": {"kind": "none", "top_k": 0},
}


def test_a_config_says_it_and_one_of_before_is_in_full():
    build = nnx.eval_shape
    for told, wanted in ((None, "float32"), ("tf32", "tf32")):
        config = ConfigDict(CONFIG | ({"numerics": {"matmul": told}} if told else {}))
        made = build(lambda config=config: model.build_model(config, (4, 4, 1), 2, 0))
        assert made.dictionary.matmul == wanted
    config = ConfigDict(CONFIG | {"numerics": {"matmul": "half"}})
    with pytest.raises(ValueError, match="^numerics.matmul: 'half'; allowed: float32, "):
        model.build_model(config, (4, 4, 1), 2, 0)
