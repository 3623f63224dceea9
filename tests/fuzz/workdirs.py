"""Files of a workdir, and of a dictionary in one file: an honest run, and what reads each of them.

The run is an official checkpoint that was imported, with what training would leave beside it.
"""

from pathlib import Path

import numpy as np

from nid_jax.coding.canonical import canonical_transform
from nid_jax.coding.prior import fit_prior
from nid_jax.configs import official as configs_official
from nid_jax.fitting import priors
from nid_jax.fitting.fit import Fit
from nid_jax.interop.torch_checkpoint import FIT, Told, convert
from nid_jax.reporting.report import write_report
from nid_jax.storage import artefacts, models, one_file
from nid_jax.storage.workdir import Workdir
from tests.fuzz.formats import PLAIN, Format

RUN = "run"
"""Name of the folder that every path of a case lies in."""


def make(folder: Path) -> Path:
    """An honest workdir in a folder, and beside it the same dictionary in one file."""
    checkpoint = folder / "a.ckpt"
    PLAIN["torch checkpoint"].make(checkpoint)
    workdir = Workdir(folder / RUN)
    told = Told({}, "", "relu", 3, size=(4, 5))
    convert(checkpoint, workdir, configs_official.get_config("images"), told)
    trained = models.load_model(workdir)
    codes = np.random.default_rng(0).normal(size=(30, 7)).astype(np.float32)
    prior = fit_prior(codes, residual=np.full(30, 0.1), shrinkage=0.1)
    priors.save_prior(workdir.root / priors.FILE, prior, trained.step)
    transform = canonical_transform(trained.model.dictionary, trained.model.grid_shape, prior)
    priors.save_transform(workdir.root / priors.TRANSFORM_FILE, transform, trained.step)
    held = models.Trained(trained.model, trained.config, trained.signals, prior)
    one_file.write(workdir.root / "one.safetensors", held)
    workdir.write_json("usage.json", {"usage": [0.5] * 7, "importance": [0.1] * 7})
    PLAIN["metrics.jsonl"].make(workdir.metrics)
    near = {"among": FIT, "nearest": {"train_00000": [{"name": "train_00001", "distance": 0.5}]}}
    workdir.write_json(workdir.fit(FIT) / artefacts.NEAREST, near)
    write_report(workdir.root)
    return workdir.root


def root_of(path: Path) -> Path:
    """The workdir that a path lies in."""
    return next(folder for folder in path.parents if folder.name == RUN)


def _load(path):
    return models.load_model(Workdir(root_of(path), read_only=True))


def _config(path):
    workdir = Workdir(root_of(path), read_only=True)
    return workdir.load_config(), models.load_model(workdir)


def _report(path):
    return write_report(root_of(path))


def _fit(path):
    workdir = Workdir(root_of(path), read_only=True)
    layout = workdir.read_layout(FIT)
    return layout, workdir.load_fit_config(FIT), _report(path)


def _codes(path):
    model = _load(path).model
    return Fit.load(path, model.dictionary, model.grid_shape)


def _prior(path):
    return priors.load_prior(path)


def _transform(path):
    return priors.load_transform(path, 1)


def _no_make(path):
    raise AssertionError(f"{path} is made with its workdir")


CHECKPOINT = "checkpoint"
"""Name of a format, any of the files of one."""


def files() -> dict[str, Format]:
    """What of a workdir is mutated: path from the workdir's own and reader, by a name."""
    return {
        CHECKPOINT: Format("", _no_make, _load, 2.0),
        "config.json": Format("config.json", _no_make, _config, 0.35),
        "signals.json": Format("signals.json", _no_make, _load, 0.35),
        "prior.npz": Format(priors.FILE, _no_make, _prior, 1),
        "canonical form": Format(priors.TRANSFORM_FILE, _no_make, _transform, 1),
        "one file": Format("one.safetensors", _no_make, one_file.read, 0.35),
        "codes.npz": Format(f"fits/{FIT}/codes.npz", _no_make, _codes, 0.25),
        "metrics.json of a fit": Format(f"fits/{FIT}/metrics.json", _no_make, _fit, 0.2),
        "nearest.json": Format(f"fits/{FIT}/nearest.json", _no_make, _report, 0.15),
        "summary.json": Format("summary.json", _no_make, _report, 0.15),
        "usage.json": Format("usage.json", _no_make, _report, 0.15),
        "metrics.jsonl of a run": Format("metrics.jsonl", _no_make, _report, 0.15),
    }


def checkpoint_files(root: Path) -> list[Path]:
    """All files of the one checkpoint, some of which have other names in every run."""
    (step,) = [path for path in (root / "checkpoints").iterdir() if path.name.isdecimal()]
    return sorted(path for path in step.rglob("*") if path.is_file())
