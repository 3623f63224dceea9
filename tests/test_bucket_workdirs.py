"""Workdirs in a bucket, by the command line and in Python: memory:// is the bucket here."""

import json
import time

import fsspec
import numpy as np
import pytest

import nid_jax as nid
from nid_jax.storage import bucket_copy, lock
from nid_jax.training import loop

URL = "memory://pail/run"


def weights(folder):
    """Of the heads, after the last step."""
    return nid.load(folder, step="latest").dictionary.head_kernel[...]


def steps(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{**json.loads(line), "time": 0, "signals_per_second": 0} for line in lines]


def killed(call, options, objects, monkeypatch):
    """Trains on in the bucket to step 5, where the process is gone with whatever it holds, after
    an upload that has step 3."""
    with monkeypatch.context() as patch:
        log, mark = loop._Loop._log, "/pail/run/checkpoints/3/_CHECKPOINT_METADATA"
        left = {}

        def gone(self, step, pending):
            log(self, step, pending)
            until = time.monotonic() + 20
            while step == 5 and mark not in objects and time.monotonic() < until:
                time.sleep(0.01)
            if step == 5:
                left.update(objects)
                raise RuntimeError("killed")

        patch.setattr(bucket_copy, "EVERY", 0.02)
        patch.setattr(loop._Loop, "_log", gone)
        with pytest.raises(RuntimeError, match="killed"):
            call(*options, "--mode=train")
    objects.clear()
    objects.update(left)


def test_killed_and_gone_on_with_on_another_machine(call, trained, objects, on, tiny, monkeypatch):
    options = [*tiny, f"--workdir={URL}"]
    on("first")
    killed(call, options, objects, monkeypatch)
    second = on("second")
    complaint = call(*options).complaint()
    assert f"{URL}: work there is under way in process" in complaint
    assert f"go on in 60 s, or remove {URL}/.lock; give another --workdir" in complaint
    with monkeypatch.context() as patch:
        patch.setattr(lock, "STALE", 0.0)
        result = call(*options)
    assert result.code == 0, result.err
    assert f"note: --workdir={URL}: worked on in a copy, {second()}; " in result.err
    assert "resumed from step 3" in result.err
    np.testing.assert_array_equal(weights(second()), weights(trained))
    assert steps(second()) == steps(trained)
    there = {name.removeprefix("/pail/run/") for name in objects}
    paths = (path for path in trained.rglob("*") if path.is_file())
    same = {path.relative_to(trained).as_posix() for path in paths}
    # Names that orbax and TensorBoard draw differ.
    drawn = ("checkpoints/", "events/", "std", "cache/")
    assert {n for n in same if not n.startswith(drawn)} == {
        n for n in there if not n.startswith((*drawn, "."))
    }
    _fitted_and_read(call, on, tiny, trained)


def _fitted_and_read(call, on, tiny, trained):
    """What readers on a third machine, and fits beside, have of it."""
    third = on("third")
    with pytest.warns(nid.Notice, match="read from a copy"):
        loaded = nid.load(URL)
    np.testing.assert_array_equal(loaded.dictionary.head_kernel[...], weights(trained))
    result = call(*tiny, f"--workdir={URL}", "--mode=fit", "--config.fit.name=again")
    assert result.code == 0, result.err
    codes = [np.load(at / "codes.npz")["codes"] for at in (third() / "fits").glob("*")]
    assert len(codes) == 2
    np.testing.assert_array_equal(*codes)
    on("fourth")
    result = call(*tiny, "--workdir=memory://other", f"--checkpoint={URL}", "--mode=fit")
    assert result.code == 0, result.err
    assert f"note: --checkpoint={URL}: read from a copy" in result.err
    assert "/other/fits/test/codes.npz" in fsspec.filesystem("memory").store


def test_what_is_not_uploaded_is_an_error(call, objects, on, tiny, monkeypatch):
    folder = on("first")
    system = type(fsspec.filesystem("memory"))
    plain = system.pipe_file

    def pipe_file(self, path, value, **options):
        if path.endswith(".html"):
            raise PermissionError("the key may not write here\nand more")
        plain(self, path, value, **options)

    monkeypatch.setattr(system, "pipe_file", pipe_file)
    result = call(*tiny, f"--workdir={URL}")
    assert result.code == 2
    line = result.err.splitlines()[-1]
    assert line.startswith(f"error: {URL}: report.html cannot be written: PermissionError: the key")
    assert f"what is not uploaded is kept in {folder()}" in line
    assert (folder() / "report.html").exists()


@pytest.mark.slow
def test_learning_in_a_bucket(objects, on):
    on("first")
    images = np.random.default_rng(0).random((6, 7, 7), np.float32)
    with pytest.warns(nid.Notice, match="worked on in a copy"):
        learned = nid.learn(images, workdir=URL)
    on("second")
    with pytest.warns(nid.Notice, match="read from a copy"):
        loaded = nid.load(URL)
    np.testing.assert_array_equal(learned.fit(images).codes, loaded.fit(images).codes)
