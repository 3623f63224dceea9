"""Training: a collection and a config in, a dictionary in the workdir's checkpoints out.

The loop knows no task: signals, objective and pictures come in with the `task` argument. One step
is one jitted function with donated state; what it reports stays on the device until a log is due.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from absl import logging
from flax import nnx
from ml_collections import ConfigDict

from nid_jax import data, devices, errors, notices, sharding
from nid_jax.coding.prior import Coded, GaussianPrior
from nid_jax.data.loading import endless
from nid_jax.fields.model import (
    Model,
    build_model,
    count_parameters,
    map_axes,
    parameter_overview,
)
from nid_jax.fields.shared import SharedDictionary
from nid_jax.fields.variables import Constant
from nid_jax.fitting import priors, spread
from nid_jax.reporting import announcing, tables
from nid_jax.reporting.chronometer import Chronometer
from nid_jax.reporting.metrics_log import MetricWriter
from nid_jax.reporting.progress import Counted, Progress
from nid_jax.running import processes
from nid_jax.running.preemption import preemption_of_all
from nid_jax.running.stopping import Preemption
from nid_jax.storage import checkpoints
from nid_jax.storage.models import abstract
from nid_jax.storage.workdir import Workdir
from nid_jax.training import checks, feeding, heads, kept_cosines, memory, sizes
from nid_jax.training.asked import Task
from nid_jax.training.batches import WayBatches
from nid_jax.training.optimisers import build_optimiser
from nid_jax.training.placing import StateLayout
from nid_jax.training.predicting import find_router
from nid_jax.training.reseeding import reseed
from nid_jax.training.steps import (
    Batch,
    Given,
    Recipe,
    Terms,
    TrainState,
    Window,
    chunks_per_batch,
    last_batch,
    train_step,
    train_steps,
)
from nid_jax.training.strategies import build_strategy

ROUNDS_FILE = "components.npz"
"""Rounds of expectation maximisation so far, in a workdir; gone once heads are found."""


T = TypeVar("T")


class TrainingDiverged(ValueError):
    """The loss or a gradient was not finite."""


class Trainer:
    """Everything one run of training holds: model, optimiser, data, compiled steps, checkpoints."""

    def __init__(
        self,
        task: Task,
        config: ConfigDict,
        workdir: Workdir,
        collection: Any,
        typed: Collection[str] = (),
    ):
        checks.check(config)
        checks.check_canonical(config, devices.memory_bytes())
        checks.check_values(collection, prior=bool(config.prior.num_signals))
        self.config, self.workdir = config, workdir
        self.mesh = sharding.make_mesh(config.mesh.data, config.mesh.expert)
        self.strategy = build_strategy(config, task.objective)
        measured = task.learned_from(collection)
        checks.check_alike(config, measured, collection.names, typed)
        kept_cosines.check_signals(config, measured, collection.shape)
        self.measured, self.count = measured, len(collection)
        self.batchwise = "no step is taken"
        if config.train.steps:
            self.batchwise = feeding.obstacle(config, task, measured, collection, self.mesh.size)
        batches, per_epoch = self._batches(task, collection)
        self.operator = None if len(measured.ways) > 1 else measured.operator
        self.signal_shape = (*measured.grid_shape, measured.channels)
        checks.check_training(config, measured.ways)
        if measured.alike:
            checks.check_router(config, measured)
        self.per_batch = 1
        if self.operator is not None:
            self.per_batch = chunks_per_batch(config, self.operator.num_measurements)
        self.steps = -(-config.train.steps // self.per_batch) * self.per_batch
        warmup = config.train.warmup_epochs if config.router.top_k else 0
        self.warmup_steps = warmup * self.per_batch * per_epoch
        self.optimizer = build_optimiser(config.train.optimizer, max(self.steps, 1))
        self._plan(collection)
        self._draw()
        held = None if self.batchwise else data.to_array(collection)
        self.feeder = feeding.Feeder(batches, held, self.mesh, self.per_batch, config.train)
        self.clock = Chronometer()
        self.compiled: dict[Any, jax.stages.Compiled] = {}
        self.compiled_bytes = 0
        self.coded: Coded | None = None

    def _batches(self, task: Task, collection: Sequence) -> tuple[Any, int]:
        """Whole signals as the task reads them; of others what was measured. -> (batches, how many
        are an epoch)."""
        size = self.config.train.batch_size
        if self.measured.alike:
            read = task.order if task.order is not None and not self.batchwise else task.batches
            return read(collection), max(self.count // size, 1)
        share = sharding.places(self.mesh, size)
        source = WayBatches(self.measured, self.count, size, self.config.seed, share)
        return endless(source, 0), sum(source.per_epoch)

    def _plan(self, collection: Sequence) -> None:
        """The model's shapes, and where each number is to lie. Nothing is drawn."""
        config, seed = self.config, self.config.seed

        def build(config: ConfigDict) -> Model:
            return build_model(config, self.signal_shape, len(collection), seed)

        self.build = functools.partial(build, config)
        model = sizes.check(config, build, devices.memory_bytes())
        features = getattr(model.dictionary, "num_features", 0)  # of shared dictionaries
        checks.check_components(config, features, self.measured, devices.memory_bytes())
        self.parameters = count_parameters(model)
        self.graphdef, params, *_ = nnx.split(model, nnx.Param, ...)
        layout = map_axes(lambda axes: sharding.named(self.mesh, *axes), params)
        everywhere: Any = sharding.named(self.mesh)
        moments = jax.eval_shape(self.optimizer.init, params)
        moments = sharding.moments_layout(moments, layout, self.mesh)
        self.where = TrainState(layout, moments, everywhere, everywhere, everywhere)

    def _draw(self) -> None:
        """The first state, drawn by one compiled function straight to where it is to lie."""

        def draw() -> tuple[TrainState, nnx.State]:
            _, params, *rest = nnx.split(self.build(), nnx.Param, ...)
            usage = jnp.zeros(self.config.dictionary.num_experts, jnp.float32)
            moments = self.optimizer.init(params)
            return TrainState(params, moments, jnp.int32(0), jnp.int32(-1), usage), rest[0]

        everywhere: Any = sharding.named(self.mesh)
        self.layout = StateLayout(jax.eval_shape(draw)[0], self.where)

        def filled() -> tuple[TrainState, nnx.State]:
            state, constants = draw()
            return self.layout.filled(state), constants

        drawn = jax.jit(filled, out_shardings=(self.where, everywhere)).lower().compile()
        memory.check_state(self.config, drawn, self.mesh)
        self.state, constants = drawn()
        key = jax.random.fold_in(jax.random.key(self.config.seed), 1)
        self.given = Given(constants, self.operator, key)

    def model(self) -> Model:
        """The model as it stands, in several processes each one's own. Its arrays are copies: the
        next step gives the old ones away."""
        params = jax.tree.map(jnp.copy, sharding.own(self.layout.give(self.state).params))
        return nnx.merge(self.graphdef, params, sharding.own(self.given.constants), copy=True)

    def at_boundary(self, step: int) -> bool:
        """Whether a step begins a batch: all chunks of one are seen before the next is read."""
        return step % self.per_batch == 0

    def step_for(self, step: int, batch: Batch | Window) -> jax.stages.Compiled:
        """The compiled step, or steps of a window: dense during warm-up, sparse after it. Compiled
        on first use, of batches of several shapes for each of them."""
        dense = step < self.warmup_steps
        shapes = jax.tree.map(jnp.shape, batch)
        kind = (dense, jax.tree.structure(batch), tuple(jax.tree.leaves(shapes)))
        if kind not in self.compiled:
            train = self.config.train
            recipe = Recipe(
                self.graphdef,
                self.strategy,
                self.optimizer,
                points=train.points,
                chunks=train.chunks,
                dead_below=train.dead_below,
                dense=dense,
            )
            # Bound, not an argument: what is fixed of features and points is computed only once,
            # by the compiler.
            steps = train_steps if isinstance(batch, Window) else train_step
            given = self.given._replace(constants=sharding.own(self.given.constants))
            size = train.batch_size

            def function(state, batch):
                batch = batch if isinstance(batch, Window) else sharding.cut(batch, size)
                state, terms = steps(recipe, self.layout.emptied(state), batch, given)
                return self.layout.filled(state), terms

            layout = self.layout.held, sharding.named(self.mesh)
            with self.clock.pause("compile"), jax.set_mesh(self.mesh):
                jitted = jax.jit(function, donate_argnums=0, out_shardings=layout)
                program = jitted.lower(self.state, batch).compile()
            held = memory.Held(
                devices.bytes_of(self.state),
                self.feeder.held_bytes,
                self.feeder.coming_bytes(batch),
            )
            memory.check_step(self.config, program, self.mesh, held)
            self.compiled[kind] = program
            self.compiled_bytes = max(self.compiled_bytes, devices.compiled_bytes(program))
        return self.compiled[kind]

    def find_heads(self, collection: Any, go_on: Callable[..., bool]) -> str:
        """Heads from what training sees of the signals, undrawn. -> words on them; '' where `go_on`
        said no before they were found. The prior that came with them is kept, as heads are that
        nothing descends from."""
        model = self.model()
        dictionary = model.dictionary
        assert isinstance(dictionary, SharedDictionary), "check() refuses other kinds"
        path = self.workdir.root / ROUNDS_FILE
        given = self.measured, collection, self.config, path, go_on

        def find():
            found = heads.find(dictionary, *given)
            if found is not None and found.prior is not None and not self.steps:
                priors.save_prior(self.workdir.root / priors.FILE, found.prior, 0)
            return found

        with self.clock.pause("heads"), errors.named("dictionary", heads.KEYS):
            found = self._changed(model, find)
        if found is None:
            return ""
        self.coded = found.coded
        return f"heads       {found.words}; {self.clock.seconds('heads'):.1f} s"

    def prior(self) -> GaussianPrior | None:
        """The prior that came with the heads, where the dictionary still has them."""
        by_rounds = self.config.dictionary.heads == "components" and not self.measured.alike
        if self.steps or not by_rounds:
            return None
        return priors.load_prior(self.workdir.root / priors.FILE)

    def _changed(self, model: Model, work: Callable[[], T | None]) -> T | None:
        """Go on with the numbers that `work` gives a model, in the first process for all. -> what
        it returns; None where nothing changed."""
        kinds = nnx.Any(nnx.Param, Constant)

        def changed():
            return work(), jax.tree.leaves(nnx.state(model, kinds))

        found, numbers = processes.once(changed)
        if found is None:
            return found
        structure = jax.tree.structure(nnx.state(model, kinds))
        nnx.update(model, jax.tree.unflatten(structure, numbers))
        _, *states = nnx.split(model, nnx.Param, ...)
        params, constants = states
        state = self.layout.give(self.state)
        self.state = self.layout.take(dataclasses.replace(state, params=params))
        everywhere: Any = jax.tree.map(lambda _: sharding.named(self.mesh), constants)
        self.given = self.given._replace(constants=sharding.put(constants, everywhere))
        return found

    def find_router(self) -> str:
        """The router in closed form for the dictionary as it stands. -> words; '' where it
        descends."""
        model, train = self.model(), self.config.train
        solved = train.codes in ("varpro", "sparse_varpro")
        router = model.router
        if not solved or router is None or not router.affine:
            return ""
        top_k = self.config.router.top_k if train.codes == "sparse_varpro" else 0
        before = self.clock.seconds("router")
        with self.clock.pause("router"):
            given = model.dictionary, self.measured, self.count, train.lam, top_k
            words = self._changed(model, lambda: find_router(router, *given))
        return f"router      {words}; {self.clock.seconds('router') - before:.1f} s"

    def reseed(self, fed: Batch | Window) -> int:
        """Give dead experts the worst of the last batch. -> how many there were."""
        train, size, given = self.config.train, self.config.train.batch_size, self.given
        batch = last_batch(fed) if isinstance(fed, Window) else fed
        if size % self.mesh.shape["data"]:
            everywhere = sharding.named(self.mesh)
            cut = jax.jit(sharding.cut, static_argnums=1, out_shardings=everywhere)
            batch = cut(batch, size)
        if self.mesh.is_multi_process:
            given = spread.everywhere(given, self.mesh)
        state, seed = self.layout.give(self.state), self.config.seed
        params, usage, count = reseed(self.graphdef, state, batch, given, train.dead_below, seed)
        self.state = self.layout.take(dataclasses.replace(state, params=params, usage=usage))
        return count

    def items(self) -> dict[str, Any]:
        """What a checkpoint holds: the model, for fits, and the rest, to go on training."""
        state = self.layout.give(self.state)
        model = {"params": state.params, "constants": self.given.constants}
        # Not dataclasses.asdict: it takes the Variables inside apart.
        names = ("optimizer", "step", "bad_step", "usage")
        return {"model": model, "training": {name: getattr(state, name) for name in names}}

    def restore(self, saved: checkpoints.Checkpoints) -> int:
        """Go on from the latest good checkpoint, if there is one. -> the step to go on from."""
        if saved.latest_step() is None:
            return 0
        restored = saved.restore(_templates(self.items()), data_iterator=self.feeder.batches)
        training = restored.items["training"]
        state = TrainState(restored.items["model"]["params"], **training)
        self.state = self.layout.take(state)
        self.given = self.given._replace(constants=restored.items["model"]["constants"])
        self.clock.restore(restored.meta["clock"])
        return restored.step


def _templates(items: dict[str, Any]) -> dict[str, Any]:
    return jax.tree.map(lambda leaf: abstract(leaf, leaf.sharding), items)


@dataclasses.dataclass
class Trained:
    """What training leaves: the model, the step it reached, whether it ended early, and timings."""

    model: Model
    step: int
    interrupted: bool
    summary: dict
    coded: Coded | None = None
    """The signals in the dictionary as it is, where heads in closed form were all the training."""
    prior: GaussianPrior | None = None
    """Of the codes, where that came with the heads instead."""


def signals_of(task: Task, collection: Any) -> dict[str, Any]:
    """What a dictionary learns from, in JSON types: shape [*grid, C], count, title, ranked_by.

    bounds, (lowest, highest) value, and frame, of coordinates and units, where the collection knows
    them.
    """
    measured = task.learned_from(collection)
    bounds, frame = getattr(collection, "bounds", None), getattr(collection, "frame", None)
    return {
        **({} if frame is None else {"frame": frame.as_json()}),
        **({} if bounds is None else {"bounds": [*bounds]}),
        "shape": [*measured.grid_shape, measured.channels],
        "count": len(collection),
        "title": collection.title,
        "ranked_by": task.ranked_by,
    }


def train(
    task: Task,
    config: ConfigDict,
    workdir: Workdir,
    evaluate: Callable[[Model], Mapping[str, float]] | None = None,
    notes: Sequence[str] = (),
    typed: Collection[str] = (),
) -> Trained:
    """Train until config.train.steps, from the workdir's latest checkpoint if it holds one.

    task: open, batches, learned_from, objective, ranked_by. evaluate(model) -> dict of scalars, of
    which the task's ranked_by ranks the checkpoints; called every train.eval_every steps. notes:
    lines to say before the first step; typed: keys that a person gave.

    Writes checkpoints/, metrics.jsonl, events/, signals.json
    and summary.json. Raises TrainingDiverged where the loss or a gradient was not finite, with the
    last good checkpoint kept, and ValueError for a config that does not fit the signals.
    """
    collection = task.open("train")
    trainer = Trainer(task, config, workdir, collection, typed)
    keep = {"keep_latest": config.checkpoint.keep_latest, "keep_best": config.checkpoint.keep_best}
    keep["best_metric"] = task.ranked_by
    with (
        checkpoints.Checkpoints(workdir.checkpoints, **keep) as saved,
        preemption_of_all() as preemption,
        contextlib.closing(trainer.feeder),
    ):
        fresh, main = saved.latest_step() is None, processes.first()
        start = trainer.restore(saved)
        # Not before: a run that does not go on must not lose its own.
        processes.once(lambda: workdir.save_config(config))
        described = signals_of(task, collection)
        processes.once(lambda: workdir.write_json("signals.json", described))
        with (
            MetricWriter(workdir.root, active=main) as writer,
            Progress(trainer.steps, active=main) as progress,
        ):
            writer.truncate_after(start)
            if start:
                progress.message(f"resumed from step {start} of {workdir.checkpoints}")
            _announce(trainer, workdir, progress, notes)
            words, step = "drawn", start
            if fresh and config.dictionary.heads != "drawn":
                words = _find_heads(trainer, collection, preemption)
                progress.message(words or f"{preemption.signal_name}: {_kept(workdir)}")
            if words:
                step = _Loop(trainer, saved, writer, progress, preemption, evaluate).run(start)
                if main:
                    (workdir.root / ROUNDS_FILE).unlink(missing_ok=True)
        stopped = preemption.number != 0
    assumed = [*map(notices.plain, notes), *notices.printed_lines()]
    summary = {**_summary(trainer, step), **({"assumed": assumed} if assumed else {})}
    processes.once(lambda: workdir.write_json("summary.json", summary))
    coded, prior = (None, None) if step or stopped else (trainer.coded, trainer.prior())
    return Trained(trainer.model(), step, stopped, summary, coded, prior)


def _find_heads(trainer: Trainer, collection: Any, preemption: Preemption) -> str:
    """Words on the heads that a run begins with; '' where a signal to stop came before."""
    with Counted("round", processes.first()) as counted:

        def go_on(done, total, label="round"):
            counted.update(done, total, label)
            return not preemption.requested

        words = trainer.find_heads(collection, go_on)
    if not words:
        preemption.ended()
    return words


def _kept(workdir):
    """What becomes of a run that was stopped, in words."""
    return "the same command resumes" if workdir.kept else "nothing is kept without a workdir"


def _announce(trainer: Trainer, workdir: Workdir, progress: Progress, notes: Sequence[str]) -> None:
    path = workdir.config if workdir.kept else ""
    lines = announcing.device_summary(trainer.mesh, trainer.parameters, config_path=path)
    beyond = announcing.beyond_span(trainer.model().dictionary, bool(trainer.config.router.top_k))
    fed = [trainer.feeder.words(trainer.batchwise)] if trainer.steps else []
    for line in [*lines, *fed, *notes, *beyond]:
        progress.message(line)
    headers = ("parameter", "kind", "shape", "numbers")
    logging.info("%s", tables.table(parameter_overview(trainer.model()), headers))


@dataclasses.dataclass
class _Loop:
    """The steps of one run, and what happens between them: logs, evaluations, checkpoints."""

    trainer: Trainer
    saved: checkpoints.Checkpoints
    writer: MetricWriter
    progress: Progress
    preemption: Preemption
    evaluate: Callable[[Model], Mapping[str, float]] | None
    routed: int = -1
    """The step for whose dictionary the router was found."""

    def run(self, start: int) -> int:
        """Steps from `start` to the last one, or until told to stop. -> the step reached."""
        trainer, config = self.trainer, self.trainer.config.train
        step, pending = start, []
        if not trainer.steps and self.saved.latest_step() is None:
            self._save(step, self._evaluated(step))
        while step < trainer.steps:
            if trainer.at_boundary(step) and self.preemption.reached():
                break
            count = self._count(step)
            fed = trainer.feeder.feed(step, count)
            program = trainer.step_for(step, fed)
            if step == start:
                # What follows a warm-up is found not to fit now, not after it.
                if step < trainer.warmup_steps < trainer.steps:
                    trainer.step_for(trainer.warmup_steps, fed)
                self._tell_memory()
            trainer.state, terms = trainer.feeder.take(program, trainer.state, fed, count)
            pending.append((terms, count))
            trainer.clock.advance(count, count * config.batch_size)
            step += count
            last = step >= trainer.steps
            if feeding.due(step, config.reseed_every) and not last:
                self.writer.scalars(step, {"reseeded_experts": trainer.reseed(fed)})
            if feeding.due(step, config.log_every) or last:
                self._log(step, pending)
                pending = []
            metrics = self._evaluated(step) if feeding.due(step, config.eval_every) or last else {}
            if self._saves(step) or last:
                self._save(step, metrics)
        if start < step < trainer.steps:
            self._save(step, {})
        if self.preemption.ended():
            name, workdir = self.preemption.signal_name, self.trainer.workdir
            words = f"saved step {step}; " if workdir.kept and step else ""
            self.progress.message(f"{name}: {words}{_kept(workdir)}")
        jax.block_until_ready(trainer.state)
        return step

    def _count(self, step: int) -> int:
        """Steps from `step` on that one program takes: until something else is to be done."""
        trainer = self.trainer
        end = min(step + trainer.feeder.most(step), trainer.steps)
        return next((at for at in range(step + 1, end) if self._halts(at)), end) - step

    def _halts(self, step: int) -> bool:
        """Whether anything but the next step follows on `step`."""
        config, trainer = self.trainer.config.train, self.trainer
        every = (config.reseed_every, config.log_every, config.eval_every)
        asked = self.preemption.number and trainer.at_boundary(step)
        due = any(feeding.due(step, number) for number in every) or self._saves(step)
        return due or bool(asked) or step == trainer.warmup_steps

    def _saves(self, step: int) -> bool:
        """Whether a checkpoint is due: at the end of a batch."""
        per_batch = self.trainer.per_batch
        due = feeding.due_within(step, self.trainer.config.train.checkpoint_every, per_batch)
        return due and self.trainer.at_boundary(step)

    def _tell_memory(self) -> None:
        if self.trainer.compiled_bytes:
            most = tables.format_bytes(self.trainer.compiled_bytes)
            self.progress.message(f"memory      about {most} at the peak of a step")

    def _log(self, step: int, pending: list[tuple[Terms, int]]) -> None:
        """Write the means of the terms since the last log; the only wait for the device."""
        clock, values = self.trainer.clock, feeding.mean_of(pending)
        self._check_finite()
        rate = clock.signals_per_second()
        self.writer.scalars(step, {**values, "signals_per_second": rate})
        self.progress.update(
            step,
            loss=values["loss"],
            psnr=values["psnr"],
            signals_per_second=rate,
            eta=clock.eta(self.trainer.steps),
        )

    def _find_router(self, step: int) -> None:
        """A router in closed form follows the dictionary wherever it is looked at or saved."""
        self._check_finite()
        if step != self.routed:
            words = self.trainer.find_router()
            if words and step >= self.trainer.steps:
                self.progress.message(words)
        self.routed = step

    def _evaluated(self, step: int) -> dict[str, float]:
        if self.evaluate is None:
            return {}
        self._find_router(step)
        jax.block_until_ready(self.trainer.state)
        with self.trainer.clock.pause("evaluate"):
            metrics = dict(self.evaluate(self.trainer.model()))
            self.writer.scalars(step, {f"test_{name}": value for name, value in metrics.items()})
        return metrics

    def _save(self, step: int, metrics: dict[str, float]) -> None:
        self._find_router(step)
        trainer = self.trainer
        with trainer.clock.pause("checkpoint"):
            meta = {"clock": trainer.clock.state(), "step": step}
            self.saved.save(step, trainer.items(), trainer.feeder.batches, metrics, meta)

    def _check_finite(self) -> None:
        bad = int(jax.device_get(self.trainer.state.bad_step))
        if bad < 0:
            return
        self.saved.wait()
        kept = self.saved.latest_step()
        where = "none was saved yet" if kept is None else f"the checkpoint of step {kept} is kept"
        rate = self.trainer.config.train.optimizer.learning_rate
        raise TrainingDiverged(
            f"the loss or a gradient was not finite at step {bad}; {where}; try a smaller "
            f"train.optimizer.learning_rate={rate} or a train.optimizer.clip_norm"
        )


def _summary(trainer: Trainer, step: int) -> dict[str, Any]:
    seconds = trainer.clock.summary()
    return {
        "steps": step,
        "train_seconds": seconds["run"] + sum(seconds.get(key, 0.0) for key in ("heads", "router")),
        "heads_seconds": seconds.get("heads", 0.0),
        "router_seconds": seconds.get("router", 0.0),
        "compile_seconds": seconds.get("compile", 0.0),
        "evaluate_seconds": seconds.get("evaluate", 0.0),
        "checkpoint_seconds": seconds.get("checkpoint", 0.0),
        "parameters": trainer.parameters,
        "compiled_bytes": trainer.compiled_bytes,
        "peak_memory_bytes": devices.peak_memory_bytes(),
        "versions": devices.versions(),
    }
