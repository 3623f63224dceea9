"""Copies and parts are told from files in folders."""

import numpy as np
import pytest

from nid_jax import data
from nid_jax.data.originals import original_of, originals


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("chair", "chair"),
        ("cats/1.png", "cats/1.png"),
        ("cats/1.png/mirror", "cats/1.png"),
        ("cats/1.png/turn3/shift12", "cats/1.png"),
        ("a.png/0007/mirror", "a.png"),
        ("a.png/0_32", "a.png"),
        ("007/warp45", "007"),
    ],
)
def test_the_original_of_a_name(name, original):
    assert original_of(name) == original


def test_folders_of_classes_are_no_copies():
    names = ["cats/1.png", "cats/2.png", "dogs/1.png", "cats/1.png/mirror"]
    np.testing.assert_array_equal(originals(names), [0, 1, 2, 0])


def test_what_collections_make_of_signals_is_known():
    signals = np.zeros((3, 6, 6, 1), np.float32)
    collection = data.ArrayCollection(signals, ["x/a.png", "x/b.png", "y/a.png"], "some")
    copies = data.AugmentedCollection(collection, False, 2, 1, 0, True)
    patches = data.PatchCollection(copies, 3)
    assert len(patches) > 3 * len(collection)
    assert {original_of(name) for name in patches.names} == set(collection.names)
