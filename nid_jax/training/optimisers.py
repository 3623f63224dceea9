"""The optax optimiser that a config describes."""

import difflib
import functools

import jax
import optax
import optax.contrib
from flax import nnx
from ml_collections import ConfigDict

from nid_jax.fields.variables import Basis, Code, Kernel

OPTIMISERS = ("adam", "adamw", "sgd", "lamb", "muon", "none")
SCHEDULES = ("constant", "cosine", "exponential", "linear")

# Root mean square of Adam's steps as Liu et al. 2025 found it, in learning rates.
_ADAM_RMS = 0.2


def build_schedule(config: ConfigDict, steps: int) -> optax.Schedule:
    """Learning rate against step: config.schedule from config.learning_rate, after a warm-up.

    Reads schedule, learning_rate, lr_warmup_steps and lr_end (fraction of the learning rate that
    the schedule ends on). Raises ValueError naming train.optimizer.schedule.
    """
    if config.schedule not in SCHEDULES:
        raise ValueError(
            f"train.optimizer.schedule: {config.schedule!r} is unknown; "
            f"allowed: {', '.join(SCHEDULES)}"
        )
    rate, end = config.learning_rate, config.learning_rate * config.lr_end
    decay_steps = max(steps - config.lr_warmup_steps, 1)
    if config.schedule == "constant":
        schedule = optax.constant_schedule(rate)
    elif config.schedule == "cosine":
        schedule = optax.cosine_decay_schedule(rate, decay_steps, alpha=config.lr_end)
    elif config.schedule == "linear":
        schedule = optax.linear_schedule(rate, end, decay_steps)
    else:
        schedule = optax.exponential_decay(rate, decay_steps, max(config.lr_end, 1e-8))
    if not config.lr_warmup_steps:
        return schedule
    warmup = optax.linear_schedule(0.0, rate, config.lr_warmup_steps)
    return optax.join_schedules([warmup, schedule], [config.lr_warmup_steps])


def build_optimiser(config: ConfigDict, steps: int) -> optax.GradientTransformation:
    """Gradient clipping, the optimiser of config.name and its schedule, over an nnx state.

    Weight decay reaches the dictionary's weights only, under muon the kernels between layers only;
    codes move at code_rate times the learning rate (1: the same). muon (Jordan et al. 2024) turns
    those kernels, in steps as long as Adam's (Liu et al. 2025), and leaves all else to Adam; none
    moves nothing and has no moments. Raises ValueError naming train.optimizer.name or .schedule.
    """
    if config.name not in OPTIMISERS:
        near = difflib.get_close_matches(str(config.name), OPTIMISERS, 1, 0.0)[0]
        raise ValueError(
            f"train.optimizer.name: {config.name!r} is unknown, did you mean {near!r}? "
            f"allowed: {', '.join(OPTIMISERS)}"
        )
    parts = [_optimiser(config, build_schedule(config, steps))]
    if config.clip_norm:
        parts.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if config.code_rate != 1:
        codes = functools.partial(variables_of, kind=Code)
        parts.append(optax.masked(optax.scale(config.code_rate), codes))
    return optax.chain(*parts)


def _optimiser(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """The optimiser of config.name alone."""
    decay = {"weight_decay": config.weight_decay}
    basis = functools.partial(variables_of, kind=Basis)
    match config.name:
        case "adamw":
            return optax.adamw(schedule, mask=basis, **decay)
        case "lamb":
            return optax.lamb(schedule, mask=basis, **decay)
        case "muon":
            axes = {"muon_weight_dimension_numbers": _kernels}
            return optax.contrib.muon(schedule, consistent_rms=_ADAM_RMS, **axes, **decay)
        case "sgd":
            return optax.sgd(schedule, momentum=0.9)
        case "none":
            return optax.set_to_zero()
    return optax.adam(schedule)


def _kernels(state: nnx.State) -> nnx.State:
    """Muon's view of a state: the axes of every kernel, None in place of all other leaves."""

    def one(variable):
        def axes(leaf):
            if isinstance(variable, Kernel):
                return optax.contrib.MuonDimensionNumbers(leaf.ndim - 2, leaf.ndim - 1)
            return None

        return jax.tree.map(axes, variable)

    return jax.tree.map(one, state, is_leaf=lambda node: isinstance(node, nnx.Variable))


def variables_of(state: nnx.State, kind: type[nnx.Variable]) -> nnx.State:
    """The state with True in place of every leaf of a Variable of type `kind`, else False."""

    def one(variable):
        return jax.tree.map(lambda _: isinstance(variable, kind), variable)

    return jax.tree.map(one, state, is_leaf=lambda node: isinstance(node, nnx.Variable))
