"""Every key of a config is read by what runs its task: none is there for another task."""

import contextlib
import importlib
import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from nid_jax import configs

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ("image", "mri", "inpainting", "ct", "video")
EVERY = (*PICTURES, "sdf", "fields")
STILL = ("image", "mri", "inpainting", "ct")
SOLVERS = "ridge gaussian lasso omp iht robust gradient router_ridge"
# What a smoke run of a task does not read, as something else was chosen in its config: where in
# nid_jax it is read, and the configs that offer the choice.
CHOSEN = {
    **{f"fit.{name}": ("coding/solvers", EVERY) for name in SOLVERS.split()},
    **{
        f"dictionary.embedding.{name}": ("fields", EVERY)
        for name in ["kernel", "length_scale", "num_centres", "num_octaves", "shape", "sigma"]
    },
    **{
        f"dictionary.embedding.{name}": ("fields", EVERY)
        for name in ("counts", "band", "num_kept", "degree")
    },
    **{f"data.augment.{name}": ("data", STILL) for name in ("rotation", "zoom", "move")},
    **{f"router.{name}": ("fields", EVERY) for name in ("max_norm", "pool")},
    **{f"train.{name}": ("training", EVERY) for name in ("atoms_per_step", "lam", "warmup_epochs")},
    **{f"train.{name}": ("training", EVERY) for name in ("dead_below", "checkpoint_every")},
    "fit.num_pictures": ("reporting", ("video",)),
    **{f"dictionary.components.{name}": ("training", EVERY) for name in ("rounds", "shrinkage")},
    **{
        f"prior.{name}": ("fitting", ("video", "fields", "sdf"))
        for name in ("lam", "shrinkage", "components")
    },
    "sample": ("commands", ("video",)),
    **{f"data.{name}": ("data", EVERY) for name in ("root", "test_fraction")},
    **{
        f"data.{name}": ("data", PICTURES)
        for name in ("crop", "resize", "gray", "layout", "range", "decoded_gib")
    },
    "data.augment.max_shift": ("data", STILL),
    "data.patch.overlap": ("data", ("image", "inpainting", "mri")),
    **{f"data.points.{name}": ("data", ("fields",)) for name in ("signal", "units", "since")},
    **{
        f"dictionary.embedding.{name}": ("fields", ("fields", "sdf"))
        for name in ("size", "scale", "trainable")
    },
    "data.masks": ("data", ("inpainting",)),
    "data.noise": ("tasks/image.py", ("image",)),
    "data.noise.level": ("tasks/image.py", ("image",)),
    "data.phantom": ("data", STILL),
    "data.dicom": ("data", STILL),
    "data.video": ("data", ("video",)),
    **{
        f"data.{name}": ("tasks/ct.py", ("ct",))
        for name in ["angles", "angle_units", "sinogram_layout", "open_beam", "pixel_size"]
    },
    "data.transmission": ("tasks/ct.py", ("ct",)),
    **{
        f"data.kspace_{name}": ("tasks/mri.py", ("mri",))
        for name in ("mask", "centred", "origin", "scale")
    },
    **{f"data.{name}": ("data", ("sdf",)) for name in ("margin", "normals")},
    "fit.refine.bounds": ("fitting/refining.py", PICTURES),
    **{
        f"fit.refine.{name}": ("settings.py", PICTURES)
        for name in ["lam", "tv", "rank", "share", "steps"]
    },
    "eval": ("commands", EVERY),
    "eval.num_signals": ("commands", PICTURES),
    "fit.surface": ("coding/solvers", ("sdf",)),
    "loss.surface": ("training/strategies.py", ("sdf",)),
    "router.point_features": ("fields", ("sdf",)),
}
# Options that become the arguments of operators, which say themselves what they do not know.
WHOLE = ("parallel_beam", "fourier", *SOLVERS.split())


@contextlib.contextmanager
def recorded(monkeypatch):
    """Yields a set that takes (keys of the group, key) of every key that is read by its name."""
    reads, quiet = set(), []
    get = ConfigDict.__getitem__

    def getitem(self, key):
        if not quiet:
            reads.add((frozenset(self._fields), key))
        return get(self, key)

    def silently(method):
        def call(self, *arguments, **options):
            quiet.append(True)
            try:
                found = method(self, *arguments, **options)
                return list(found) if method.__name__ == "iteritems" else found
            finally:
                quiet.pop()

        return call

    with monkeypatch.context() as patch:
        patch.setattr(ConfigDict, "__getitem__", getitem)
        for name in ("items", "iteritems", "to_dict", "copy_and_resolve_references", "update"):
            patch.setattr(ConfigDict, name, silently(getattr(ConfigDict, name)))
        yield reads


def unread(group, reads, path=""):
    """Dotted keys of a group that nothing has read, of copies with more keys neither."""
    for key in group:
        value = group.to_dict()[key]
        if not any(name == key and set(group) <= keys for keys, name in reads):
            yield f"{path}{key}"
        elif isinstance(value, dict) and key not in WHOLE:
            yield from unread(group[key], reads, f"{path}{key}.")


def test_the_reading_is_recorded(monkeypatch):
    config = ConfigDict({"a": {"b": 1, "c": 2}, "d": 3, "e": {"f": 4}})
    with recorded(monkeypatch) as reads:
        assert config.a.b == 1
        config.to_dict()
        copy = config.copy_and_resolve_references()
        assert copy["e"] is not None
        wider = ConfigDict({**config.a.to_dict(), "more": 5})
        assert wider.get("c") == 2
    assert sorted(unread(config, reads)) == ["d", "e.f"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in configs.names() if name != "official"])
def test_no_key_is_left_unread(call, tmp_path, monkeypatch, name):
    config = importlib.import_module(f"nid_jax.configs.{name}").get_config("smoke")
    with recorded(monkeypatch) as reads:
        modes = ["run", "render", "interpolate", "nearest"]
        for mode in modes + ["sample"] * (config.prior.num_signals > 0):
            result = call(
                f"--config={name}:smoke", f"--workdir={tmp_path / 'run'}", f"--mode={mode}"
            )
            assert result.code == 0, result.err
    chosen = {key for key, (_, names) in CHOSEN.items() if name in names}
    assert set(unread(config, reads)) <= chosen


@pytest.mark.parametrize("key", sorted(CHOSEN))
def test_what_a_smoke_run_leaves_is_read_elsewhere(key):
    room, names = CHOSEN[key]
    place = ROOT / "nid_jax" / room
    files = [place] if place.is_file() else sorted(place.rglob("*.py"))
    word = re.compile(rf"[._\"']{key.split('.')[-1]}\b")
    assert any(word.search(path.read_text(encoding="utf-8")) for path in files)
    for name in names:
        config = importlib.import_module(f"nid_jax.configs.{name}").get_config("smoke")
        for part in key.split("."):
            config = config[part]
