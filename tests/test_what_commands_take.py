"""What verbs of the command line ask of signals and sizes before they begin."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from nid_jax import data
from nid_jax.commands import drawing
from nid_jax.commands.context import Context, settle
from nid_jax.configs import fields
from nid_jax.data.frames import Frame, Scale
from nid_jax.storage.workdir import Workdir
from nid_jax.tasks import build


@pytest.mark.filterwarnings("ignore::nid_jax.notices.Notice")
def test_one_point_is_read_in_the_frame_that_was_learned_in(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("signal,y,x,value\nnew,2,5,7\n")
    config = fields.get_config("own")
    config.data.root = str(path)
    context = Context(build, config, Workdir(tmp_path), Workdir(tmp_path))
    with pytest.raises(ValueError, match="y is 2 everywhere"):
        settle(context, {"test"})
    framed = config.copy_and_resolve_references()
    frame = Frame((Scale("y", "", 0, 4), Scale("x", "", 0, 10)), (Scale("value", "", 0, 14),))
    with framed.unlocked():
        data.take_frame(framed.data.points, frame)
    found = settle(context, {"test"}, framed).config
    collection = data.open_collection(found.data, "test", 0)
    np.testing.assert_allclose(collection.points(0), [[0.0, 0.0]], atol=1e-7)
    np.testing.assert_allclose(collection[0], [[0.5]])


def test_shapes_that_memory_does_not_hold():
    wanted = ConfigDict({"shape": (10**7, 10**7), "window": (), "scale": 1, "chunk": 0})
    words = r"^render.shape: \(10000000, 10000000\); allowed: what fits into the .* GiB there are"
    with pytest.raises(ValueError, match=words):
        drawing._what_to_render(wanted, {"grid": (4, 4)})
    wanted.shape = (2048, 2048)
    assert drawing._what_to_render(wanted, {"grid": (4, 4)}) == ((2048, 2048), None)
    with pytest.raises(ValueError, match="render.shape"):
        drawing._what_to_render(wanted, {"grid": (4, 4)}, signals=10**7)
