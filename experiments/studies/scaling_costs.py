"""What a step of training and a fit cost on a mesh, counted from their formulas.

Of a shared dictionary on a mesh of D x X devices ('data' x 'expert'), for each device. A
multiply-add is two operations; matrix products, factorisations and triangular solves count,
elementwise work does not. What the mesh does not split, every device computes: the trunk at all
points, the features' Gram matrix and the factor. Signals whose codes are solved are split over all
devices, each of which has whole heads for them; otherwise over 'data'.
"""

import dataclasses
import math
from types import SimpleNamespace

from measuring import operations

KINDS = ("joint, dense", "joint, sparse", "varpro")
_FLOAT = 4


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of a training and its mesh."""

    signals: int
    """S, of a batch."""
    points: int
    """P that a step sees of every signal."""
    experts: int
    active: int
    """K."""
    layers: tuple[int, ...]
    """Of the trunk: embedding, widths; the last is F, the heads' features."""
    channels: int = 1
    collection: int = 0
    """N signals; each has a row of the codebook in a joint training."""
    data: int = 1
    expert: int = 1
    solve_bytes: int = 8
    """Of a number of the normal equations where they are solved: 8, on a TPU 4."""

    @property
    def own_signals(self):
        """Of a device."""
        return -(-self.signals // self.data)

    @property
    def solved_signals(self):
        """Of a device, where their codes are solved."""
        return -(-self.signals // (self.data * self.expert))

    @property
    def own_experts(self):
        """Of a device."""
        return -(-self.experts // self.expert)

    @property
    def features(self):
        """F."""
        return self.layers[-1]

    @property
    def through_trunk(self):
        """Whether the Gram matrix is that of the features, with the heads applied: `coding.gram`"""
        f, e, c, p = self.features, self.experts, self.channels, self.points
        return p * f**2 + c * e * f * (f + e) < p * c * e**2


def step_products(kind, s):
    """Operations of a step in matrix products, by part."""
    one = s.points * operations.network(s.layers)
    first = 2 * s.points * s.layers[0] * s.layers[1]
    # Solved codes are constants: their gradient is not taken.
    solved = kind == "varpro"
    passes, signals, experts = 3, s.own_signals, s.own_experts
    if solved:
        passes, signals, experts = 2, s.solved_signals, s.experts
    head = 2 * signals * s.features * s.channels
    found = {
        "trunk": 3 * one - first,
        "fold": passes * head * experts,
        "render": 3 * head * s.points,
    }
    if not solved:
        return found
    f, e, c = s.features, s.experts, s.channels
    found["moments"] = head * (s.points + e)
    if s.through_trunk:
        found["Gram of features"] = 2 * s.points * f**2
        found["heads of Gram"] = 2 * c * (f**2 * e + f * e**2) / s.expert
    else:
        found["atoms"] = 2 * s.points * f * c * s.own_experts
        found["Gram of atoms"] = 2 * s.points * c * e**2 / s.expert
        found["moments"] = 2 * signals * s.points * c * e
    found["correction"] = 2 * e**2 * signals
    return found


def step_solves(kind, s):
    """Operations of a step in a factor, whole on every device, and in triangular solves."""
    if kind != "varpro":
        return {}
    return {"factor": s.experts**3 / 3, "solves": 4 * s.experts**2 * s.solved_signals}


def fit(solver, s, top_k=0, steps=1):
    """Operations of a device that fits S signals which share their points.

    solver: ridge, gaussian or omp. The equations and their factor are computed by every device, the
    rest is split along the signals.
    """
    dictionary = SimpleNamespace(
        kind="shared",
        num_experts=s.experts,
        channels=s.channels,
        num_features=s.features,
        sizes=s.layers,
    )
    shared = operations.equations(dictionary, s.points, s.own_signals)
    own = operations.solve(solver, s.experts, s.own_signals, top_k, steps)
    return s.own_signals * (shared + own)


def step_bytes(kind, s):
    """{(what, over which axis, operation): bytes of its result on a device} of a step."""
    if kind == "varpro":
        return _solved_bytes(s)
    f, c, e = s.features, s.channels, s.own_experts
    found = {}
    if s.expert > 1:
        found["folded heads", "expert", "all-reduce"] = s.own_signals * c * (f + 1)
    if s.data > 1:
        found["features' gradient", "data", "all-reduce"] = s.points * f
        found["heads' gradient", "data", "all-reduce"] = (f + 1) * c * e
    if s.data > 1:
        found["codebook's gradient", "data", "all-reduce"] = s.collection * (e + c)
    if kind == "joint, sparse" and s.expert > 1:
        # Numbers and places of every part's K largest; all numbers of all signals where a part has
        # no more than K: `routing.largest`.
        candidates = 2 * s.own_signals * s.active * s.expert
        if s.active >= e:
            candidates = s.signals * s.experts
        found["candidates", "expert", "all-gather"] = candidates
    if kind == "joint, sparse" and s.data > 1:
        found["places of codes", "data", "all-gather"] = 2 * s.signals * s.active
    return {key: _FLOAT * numbers for key, numbers in found.items()}


def _solved_bytes(s):
    """Of a step with solved codes, of signals split over all devices. Where experts are split,
    heads are gathered for the signals' sake and for the Gram matrix's, and the matrix is turned
    round and gathered for its factor."""
    f, c, e = s.features, s.channels, s.experts
    if s.data * s.expert == 1:
        return {}
    axis = "expert" if s.data == 1 else "data" if s.expert == 1 else "both"
    found = {
        ("features' gradient", axis, "all-reduce"): s.points * f,
        ("heads' gradient", axis, "all-reduce"): (f + 1) * c * e,
    }
    if s.expert > 1:
        found["heads of signals", "expert", "all-gather"] = (f + 1) * c * e
        found["heads of Gram", "expert", "all-gather"] = (f + 1) * c * e
        found["Gram, turned", "expert", "all-to-all"] = e * s.own_experts
        found["Gram", "expert", "all-gather"] = e**2
    if s.expert > 1 and s.data > 1:
        found["heads' own gradient", "data", "all-reduce"] = (f + 1) * c * s.own_experts
    return {key: _FLOAT * numbers for key, numbers in found.items()}


def wire_bytes(found):
    """Bytes that a device sends by rings of many devices: all-reduces go round twice."""
    return sum(
        numbers * (2 if operation == "all-reduce" else 1)
        for (_, _, operation), numbers in found.items()
    )


def step_memory(kind, s):
    """Bytes that a device holds in a step, by part. Moments: Adam's two."""
    inner = list(zip(s.layers[:-1], s.layers[1:], strict=True))
    weights = sum((a + 1) * b for a, b in inner)
    weights += (s.features + 1) * s.channels * s.own_experts
    rows = 0 if kind == "varpro" else s.collection * (s.own_experts + s.channels)
    batch = values = s.own_signals * s.points * s.channels
    if kind == "varpro":
        values = s.solved_signals * s.points * s.channels
    found = {
        "weights": weights,
        "codebook": rows,
        "moments": 2 * (weights + rows),
        "gradients": weights + rows,
        "batch": batch,
        # Values of layers and their gradients; what is rendered and its gradient.
        "activations": 2 * s.points * sum(s.layers[1:]) + 2 * values,
    }
    found = {name: _FLOAT * numbers for name, numbers in found.items()}
    if kind == "varpro":
        # A part of it twice in float32 and as it is solved; whole, scaled and as its factor.
        part = (2 * _FLOAT + s.solve_bytes) * s.experts * s.own_experts
        found["Gram"] = part + 2 * s.solve_bytes * s.experts**2
        found["codes"] = 6 * s.solve_bytes * s.solved_signals * s.experts
    return found


@dataclasses.dataclass(frozen=True)
class Chip:
    """What is assumed of one."""

    name: str
    flops: float
    """Operations a second in products of full float32."""
    memory: float
    """Bytes."""
    link: float
    """Bytes a second between chips, each way."""


CHIPS = (
    # 459e12 in bfloat16, of which float32 takes six passes; a ring along one axis of the torus.
    Chip("TPU v5p", 459e12 / 6, 95e9, 180e9),
    # Float32 without tensor cores; 400 Gbit/s of one adapter for each card, between machines.
    Chip("H100", 67e12, 80e9, 50e9),
)
_TRUNK = (512, 512, 512, 512)


def _paper(data, expert, **changes):
    given = {
        "signals": 64 * data,
        "points": 4096,
        "experts": 4096,
        "active": 64,
        "layers": _TRUNK,
        "channels": 3,
        "collection": 10**8,
        "data": data,
        "expert": expert,
    }
    return Sizes(**(given | changes))


def paper_rows():
    """(words, kind, sizes) of trainings from one chip to 4096. Predicted codes: of a router, which
    is not counted and has no row for a signal."""
    solved, sparse, many = "varpro", "joint, sparse", 10**6
    predicted = {"collection": 0}
    everywhere = {"data": 1, "expert": 4096, "signals": 4096}
    rows = [("solved, 64 signals a chip", solved, _paper(n, 1)) for n in (1, 8, 64, 512, 4096)]
    rows += [
        ("solved, 4096 signals in all", solved, _paper(n, 1, signals=4096)) for n in (64, 4096)
    ]
    rows += [
        ("predicted, 64 signals a chip", sparse, _paper(n, 1, **predicted)) for n in (1, 64, 4096)
    ]
    return [
        *rows,
        ("predicted, a million experts", sparse, _paper(64, 64, experts=many, **predicted)),
        ("solved, a million experts", solved, _paper(16, 256, experts=many)),
        ("codebook of 10^8 signals", sparse, _paper(512, 8)),
        ("the same over experts alone", sparse, _paper(**everywhere)),
        ("the same, a million experts", sparse, _paper(**everywhere, experts=many)),
        (
            "codebook of 10^5 signals, a million experts",
            sparse,
            _paper(4, 1024, experts=many, collection=10**5),
        ),
    ]


def step_seconds(kind, s, chip):
    """(arithmetic, links): least seconds of a step at the chip's full rates."""
    work = sum(step_products(kind, s).values()) + sum(step_solves(kind, s).values())
    return work / chip.flops, wire_bytes(step_bytes(kind, s)) / chip.link


def fit_seconds(signals, chips, chip, solver="ridge", at_a_time=4096):
    """Least seconds that so many signals take on so many chips, `at_a_time` a chip in one call."""
    one = _paper(1, 1, signals=at_a_time)
    return fit(solver, one, top_k=64) * math.ceil(signals / (at_a_time * chips)) / chip.flops
