"""What verbs of the command line ask of signals and sizes before they begin."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from nid_jax import data
from nid_jax.commands import drawing
from nid_jax.commands.context import Context, as_fitted, on_stored_data, settle
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


def test_a_fit_is_scored_on_the_devices_of_now(monkeypatch, tmp_path):
    stored, here = (fields.get_config("smoke") for _ in range(2))
    stored.mesh.data, stored.fit.batch_size = 8, 3
    monkeypatch.setattr(Workdir, "load_fit_config", lambda self, name: stored)
    workdir = Workdir(tmp_path, read_only=True)
    found = as_fitted(Context(None, here, workdir, workdir)).config
    assert (found.mesh.data, found.fit.batch_size) == (here.mesh.data, 3)


@pytest.mark.parametrize("key", ["task", "data", "fit", ""])
def test_a_fit_whose_config_is_of_another_shape(tmp_path, key):
    written = tmp_path / "fits" / "test" / "metrics.json"
    written.parent.mkdir(parents=True)
    config = {"task": "fields", "data": {}, "fit": {}}
    written.write_text(json.dumps({"config": {**config, key: [1]} if key else {}}))
    workdir = Workdir(tmp_path, read_only=True)
    given = Context(None, fields.get_config("smoke"), workdir, workdir)
    for verb in (as_fitted, on_stored_data):
        with pytest.raises(ValueError, match="metrics.json: is not that of a fit"):
            verb(given)
