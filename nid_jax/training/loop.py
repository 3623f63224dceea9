"""Training: a collection and a config in, a dictionary in the workdir's checkpoints out.

The loop knows no task: signals, objective and pictures come in with the `task` argument. One step
is one jitted function with donated state; what it reports stays on the device until a log is due.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nid_jax import devices, sharding
from nid_jax.fields.model import build_model, count_parameters, map_axes
from nid_jax.reporting import monitoring, tables
from nid_jax.storage import checkpoints
from nid_jax.storage.models import abstract
from nid_jax.training.optimisers import build_optimiser
from nid_jax.training.reseeding import reseed
from nid_jax.training.steps import TrainState, chunks_per_batch, make_step
from nid_jax.training.strategies import build_strategy


class TrainingDiverged(ValueError):
    """The loss or a gradient was not finite."""


class Trainer:
    """Everything one run of training holds: model, optimiser, data, compiled steps, checkpoints."""

    def __init__(self, task, config, workdir, collection):
        check(config)
        self.config, self.workdir = config, workdir
        self.mesh = sharding.make_mesh(config.mesh.data, config.mesh.expert)
        sharding.check_divisible(self.mesh, config.dictionary.num_experts, config.train.batch_size)
        self.strategy = build_strategy(config, task.objective)
        self.batches = task.batches(collection)
        measured = task.learned_from(collection)
        self.operator = measured.operator
        self.signal_shape = (*measured.grid_shape, measured.channels)
        _check_training(config, self.operator)
        self.per_batch = chunks_per_batch(config, self.operator.num_measurements)
        self.steps = -(-config.train.steps // self.per_batch) * self.per_batch
        per_epoch = self.per_batch * max(len(collection) // config.train.batch_size, 1)
        self.warmup_steps = config.train.warmup_epochs * per_epoch if config.router.top_k else 0
        self.optimizer = build_optimiser(config.train.optimizer, self.steps)
        self._build(collection)
        self.clock = monitoring.Chronometer()
        self.compiled = {}
        self.compiled_bytes = 0

    def _build(self, collection):
        """The first state, drawn by one compiled function straight to where it is to lie."""
        config = self.config
        build = functools.partial(
            build_model, config, self.signal_shape, len(collection), config.seed
        )
        model = nnx.eval_shape(build)
        self.parameters = count_parameters(model)
        self.graphdef, params, _ = nnx.split(model, nnx.Param, ...)
        layout = map_axes(lambda axes: sharding.named(self.mesh, *axes), params)
        everywhere = sharding.named(self.mesh)
        moments = jax.eval_shape(self.optimizer.init, params)
        moments = sharding.moments_layout(moments, layout, self.mesh)
        self.layout = TrainState(layout, moments, everywhere, everywhere, everywhere)

        def draw():
            _, params, constants = nnx.split(build(), nnx.Param, ...)
            usage = jnp.zeros(config.dictionary.num_experts)
            moments = self.optimizer.init(params)
            return TrainState(params, moments, jnp.int32(0), jnp.int32(-1), usage), constants

        self.state, self.constants = jax.jit(draw, out_shardings=(self.layout, everywhere))()

    def model(self):
        """The model as it stands. Its arrays are copies: the next step gives the old ones away."""
        params = jax.tree.map(jnp.copy, self.state.params)
        return nnx.merge(self.graphdef, params, self.constants, copy=True)

    def step_for(self, step, batch):
        """The compiled step: dense during warm-up, sparse after it. Compiled on first use."""
        dense = step < self.warmup_steps
        if dense not in self.compiled:
            function = make_step(
                self.graphdef,
                self.constants,
                self.strategy,
                self.optimizer,
                self.config,
                self.operator,
                dense,
            )
            with self.clock.pause("compile"):
                jitted = jax.jit(function, donate_argnums=0, out_shardings=(self.layout, None))
                self.compiled[dense] = jitted.lower(self.state, batch).compile()
            self.compiled_bytes = max(
                self.compiled_bytes, devices.compiled_bytes(self.compiled[dense])
            )
        return self.compiled[dense]

    def reseed(self, batch):
        """Give dead experts the worst-explained signals of a batch. -> how many there were."""
        share = self.config.train.dead_below
        params, usage, count = reseed(
            self.graphdef,
            self.state,
            self.constants,
            batch,
            self.operator,
            share,
            self.config.seed,
        )
        self.state = jax.device_put(
            dataclasses.replace(self.state, params=params, usage=usage), self.layout
        )
        return count

    def items(self):
        """What a checkpoint holds: the model, for fits, and the rest, to go on training."""
        model = {"params": self.state.params, "constants": self.constants}
        # Not dataclasses.asdict: it takes the Variables inside apart.
        names = ("optimizer", "step", "bad_step", "usage")
        return {"model": model, "training": {name: getattr(self.state, name) for name in names}}

    def restore(self, saved):
        """Go on from the latest good checkpoint, if there is one. -> the step to go on from."""
        if saved.latest_step() is None:
            return 0
        restored = saved.restore(_templates(self.items()), data_iterator=self.batches)
        training = restored.items["training"]
        self.state = TrainState(
            restored.items["model"]["params"],
            training["optimizer"],
            training["step"],
            training["bad_step"],
            training["usage"],
        )
        self.constants = restored.items["model"]["constants"]
        self.clock.restore(restored.meta["clock"])
        return restored.step


def _templates(items):
    return jax.tree.map(lambda leaf: abstract(leaf, leaf.sharding), items)


def check(config):
    """Raise ValueError, naming the key, for a training that cannot be."""
    build_strategy(config, None)
    for group, key, least in (
        ("", "seed", 0),
        ("train", "steps", 1),
        ("train", "points", 0),
        ("train", "warmup_epochs", 0),
        ("train", "log_every", 0),
        ("train", "eval_every", 0),
        ("train", "checkpoint_every", 0),
        ("train", "reseed_every", 0),
        ("train", "dead_below", 0),
        ("checkpoint", "keep_latest", 1),
        ("checkpoint", "keep_best", 0),
    ):
        value = (config[group] if group else config)[key]
        if value < least:
            name = f"{group}.{key}".strip(".")
            raise ValueError(f"{name}: {value}; allowed: {least} or more")
    if config.train.codes == "surface" and config.train.reseed_every:
        raise ValueError(
            "train.reseed_every: 0 is wanted by train.codes=surface: no value is known"
        )


def _check_training(config, operator):
    """Raise ValueError, naming the key, for what these measurements do not allow."""
    if operator.run_length is None and config.train.points:
        raise ValueError("train.points: 0 is wanted where measurements depend on the whole signal")
    if operator.run_length != 1 and config.train.reseed_every:
        raise ValueError("train.reseed_every: 0 is wanted where no samples are measured")


@dataclasses.dataclass
class Trained:
    """What training leaves: the model, the step it reached, whether it ended early, and timings."""

    model: nnx.Module
    step: int
    interrupted: bool
    summary: dict


def train(task, config, workdir, evaluate=None, notes=()):
    """Train until config.train.steps, from the workdir's latest checkpoint if it holds one.

    task: open, batches, learned_from, objective, ranked_by. evaluate(model) -> dict of scalars, of
    which the task's ranked_by ranks the checkpoints; called every train.eval_every steps. notes:
    lines to say before the first step. Writes
    checkpoints/, metrics.jsonl, events/, signals.json and summary.json. Raises TrainingDiverged
    where the loss or a gradient was not finite, with the last good checkpoint kept, and ValueError
    for a config that does not fit the signals.
    """
    collection = task.open("train")
    trainer = Trainer(task, config, workdir, collection)
    # Nothing is written before all of the config was found to be good.
    workdir.prepare()
    workdir.save_config(config)
    workdir.write_json(
        "signals.json",
        {
            "shape": trainer.signal_shape,
            "count": len(collection),
            "title": collection.title,
            "ranked_by": task.ranked_by,
        },
    )
    keep = {"keep_latest": config.checkpoint.keep_latest, "keep_best": config.checkpoint.keep_best}
    keep["best_metric"] = task.ranked_by
    with (
        checkpoints.Checkpoints(workdir.checkpoints, **keep) as saved,
        checkpoints.Preemption() as preemption,
    ):
        start = trainer.restore(saved)
        with (
            monitoring.MetricWriter(workdir.root, active=jax.process_index() == 0) as writer,
            monitoring.Progress(trainer.steps, active=jax.process_index() == 0) as progress,
        ):
            writer.truncate_after(start)
            if start:
                progress.message(f"resumed from step {start} of {workdir.checkpoints}")
            _announce(trainer, workdir, progress, notes)
            step = _loop(trainer, start, saved, writer, progress, preemption, evaluate)
    summary = _summary(trainer, step)
    workdir.write_json("summary.json", summary)
    return Trained(trainer.model(), step, step < trainer.steps, summary)


def _announce(trainer, workdir, progress, notes):
    lines = monitoring.device_summary(trainer.mesh, trainer.parameters, config_path=workdir.config)
    beyond = _beyond_span(trainer.config.dictionary, trainer.signal_shape[-1])
    for line in [*lines, *notes, *beyond]:
        progress.message(line)


def _beyond_span(dictionary, channels):
    """What to say of more experts than a trunk of this width can tell apart, if anything."""
    most = channels * (dictionary.width + 1)
    if dictionary.kind != "shared" or dictionary.num_experts <= most:
        return []
    return [
        f"note        {dictionary.num_experts} experts on a trunk of width {dictionary.width} span "
        f"{most} dimensions at most; dictionary.width above "
        f"{-(-dictionary.num_experts // channels) - 1} lifts that"
    ]


def _loop(trainer, start, saved, writer, progress, preemption, evaluate):
    config, clock = trainer.config.train, trainer.clock
    step, pending, batch = start, [], None
    while step < trainer.steps and not (preemption.requested and step % trainer.per_batch == 0):
        if step % trainer.per_batch == 0:
            batch = sharding.place_batch(next(trainer.batches), trainer.mesh)
        compiled = trainer.step_for(step, batch)
        if step == start and trainer.compiled_bytes:
            memory = tables.format_bytes(trainer.compiled_bytes)
            progress.message(f"memory      about {memory} at the peak of a step")
        trainer.state, terms = compiled(trainer.state, batch)
        pending.append(terms)
        step += 1
        boundary = step % trainer.per_batch == 0
        last = step >= trainer.steps
        clock.advance(1, config.batch_size)
        if _due(step, config.reseed_every) and not last:
            count = trainer.reseed(batch)
            writer.scalars(step, {"reseeded_experts": count})
        if _due(step, config.log_every) or last:
            values = _mean_of(pending)
            _check_finite(trainer, saved)
            pending = []
            writer.scalars(step, {**values, "signals_per_second": clock.signals_per_second()})
            progress.update(
                step,
                loss=values["loss"],
                psnr=values["psnr"],
                signals_per_second=clock.signals_per_second(),
                eta=clock.eta(trainer.steps),
            )
        metrics = {}
        if evaluate is not None and (_due(step, config.eval_every) or last):
            jax.block_until_ready(trainer.state)
            with clock.pause("evaluate"):
                metrics = evaluate(trainer.model())
                writer.scalars(step, {f"test_{name}": value for name, value in metrics.items()})
        if (boundary and _due_within(step, config.checkpoint_every, trainer.per_batch)) or last:
            _save(trainer, saved, step, metrics)
    if step < trainer.steps and step > start:
        _save(trainer, saved, step, {})
        progress.message(f"{preemption.signal_name}: saved step {step}; the same command resumes")
    jax.block_until_ready(trainer.state)
    return step


def _due(step, every):
    return every > 0 and step % every == 0


def _due_within(step, every, width):
    """Whether a multiple of `every` lies in (step - width, step]."""
    return every > 0 and step // every > (step - width) // every


def _mean_of(pending):
    fetched = jax.device_get(pending)
    return {name: float(np.mean([terms[name] for terms in fetched])) for name in fetched[0]}


def _check_finite(trainer, saved):
    bad = int(trainer.state.bad_step)
    if bad < 0:
        return
    saved.wait()
    kept = saved.latest_step()
    where = f"the checkpoint of step {kept} is kept" if kept is not None else "none was saved yet"
    raise TrainingDiverged(
        f"the loss or a gradient was not finite at step {bad}; {where}; try a smaller "
        f"train.optimizer.learning_rate={trainer.config.train.optimizer.learning_rate} or a "
        "train.optimizer.clip_norm"
    )


def _save(trainer, saved, step, metrics):
    _check_finite(trainer, saved)
    with trainer.clock.pause("checkpoint"):
        meta = {"clock": trainer.clock.state(), "step": step}
        saved.save(step, trainer.items(), trainer.batches, metrics, meta)


def _summary(trainer, step):
    seconds = trainer.clock.summary()
    return {
        "steps": step,
        "train_seconds": seconds["run"],
        "compile_seconds": seconds.get("compile", 0.0),
        "evaluate_seconds": seconds.get("evaluate", 0.0),
        "checkpoint_seconds": seconds.get("checkpoint", 0.0),
        "parameters": trainer.parameters,
        "compiled_bytes": trainer.compiled_bytes,
        "peak_memory_bytes": devices.peak_memory_bytes(),
        "versions": devices.versions(),
    }
