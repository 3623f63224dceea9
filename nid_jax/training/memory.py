"""What training takes of a device's memory, asked of the compiler before anything runs.

What would not fit is refused in one line that names the key to change.
"""

from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from nid_jax import devices, notices
from nid_jax.reporting import tables


class Held(NamedTuple):
    """Bytes on a device when a step begins."""

    state: int
    """Of weights and moments, of one device."""
    signals: int = 0
    """Of the collection, where it lies there."""
    coming: int = 0
    """Of batches that will be brought ahead, and may not be there yet."""


def check_state(config: ConfigDict, draw: jax.stages.Compiled, mesh: jax.sharding.Mesh) -> None:
    """Raise ValueError, naming the key, for weights and moments that do not fit.

    draw: the program that makes them.
    """
    added = devices.added_bytes(draw) * _sharing(mesh)
    _check_experts(config, devices.held_bytes() + added, devices.memory_bytes())


def check_step(
    config: ConfigDict, step: jax.stages.Compiled, mesh: jax.sharding.Mesh, held: Held
) -> None:
    """Raise ValueError, naming the keys, for a step that does not fit beside all that is held.

    One that the machine has memory for, but others hold it now, is said.
    """
    there, sharing = devices.memory_bytes(), _sharing(mesh)
    added = sharing * (devices.added_bytes(step) + held.coming)
    arguments = sharing * (devices.compiled_bytes(step) - devices.added_bytes(step))
    needed = max(devices.held_bytes(), arguments) + added
    if sharing * held.state > needed / 2:
        _check_experts(config, needed, there)
    _check_batch(config, needed, there, held.signals)
    # An accelerator's memory is nobody else's.
    free = devices.free_bytes() if _of_cpu(mesh) else 0
    if 0 < free < added:
        of, now = tables.format_bytes(added), tables.format_bytes(free)
        notices.say(
            f"train.batch_size, train.points: a step takes {of} of memory more, of which {now} are "
            "free now; the system may end the run; fewer of either take less"
        )


def _sharing(mesh):
    """Devices of a mesh whose memory is the one that is asked for: those of a CPU share it."""
    return len(mesh.local_devices) if _of_cpu(mesh) else 1


def _of_cpu(mesh):
    return mesh.local_devices[0].platform == "cpu"


def _check_experts(config, needed, there):
    if not there or needed <= there:
        return
    dictionary = config.dictionary
    raise ValueError(
        f"dictionary.num_experts: {dictionary.num_experts} experts of "
        f"dictionary.width={dictionary.width}, with the optimiser's moments, take about "
        f"{tables.format_bytes(needed)} with all that is held, more than the "
        f"{tables.format_bytes(there)} there are; allowed: fewer, a smaller width, or "
        "train.optimizer.name=sgd, which keeps no moments"
    )


def _check_batch(config, needed, there, signals):
    if not there or needed <= there:
        return
    train, of = config.train, config.data.name
    points = train.points or "all"
    ways = "fewer of either, such as train.points=1024, "
    if needed - signals <= there:
        ways += f"train.scan=off, which holds {tables.format_bytes(signals)} less, "
    raise ValueError(
        f"train.batch_size, train.points: a step of {train.batch_size} signals of {of!r} at "
        f"{points} points takes about {tables.format_bytes(needed)} with all that is held, more "
        f"than the {tables.format_bytes(there)} there are; allowed: {ways}or smaller signals, such "
        "as data.crops=160 with data.size=(32,32), or data.size with data.resize=true"
    )
