"""Files of torch.save read without PyTorch: every kind of tensor, and nothing else."""

import math
import pickle
import re
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nid_jax.interop.torch_file import read_torch

KINDS = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "b1")


def refusal(path):
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: [^\n]+$") as caught:
        read_torch(path)
    return str(caught.value)


@pytest.mark.parametrize("order", ["little", "big"])
def test_every_kind_of_number_comes_back(tmp_path, torch_writer, order):
    rng = np.random.default_rng(0)
    saved = {kind: rng.uniform(-3, 100, (3, 1, 4)).astype(kind) for kind in KINDS}
    saved["none"] = np.zeros((0, 3), "f4")
    saved["one"] = np.array(2.5, "f4")
    found = read_torch(torch_writer.write(tmp_path / "a.ckpt", saved, order))
    assert set(found) == set(saved)
    for name, array in saved.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
        assert found[name].dtype.isnative


def test_bfloat16_is_the_upper_half_of_a_float32(tmp_path, torch_writer):
    values = np.array([1.5, -0.0078125, 3e38, 0.0], np.float32)
    halves = (values.view(np.uint32) >> 16).astype("u2")
    view = torch_writer.View(halves, (2, 2), (2, 1), kind="BFloat16Storage")
    found = read_torch(torch_writer.write(tmp_path / "a.ckpt", [view]))[0]
    np.testing.assert_allclose(found, values.reshape(2, 2), rtol=2**-7)
    np.testing.assert_array_equal(found.view(np.uint32) >> 16, halves.reshape(2, 2))


def test_containers_and_plain_values_come_back(tmp_path, torch_writer):
    saved = {
        "a": OrderedDict(b=[1, -(2**70), (None, True, False, "é", 1e-8)]),
        3: {"c": []},
        "size": torch_writer.Call("torch", "Size", (2, 3)),
    }
    saved["parameter"] = torch_writer.Call(
        "torch._utils", "_rebuild_parameter", np.ones(2, "f4"), True, OrderedDict()
    )
    found = read_torch(torch_writer.write(tmp_path / "a.ckpt", saved))
    assert found["a"] == {"b": [1, -(2**70), (None, True, False, "é", 1e-8)]}
    assert (found[3], found["size"]) == ({"c": []}, (2, 3))
    np.testing.assert_array_equal(found["parameter"], [1, 1])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_views_are_what_their_strides_say(tmp_path_factory, torch_writer, data):
    shape = data.draw(st.lists(st.integers(1, 4), max_size=4).map(tuple))
    stride = tuple(data.draw(st.integers(0, 7)) for _ in shape)
    offset = data.draw(st.integers(0, 5))
    reach = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    short = data.draw(st.booleans())
    numbers = np.arange(reach + (0 if short else 1 + data.draw(st.integers(0, 3))), dtype="f4")
    path = tmp_path_factory.mktemp("view") / "a.ckpt"
    torch_writer.write(path, {"x": torch_writer.View(numbers, shape, stride, offset)})
    if short:
        assert f"reaches number {reach}" in refusal(path)
        return
    found = read_torch(path)["x"]
    wanted = np.empty(shape, "f4")
    for index in np.ndindex(shape):
        wanted[index] = offset + sum(i * s for i, s in zip(index, stride, strict=True))
    np.testing.assert_array_equal(found, wanted)
    # A copy: nothing of a view is shared.
    found += 1
    assert not np.shares_memory(found, read_torch(path)["x"])


@pytest.mark.parametrize(
    ("shape", "stride", "offset", "says"),
    [
        ((2,), (-1,), 1, "stride"),
        ((-2,), (1,), 0, "shape"),
        ((2,), (1,), -1, "offset"),
        ((2, 2), (1,), 0, "stride"),
        ((2**62, 2**62), (0, 0), 0, "repeats"),
        ((2**40,), (0,), 0, "repeats"),
        ((2**40,), (2**40,), 0, "reaches"),
        ((0, 2**70), (1, 1), 0, "empty tensor"),
        ((1,) * 65, (1,) * 65, 0, "shape"),
        ((2.5,), (1,), 0, "shape"),
    ],
)
def test_tensors_beyond_their_storage_are_refused(
    tmp_path, torch_writer, shape, stride, offset, says
):
    view = torch_writer.View(np.ones(4, "f4"), shape, stride, offset)
    assert says in refusal(torch_writer.write(tmp_path / "a.ckpt", {"x": view}))


def test_the_step_along_an_axis_of_one_is_never_taken(tmp_path, torch_writer):
    view = torch_writer.View(np.arange(4, dtype="f4"), (1, 2), (2**80, 3), 0)
    np.testing.assert_array_equal(
        read_torch(torch_writer.write(tmp_path / "a.ckpt", view)), [[0, 3]]
    )


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("torch._utils", "_rebuild_qtensor"),
        ("torch.serialization", "_get_layout"),
        ("collections", "Counter"),
        ("torch", "load"),
    ],
)
def test_nothing_in_the_file_is_run(tmp_path, torch_writer, module, name):
    target = tmp_path / "was run"
    call = torch_writer.Call(module, name, f"touch '{target}'")
    path = torch_writer.write(tmp_path / "a.ckpt", {"model": call})
    text = refusal(path)
    assert f"asks for {module}.{name}, which is refused" in text
    assert not target.exists()


def test_a_pickle_of_pythons_own_is_not_run(tmp_path, torch_writer):
    target = tmp_path / "was run"

    class Evil:
        def __reduce__(self):
            return (print, (), None, None, iter([("x", exec)]))

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / f"{protocol}.ckpt"
        torch_writer.write(path, None, raw=pickle.dumps(Evil(), protocol))
        assert "which is refused" in refusal(path)
    assert not target.exists()


def test_the_readers_own_functions_cannot_be_changed(tmp_path, torch_writer):
    """BUILD sets attributes of whatever lies on the stack."""
    change = b"ctorch._utils\n_rebuild_tensor_v2\n(N}X\x0c\x00\x00\x00__defaults__)stb."
    assert "cannot be read" in refusal(
        torch_writer.write(tmp_path / "a.ckpt", None, raw=b"\x80\x02" + change)
    )
    good = torch_writer.write(tmp_path / "b.ckpt", {"x": np.ones(3, "f4")})
    np.testing.assert_array_equal(read_torch(good)["x"], np.ones(3))


def test_damage_is_one_line(tmp_path, torch_writer):
    value = {"model": {"x": np.arange(300, dtype="f4")}}
    path = torch_writer.write(tmp_path / "good.ckpt", value)
    content = path.read_bytes()
    at = content.index(np.arange(300, dtype="<f4").tobytes())
    flipped = tmp_path / "flipped.ckpt"
    flipped.write_bytes(content[: at + 5] + b"\xff" + content[at + 6 :])
    assert "is damaged: Bad CRC-32" in refusal(flipped)
    for length in (0, 3, 100, len(content) // 2, len(content) - 1):
        cut = tmp_path / f"{length}.ckpt"
        cut.write_bytes(content[:length])
        assert "is not a file of torch.save, or its end is cut off" in refusal(cut)
    missing = torch_writer.write(tmp_path / "missing.ckpt", value, skip=("data/0",))
    assert "storage 0 is missing" in refusal(missing)
    empty = torch_writer.write(tmp_path / "empty.ckpt", value, skip=("data.pkl",))
    assert "holds no data.pkl" in refusal(empty)
    short = torch_writer.View(np.ones(3, "f4"), (3,), (1,), count=4)
    assert "has 12 bytes" in refusal(torch_writer.write(tmp_path / "short.ckpt", short))
    order = torch_writer.write(tmp_path / "order.ckpt", {}, order="middle")
    assert "byteorder is 'middle'" in refusal(order)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_damage_to_the_pickle_is_an_error_of_one_line(tmp_path_factory, torch_writer, data):
    good = b"\x80\x02" + b"}(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00b](K\x02K\x03eu."
    raw = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("pickle") / "a.ckpt"
    torch_writer.write(path, None, raw=bytes(raw))
    try:
        read_torch(path)
    except ValueError:
        refusal(path)


def test_containers_that_hold_themselves_are_no_endless_loop(tmp_path, torch_writer):
    path = torch_writer.write(tmp_path / "a.ckpt", None, raw=b"\x80\x02]q\x00(h\x00ta.")
    found = read_torch(path)
    assert found[0][0] is found
    deep = b"\x80\x02" + b"(" * 50000 + b"t" * 50000 + b"."
    assert "nested too deeply" in refusal(torch_writer.write(tmp_path / "b.ckpt", None, raw=deep))


def test_an_old_file_is_read_by_torch_or_refused(tmp_path):
    path = tmp_path / "old.ckpt"
    path.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.")
    text = refusal(path)
    assert "older than 1.6" in text or "PyTorch cannot read it" in text


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent.ckpt: no such file"):
        read_torch(tmp_path / "absent.ckpt")


def test_the_same_as_torch_reads(tmp_path):
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(5, 7, generator=generator)
    saved = {"view": base.T[1::2], "half": base.half(), "brain": base.bfloat16()}
    saved |= {"expanded": base[:1].expand(5, 7), "long": torch.arange(4), "bool": base > 0}
    saved["parameter"] = torch.nn.Parameter(base.clone())
    for old in (False, True):
        path = tmp_path / f"{old}.ckpt"
        torch.save(saved, path, _use_new_zipfile_serialization=not old)
        found = read_torch(path)
        for name, tensor in saved.items():
            expected = tensor.detach()
            expected = expected.float() if name == "brain" else expected
            np.testing.assert_array_equal(found[name], expected.numpy(), err_msg=name)
    assert math.prod(found["view"].shape) == 15
