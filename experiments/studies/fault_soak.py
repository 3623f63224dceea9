"""All solvers and renders in one process, in turn, for minutes: memory and compilations."""

import gc
import time
from pathlib import Path

import jax
import numpy as np
from measuring import command

import nid_jax as nid
from nid_jax.fitting.fit import Fit
from studies import fault_damage
from studies import fault_trials as trials

_EXPERTS, _SIGNALS = 16, 4
_PAGE_MIB = 4096 / 2**20
# MiB a minute that memory may grow.
_MOST_GROWTH = 1.0
_COMPILED = "/jax/core/compile/backend_compile_duration"


class Compilations:
    """Counts what jax compiles from now on, as `count`."""

    def __init__(self):
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event, seconds, **_):
        self.count += event == _COMPILED


def _dictionary(folder):
    """One that was learned with a router, and has a prior."""
    changes = {
        "data.num_train": 16,
        "data.num_test": _SIGNALS,
        "dictionary.num_experts": _EXPERTS,
        "router.kind": "conv",
        "train.codes": "joint",
        "train.steps": 2,
        "train.batch_size": 8,
    }
    words = [f"--config.{key}={value}" for key, value in changes.items()]
    workdir = folder / "run"
    status, err = fault_damage.called(
        ["--config=image:smoke", f"--workdir={workdir}", "--mode=train", *words]
    )
    if status:
        raise RuntimeError(f"exit status {status}: {err[-2000:]}")
    return nid.load(workdir)


def _solvers():
    return (
        nid.Ridge(),
        nid.Gaussian(),
        nid.Lasso(steps=50),
        nid.OMP(top_k=6),
        nid.IHT(top_k=6),
        nid.Robust(steps=20),
        nid.Gradient(steps=20),
        nid.RouterCodes(),
        nid.RouterRidge(top_k=6),
    )


def _round(learned, number):
    """All solvers on new signals, and all that is drawn of them; codes of any number of experts."""
    random = np.random.default_rng(number)
    images = random.random((_SIGNALS, *learned.grid_shape, learned.channels), np.float32)
    points = random.uniform(-1, 1, (100, len(learned.grid_shape))).astype(np.float32)
    for solver in _solvers():
        fit = learned.fit(images, solver=solver)
        fit.render((20, 20))
        fit.at(points)
        fit.gradient_at(points)
        fit.score(images)
    learned.sample(_SIGNALS, seed=number).render()


def _sparse(learned, active, number):
    """Draw codes with so many experts each."""
    random = np.random.default_rng(number)
    codes = np.zeros((_SIGNALS, learned.num_experts), np.float32)
    for row in codes:
        chosen = random.permutation(learned.num_experts)[:active]
        row[chosen] = random.standard_normal(active)
    bias = np.zeros((_SIGNALS, learned.channels), np.float32)
    Fit.of_codes(learned.dictionary, codes, bias, learned.grid_shape).render((20, 20))


def _resident():
    """MiB of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_MIB


def soak(size, folder):
    """Rounds of all solvers and renders until the minutes are over."""
    learned = _dictionary(folder)
    compilations, drawn = Compilations(), np.random.default_rng(0)
    experts = learned.num_experts
    begun, times, memory, anew, sparse_anew = time.monotonic(), [], [], [], []
    number = 0
    while number < 3 or time.monotonic() - begun < 60 * size.minutes:
        before = compilations.count
        _round(learned, number)
        between = compilations.count
        # All numbers once, then any of them.
        numbers = range(1, experts + 1) if number == 0 else drawn.integers(1, experts + 1, 8)
        for active in numbers:
            _sparse(learned, int(active), number)
        anew.append(between - before)
        sparse_anew.append(compilations.count - between)
        gc.collect()
        times.append((time.monotonic() - begun) / 60)
        memory.append(_resident())
        number += 1
    command.say(f"compiled {anew[:4]}, of sparse renders {sparse_anew[:4]}; MiB {memory[:3]}")
    # Memory of the second half: allocators settle in the first rounds.
    half = len(times) // 2
    slope = float(np.polyfit(times[half:], memory[half:], 1)[0])
    compiled = [f"round {n}: {count}" if count else "" for n, count in enumerate(anew)][1:]
    grown = "" if slope <= _MOST_GROWTH else f"{slope:.1f} MiB a minute"
    # Two for each of the sizes 1, 2, 3, 4, 6, ..., experts / 2, and all of them.
    few = 2 * (2 * int(np.log2(experts)) - 1)
    many = "" if sparse_anew[0] <= few and not any(sparse_anew[1:]) else f"{sparse_anew[:4]}"
    spent = f"{times[-1]:.1f} minutes, {number} rounds of {len(_solvers())} solvers"
    test = "all solvers and renders in one process"
    return [
        trials.row_of(
            f"{test}: compilations", "none after the first round", compiled, f"{anew[0]} in it"
        ),
        trials.row_of(
            f"{test}: memory",
            f"grows by at most {_MOST_GROWTH:g} MiB a minute",
            [grown],
            f"{slope:.2f} MiB a minute in the second half; {spent}",
        ),
        trials.row_of(
            f"renders with 1 to {experts} active experts",
            f"at most {few} programs, none of them after the first round",
            [many],
            f"{sparse_anew[0]} programs",
        ),
    ]
