"""An official PyTorch checkpoint becomes a workdir that main.py fits, renders and trains from.

python -m nid_jax.interop.torch_checkpoint --checkpoint=FILE.ckpt --workdir=DIR
    [--official_config=FILE.txt] [--activation=sine|relu] [--top_k=K] [--size=ROWS,COLUMNS]

Afterwards: nid_jax --config=official:DIR --workdir=DIR --mode=fit|render|train.
PyTorch is not needed, and nothing in the file is executed. See docs/official.md.
"""

from nid_jax.running import stopping

if __name__ == "__main__":
    stopping.begin()  # what follows takes its time

import functools
import math
import re
import reprlib
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags, logging
from flax import nnx
from ml_collections import config_flags

from nid_jax import configs, devices, notices
from nid_jax.errors import named
from nid_jax.fields import experts
from nid_jax.fields.model import build_model, count_parameters
from nid_jax.files import atomic_folder
from nid_jax.fitting.fit import Fit
from nid_jax.interop import official
from nid_jax.interop.torch_file import read_torch
from nid_jax.storage import artefacts, checkpoints
from nid_jax.storage.workdir import Workdir
from nid_jax.training.checks import check as check_training
from nid_jax.training.optimisers import build_optimiser

CONFIG = "official:images"
# Names of the stored codes' fit.
FIT = "official"
# Groups of the config that the checkpoint decides.
DECIDED = ("dictionary", "router")
# Optimisers whose moments are those of torch's Adam.
WITH_ADAM_MOMENTS = ("adam", "adamw", "lamb")
# What the official code's datasets are called here, with the size of their images.
DATASETS = {
    "celeba": {"name": "celeb_a", "size": (128, 128), "crop": "center"},
    "cifar10": {"name": "cifar10", "size": (32, 32)},
    "olivetti": {"name": "olivetti", "size": (64, 64)},
    "yaleface": {"name": "yale"},
    "imagefolder": {"name": "folder"},
    "shepp": {},
}
# torch.optim.Adam with these is optax's; the official scripts leave them as they are.
_ADAM = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False}
_ADAM |= {"maximize": False}


@dataclass(frozen=True)
class Told:
    """What was said beside the checkpoint; 0, '' and () are 'nothing'."""

    options: dict
    """Of the official config."""
    source: str
    """Where those come from."""
    activation: str = ""
    top_k: int = 0
    num_experts: int = 0
    size: tuple = ()
    sized: bool = False
    """Whether the config is meant with its data.size and data.patch.size."""

    def value(self, flag, option):
        """The flag's value or the option's, or None. Raises ValueError where they differ."""
        given, written = getattr(self, flag), self.options.get(option)
        if given and written is not None and given != written:
            raise ValueError(f"--{flag}={given}: {self.source} has {option}={written}")
        return given or written

    def wanted(self, flag, option, allowed):
        """As `value`; ValueError where neither is there."""
        value = self.value(flag, option)
        if value is None:
            raise ValueError(
                f"--{flag} is missing: the checkpoint does not tell it; allowed: {allowed}, or "
                f"{option} in an --official_config"
            )
        return value


@dataclass(frozen=True)
class Official:
    """An official checkpoint: weights, Adam's state and how far training had come."""

    weights: dict
    adam: dict | None
    """None where there is none, or none that can be taken over."""
    step: int
    epoch: int
    notes: tuple


def read_checkpoint(path):
    """Read FILE.ckpt: {'model', 'optimizer', 'current_epoch'}, or a bare state dict. -> Official.

    Raises FileNotFoundError, and ValueError in one line for what is neither.
    """
    found = read_torch(path)
    bare = isinstance(found, dict) and any(str(name).startswith("experts.") for name in found)
    weights = found if bare else found.get("model") if isinstance(found, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise ValueError(
            f"{path}: holds no official checkpoint; a dict with 'model', 'optimizer' and "
            "'current_epoch' is wanted, or a bare state dict"
        )
    epoch = 0 if bare else found.get("current_epoch", 0)
    if not isinstance(epoch, int) or epoch < 0:
        shown = reprlib.repr(epoch)
        raise ValueError(f"{path}: current_epoch is {shown}; a whole number, 0 or more")
    adam, step, notes = None, 0, ()
    if not bare and found.get("optimizer"):
        try:
            adam, step, notes = _read_adam(found["optimizer"], weights)
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise ValueError(f"{path}: optimizer: is not the state of torch's Adam") from error
    if not 0 <= step < 2**31:
        raise ValueError(f"{path}: optimizer: {step} steps; allowed: 0 to 2^31")
    return Official(weights, adam, step, epoch, notes)


def _read_adam(optimizer, weights):
    """({'mu': {name: array}, 'nu': ...} or None, steps taken, notes)."""
    state, (group,) = optimizer["state"], optimizer["param_groups"]
    other = [
        f"{key}={reprlib.repr(group[key])}"
        for key, value in _ADAM.items()
        if group.get(key) != value
    ]
    if other:
        return None, 0, (f"Adam's moments start anew: {', '.join(other)} is not taken over",)
    if not state:
        return None, 0, ()
    # Parameters are numbered in the order of the model, where buffers do not count.
    names = [name for name in weights if name != "experts.map.B"]
    if len(group["params"]) != len(names):
        names = [name for name in names if name.startswith("gate_generator.")]
    if len(group["params"]) != len(names):
        return None, 0, (f"Adam's moments start anew: of {len(group['params'])} parameters",)
    moments = {"mu": {}, "nu": {}}
    steps = set()
    for number, name in zip(group["params"], names, strict=True):
        entry = state.get(number)
        for ours, theirs in (("mu", "exp_avg"), ("nu", "exp_avg_sq")):
            array = np.zeros_like(weights[name]) if entry is None else entry[theirs]
            if array.shape != weights[name].shape or not np.isfinite(array).all():
                raise TypeError(name)
            moments[ours][name] = array
        if entry is not None:
            steps.add(int(entry["step"]))
    if len(steps) != 1:
        return None, 0, (f"Adam's moments start anew: parameters have taken {sorted(steps)} steps",)
    return moments, steps.pop(), ()


def make_config(base, found, told, overrides=()):
    """The config of a run whose model has the architecture `found`.

    base: a whole config; what the checkpoint and the official options decide replaces what it has.
    overrides: (key, value) given by hand, which go before the options. Raises ValueError naming
    what is missing, or contradicts the checkpoint.
    """
    _check_options(found, told)
    activation = told.wanted("activation", "act_type", ", ".join(experts.ACTIVATIONS))
    with named("dictionary"):
        experts.check_activation(activation)
    top_k = told.wanted("top_k", "num_topk", f"1 to {found.num_experts}")
    if not 1 <= top_k <= found.num_experts:
        raise ValueError(
            f"--top_k={top_k}: the checkpoint has {found.num_experts} experts; allowed: 1 to "
            f"{found.num_experts}"
        )
    config = base.copy_and_resolve_references()
    with config.unlocked():
        if told.options:
            _set_options(config, official.DEFAULTS | told.options, told.options)
        for key, value in overrides:
            if key.split(".")[0] in DECIDED:
                raise ValueError(f"--config.{key}: is decided by the checkpoint; leave it out")
            config.update_from_flattened_dict({key: value})
        _set_dictionary(config.dictionary, found, activation, told.options)
        _set_router(config.router, found, top_k)
        config.train.codes = "joint"
    check_training(config)
    return config


def _check_options(found, told):
    """Raise ValueError where the official config is that of another model."""
    here = {
        "num_layers": found.num_layers,
        "hidden_dim": found.width,
        "num_experts": found.num_experts,
        "gate_type": found.router,
    }
    kinds = {"fourier": "ffm", "identity": "Id", "positional": "pe", "rbf": "rbf"}
    here["pos_emb"] = kinds[found.embedding]
    if found.embedding == "fourier":
        here["ffm_map_size"] = found.features
    for name, value in here.items():
        written = told.options.get(name, value)
        if written != value:
            raise ValueError(f"{told.source}: {name}={written}, the checkpoint has {value}")


def _set_options(config, options, given):
    """What the official command line says of data, loss and training."""
    config.loss.update({"data": options["loss_type"], "l1": options["loss_l1"]})
    config.loss.update({"l1_base": options["l1_exp"], "balance": options["loss_cv"]})
    config.loss.compat = "official"
    config.train.update({"points": options["chunk_size"], "batch_size": options["batch_size"]})
    # Epoch number warmup_epochs is still dense there.
    config.train.warmup_epochs = options["warmup_epochs"] + 1
    recursive = options["inner_loop"] == "recursive"
    config.train.chunks = "exhaustive" if recursive else "random"
    config.train.optimizer.update({"learning_rate": options["lr"], "schedule": "constant"})
    if "dataset" not in given:
        return
    dataset = options["dataset"]
    config.data.update({"size": (), "crop": "", "num_train": 0, "num_test": 0})
    config.data.update(DATASETS[dataset])
    config.data.root = options["data_dir"] or ""
    config.data.patch.size = options["patch_size"] if dataset == "celeba" else 0
    if dataset in ("celeba", "cifar10"):
        for split in ("train", "test"):
            config.data[f"num_{split}"] = max(options[f"{split}_subset"], 0)


def _set_dictionary(section, found, activation, options):
    section.update({"kind": "shared", "num_experts": found.num_experts, "width": found.width})
    section.update({"num_layers": found.num_layers, "activation": activation})
    section.omega0 = official.OMEGA0
    section.embedding.update({"kind": found.embedding, "trainable": found.embedding == "rbf"})
    if found.embedding == "fourier":
        section.embedding.size = found.features
        section.embedding.scale = options.get("ffm_map_scale", section.embedding.scale)
    elif found.embedding == "rbf":
        section.embedding.num_centres = found.features
    elif found.embedding == "positional":
        section.embedding.num_octaves = (found.features - found.dims) // (2 * found.dims)


def _set_router(section, found, top_k):
    section.update({"kind": found.router, "top_k": top_k, "noise": False})
    section.max_norm = 1.0 if found.router == "codebook" else 0.0
    section.pool = "sum"
    section.widths = found.router_widths if found.router == "resnet" else ()
    if found.router == "conv":
        section.width = found.router_widths[0]


def grid_shape(config, found, told):
    """Samples along each axis of the signals that the model was made for.

    From the resnet's own size, --size, or config.data (patches, or images), where an official
    config decided it or it was given by hand. Raises ValueError where nothing tells it or they
    disagree.
    """
    size, written, patch = told.size, (), config.data.patch.size
    if "dataset" in told.options or told.sized or patch:
        written = (patch,) * found.dims if patch else tuple(config.data.size)
    if size and written and size != written:
        raise ValueError(
            f"--size={_typed(size)}: data.size and data.patch.size say {_typed(written)}"
        )
    size = size or written
    if found.pixels:
        side = math.isqrt(found.pixels)
        size = size or ((side, side) if side * side == found.pixels else ())
        if size and math.prod(size) != found.pixels:
            raise ValueError(
                f"--size={_typed(size)}: the resnet router reads {found.pixels} pixels, "
                f"{math.prod(size)} are given"
            )
    if not size:
        raise ValueError(
            "--size is missing: the checkpoint does not tell the size of its signals; allowed: "
            f"{found.dims} numbers such as --size={_typed([32] * found.dims)}, or dataset in an "
            "--official_config"
        )
    if len(size) != found.dims:
        raise ValueError(f"--size={_typed(size)}: {found.dims} numbers are wanted")
    return size


def _typed(size):
    return ",".join(map(str, size))


def load(config, shape, saved, found):
    """The model of a config with the official weights in it. -> Model."""
    build = functools.partial(build_model, config, (*shape, found.channels), found.rows, 0)
    # Shapes only: what would be drawn is replaced at once.
    model = nnx.eval_shape(build)
    official.assign(model.dictionary, model.router, saved.weights)
    return model


def optimiser_state(config, model, saved):
    """The state of config.train.optimizer for a model, with the official Adam's moments in it.

    Raises ValueError for an optimiser that has other moments than Adam's.
    """
    name = config.train.optimizer.name
    if saved.adam is not None and name not in WITH_ADAM_MOMENTS:
        raise ValueError(
            f"train.optimizer.name: {name!r}; the checkpoint holds Adam's moments; allowed: "
            f"{', '.join(WITH_ADAM_MOMENTS)}"
        )
    params = nnx.state(model, nnx.Param)
    optimizer = build_optimiser(config.train.optimizer, config.train.steps)
    state = optimizer.init(params)
    if saved.adam is None:
        return state
    graphdef, params, constants = nnx.split(model, nnx.Param, ...)
    moments = {}
    for name, tensors in saved.adam.items():
        zeros = jax.tree.map(jnp.zeros_like, params)
        holder = nnx.merge(graphdef, zeros, constants, copy=True)
        complete = {key: np.zeros_like(value) for key, value in saved.weights.items()} | tensors
        official.assign(holder.dictionary, holder.router, complete)
        moments[name] = nnx.state(holder, nnx.Param)
    return optax.tree.set(state, **moments, count=jnp.int32(saved.step))


def convert(path, workdir, base, told, overrides=(), names=()):
    """Import the checkpoint at `path` into a workdir that holds no run yet. -> (config, notes).

    names: of the training signals, in the order of the codebook; () numbers them. Raises
    FileNotFoundError, and ValueError in one line: file, what is wrong, what is allowed.
    """
    if workdir.config.exists() or workdir.holds_checkpoint():
        raise ValueError(f"--workdir={workdir.root}: holds a run already; give another")
    saved = read_checkpoint(path)
    try:
        found = official.architecture(saved.weights, told.value("num_experts", "num_experts") or 0)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    config = make_config(base, found, told, overrides)
    shape = grid_shape(config, found, told)
    if not config.data.patch.size and len(shape) == 2:
        with config.unlocked():
            config.data.size = shape
    model = load(config, shape, saved, found)
    fit = None
    if found.router == "codebook":
        fit = stored_codes(config, model, names)
    with workdir.writing(workdir.checkpoints):
        _write(workdir, config, model, saved, found, shape, path, fit)
    return config, saved.notes


def stored_codes(config, model, names):
    """(Fit, layout) of the training signals' codes, as the official evaluation has them.

    Rows longer than 1 are scaled back as a look-up does it, then the K largest are kept. After
    training that never left its warm-up, the official code would evaluate all of them.
    """
    rows = model.router.codes.shape[0]
    router = nnx.clone(model.router)
    ids = jnp.arange(rows)
    router.prepare(ids)
    gates = router.gates(ids, None, top_k=model.top_k)
    layout = {"grid": list(model.grid_shape)}
    pieces = 1
    patch, full = config.data.patch, config.data.size
    if patch.size:
        if any(side % patch.size for side in full):
            raise ValueError(
                f"data.patch.size: {patch.size} does not divide data.size={tuple(full)}; the "
                "official patches leave the rest out"
            )
        pieces = math.prod(side // patch.size for side in full)
        layout = {"grid": list(full), "patch": [patch.size] * 2, "overlap": 0}
    if rows % pieces:
        raise ValueError(
            f"gate_generator.codebook.weight: {rows} rows are no whole images of {pieces} patches"
        )
    count = rows // pieces
    if names and len(names) != count:
        raise ValueError(f"--names: {len(names)} names, the codebook is of {count} signals")
    if patch.size:
        layout |= {"grids": [list(full)] * count, "pieces": [pieces] * count}
    layout["names"] = list(names) or [f"train_{number:05d}" for number in range(count)]
    named = layout["names"]
    if patch.size:
        starts = [range(0, side, patch.size) for side in full]
        corners = [f"{row}_{column}" for row in starts[0] for column in starts[1]]
        named = [f"{name}/{corner}" for name in named for corner in corners]
    values, bias = np.asarray(gates.values), np.asarray(gates.bias)
    return Fit.of_codes(model.dictionary, values, bias, model.grid_shape, named), layout


def _write(workdir, config, model, saved, found, shape, path, fit):
    """All that a trained run leaves; config.json last, so that a half-made folder is no run."""
    graphdef, params, constants = nnx.split(model, nnx.Param, ...)
    training = {
        "optimizer": optimiser_state(config, model, saved),
        "step": jnp.int32(saved.step),
        "bad_step": jnp.int32(-1),
        "usage": jnp.zeros(found.num_experts, jnp.float32),
    }
    items = {"model": {"params": params, "constants": constants}, "training": training}
    clock = {"seconds": {"run": 0.0}, "steps": saved.step, "signals": 0}
    # Batches begin anew: their order is not the official one in any case.
    order = iter(grain.MapDataset.source([0]).to_iter_dataset())
    keep = {"keep_latest": config.checkpoint.keep_latest, "keep_best": config.checkpoint.keep_best}
    with checkpoints.Checkpoints(workdir.checkpoints, **keep) as store:
        store.save(saved.step, items, order, {}, {"clock": clock, "step": saved.step})
    title = f"codes of {Path(path).name}"
    signals = {"shape": (*shape, found.channels), "count": found.rows, "title": title}
    workdir.write_json("signals.json", signals)
    if fit is not None:
        _write_codes(workdir, config, *fit, title)
    summary = {
        "steps": saved.step,
        "train_seconds": 0.0,
        "compile_seconds": 0.0,
        "evaluate_seconds": 0.0,
        "checkpoint_seconds": 0.0,
        "parameters": count_parameters(model),
        "compiled_bytes": 0,
        "peak_memory_bytes": devices.peak_memory_bytes(),
        "versions": devices.versions(),
        "official": {"checkpoint": str(path), "epoch": saved.epoch},
    }
    workdir.write_json("summary.json", summary)
    workdir.save_config(config)


def _write_codes(workdir, config, fit, layout, title):
    metrics = {
        "task": config.task,
        "dataset": title,
        "solver": "official codebook",
        "signals": len(layout["names"]),
        "active_experts": fit.active,
        "layout": layout,
        "versions": devices.versions(),
    }
    place = workdir.fit(FIT)
    with workdir.writing(place), atomic_folder(place) as folder:
        fit.save(folder / artefacts.CODES)
        artefacts.write_json(folder / artefacts.METRICS, metrics)


def define_flags(values=flags.FLAGS, argv=None):
    """Define the options on `values`; `argv` is the command line that they will be read from."""
    here = {"flag_values": values}
    about = "NAME or FILE.py[:VARIANT], for what no checkpoint tells."
    configs.define_flag(about, values, argv)
    flags.DEFINE_string("checkpoint", None, "FILE.ckpt of the official code.", **here)
    flags.DEFINE_string("official_config", None, "FILE.txt of the official code.", **here)
    flags.DEFINE_string("workdir", None, "Folder: takes the imported run.", **here)
    flags.DEFINE_string("activation", "", "sine or relu.", **here)
    flags.DEFINE_integer("top_k", 0, "Active experts, K.", **here)
    flags.DEFINE_integer("num_experts", 0, "E, where shapes leave it open.", **here)
    flags.DEFINE_list("size", [], "ROWS,COLUMNS of the images.", **here)
    flags.DEFINE_string("names", None, "File: names of the training signals, one a line.", **here)


def parse(argv, values=flags.FLAGS):
    """Read the command line; what is wrong with it is one line, and exit status 2."""
    # The official code's own options may be typed with either.
    argv = [re.sub(r"^(--?(?:\w+-)+\w+)", lambda m: _underscored(m[1]), word) for word in argv]
    # Not as a default: keys given by hand would be looked for in it before anything can be said.
    if not any(re.match(r"--?config(=|$)", word) for word in argv):
        argv.insert(1, f"--config={CONFIG}")
    try:
        rest = values(argv)
    except flags.Error as error:
        text = str(error).strip().removeprefix("flag ")
        complain(re.sub("invalid literal for int.*", "a whole number is wanted", text))
    for name in ("checkpoint", "workdir"):
        if not values[name].value:
            complain(f"--{name} is missing; --checkpoint=FILE.ckpt and --workdir=DIR are wanted")
    if len(rest) > 1:
        complain(f"unexpected argument {rest[1]!r}; options are --name=value")
    return rest


def _underscored(word):
    dashes = re.match("-+", word)[0]
    return dashes + word[len(dashes) :].replace("-", "_")


def complain(message):
    """One line on standard error, and the exit status of a command that was typed wrong."""
    print("error:", notices.one_line(message), file=sys.stderr)
    sys.exit(2)


def _size(words):
    try:
        size = tuple(int(word.strip("() ")) for word in words)
    except ValueError:
        size = (0,)
    if any(side < 1 for side in size):
        raise ValueError(f"--size={','.join(words)}: whole numbers are wanted, such as 32,32")
    return size


def _told(values):
    given = config_flags.get_override_values(values["config"])
    chosen = config_flags.get_config_filename(values["config"]) != CONFIG
    told = Told(
        {},
        "",
        values.activation,
        values.top_k,
        values.num_experts,
        _size(values.size),
        chosen or not {"data.size", "data.patch.size"}.isdisjoint(given),
    )
    for name in ("top_k", "num_experts"):
        if getattr(told, name) < 0 or (values[name].present and not getattr(told, name)):
            raise ValueError(f"--{name}={getattr(told, name)}: allowed: 1 or more")
    if values.official_config:
        options = official.read_options(values.official_config)
        told = replace(told, options=options, source=values.official_config)
    return told


def main(argv, values=flags.FLAGS):
    """Import; what the person who typed the command can mend is one line."""
    del argv
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    try:
        workdir = Workdir(values.workdir, argument="--workdir")
        names = ()
        if values.names:
            names = Path(values.names).read_text(encoding="utf-8").split("\n")
            names = tuple(name for name in names if name)
        overrides = config_flags.get_override_values(values["config"]).items()
        told = _told(values)
        config, notes = convert(values.checkpoint, workdir, values.config, told, overrides, names)
    except (ValueError, OSError) as error:
        named = getattr(error, "filename", None)
        complain(f"{named}: {error.strerror}" if named else error)
    _announce(workdir, config, notes, values.workdir)


def _announce(workdir, config, notes, typed):
    for note in notes:
        print(f"note: {notices.one_line(note)}", file=sys.stderr)
    dictionary, router = config.dictionary, config.router
    print(
        f"{dictionary.num_experts} experts, {dictionary.num_layers} layers of {dictionary.width}, "
        f"{dictionary.activation}, {dictionary.embedding.kind} embedding, {router.kind} router, "
        f"{router.top_k} active; step {workdir.read_json('summary.json')['steps']}"
    )
    # A folder may go by the name of a variant.
    folder = f"./{typed}" if typed in configs.described("official")[1] else typed
    command = f"nid_jax --config=official:{folder} --workdir={typed}"
    print(f"fit new signals: {command} --mode=fit")
    print(f"then score them: {command} --mode=eval")
    print(f"and render them: {command} --mode=render")
    if workdir.fit_names():
        print(f"render the stored codes: {command} --mode=render --config.fit.name={FIT}")


if __name__ == "__main__":
    with stopping.command():
        define_flags()
        app.run(main, flags_parser=parse)
