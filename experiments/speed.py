"""How fast, beside how fast this machine could be: training, basis evaluation, rendering, fitting.

    python experiments/speed.py --scale=cpu --output=DIR

Writes table.md, metrics.json and figure.png. Every time stands beside its floor: the operations of
its matrix products over this machine's rate of them plus its sines over the rate of those, or the
bytes it must move where that takes longer. With --peer=torch it is measured beside PyTorch instead:
see studies/torch_contests.py.
"""

import dataclasses
import importlib.util
import time

from absl import flags
from measuring import command
from measuring.rates import Machine, measure
from studies.speed_cases import Sweep, build_cases, sine_cases
from studies.speed_table import draw, growth_of, plain, promises, table

from nid_jax import devices


@dataclasses.dataclass(frozen=True)
class Scale:
    """What one --scale measures: the sizes of every group; side is that of the square images."""

    rounds: int
    least_seconds: float
    side: int
    sweeps: dict[str, Sweep]


SMOKE = {
    "basis, independent": Sweep(E=(8, 16), P=(64,)),
    "train, independent": Sweep(E=(8,), S=(4,)),
    "render, independent": Sweep(E=(8,), P=(64,), K=(0, 2)),
    "basis, shared": Sweep(E=(8, 16), P=(64,)),
    "train, shared": Sweep(E=(8,), S=(4,)),
    "render, shared": Sweep(E=(8, 16), P=(64,)),
    "fit": Sweep(E=(8,), S=(4,)),
    "factorised": Sweep(E=(8,), S=(16,)),
}
CPU = {
    "basis, independent": Sweep(E=(256, 128, 512), P=(2048, 1024, 4096), H=(16, 32)),
    "train, independent": Sweep(E=(256, 128, 512), P=(625, 312), S=(16, 32, 64), H=(16, 32)),
    "render, independent": Sweep(E=(256, 128, 512), P=(2**14, 2**15), S=(4, 8), K=(0, 8)),
    "basis, shared": Sweep(E=(1024, 512, 2048), P=(4096, 1024, 2048, 8192), H=(256, 128, 512)),
    "train, shared": Sweep(E=(256, 512, 1024), P=(625, 312), S=(16, 32, 64), H=(512, 256)),
    "render, shared": Sweep(
        E=(1024, 256, 4096), P=(2**16, 2**15, 2**17), S=(4, 1, 16), H=(512, 256)
    ),
    "fit": Sweep(E=(256, 512, 1024), S=(20, 40, 80)),
    "factorised": Sweep(E=(256, 512, 1024), S=(1000, 2000), H=(512,)),
}
PAPER = {
    "basis, independent": Sweep(E=(1024, 2048, 4096), P=(4096, 8192), H=(16, 32, 64)),
    "train, independent": Sweep(E=(256, 512, 1024), P=(4096, 8192), S=(16, 32, 64), H=(16, 32)),
    "render, independent": Sweep(E=(1024, 2048), P=(2**16, 2**17), S=(4, 8), K=(0, 8, 64)),
    "basis, shared": Sweep(
        E=(1024, 2048, 4096), P=(2**12, 2**13, 2**14, 2**16), H=(256, 512, 1024)
    ),
    "train, shared": Sweep(
        E=(4096, 1024, 2048), P=(4096, 8192, 16384), S=(16, 32, 64), H=(512, 256)
    ),
    "render, shared": Sweep(
        E=(4096, 1024), P=(2**18, 2**19, 2**20), S=(4, 1, 16), H=(512, 256), K=(0, 256)
    ),
    "fit": Sweep(E=(1024, 2048, 4096), S=(64, 128, 256)),
    "factorised": Sweep(E=(1024, 2048, 4096), S=(1000, 2000, 4000), H=(512,)),
}
SCALES = {
    "smoke": Scale(2, 0.0, 6, SMOKE),
    "cpu": Scale(7, 0.02, 25, CPU),
    "paper": Scale(9, 0.05, 128, PAPER),
}


def run(scale_name, output, peer):
    """Measure and write."""
    if peer == "torch":
        if importlib.util.find_spec("torch") is None:
            raise ValueError("--peer=torch: PyTorch is missing: pip install torch")
        # Here, as nothing else of this library's needs PyTorch.
        from studies import torch_contests

        torch_contests.run(scale_name, output)
        return
    start = time.perf_counter()
    scale, progress = SCALES[scale_name], command.say
    cases = build_cases(scale, progress)
    sines, difference = sine_cases(scale)
    results, rates = measure(cases + sines, Machine(), scale.rounds, scale.least_seconds, progress)
    results, sines = results[: len(cases)], results[len(cases) :]
    seconds = time.perf_counter() - start
    metrics = {
        "scale": scale_name,
        "seconds": seconds,
        "machine": rates,
        "peak_memory_bytes": devices.peak_memory_bytes(),
        "promises": promises(results, sines, difference),
        "cases": [plain(result) for result in results + sines],
        "growth": growth_of(results),
    }
    text = table(scale_name, results, sines, rates, difference, seconds)
    command.write(output, text, metrics, draw(results))
    print(output / "table.md")


if __name__ == "__main__":
    PEER = flags.DEFINE_enum("peer", "", ["", "torch"], "What to measure beside.")
    command.start(run, "speed", SCALES, PEER)
