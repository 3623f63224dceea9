"""Checkpoints: what comes back is what was saved, or the loss is said; damage is real damage."""

import os
import shutil
from collections import namedtuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging as absl_logging

from nid_jax.running import processes
from nid_jax.storage import checkpoints as checkpoints_module
from nid_jax.storage.checkpoints import CheckpointError, Checkpoints

Moments = namedtuple("Moments", ["count", "mu"])


def model(seed, width=4000):
    """Random leaves of every kind that a run saves; `kernel` is large enough for a file."""
    rng = np.random.default_rng(seed)
    return {
        "trunk": {0: {"kernel": jnp.asarray(rng.standard_normal((5, width)), jnp.float32)}},
        "heads": {"bias": jnp.asarray(rng.standard_normal(7), jnp.bfloat16)},
        "empty": {"table": jnp.zeros((0, 3))},
    }


def training(seed):
    rng = np.random.default_rng(100 + seed)
    return {
        "optimizer": (Moments(jnp.int32(seed), jnp.asarray(rng.standard_normal(9))), (), None),
        "key": jax.random.key(seed),
        "keys": jax.random.split(jax.random.key(seed), 3),
        "host": rng.standard_normal(4),
        "scalar": np.int64(2**40 + seed),
        "steps": 10 + seed,
        "rate": 0.1 * seed,
    }


def items(seed, **options):
    return {"model": model(seed, **options), "training": training(seed)}


def abstract(tree):
    def shape(leaf):
        if isinstance(leaf, jax.Array):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        return leaf

    return jax.tree.map(shape, tree)


def bits(leaf):
    """Bytes of a leaf, by another way than the library's."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.shape(a) == np.shape(b)
        assert getattr(a, "dtype", type(a)) == getattr(b, "dtype", type(b))
        assert bits(a) == bits(b)


def save_steps(directory, steps, **options):
    """Saves items(step) at each step, all of them kept."""
    with Checkpoints(directory, keep_latest=99, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, items(step), metrics={"psnr": float(step)}, meta={"at": step})


def data_file(folder, item="model"):
    """The largest file of an item: where its largest leaf lies."""
    files = [path for path in (folder / item).rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def one_line(excinfo):
    text = str(excinfo.value)
    assert "\n" not in text
    return text


# Round trips


def test_every_kind_of_leaf_comes_back_bit_for_bit(tmp_path):
    saved = items(1)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.save(3, saved, metrics={"psnr": np.float32(20)}, meta={"shape": (2, 3)})
        restored = checkpoints.restore(abstract(saved))
    assert (restored.step, restored.skipped) == (3, [])
    assert restored.metrics == {"psnr": 20.0}
    assert restored.meta == {"shape": [2, 3]}
    assert_same(restored.items["model"], saved["model"])
    expected = {**saved["training"], "scalar": np.asarray(saved["training"]["scalar"])}
    assert_same(restored.items["training"], expected)
    assert jax.random.normal(restored.items["training"]["key"]) == jax.random.normal(
        jax.random.key(1)
    )


def test_a_fit_restores_the_model_alone_and_writes_nothing(tmp_path):
    save_steps(tmp_path, [1])
    shutil.rmtree(tmp_path / "1" / "training")  # what is not asked for is not needed
    before = sorted(tmp_path.rglob("*"))
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        restored = checkpoints.restore({"model": model(0)})  # arrays serve as templates too
        assert_same(restored.items, {"model": model(1)})
        with pytest.raises(CheckpointError, match="reading only"):
            checkpoints.save(2, {"model": model(2)})
    assert sorted(tmp_path.rglob("*")) == before


def test_read_only_makes_no_folder(tmp_path):
    with Checkpoints(tmp_path / "absent", read_only=True) as checkpoints:
        assert checkpoints.latest_step() is None
        with pytest.raises(CheckpointError, match="train first, or give the folder of a run"):
            checkpoints.restore({"model": abstract(model(0))})
    assert os.listdir(tmp_path) == []


def test_relative_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Checkpoints("run/checkpoints") as checkpoints:
        monkeypatch.chdir("/")
        checkpoints.save(1, {"model": model(1)})
    assert (tmp_path / "run" / "checkpoints" / "1").is_dir()


def test_arrays_may_be_donated_as_soon_as_save_returns(tmp_path):
    step = jax.jit(lambda w: w * 1.5 + 1, donate_argnums=0)
    weights = jnp.arange(2_000_000, dtype=jnp.float32)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"model": {"w": weights}})
        for _ in range(4):
            weights = step(weights)
        weights.block_until_ready()
        template = {"model": {"w": jax.ShapeDtypeStruct((2_000_000,), jnp.float32)}}
        restored = checkpoints.restore(template)
    np.testing.assert_array_equal(
        restored.items["model"]["w"], np.arange(2_000_000, dtype=np.float32)
    )


def test_ambiguous_names_are_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        clash = {"a.b": jnp.ones(3), "a": {"b": jnp.ones(2)}}
        with pytest.raises(ValueError, match="same name"):
            checkpoints.save(1, {"model": clash})
        with pytest.raises(ValueError, match="'manifest' is taken"):
            checkpoints.save(1, {"manifest": {"a": jnp.ones(2)}})
    assert os.listdir(tmp_path) == []


# The data iterator


def batches():
    source = grain.MapDataset.source(list(range(50))).seed(5).shuffle()
    return iter(source.batch(4, drop_remainder=True).repeat(None).to_iter_dataset())


def test_data_iterator_goes_on_where_it_was(tmp_path):
    iterator = batches()
    for _ in range(15):  # into the second epoch
        next(iterator)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(15, {"model": model(1)}, data_iterator=iterator)
        expected = [next(iterator).tolist() for _ in range(20)]
        resumed = batches()
        checkpoints.restore({"model": abstract(model(1))}, data_iterator=resumed)
    assert [next(resumed).tolist() for _ in range(20)] == expected


def test_damaged_iterator_state_walks_back(tmp_path):
    iterator = batches()
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            next(iterator)
            checkpoints.save(step, {"model": model(step)}, data_iterator=iterator)
    (state,) = (tmp_path / "2" / "iterator").glob("process_0*.json")
    state.write_text(state.read_text().replace("2", "7"))
    resumed = batches()
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore({"model": abstract(model(1))}, data_iterator=resumed)
    assert restored.step == 1
    assert "data iterator" in restored.skipped[0]
    assert resumed.get_state()["next_index"] == 1


@pytest.mark.parametrize("where", ["manifest", "iterator"])
def test_processes_agree_on_every_kind_of_damage(tmp_path, monkeypatch, where):
    """One that walked back by itself would leave the others waiting."""
    iterator = batches()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"model": model(1)}, data_iterator=iterator)
    if where == "manifest":
        remove_manifest(tmp_path / "1")
    else:
        (state,) = (tmp_path / "1" / "iterator").glob("process_0*.json")
        state.unlink()
    asked = []
    monkeypatch.setattr(processes, "everywhere", lambda good: asked.append(good) or good)
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(CheckpointError, match="none of its 1 checkpoints is good"),
    ):
        checkpoints.restore({"model": abstract(model(1))}, data_iterator=batches())
    assert asked == [False]


def test_what_is_damaged_for_another_process_is_left_here_too(tmp_path, monkeypatch):
    save_steps(tmp_path, (1, 2))
    answers = iter([True, False, True, True])
    monkeypatch.setattr(processes, "everywhere", lambda good: good and next(answers))
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore({"model": abstract(model(1))})
    assert restored.step == 1
    assert "damaged for another process" in restored.skipped[0]


def test_no_iterator_state_is_another_kind_of_run(tmp_path):
    save_steps(tmp_path, [1])
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(CheckpointError, match="no state of the data iterator"),
    ):
        checkpoints.restore({"model": abstract(model(1))}, data_iterator=batches())


# Keeping


def test_latest_and_best_are_kept_also_after_reopening(tmp_path):
    psnr = {1: 10.0, 2: 30.0, 3: 20.0, 4: float("nan"), 5: 25.0, 6: None, 7: 28.0}
    for run in ([1, 2, 3], [4, 5], [6, 7]):
        with Checkpoints(tmp_path, keep_latest=2, keep_best=1) as checkpoints:
            for step in run:
                metrics = {} if psnr[step] is None else {"psnr": psnr[step]}
                checkpoints.save(step, {"model": model(step, width=2)}, metrics=metrics)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.all_steps() == [2, 6, 7]
        assert checkpoints.latest_step() == 7
        template = {"model": abstract(model(0, width=2))}
        assert checkpoints.restore(template, "best").step == 2
        assert checkpoints.restore(template, 6).step == 6
        with pytest.raises(CheckpointError, match="no checkpoint of step 5, there are 2, 6, 7"):
            checkpoints.restore(template, 5)
    with Checkpoints(tmp_path, best_mode="min") as checkpoints:
        assert checkpoints.restore(template, "best").step == 7


def test_best_walks_on_to_the_next_best(tmp_path):
    save_steps(tmp_path, [1, 2, 3])  # the metric is the step
    with Checkpoints(tmp_path, best_mode="min", read_only=True) as checkpoints:
        os.truncate(data_file(tmp_path / "1"), 100)
        assert checkpoints.restore(abstract(items(0)), "best").step == 2


# Damage


def flip_byte(folder):
    path = data_file(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def truncate_data(folder):
    path = data_file(folder)
    os.truncate(path, path.stat().st_size // 2)


def remove_data(folder):
    data_file(folder).unlink()


def remove_item(folder):
    shutil.rmtree(folder / "training")


def cut_manifest(folder):
    path = folder / "manifest" / "metadata"
    os.truncate(path, path.stat().st_size // 2)


def forge_manifest(folder):
    """Still JSON, other numbers."""
    path = folder / "manifest" / "metadata"
    text = path.read_text()
    assert '"psnr": 40.0' in text
    path.write_text(text.replace('"psnr": 40.0', '"psnr": 41.0'))


def remove_manifest(folder):
    shutil.rmtree(folder / "manifest")


def cut_storage_metadata(folder):
    os.truncate(folder / "model" / "_METADATA", 10)


def cut_storage_manifest(folder):
    os.truncate(folder / "model" / "manifest.ocdbt", 10)


def empty_folder(folder):
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGES = [
    (flip_byte, "model/trunk/0/kernel has changed"),
    (truncate_data, "data cannot be read"),
    (remove_data, "data cannot be read"),
    (remove_item, "'training' is missing"),
    (cut_manifest, "manifest cannot be read"),
    (forge_manifest, "manifest has changed"),
    (remove_manifest, "manifest is missing"),
    (cut_storage_metadata, "data cannot be read"),
    (cut_storage_manifest, "data cannot be read"),
    (empty_folder, "manifest is missing"),
]


@pytest.fixture(scope="module")
def two_good(tmp_path_factory):
    directory = tmp_path_factory.mktemp("two_good")
    save_steps(directory, [20, 40])
    return directory


@pytest.mark.parametrize(("damage", "words"), DAMAGES, ids=[d.__name__ for d, _ in DAMAGES])
def test_a_damaged_checkpoint_is_skipped_and_can_be_saved_again(
    tmp_path, two_good, monkeypatch, damage, words
):
    directory = tmp_path / "checkpoints"
    shutil.copytree(two_good, directory)
    damage(directory / "40")
    warnings = []
    monkeypatch.setattr(absl_logging, "warning", lambda text, *args: warnings.append(text % args))
    template = abstract(items(0))
    with Checkpoints(directory, keep_best=0) as checkpoints:
        restored = checkpoints.restore(template)
        assert restored.step == 20
        assert_same(restored.items["model"], model(20))
        (line,) = restored.skipped
        assert "\n" not in line
        assert str(directory / "40") in line
        assert words in line
        assert line in warnings
        with pytest.raises(CheckpointError, match="step 40 is damaged") as excinfo:
            checkpoints.restore(template, 40)
        one_line(excinfo)
        # On to step 30 and 40, as the resumed run does.
        checkpoints.save(30, items(30))
        checkpoints.save(40, items(41))
        assert checkpoints.all_steps() == [30, 40]  # the damaged one does not count
    with Checkpoints(directory) as checkpoints:
        restored = checkpoints.restore(template)
    assert (restored.step, restored.skipped) == (40, [])
    assert_same(restored.items["model"], model(41))
    assert (directory / "40.damaged").is_dir()


def test_a_fit_walks_back_without_touching_the_folder(tmp_path, two_good):
    directory = tmp_path / "checkpoints"
    shutil.copytree(two_good, directory)
    flip_byte(directory / "40")
    before = sorted(directory.rglob("*"))
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.restore({"model": abstract(model(0))}).step == 20
    assert sorted(directory.rglob("*")) == before


def test_none_good_names_the_folder(tmp_path, two_good):
    directory = tmp_path / "checkpoints"
    shutil.copytree(two_good, directory)
    flip_byte(directory / "20")
    truncate_data(directory / "40")
    with (
        Checkpoints(directory) as checkpoints,
        pytest.raises(CheckpointError, match="none of its 2 checkpoints is good") as excinfo,
    ):
        checkpoints.restore(abstract(items(0)))
    assert one_line(excinfo).startswith(str(directory))
    assert (directory / "40").is_dir()  # left for whoever wants to look


@pytest.mark.parametrize("seed", range(4))
def test_no_flipped_byte_of_the_data_passes(tmp_path, two_good, seed):
    """Anywhere in the data of the model: either the values are right or the step is skipped."""
    directory = tmp_path / "checkpoints"
    shutil.copytree(two_good, directory)
    rng = np.random.default_rng(seed)
    files = sorted(path for path in (directory / "40" / "model").rglob("*") if path.is_file())
    weights = np.array([path.stat().st_size for path in files], float)
    path = files[rng.choice(len(files), p=weights / weights.sum())]
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)
    with Checkpoints(directory) as checkpoints:
        restored = checkpoints.restore(abstract(items(0)))
    assert_same(restored.items["model"], model(restored.step))


def test_another_configuration_is_no_damage(tmp_path, two_good):
    wider = abstract(items(0, width=16))
    with Checkpoints(two_good, read_only=True) as checkpoints:
        with pytest.raises(CheckpointError, match="another configuration") as excinfo:
            checkpoints.restore(wider)
        text = one_line(excinfo)
        assert "model/trunk/0/kernel" in text
        assert "float32[5, 4000] in the checkpoint" in text
        assert "float32[5, 16] in this configuration" in text
        more = {"model": {**abstract(model(0)), "router": jax.ShapeDtypeStruct((2,), jnp.float32)}}
        with pytest.raises(CheckpointError, match="model/router is nothing in the checkpoint"):
            checkpoints.restore(more)
        fewer = {"model": {"trunk": abstract(model(0))["trunk"]}}
        with pytest.raises(CheckpointError, match=r"model/\w+/\w+ is .* nothing in this config"):
            checkpoints.restore(fewer)
        with pytest.raises(CheckpointError, match="holds no 'codes', only model, training"):
            checkpoints.restore({"codes": fewer})
        with pytest.raises(CheckpointError, match="'latest', 'best' or a number"):
            checkpoints.restore(fewer, "last")


def test_saving_an_existing_step(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.save(5, {"model": model(1)}, metrics={"psnr": 1.0})
        assert not checkpoints.save(5, {"model": model(1)}, metrics={"psnr": 1.0})
        assert checkpoints.save(5, {"model": model(2)}, metrics={"psnr": 1.0})
        restored = checkpoints.restore({"model": abstract(model(0))})
    assert_same(restored.items["model"], model(2))


# Refusals of the system


def test_a_disk_that_is_full_is_said_and_the_last_good_stays(tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, items(1))
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # no file may grow beyond
        try:
            with pytest.raises(CheckpointError, match="step 2 could not be saved") as excinfo:  # noqa: PT012
                checkpoints.save(2, items(2))
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert one_line(excinfo).startswith(str(tmp_path))
        assert "File too large" in str(excinfo.value)
        assert os.listdir(tmp_path) == ["1"]  # nothing half-written
        restored = checkpoints.restore(abstract(items(0)))
        assert (restored.step, restored.skipped) == (1, [])
        checkpoints.save(3, items(3))  # space again: it goes on
        assert checkpoints.restore(abstract(items(0))).step == 3


def test_failure_in_a_with_block_does_not_hide_the_error_under_way(tmp_path, monkeypatch):
    def refuse(self):
        raise CheckpointError("disk")

    monkeypatch.setattr(Checkpoints, "wait", refuse)
    with pytest.raises(KeyError, match="the loop"), Checkpoints(tmp_path):
        raise KeyError("the loop")
    with pytest.raises(CheckpointError, match="disk"), Checkpoints(tmp_path):
        pass


def test_a_file_or_no_permission_in_the_place_of_the_folder(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CheckpointError) as excinfo:
            Checkpoints(path)
        assert str(path) in one_line(excinfo)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoints_module.Path, "mkdir", refuse)
    with pytest.raises(CheckpointError, match="Permission denied"):
        Checkpoints(tmp_path / "new")


# Beside a training


def test_a_reader_beside_a_training_takes_what_that_has_saved_since(tmp_path, monkeypatch):
    """All that the reader found is gone by the time it is read."""
    weights = {step: {"model": {"w": jnp.full(5, step, jnp.float32)}} for step in range(1, 6)}
    with Checkpoints(tmp_path, keep_best=0) as writer:
        for step in (1, 2):
            writer.save(step, weights[step])
        writer.wait()
        read, asked = checkpoints_module.manifest.read, []

        def late(folder):
            if not asked:
                asked.append(folder.name)
                for step in (3, 4, 5):
                    writer.save(step, weights[step])
                writer.wait()
            return read(folder)

        with Checkpoints(tmp_path, read_only=True) as reader:
            monkeypatch.setattr(checkpoints_module.manifest, "read", late)
            restored = reader.restore({"model": {"w": jax.ShapeDtypeStruct((5,), jnp.float32)}})
    assert asked == ["2"]
    assert restored.step == 5
    assert restored.skipped == []
    assert np.all(np.asarray(restored.items["model"]["w"]) == 5)
