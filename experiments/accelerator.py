"""What an accelerator reaches, in one command: its rates, our floors, agreement with the CPU.

    python experiments/accelerator.py --scale=smoke|full [--minutes=9] --output=DIR

In order: memory and what is computed at a time; rates of the device; compilations and gaps of a
small training; fits that must agree with the figures of a CPU; fits a second at 128x128 with a
factorisation kept; the step of the paper's configuration of CelebA; the cases of
`experiments/speed.py` beside their floors. table.md and metrics.json are written again after every
part, so that a run that was stopped keeps what it had; parts that the memory does not hold say so,
and those that no longer fit into --minutes are named. Rates are in full float32 unless they say
otherwise.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from measuring import command
from measuring.rates import Machine, Spread, compiled, measure, timed
from measuring.training_step import TrainingStep
from studies.speed_cases import Sweep, build_cases, shared_coordinates_case

import nid_jax as nid
from nid_jax import data, devices, platforms, tasks

# Unseen signals' PSNR on a CPU in float32 (experiments/precision.py, jax 0.10.2), dB.
KNOWN = {("image", "cpu"): 27.90, ("image", "photos"): 42.75}
# How far another device's rounding and another draw of nothing may be off, dB.
AGREEMENT = 0.05
# A floor on paper of a fit at 128x128: two products of E numbers with the pixels.
SIDE, FITS_EXPERTS = 128, 960
PRECISIONS = {
    "float32": (jnp.float32, jax.lax.Precision.HIGHEST),
    "tf32, or three bfloat16": (jnp.float32, jax.lax.Precision.HIGH),
    "default": (jnp.float32, jax.lax.Precision.DEFAULT),
    "bfloat16": (jnp.bfloat16, jax.lax.Precision.DEFAULT),
}


@dataclasses.dataclass(frozen=True)
class Size:
    """Of one --scale. configs: of KNOWN or for their sake alone; signals: of the fits."""

    side: int
    matrix: int
    configs: Sequence[tuple[str, str]]
    signals: int
    experts: int
    celeba: dict
    sweeps: dict[str, Sweep]
    rounds: int = 3


SIZES = {
    "smoke": Size(
        12,
        128,
        [("image", "smoke")],
        8,
        16,
        {"dictionary.num_experts": 16, "dictionary.width": 16, "train.batch_size": 4,
         "dictionary.embedding.size": 16, "router.top_k": 4, "data.size": (16, 16)},
        {"basis, shared": Sweep(E=(8,), P=(64,)), "train, shared": Sweep(E=(8,), S=(4,))},
        rounds=2,
    ),
    "full": Size(
        SIDE,
        8192,
        list(KNOWN),
        4096,
        FITS_EXPERTS,
        {},
        {
            "basis, independent": Sweep(E=(1024,), P=(4096,), H=(16, 64)),
            "basis, shared": Sweep(E=(4096,), P=(2**16,), H=(512,)),
            "train, independent": Sweep(E=(256,), P=(4096,), S=(16,), H=(16,)),
            "train, shared": Sweep(E=(4096,), P=(2**14,), S=(64,), H=(512,)),
            "render, shared": Sweep(E=(4096,), P=(2**18,), S=(4,), H=(512,), K=(0, 256)),
            "fit": Sweep(E=(1024,), S=(64,)),
            "factorised": Sweep(E=(1024,), S=(4000,), H=(512,)),
        },
    ),
}  # fmt: skip
SCALES = tuple(SIZES)


def rates(size):
    """Matrix products by precision, sines, memory."""
    machine, found = Machine(), {}
    draw = np.random.default_rng(0)
    square = draw.standard_normal((size.matrix, size.matrix), np.float32) / size.matrix
    for name, (dtype, precision) in PRECISIONS.items():
        operand = jnp.asarray(square, dtype)
        product = jax.jit(lambda a, b, p=precision: jnp.matmul(a, b, precision=p))
        timed(lambda product=product, operand=operand: product(operand, operand))
        seconds = min(timed(lambda: product(operand, operand)) for _ in range(5))  # noqa: B023
        found[f"products of {size.matrix}^2 in {name}, TFLOP/s"] = 2e-12 * size.matrix**3 / seconds
    found["sines, 1e9/s"] = 1e-9 * machine.sine_rate()
    found["memory, GB/s"] = 1e-9 * machine.bandwidth()
    return found


def held(size):
    """Memory, and what is computed at a time for it."""
    del size
    chosen = dataclasses.asdict(platforms.sizes())
    return {
        "memory, GB": 1e-9 * devices.memory_bytes(),
        "held before anything runs, GB": 1e-9 * devices.held_bytes(),
        **{f"at a time: {name}": number for name, number in chosen.items()},
    }


def agreement(size):
    """Unseen signals by a dictionary that this device has learned, beside a CPU's figure."""
    found = {}
    for name, variant in size.configs:
        config = command.config_of(name, variant)
        dictionary, seconds = command.clocked(nid.learn, config)
        truth = data.to_array(tasks.build(config).open("test"))
        scores = dictionary.fit(truth, solver=nid.Ridge()).score(truth)
        psnr = float(np.mean(scores["psnr"]))
        key = f"{name}:{variant}"
        found[f"{key}, dB"] = psnr
        found[f"{key}, learned in s"] = seconds
        if (name, variant) in KNOWN:
            off = psnr - KNOWN[name, variant]
            found[f"{key}, beside the CPU, dB"] = off
            found[f"{key}, agrees"] = str(abs(off) < AGREEMENT)
    return found


def fits(size):
    """Fits a second of pictures measured alike, the factorisation kept."""
    sizes = {"E": size.experts, "S": size.signals, "P": size.side**2, "H": 512, "K": 0}
    case = shared_coordinates_case(None, sizes, size.side)
    (result,), _ = measure([case], Machine(), size.rounds, 0.05)
    return {
        f"fits at {size.side}x{size.side}, {size.experts} experts, a second": (
            size.signals / result.seconds.median
        ),
        "floor / measured": result.reached.text(2),
    }


def celeba(size):
    """One step of the paper's configuration: seconds, memory, share of the matrix rate."""
    config = command.config_of("image", "paper", size.celeba)
    side = config.data.size[0]
    batch = 2 * config.train.batch_size
    step = TrainingStep(config, command.noise(batch, side, 3), dense=False)
    timed(step)
    seconds = Spread.of([timed(step) for _ in range(5)])
    return {
        "step, ms": seconds.scaled(1e3).text(),
        "signals a second": config.train.batch_size / seconds.median,
        "compilation, s": step.compile_seconds,
        "memory by the compiler, GB": 1e-9 * step.trainer.compiled_bytes,
    }


def cases(size):
    """The cases of experiments/speed.py: time, floor and share of the matrix rate."""
    built = build_cases(size, command.say)
    results, _ = measure(built, Machine(), size.rounds, 0.05, command.say)
    found = {}
    for result in results:
        sizes = " ".join(f"{k}={v}" for k, v in result.case.sizes.items() if v)
        found[f"{result.case.group} {sizes}"] = (
            f"{result.seconds.scaled(1e3).text()} ms, floor / measured {result.reached.text(2)}, "
            f"products at {result.product_share.median:.2f} of the matrix rate"
        )
    return found


def dispatch(size):
    """A small step called again and again: seconds a call with and without waiting for each."""
    del size
    program = compiled(lambda x: x * 0.5 + 1, jnp.zeros((256,)))
    timed(program.call)
    calls = 200
    waited = timed(lambda: [jax.block_until_ready(program.call()) for _ in range(calls)]) / calls
    queued = timed(lambda: [program.call() for _ in range(calls)]) / calls
    with jax.log_compiles(False), devices.CompileTime() as clock:
        timed(program.call)
    return {
        "a call, waited for, us": 1e6 * waited,
        "a call, queued, us": 1e6 * queued,
        "compiled again, s": clock.seconds,
    }


PARTS: dict[str, Callable] = {
    "Memory and sizes": held,
    "Rates of the device": rates,
    "Dispatch": dispatch,
    "Agreement with the CPU": agreement,
    "Fits by a kept factorisation": fits,
    "The paper's configuration of CelebA": celeba,
    "Beside the floor": cases,
}


def fitting(function, size):
    """What a part finds, or why the device cannot hold it: the others go on."""
    try:
        return function(size)
    except (ValueError, MemoryError, jax.errors.JaxRuntimeError) as error:
        words = devices.exhausted(error)
        if not words and not (isinstance(error, ValueError) and " there are" in str(error)):
            raise
        return {"not held": words or str(error)}


def text_of(found, left):
    """The table so far. found: {part: {what: value}}; left: parts without time."""
    rows = [
        (part, what, f"{value:.4g}" if isinstance(value, float) else str(value))
        for part, values in found.items()
        for what, value in values.items()
    ]
    columns = {
        "part": lambda row: row[0],
        "what": lambda row: row[1],
        "found": lambda row: row[2],
    }
    words = f"No time was left for: {', '.join(left)}.\n\n" if left else ""
    return f"{command.table(columns, rows)}\n{words}{command.made()}"


def run(scale, output, minutes):
    """Measure part after part, writing after each."""
    begun, size = time.perf_counter(), SIZES[scale]
    found, left = {}, []
    for part, function in PARTS.items():
        if time.perf_counter() - begun > 60 * minutes * 0.8:
            left.append(part)
            continue
        command.say(part)
        values, seconds = command.clocked(fitting, function, size)
        found[part] = values | {"seconds of this part": seconds}
        command.write(output, text_of(found, left), {"scale": scale, "parts": found, "left": left})
    command.write(output, text_of(found, left), {"scale": scale, "parts": found, "left": left})
    print(output / "table.md")


if __name__ == "__main__":
    MINUTES = flags.DEFINE_float("minutes", 9.0, "Begin no part after four fifths of them.")
    command.start(run, "accelerator", SCALES, MINUTES, default="full")
