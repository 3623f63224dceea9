"""Pickles of plain containers: all that Python writes of them, and an end to everything else."""

import pickle
import struct
import time

import pytest

from nid_jax.interop import plain_pickle
from nid_jax.interop.plain_pickle import Refused

VALUE = {
    "a": [1, -(2**70), 2**40, (None, True, False), "é" * 300, 1e-8],
    3: {"c": [], "d": (), None: (1, (2, (3,)))},
    1.5: [[["deep"]]],
    "long": list(range(3000)),
    "same": "é" * 300,
}


def load(content):
    def find(module, name):
        raise Refused(f"asks for {module}.{name}")

    return plain_pickle.load(content, find, lambda reference: ("outside", reference))


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_what_python_writes_comes_back_with_its_end(protocol):
    content = pickle.dumps(VALUE, protocol)
    assert load(content + b"more") == (VALUE, len(content))
    shared = [1]
    found, _ = load(pickle.dumps([shared, shared, (shared, shared)], protocol))
    assert found[0] is found[1] is found[2][1]


def nested(levels):
    """A tuple of a tuple twice, and so on: 2^levels values."""
    body = b"\x80\x02K\1\x85q\0"
    for level in range(levels):
        body += b"0h%ch%c\x86q%c" % (level, level, level + 1)
    return body


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (nested(60) + b".", "tuples are nested too deeply"),
        (nested(200) + b".", "tuples are nested too deeply"),
        (nested(3) + b"}h\3Ns.", "a tuple as a key"),
        (b"\x80\x02" + b"]" + b"Na" * 10**6 + b".", "takes more than 1000000 steps"),
        (b"\x80\x02\x8b" + struct.pack("<i", 200) + b"\1" * 200 + b".", "a number of 1593 bits"),
        (b"cos\nsystem\n(X\1\0\0\0ltR.", "asks for os.system"),
        (b"\x80\x02X\1\0\0\0a)R.", "calls something that it has not named"),
        (b"\x80\x02]}b.", "changes what is no dict"),
        (b"\x80\x02h\7.", "cannot be read"),
        (b"\x80\x02u.", "cannot be read"),
        (b"\x80\x02Nu.", "lacks a mark"),
        (b"\x80\x02N(K\1u.", "a NoneType stands for a dict"),
        (b"\x80\x02}(K\1u.", "a key has no value"),
        (b"\x80\x02N", "cannot be read"),
        (b"", "cannot be read"),
        (b"\x80\x02\x8e" + b"\xff" * 8 + b".", "cannot be read"),
        (b"\x80\x02C\1a.", "the opcode SHORT_BINBYTES"),
    ],
)
def test_whatever_else_is_refused_soon(content, words):
    start = time.perf_counter()
    with pytest.raises(Refused, match=words) as caught:
        load(content)
    assert "\n" not in str(caught.value)
    assert time.perf_counter() - start < 20


def test_nothing_is_run_while_a_pickle_is_read(tmp_path):
    class Bad:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    with pytest.raises(Refused, match="asks for"):
        load(pickle.dumps([Bad()], 2))
    assert not (tmp_path / "made").exists()
