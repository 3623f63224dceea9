"""What machine this is, what memory programs take there, and how XLA compiles and keeps them."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from absl import logging

from nid_jax.files import user_cache

# Of the cache in the user's folder. A program of CPU takes some 6 kB, one of a GPU ten times that.
_CACHE_BYTES = 2**29
# How XLA's errors of memory begin.
_EXHAUSTED = "RESOURCE_EXHAUSTED"


def compiled_bytes(compiled: jax.stages.Compiled) -> int:
    """XLA's own estimate of what a compiled function holds at its peak; 0 where it gives none."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return 0
    return int(analysis.argument_size_in_bytes) + added_bytes(compiled)


def added_bytes(compiled: jax.stages.Compiled) -> int:
    """What a call holds on each device beside its arguments, by XLA's estimate; 0 without one."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return 0
    outputs = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return int(outputs + analysis.temp_size_in_bytes)


def bytes_of(tree: Any) -> int:
    """What arrays hold on the first of this process's devices that they lie on."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def memory_bytes() -> int:
    """What a program may hold on the first device of this process; 0 where nothing tells.

    Of a CPU the machine's memory, or less where the container is given less.
    """
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return host_bytes() if device.platform == "cpu" else 0


def host_bytes() -> int:
    """The machine's memory, or less where the container is given less; 0 where nothing tells."""
    try:
        found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (ValueError, OSError, AttributeError):
        return 0
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        path = Path(limit)
        text = path.read_text().strip() if path.is_file() else ""
        found += [int(text)] if text.isdigit() else []
    return min(found)


def held_bytes() -> int:
    """What is held on the first device of this process now; of a CPU by all of the process."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return int((device.memory_stats() or {}).get("bytes_in_use", 0))
    # Without pages of files, which are given back when others need the memory.
    return _status_bytes("RssAnon") or _host_peak_bytes()


def free_bytes() -> int:
    """What the machine's other processes leave of its memory now; 0 where nothing tells."""
    path = Path("/proc/meminfo")
    return _field_bytes(path, "MemAvailable") if path.exists() else 0


def exhausted(error: BaseException) -> str:
    """What a device's memory or the machine's did not hold, in words; '' of any other error."""
    # What follows is a table of buffers.
    first = next(iter(str(error).splitlines()), "")
    if isinstance(error, MemoryError):
        return first or "the machine's memory ran out"
    if not isinstance(error, jax.errors.JaxRuntimeError) or _EXHAUSTED not in first:
        return ""
    words = first[first.index(_EXHAUSTED) + len(_EXHAUSTED) :].lstrip(": ").rstrip(".")
    there = memory_bytes()
    return f"{words}; there are {there} bytes" if there else words


def peak_memory_bytes() -> dict[str, int]:
    """Most memory this process has held so far: 'host', and 'device' where the backend tells.

    'device' is the largest over local devices; on CPU there is none, as the host's counts it.
    """
    peak = {"host": _host_peak_bytes()}
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    device = max(int(entry.get("peak_bytes_in_use", 0)) for entry in stats)
    return {**peak, "device": device} if device else peak


def _host_peak_bytes() -> int:
    # First of Linux itself: its getrusage counts what the process that started this one held.
    if found := _status_bytes("VmHWM"):
        return found
    # In bytes on macOS and in KiB elsewhere.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status_bytes(name: str) -> int:
    path = Path("/proc/self/status")
    return _field_bytes(path, name) if path.exists() else 0


def _field_bytes(path: Path, name: str) -> int:
    """The value of a line `NAME: 123 kB` in a file of Linux; 0 where there is none."""
    for line in path.read_text(encoding="utf-8").splitlines():
        found, _, value = line.partition(":")
        if found == name:
            return int(value.split()[0]) * 1024
    return 0


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


def use_single_precision() -> None:
    """JAX_ENABLE_X64 of the environment changes nothing: what needs float64 asks for it itself."""
    jax.config.update("jax_enable_x64", False)


def use_compilation_cache(folder: str | Path = "") -> Path | None:
    """Keeps compiled programs on disk, so that the next process has them without compiling.

    folder: where they lie; '' for $JAX_COMPILATION_CACHE_DIR or, where that is not set, nid_jax/xla
    in the user's cache folder ($XDG_CACHE_HOME or ~/.cache), of which the oldest go once there are
    512 MB of them; 'off' for nowhere. To be called before anything is compiled. -> the folder, or
    None where there is none; a folder that cannot be written is said in one line and not used.
    """
    if folder == "off":
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    # Flags are attributes that JAX adds as it is imported.
    chosen = folder or jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    own = user_cache() / "xla"
    path = Path(chosen or own).expanduser().absolute()
    try:
        # What lies there is run: nobody else is to write it.
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
        if path == own:
            _remove_oldest(path, _CACHE_BYTES)
    except OSError as error:
        logging.warning("%s: %s; programs are compiled anew every time", path, error.strerror)
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    jax.config.update("jax_compilation_cache_dir", str(path))
    # By default only what took a second is kept, and a fit is a hundred programs that do not.
    for name, value in (("min_compile_time_secs", 0.0), ("min_entry_size_bytes", -1)):
        if f"JAX_PERSISTENT_CACHE_{name.upper()}" not in os.environ:
            jax.config.update(f"jax_persistent_cache_{name}", value)
    return path


def _remove_oldest(folder: Path, most_bytes: int) -> None:
    """Removes the programs not used for longest, down to half of `most_bytes`, if there are more.

    jax_compilation_cache_max_size would look at every file for each program that is added.
    """
    programs = []
    for path in folder.glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # another process may be at it too
            found = path.stat()
            programs.append((max(found.st_atime, found.st_mtime), found.st_size, path))
    total = sum(size for _, size, _ in programs)
    if total <= most_bytes:
        return
    for _, size, path in sorted(programs):
        if total <= most_bytes // 2:
            return
        path.unlink(missing_ok=True)
        total -= size


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

    def _listen(self, event: str, duration_secs: float, **_: Any) -> None:
        if event not in self._EVENTS:
            return
        end = time.perf_counter()
        # A function is traced within the tracing of the one that calls it: count it once.
        while self._spans and self._spans[-1][0] >= end - duration_secs:
            self._spans.pop()
        self._spans.append((end - duration_secs, end))

    def __enter__(self) -> CompileTime:
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_: Any) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)
