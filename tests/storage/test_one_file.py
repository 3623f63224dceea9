"""One file for one dictionary: what comes back is what was written, or one line says why not."""

import dataclasses
import json
import os
import re
import struct
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict
from safetensors.numpy import load_file, save_file

from nid_jax import sharding
from nid_jax.coding.prior import fit_prior
from nid_jax.errors import ArgumentError
from nid_jax.fields.model import build_model
from nid_jax.storage import one_file
from nid_jax.storage.checksums import crc32, digest
from nid_jax.storage.models import Trained

EXPERTS, CHANNELS, SIGNALS = 6, 3, 5
DESCRIPTION = {
    "shape": [4, 5, CHANNELS],
    "count": SIGNALS,
    "title": "five faces",
    "ranked_by": "psnr",
}


def example_config(router="codebook", **dictionary):
    embedding = {"kind": "fourier", "size": 8, "scale": 5.0, "trainable": False}
    return ConfigDict(
        {
            "seed": 3,
            "data": {"size": (25, 25), "shifts": [1, 2]},
            "dictionary": {
                "kind": "shared",
                "num_experts": EXPERTS,
                "num_layers": 3,
                "width": 7,
                "activation": "relu",
                "omega0": 30.0,
                "embedding": embedding,
                **dictionary,
            },
            "router": {"kind": router, "top_k": 2, "noise": True, "pool": "mean"},
        }
    )


def example(router="codebook", keep_codes=True, **dictionary):
    """A trained dictionary of random numbers."""
    config = example_config(router, **dictionary)
    model = build_model(config, tuple(DESCRIPTION["shape"]), SIGNALS, seed=1)
    codes = np.random.default_rng(0).standard_normal((SIGNALS, EXPERTS)).astype(np.float32)
    prior = fit_prior(codes, residual=np.full(SIGNALS, 0.01), shrinkage=0.1)
    return Trained(model, config, DESCRIPTION, prior._replace(codes=codes) if keep_codes else prior)


def same_arrays(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def assert_same(found, expected):
    """Everything but the model's own config is compared to the bit."""
    same_arrays(nnx.state(found.model), nnx.state(expected.model))
    assert (found.prior is None) == (expected.prior is None)
    if found.prior is not None:
        same_arrays(found.prior.arrays(), expected.prior.arrays())
    assert found.config.to_dict() == expected.config.to_dict()
    assert found.signals == expected.signals


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """(path of a good file, what is in it)."""
    contents = example()
    return one_file.write(tmp_path_factory.mktemp("good") / "faces.safetensors", contents), contents


def refusal(path):
    """The one line that reading `path` ends with; it names the file."""
    with pytest.raises(ValueError, match=re.escape(f"{path}: ")) as excinfo:
        one_file.read(path)
    line = str(excinfo.value)
    assert "\n" not in line
    assert line.startswith(f"{path}: ")
    return line


@pytest.mark.parametrize("router", ["codebook", "linear", "none"])
@pytest.mark.parametrize("kind", ["shared", "independent"])
def test_what_was_written_comes_back(tmp_path, router, kind):
    contents = example(router, keep_codes=router == "linear", kind=kind)
    path = one_file.write(tmp_path / "new" / "d.safetensors", contents)
    found = one_file.read(path)
    assert_same(found, contents)
    assert isinstance(found.config.data.size, tuple)
    assert isinstance(found.config.data.shifts, list)
    x = np.random.default_rng(1).uniform(-1, 1, (9, 2)).astype(np.float32)
    np.testing.assert_array_equal(
        found.model.dictionary.basis(x), contents.model.dictionary.basis(x)
    )
    assert os.listdir(path.parent) == ["d.safetensors"]
    first = path.read_bytes()
    assert one_file.write(path, found).read_bytes() == first


def test_a_file_that_cannot_be_written(tmp_path, monkeypatch):
    def full(arrays, path, metadata):
        raise one_file.SafetensorError("No space left on device")

    monkeypatch.setattr(one_file, "save_file", full)
    with pytest.raises(ValueError, match="d.safetensors: cannot be written: No space left"):
        one_file.write(tmp_path / "d.safetensors", example())
    assert os.listdir(tmp_path) == []


def test_a_file_says_no_folders_of_whoever_made_it(tmp_path):
    trained = example()
    trained.config.data.root = str(tmp_path / "private" / "photos")
    path = one_file.write(tmp_path / "d.safetensors", trained)
    assert one_file.read(path).config.data.root == "photos"
    assert str(tmp_path).encode() not in path.read_bytes()
    assert trained.config.data.root.endswith("private/photos")


def test_without_a_prior(tmp_path):
    trained = dataclasses.replace(example(), prior=None)
    path = one_file.write(tmp_path / "d.safetensors", trained)
    assert one_file.read(path).prior is None


def test_weights_are_laid_out_on_a_mesh(stored):
    path, contents = stored
    mesh = sharding.make_mesh(1, 1)
    found = one_file.read(path, mesh)
    assert_same(found, contents)
    assert found.model.dictionary.head_kernel[...].sharding.mesh == mesh


@pytest.mark.parametrize(("dtype", "error"), [("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_fewer_bits_lose_what_is_said_and_no_more(tmp_path, stored, dtype, error):
    whole, contents = stored
    path = one_file.write(tmp_path / "d.safetensors", contents, dtype=dtype)
    assert path.stat().st_size < whole.stat().st_size
    found = one_file.read(path)
    weights, before = nnx.state(found.model, nnx.Param), nnx.state(contents.model, nnx.Param)
    lost = 0
    for a, b in zip(jax.tree.leaves(weights), jax.tree.leaves(before), strict=True):
        assert a.dtype == jnp.float32
        difference = np.abs(np.asarray(a, float) - np.asarray(b, float))
        assert (difference <= error * np.abs(np.asarray(b, float)) + 3e-8).all()
        lost += (difference > 0).sum()
    assert lost
    embedding, other = (m.dictionary.embedding for m in (found.model, contents.model))
    np.testing.assert_array_equal(embedding.frequencies[...], other.frequencies[...])
    same_arrays(found.prior.arrays(), contents.prior.arrays())


def test_a_type_that_cannot_hold_the_weights_is_refused(tmp_path):
    trained = example()
    model = trained.model
    with pytest.raises(ArgumentError, match="dtype: 'int8'; allowed: float32, float16, bfloat16"):
        one_file.write(tmp_path / "d", trained, dtype="int8")
    model.dictionary.head_bias[...] = model.dictionary.head_bias[...].at[0].set(1e5)
    with pytest.raises(ArgumentError, match=r"1e\+05, as params/dictionary/head_bias does"):
        one_file.write(tmp_path / "d", trained, dtype="float16")
    assert os.listdir(tmp_path) == []


def test_numbers_that_are_none_stay_so(tmp_path):
    trained = example()
    model = trained.model
    model.dictionary.head_bias[...] = model.dictionary.head_bias[...].at[0].set(jnp.nan)
    path = one_file.write(tmp_path / "d", trained, dtype="float16")
    assert np.isnan(one_file.read(path).model.dictionary.head_bias[0]).all()


# Files that are something else


def test_what_is_no_file_of_a_dictionary(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent: no such file"):
        one_file.read(tmp_path / "absent")
    assert "is a folder" in refusal(tmp_path)
    path = tmp_path / "d.safetensors"
    for content in (b"", b"PK\x03\x04 a zip", b"\0" * 100, struct.pack("<Q", 2**40) + b"{}"):
        path.write_bytes(content)
        assert "no safetensors file, or damaged" in refusal(path)
    save_file({"weight": np.ones(3, np.float32)}, path)
    assert "its metadata has no 'nid_jax'" in refusal(path)


def rewritten(path, target, change, signed=True):
    """A copy of the file `path` whose (arrays, content) were changed; signed anew."""
    arrays = load_file(path)
    header = path.read_bytes()[8 : 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]]
    stored = json.loads(json.loads(header)["__metadata__"]["nid_jax"])
    change(arrays, stored["content"])
    if signed:
        stored["content"]["arrays"] = {
            name: [list(value.shape), str(value.dtype), crc32(value)]
            for name, value in arrays.items()
        }
        stored["crc32"] = digest(stored["content"])
    save_file(arrays, target, metadata={"nid_jax": json.dumps(stored)})
    return target


HEAD = "params/dictionary/head_bias"


def wider(arrays, content):
    content["config"]["dictionary"]["width"] = 9


def deeper(arrays, content):
    content["config"]["dictionary"]["num_layers"] = 10**8


def crowded(arrays, content):
    content["config"]["dictionary"]["num_experts"] = 10**8


def wide_router(arrays, content):
    content["config"]["router"] = {"kind": "conv", "top_k": 2, "width": 10**10}


def wide_embedding(arrays, content):
    content["config"]["dictionary"]["embedding"]["size"] = 10**10


def no_group(arrays, content):
    content["config"]["dictionary"] = 3


def transposed(arrays, content):
    arrays[HEAD] = np.ascontiguousarray(arrays[HEAD].T)


def whole_numbers(arrays, content):
    arrays[HEAD] = arrays[HEAD].astype(np.int32)


def without_head(arrays, content):
    del arrays[HEAD]


def with_more(arrays, content):
    arrays["params/extra"] = np.ones(2, np.float32)


def more_signals(arrays, content):
    content["signals"]["count"] = 6


def other_prior(arrays, content):
    arrays["prior/mean"] = np.ones(4, np.float32)


def half_prior(arrays, content):
    del arrays["prior/factor"]


def flat_prior(arrays, content):
    arrays["prior/diagonal"] = np.ones((2, 3), np.float32)


def unknown_kind(arrays, content):
    content["config"]["dictionary"]["kind"] = "shard"


def no_experts(arrays, content):
    del content["config"]["dictionary"]["num_experts"]


def words_for_width(arrays, content):
    content["config"]["dictionary"]["width"] = "wide"


def bare_config(arrays, content):
    content["config"] = ["a", "b"]


def bare_signals(arrays, content):
    content["signals"] = 5


def shapeless(arrays, content):
    content["signals"]["shape"] = ["4", 5]


def untitled(arrays, content):
    del content["signals"]["title"]


CHANGES = [
    (wider, "its config has dictionary.width=9, its arrays 7$"),
    (deeper, "its config has dictionary.num_layers=100000000, its arrays 3$"),
    (crowded, "its config has dictionary.num_experts=100000000, its arrays 6$"),
    (wide_router, "its config has router.width=10000000000, more than"),
    (wide_embedding, "its config has dictionary.embedding.size=10000000000, more than"),
    (no_group, "its config describes no model"),
    (transposed, r"head_bias is float32\[3, 6\], its config asks for float32\[6, 3\]"),
    (whole_numbers, r"head_bias is int32\[6, 3\], its config asks for float32\[6, 3\]"),
    (without_head, "params/dictionary/head_bias is missing"),
    (with_more, "holds params/extra, of which its config knows nothing"),
    (more_signals, r"params/router/bias is float32\[5, 3\], its config asks for float32\[6, 3\]"),
    (other_prior, r"prior/mean is float32\[4\], its config asks for 6 or 9"),
    (half_prior, "prior/factor is missing"),
    (flat_prior, r"prior/diagonal is float32\[2, 3\]"),
    (unknown_kind, "'shard'"),
    (no_experts, "its config has dictionary.num_experts=None, its arrays 6$"),
    (words_for_width, "its config has dictionary.width='wide', its arrays 7$"),
    (bare_config, "its config is none"),
    (bare_signals, "signals: 5; allowed: a JSON object"),
    (shapeless, r'signals.shape\[0\]: "4"; allowed: whole number'),
    (untitled, "has no 'signals.title'; allowed: text"),
]


@pytest.mark.parametrize(("change", "words"), CHANGES, ids=[c.__name__ for c, _ in CHANGES])
def test_what_its_own_config_does_not_describe_is_refused(tmp_path, stored, change, words):
    path = rewritten(stored[0], tmp_path / "d.safetensors", change)
    line = refusal(path)
    assert re.search(words, line), line
    assert len(line) < 400


def test_other_formats_and_changed_bytes_are_refused(tmp_path, stored):
    def scaled(arrays, content):
        arrays[HEAD] = arrays[HEAD] + 1

    def retitled(arrays, content):
        content["signals"]["title"] = "six faces"

    assert f"{HEAD} has changed" in refusal(rewritten(stored[0], tmp_path / "a", scaled, False))
    assert "it has changed" in refusal(rewritten(stored[0], tmp_path / "b", retitled, False))
    assert "arrays are not those" in refusal(
        rewritten(stored[0], tmp_path / "c", without_head, False)
    )
    for text, words in (
        ('{"format": 2}', "its format is 2, nid_jax"),
        ("{}", "no format number"),
        ("[1]", "no format number"),
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ('{"format": 1, "content": 3}', "it has changed"),
    ):
        save_file({}, tmp_path / "d", metadata={"nid_jax": text})
        assert words in refusal(tmp_path / "d")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_file_that_was_changed_reads_the_same_or_is_refused(tmp_path, stored, data):
    good, contents = stored
    content = bytearray(good.read_bytes())
    header = 8 + struct.unpack("<Q", content[:8])[0]
    kind = data.draw(st.sampled_from(["flip", "cut", "drop", "insert", "swap"]))
    reach = data.draw(st.sampled_from([8, header, len(content)]))
    at = data.draw(st.integers(0, reach - 1))
    if kind == "flip":
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del content[at:]
    elif kind == "drop":
        del content[at : at + data.draw(st.integers(1, 64))]
    elif kind == "insert":
        content[at:at] = data.draw(st.binary(min_size=1, max_size=64))
    else:
        other = data.draw(st.integers(0, reach - 1))
        content[at], content[other] = content[other], content[at]
    path = tmp_path / "changed.safetensors"
    path.write_bytes(content)
    try:
        found = one_file.read(path)
    except ValueError:
        refusal(path)
    else:
        assert_same(found, contents)


def test_a_dictionary_of_the_default_size_is_there_at_once(tmp_path):
    config = example_config(num_experts=256, num_layers=4, width=512)
    config.dictionary.embedding.size = 256
    model = build_model(config, (25, 25, 3), 400, seed=1)
    signals = {**DESCRIPTION, "shape": [25, 25, 3], "count": 400}
    path = one_file.write(tmp_path / "d.safetensors", Trained(model, config, signals))
    one_file.read(path)
    start = time.perf_counter()
    one_file.read(path)
    assert time.perf_counter() - start < 1


def test_signals_need_not_say_what_ranked_them(tmp_path):
    """Those of an imported dictionary do not."""
    signals = {name: one for name, one in DESCRIPTION.items() if name != "ranked_by"}
    trained = dataclasses.replace(example(), signals=signals)
    assert one_file.read(one_file.write(tmp_path / "d.safetensors", trained)).signals == signals
