"""What a config asks of training, checked before any work begins: one line that names the key."""

import math
from collections.abc import Collection, Sequence
from typing import Any

from ml_collections import ConfigDict

from nid_jax import settings
from nid_jax.coding.checks import one_of
from nid_jax.coding.operators import Operator
from nid_jax.errors import ArgumentError
from nid_jax.reporting import tables
from nid_jax.training import feeding, heads
from nid_jax.training.components import MOST_COEFFICIENTS
from nid_jax.training.optimisers import OPTIMISERS
from nid_jax.training.steps import CHUNKS
from nid_jax.training.strategies import CODES, build_strategy

# Float64 numbers for each pair of experts that `coding.canonical` holds at once.
_CANONICAL_NUMBERS = 6
# Bytes that `components.Span` holds at its peak for each feature of each measurement: three copies
# in float32 and two in float64.
_SPAN_BYTES = 28
# Squares of values are summed in float32, which ends at 3.4e38: of 10^8 numbers at this size.
_MOST_VALUE = 1e15
# Solvers with a prior take squares of variances too.
_MOST_WITH_PRIOR = 1e9
# Squares of what is left of signals are divided by in float32, which ends at 1.2e-38.
_LEAST_VALUE = 1e-15


def check(config: ConfigDict) -> None:
    """Raise ValueError, naming the key, for a training that cannot be."""
    settings.check(config)
    build_strategy(config, None)
    heads.check(config)
    if config.dictionary.heads == "drawn" and not config.train.steps:
        raise ArgumentError("train.steps", 0, "1 or more, as dictionary.heads=drawn are to learn")
    one_of("train.chunks", config.train.chunks, CHUNKS)
    if config.train.steps and config.train.optimizer.name == "none":
        raise ValueError(
            f"train.optimizer.name: 'none' moves nothing in train.steps={config.train.steps}; "
            f"allowed: {', '.join(OPTIMISERS[:-1])}, or train.steps=0"
        )
    if config.train.scan not in feeding.SCANS:
        allowed = ", ".join(feeding.SCANS)
        raise ValueError(f"train.scan: {config.train.scan!r}; allowed: {allowed}")
    dictionary = config.dictionary
    if dictionary.get("skip") and (dictionary.kind != "shared" or dictionary.num_layers == 1):
        raise ValueError(
            f"dictionary.skip: True; allowed of dictionary.kind={dictionary.kind}, "
            f"num_layers={dictionary.num_layers}: False, as no heads read a trunk"
        )
    router = config.router
    affine = router.kind == "linear" or (router.kind == "conv" and router.pool == "none")
    if not (config.train.steps or affine or router.kind == "none"):
        raise ValueError(
            f"router.kind: {router.kind!r} descends, and train.steps=0; allowed: none, linear, and "
            "conv with router.pool=none, or more steps"
        )
    solved = config.train.codes in ("varpro", "sparse_varpro")
    if not config.train.steps and affine and not solved:
        raise ValueError(
            f"train.codes: {config.train.codes!r}; allowed for router.kind={router.kind} and "
            "train.steps=0, a router in closed form: varpro, sparse_varpro"
        )
    if config.train.codes == "surface" and config.train.reseed_every:
        raise ValueError(
            "train.reseed_every: 0 is wanted by train.codes=surface: no value is known"
        )


def check_canonical(config: ConfigDict, there: int) -> None:
    """Raise ArgumentError, naming the key, for more experts than the bytes there are take to
    canonical form, which comes after training. there: 0 is not known."""
    dense = config.train.codes == "varpro" and not config.router.top_k
    if not (there and dense and config.router.kind == "none" and config.prior.num_signals):
        return
    experts = config.dictionary.num_experts
    needed = _CANONICAL_NUMBERS * 8 * experts**2
    if needed > there:
        most = math.isqrt(there // (8 * _CANONICAL_NUMBERS))
        raise ArgumentError(
            "dictionary.num_experts",
            experts,
            f"at most {most}, whose covariances and products fit into the "
            f"{tables.format_bytes(there)} there are; these take {tables.format_bytes(needed)}",
        )


def check_values(collection: Any, prior: bool, largest: float = 0.0) -> None:
    """Raise ArgumentError for values whose squares are too large for float32, or too small, where a
    collection knows them.

    prior: whether one of the codes is learned, whose variances are squared in turn; largest:
    magnitude that values had before they became float32, where they are all 0 now.
    """
    bounds = getattr(collection, "bounds", None)
    largest = (0.0 if bounds is None else max(map(abs, bounds))) or largest
    value = f"{collection.title}, values up to {largest:.3g}"
    most = _MOST_WITH_PRIOR if prior else _MOST_VALUE
    if largest > most:
        what = "squares of the variances of their codes" if prior else "their squares"
        allowed = f"up to {most:g}, as float32 sums {what}: the same in another unit"
        raise ArgumentError("data.name", value, allowed)
    if 0 < largest < _LEAST_VALUE:
        allowed = f"{_LEAST_VALUE:g} or more, as float32 sums their squares: the same in another "
        raise ArgumentError("data.name", value, f"{allowed}unit, or all 0")


def check_components(config: ConfigDict, features: int, measured: Any, there: int) -> None:
    """Raise ValueError, naming the keys, for components whose features at all measurements of a
    signal take more bytes than there are.

    features: F of the dictionary; measured: `tasks.Measured`; there: 0 is not known.
    """
    held = features * measured.channels <= MOST_COEFFICIENTS or not measured.alike
    if not (there and held and config.dictionary.heads == "components"):
        return
    count = math.prod(measured.grid_shape)
    if measured.alike:
        count = measured.operator.num_measurements
    needed = _SPAN_BYTES * count * features
    if needed > there:
        raise ValueError(
            f"dictionary.heads: 'components' of {features} features at {count} measurements of a "
            f"signal takes {tables.format_bytes(needed)}, more than the "
            f"{tables.format_bytes(there)} there are; allowed: smaller signals, such as "
            "data.patch.size=32 or data.crops=160 with data.size=(32,32), fewer features, such as "
            "dictionary.embedding.counts=(16,16), or dictionary.heads=drawn"
        )


def check_training(config: ConfigDict, ways: Sequence[Operator]) -> None:
    """Raise ValueError, naming the key, for what the measurements of one of the ways do not
    allow."""
    for key, value, fits, words in (
        (
            "train.points",
            config.train.points,
            lambda operator: operator.run_length is not None,
            "measurements depend on the whole signal",
        ),
        (
            "train.reseed_every",
            config.train.reseed_every,
            lambda operator: operator.run_length == 1,
            "no samples are measured",
        ),
    ):
        if value and not all(map(fits, ways)):
            raise ValueError(f"{key}: {value}; allowed: 0 where {words}")


def check_router(config: ConfigDict, measured: Any) -> None:
    """Raise ValueError, naming the key, for a linear router of what is no whole grid."""
    points = math.prod(measured.grid_shape)
    solved = config.train.codes in ("varpro", "sparse_varpro")
    if config.router.kind != "linear" or not solved or measured.operator is None:
        return
    if measured.operator.num_measurements != points:
        raise ValueError(
            f"router.kind: linear, a map of all {points} samples, where training sees "
            f"{measured.operator.num_measurements} measurements; allowed: none"
        )


def check_alike(
    config: Any, measured: Any, names: Sequence[str], typed: Collection[str] = ()
) -> None:
    """Raise ValueError, naming the key, for what signals that were not measured alike do not
    allow.

    typed: keys that a person gave; the config's own may also be for signals measured alike.
    """
    if measured.alike:
        return
    router, several = config.router.kind, len(measured.ways) > 1
    train = config.train
    codes = ", ".join(name for name in CODES if name != "surface")
    for bad, key, value, allowed in (
        (router not in ("none", "codebook"), "router.kind", router, "none, codebook"),
        (train.codes == "surface", "train.codes", "surface", codes),
        (several and train.reseed_every, "train.reseed_every", train.reseed_every, "0"),
        (several and train.chunks == "exhaustive", "train.chunks", "exhaustive", "random"),
        (train.differentiate == "solve", "train.differentiate", "solve", "envelope"),
        *_of_rounds(config, typed),
    ):
        if bad:
            raise ValueError(
                f"{key}: {value!r} of {len(names)} signals that were not measured alike; "
                f"allowed: {allowed}"
            )


def _of_rounds(config, typed):
    """What rounds of expectation maximisation do not allow, as rows of `check_alike`."""
    prior, components = config.prior, config.dictionary.components
    by_rounds = config.dictionary.heads == "components"
    whole = by_rounds and components.shrinkage >= 1
    yield whole, "dictionary.components.shrinkage", components.shrinkage, "below 1"
    squares = by_rounds and components.errors == "log"
    yield squares, "dictionary.components.errors", components.errors, "square, ''"
    if not prior.num_signals:
        return
    yield prior.components > 1, "prior.components", prior.components, "0, 1"
    yield prior.shrinkage >= 1, "prior.shrinkage", prior.shrinkage, "below 1"
    # The Gaussian that gave the heads is the prior.
    given = by_rounds and not config.train.steps and "prior.shrinkage" in typed
    allowed = "0, as dictionary.components.shrinkage is that of both"
    yield given and prior.shrinkage, "prior.shrinkage", prior.shrinkage, allowed
    allowed = "none typed, as no codes are solved for: the prior comes by rounds"
    yield "prior.lam" in typed, "prior.lam", prior.lam, allowed
    codes = "prior.keep_codes" in typed and prior.keep_codes
    yield codes, "prior.keep_codes", True, "False, as the prior comes by rounds, without codes"
