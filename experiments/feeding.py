"""Feeding training: signals read a second beside those a step takes, and many steps in one program.

    python experiments/feeding.py --scale=smoke|cpu --output=DIR

Reading: batches of configs/image.py:paper (CelebA's sizes, 4096 experts) of made-up pictures from
PNG files, a memory-mapped array, a tfds data set and an array in memory, as a training reads them
batch by batch, alone; beside one step of that configuration. Steps: small trainings whose signals
lie on the device, many steps in one program (train.scan=on) beside step by step (off), in turn.
Writes DIR/table.md and metrics.json.
"""

import dataclasses
import io
import os
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import tensorflow_datasets as tfds
from measuring import command
from measuring.rates import Spread, timed
from measuring.training_step import TrainingStep
from PIL import Image
from scipy import ndimage

from nid_jax import data, tasks
from nid_jax.training.loop import Trainer

STORED = (218, 178)
"""Rows and columns of CelebA's pictures."""
SMALL = {
    "dictionary.num_experts": 16,
    "dictionary.width": 16,
    "dictionary.embedding.size": 32,
    "router.top_k": 4,
    "train.batch_size": 8,
    "train.points": 32,
    "data.size": (16, 16),
}
TINY = {"dictionary.num_experts": 8, "dictionary.width": 8, "dictionary.embedding.size": 8}


@dataclasses.dataclass(frozen=True)
class Scale:
    """pictures: made up; seconds: that each source is read for; rounds, steps: of trainings, the
    first so many of all; many: signals of the largest; paper: changes to the configuration."""

    pictures: int
    seconds: float
    rounds: int
    steps: int
    trainings: int
    many: int
    paper: dict


SCALES = {"smoke": Scale(9, 0.01, 2, 6, 1, 40, SMALL), "cpu": Scale(300, 3.0, 9, 100, 3, 60000, {})}
NOTES = """\
Reading: signals a second alone, batches of {batch} at {size}, on {cores} processors. PNG files and
tfds hold {rows}x{columns} pictures, decoded, cropped and resized at each access; arrays hold
signals of the final size. A step, {step}, needs {needed:.0f} signals a second; times of it: how
often over a source keeps up. The configuration's batch is {whole}; here at most half the {pictures}
pictures. Signals of at most 2 GiB are read once, before the first step."""
STEPS_NOTES = """\
Milliseconds a step, median (least..most) over {rounds} rounds of {steps} steps of each in turn.
Step by step: a batch gathered on the host, put on the device, one call. One program: numbers of
{steps} batches put on the device, one call. Ratio: of the same round. Before measuring 0.1 to 0.3
ms a step were expected to be saved."""


def pictures(count):
    """Made-up pictures, uint8 [count, 218, 178, 3]: clouds and a little grain."""
    draw = np.random.default_rng(0)
    coarse = draw.random((count, *(side // 16 for side in STORED), 3))
    zoom = (1, *(side / (side // 16) for side in STORED), 1)
    smooth = ndimage.zoom(coarse, zoom, order=1)
    grain = draw.normal(0, 0.01, smooth.shape)
    return np.rint(255 * np.clip(smooth + grain, 0, 1)).astype(np.uint8)


def encoded(picture):
    """A PNG."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "png")
    return stream.getvalue()


class MadeUp(tfds.core.GeneratorBasedBuilder):
    """The made-up pictures as a tfds data set."""

    VERSION = tfds.core.Version("1.0.0")
    files = ()

    def _info(self):
        features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(*STORED, 3))})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for index, file in enumerate(self.files):
            yield index, {"image": io.BytesIO(file)}


def sources(folder, scale, config):
    """-> {name: collection} of the same pictures as configs say they are read."""
    files = [encoded(picture) for picture in pictures(scale.pictures)]
    (folder / "png").mkdir()
    for index, file in enumerate(files):
        (folder / "png" / f"{index:05d}.png").write_bytes(file)
    MadeUp.files = files
    tfds.disable_progress_bar()
    MadeUp(data_dir=folder / "tfds", file_format="array_record").download_and_prepare()
    stored = np.random.default_rng(0).integers(0, 256, (scale.pictures, *config.size, 3), np.uint8)
    np.save(folder / "stored.npy", stored)
    found = {}
    for name, root in (("folder", "png"), ("array", "stored.npy"), ("tfds:made_up", "tfds")):
        own = config.copy_and_resolve_references()
        own.update({"name": name, "root": str(folder / root), "decoded_gib": 0.0})
        own.update({"test_fraction": 0.1, "resize": name == "folder"})
        if name == "array":
            own.crop = ""
        found[name] = data.open_collection(own, "train", 0)
    names = {"PNG files": "folder", "tfds, array_record": "tfds:made_up"}
    names["memory-mapped .npy"] = "array"
    return {name: found[key] for name, key in names.items()}


def rate(batches, seconds):
    """Signals a second, after the first batch."""
    next(batches)
    count, begun = 0, time.perf_counter()
    while not count or time.perf_counter() - begun < seconds:
        count += len(next(batches)["ids"])
    return count / (time.perf_counter() - begun)


def reading(scale):
    """-> rows of sources, the seconds of a step, the config."""
    config = command.config_of("image", "paper", scale.paper)
    config.train.batch_size = min(config.train.batch_size, scale.pictures // 2)
    batch, rows = config.train.batch_size, []
    with tempfile.TemporaryDirectory() as temporary:
        for name, collection in sources(Path(temporary), scale, config.data).items():
            for in_memory in (False, True) if name.startswith("memory") else (False,):
                found = data.batches(collection, batch, 0, in_memory=in_memory)
                named = "array in memory" if in_memory else name
                rows.append({"source": named, "rate": rate(found, scale.seconds)})
                command.say(f"{named}: {rows[-1]['rate']:.0f} signals a second")
    step = TrainingStep(config, command.noise(scale.pictures, config.data.size[0]))
    timed(step)
    seconds = Spread.of([timed(step) for _ in range(min(scale.rounds, 5))])
    command.say(f"step: {1e3 * seconds.median:.1f} ms")
    return rows, seconds, config


def steps_of(trainer, count):
    """Seconds a step of so many steps as a training takes them."""
    feeder, step, begun = trainer.feeder, 0, time.perf_counter()
    while step < count:
        some = min(feeder.most(step), count - step)
        fed = feeder.feed(step, some)
        program = trainer.step_for(step, fed)
        trainer.state, _ = feeder.take(program, trainer.state, fed, some)
        step += some
    jax.block_until_ready(trainer.state)
    return (time.perf_counter() - begun) / count


def contest(name, variant, changes, collection, scale):
    """A row: one training in both ways."""
    trainers = {}
    for scan in ("off", "on"):
        config = command.config_of("image", variant, {**changes, "train.scan": scan})
        config.train.update({"log_every": scale.steps, "steps": 10**6})
        trainers[scan] = Trainer(tasks.build(config), config, None, collection(config))
        # Compiled, and as many steps a program as there will be.
        for _ in range(4):
            steps_of(trainers[scan], scale.steps)
    found = [
        {scan: steps_of(one, scale.steps) for scan, one in trainers.items()}
        for _ in range(scale.rounds)
    ]
    row = {"training": name, "batch": config.train.batch_size}
    row |= {scan: Spread.of([round_[scan] for round_ in found]) for scan in trainers}
    row["ratio"] = Spread.of([round_["off"] / round_["on"] for round_ in found])
    command.say(f"{name}: {row['ratio'].text()} times")
    return row


def contests(scale):
    """The small trainings."""

    def faces(config):
        return data.open_collection(config.data, "train", 0)

    def noise(config):
        return command.noise(scale.many, 28, 1)

    tiny = {**TINY, "train.points": 64}
    solved = {**tiny, "router.kind": "none", "train.codes": "varpro"}
    small = "8 experts of width 8, 64 points"
    cases = [
        (f"{scale.many} of 28x28, {small}, codes solved", "smoke", solved, noise),
        (f"16 faces, {small}, joint", "smoke-joint", tiny, faces),
        ("16 faces, 32 experts of width 32, joint", "smoke-joint", {}, faces),
    ]
    return [contest(*case, scale) for case in cases[: scale.trainings]]


def run(scale_name, output):
    """Measure and write."""
    scale = SCALES[scale_name]
    rows, step, config = reading(scale)
    batch = config.train.batch_size
    needed = batch / step.median
    small = contests(scale)
    sources_table = {
        "source": lambda row: row["source"],
        "signals/s": lambda row: f"{row['rate']:.0f}",
        "times of a step's": lambda row: f"{row['rate'] / needed:.2f}",
    }
    steps_table = {
        "training": lambda row: row["training"],
        "batch": lambda row: row["batch"],
        "step by step, ms": lambda row: row["off"].scaled(1e3).text(),
        "one program, ms": lambda row: row["on"].scaled(1e3).text(),
        "ratio": lambda row: row["ratio"].text(),
    }
    size = "x".join(map(str, config.data.size))
    notes = NOTES.format(
        batch=batch,
        whole=command.config_of("image", "paper").train.batch_size,
        pictures=scale.pictures,
        size=size,
        cores=len(os.sched_getaffinity(0)),
        rows=STORED[0],
        columns=STORED[1],
        step=f"{step.scaled(1e3).text()} ms",
        needed=needed,
    )
    parts = [
        f"# Feeding training, scale {scale_name}\n",
        command.made() + "\n",
        notes + "\n",
        command.table(sources_table, rows),
        "\n" + STEPS_NOTES.format(rounds=scale.rounds, steps=scale.steps) + "\n",
        command.table(steps_table, small),
    ]
    metrics = {"scale": scale_name, "step_seconds": step, "needed": needed}
    metrics |= {"reading": rows, "steps": small}
    command.write(output, "\n".join(parts), metrics)
    print(output / "table.md")


if __name__ == "__main__":
    command.start(run, "feeding", SCALES)
