"""What machine this is, what memory a program takes there, and how long XLA compiles."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import resource
import sys
import time
from pathlib import Path
from typing import Any

import jax


def compiled_bytes(compiled: jax.stages.Compiled) -> int:
    """XLA's own estimate of what a compiled function holds at its peak; 0 where it gives none."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return 0
    held = analysis.argument_size_in_bytes + analysis.output_size_in_bytes
    return int(held + analysis.temp_size_in_bytes - analysis.alias_size_in_bytes)


def peak_memory_bytes() -> dict[str, int]:
    """Most memory this process has held so far: 'host', and 'device' where the backend tells.

    'device' is the largest over local devices; on CPU there is none, as the host's counts it.
    """
    # getrusage counts in bytes on macOS and in KiB elsewhere.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    device = max(int(entry.get("peak_bytes_in_use", 0)) for entry in stats)
    return {**peak, "device": device} if device else peak


def versions() -> dict[str, str]:
    """Date, software and machine, to stand beside every number a run reports."""
    found = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "python": platform.python_version(),
    }
    for package in ("jax", "jaxlib", "flax", "numpy"):
        found[package] = importlib.metadata.version(package)
    kinds = sorted({device.device_kind for device in jax.devices()})
    found["devices"] = f"{jax.device_count()} x {', '.join(kinds)}"
    found["machine"] = f"{_processor()}, {os.cpu_count()} cores"
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


class CompileTime:
    """Seconds that jax spends tracing and compiling inside the block, as `seconds`."""

    _EVENTS = (
        "/jax/core/compile/jaxpr_trace_duration",
        "/jax/core/compile/jaxpr_to_mlir_module_duration",
        "/jax/core/compile/backend_compile_duration",
    )

    def __init__(self):
        self._spans: list[tuple[float, float]] = []

    @property
    def seconds(self) -> float:
        """The total so far."""
        return sum(end - start for start, end in self._spans)

    def _listen(self, event: str, duration: float, **_: Any) -> None:
        if event not in self._EVENTS:
            return
        end = time.perf_counter()
        # A function is traced within the tracing of the one that calls it: count it once.
        while self._spans and self._spans[-1][0] >= end - duration:
            self._spans.pop()
        self._spans.append((end - duration, end))

    def __enter__(self) -> CompileTime:
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_: Any) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)
