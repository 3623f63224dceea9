"""Pictures of several sizes: what measures each, and their turned copies."""

import imageio.v3 as imageio
import numpy as np
import pytest

from nid_jax import data
from nid_jax.coding import operators
from nid_jax.data import ways
from nid_jax.data.originals import originals

SIZES = ((4, 6), (6, 4), (3, 3), (4, 6))


class Pictures:
    """Pictures of SIZES, on a grid of 6 x 6."""

    names, shape, title = list("abcd"), (6, 6, 2), "some"

    def __init__(self):
        draw = np.random.default_rng()
        self.values = [draw.uniform(size=(*size, 2)) for size in SIZES]

    def __len__(self):
        return len(SIZES)

    def __getitem__(self, index):
        return self.values[index]

    def grid(self, index):
        return SIZES[index]


@pytest.mark.parametrize("turns", [False, True])
def test_copies_are_symmetries_each_of_its_own_way(turns):
    known = Pictures()
    found = ways.TurnedPictures(known, turns)
    count = 8 if turns else 2
    assert len(found) == len(set(found.names)) == 4 * count
    assert found.names[:4] == known.names
    assert len(set(originals(found.names))) == 4
    symmetries = [np.rot90(known[0], k) for k in range(4)]
    symmetries += [one[:, ::-1] for one in symmetries]
    if not turns:
        symmetries = [known[0], known[0][:, ::-1]]
    mine = [found[index] for index in range(0, len(found), 4)]
    for one in symmetries:
        assert sum(one.shape == own.shape and np.array_equal(one, own) for own in mine) == 1
    for index in range(len(found)):
        size = found[index].shape[:-1]
        assert found.grid(index) == size
        operator = found.ways[found.way(index)]
        np.testing.assert_array_equal(operator.points, operators.areas((6, 6), size).points)
    # The third is square: all of its copies share its way.
    assert len({found.way(index) for index in range(2, len(found), 4)}) == 1


def opened(folder, split="train", **augment):
    config = data.completed({"name": "folder", "root": str(folder), "test_fraction": 0.25})
    config.augment.update(augment)
    return data.open_collection(config, split, 0)


@pytest.mark.filterwarnings("ignore::nid_jax.notices.Notice")
def test_a_folder_of_several_sizes_has_turned_copies(tmp_path):
    draw = np.random.default_rng(0)
    for number, size in enumerate(SIZES):
        picture = draw.integers(0, 256, size).astype(np.uint8)
        imageio.imwrite(tmp_path / f"{number}.png", picture)
    plain, turned = opened(tmp_path), opened(tmp_path, turns=True)
    assert (len(plain), len(turned)) == (3, 24)
    assert turned.shape == plain.shape == (6, 6, 1)
    assert len(opened(tmp_path, "test", turns=True)) == 1
    for augment, words in (
        (
            {"shifts": 2},
            r"data\.augment\.shifts: 2 of .*several sizes: by samples .*allowed: 0, or",
        ),
        ({"warps": 3}, r"data\.augment\.warps: 3 of .*allowed: 0, or data\.crops=N"),
        ({"mirror": True, "turns": True}, "mirror: True; allowed beside turns"),
    ):
        with pytest.raises(ValueError, match=words) as complaint:
            opened(tmp_path, **augment)
        assert "\n" not in str(complaint.value)
    config = data.completed({"name": "folder", "root": str(tmp_path), "patch": {"size": 3}})
    config.augment.mirror = True
    with pytest.raises(ValueError, match="mirror: True of .* in patches no copies are made"):
        data.open_collection(config, "train", 0)
