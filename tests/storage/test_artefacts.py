"""Files of a run: whole or not there."""

import json
import math
import os

import jax.numpy as jnp
import numpy as np
import pytest

from nid_jax.files import atomic_path
from nid_jax.storage import artefacts


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    artefacts.write_text(path, "first")

    def fail():
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"sec")
            raise OSError("disk on fire")

    with pytest.raises(OSError, match="disk on fire"):
        fail()
    assert path.read_text() == "first"
    assert os.listdir(path.parent) == ["file.txt"]


def test_json_of_arrays_and_numbers_that_are_none(tmp_path):
    value = {"a": np.float32(1.5), "b": jnp.arange(3), "c": (math.inf, math.nan), 4: tmp_path}
    path = artefacts.write_json(tmp_path / "x.json", value)
    expected = {"a": 1.5, "b": [0, 1, 2], "c": [None, None], "4": str(tmp_path)}
    assert json.loads(path.read_text()) == expected
    with pytest.raises(TypeError, match="object cannot be written"):
        artefacts.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == expected
