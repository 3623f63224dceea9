"""What a compiler says of a function without the device that it is for."""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

import jax
from jax import export

PLATFORMS = ("cuda", "tpu")

CUSTOM_CALLS: Mapping[str, str] = MappingProxyType(
    {
        "Eigh": "TPU: eigenvalues and vectors of a symmetric float32 matrix, part of XLA",
        "Qr": "TPU: Householder's QR, part of XLA",
        "ProductOfElementaryHouseholderReflectors": "TPU: the Q of a QR, part of XLA",
        "ApproxTopK": "TPU: the largest few, part of XLA",
        "cusolver_potrf_ffi": "CUDA: Cholesky's factor, cuSOLVER",
        "cusolver_geqrf_ffi": "CUDA: Householder's QR, cuSOLVER",
        "cusolver_orgqr_ffi": "CUDA: the Q of a QR, cuSOLVER",
        "cusolver_ormqr_ffi": "CUDA: Q^T of a QR times a matrix, cuSOLVER; JAX does not promise "
        "that a later version still knows its name, so what holds it cannot be saved for later",
        "cusolver_syevd_ffi": "CUDA: eigenvalues and vectors of a symmetric matrix, cuSOLVER",
        "cusolver_gesvd_ffi": "CUDA: singular values of a matrix of at least 1024, cuSOLVER",
        "cusolver_gesvdj_ffi": "CUDA: singular values of a small matrix by rotations, cuSOLVER",
        "cublas_geqrf_batched_ffi": "CUDA: QR of many small matrices, cuBLAS",
        "__gpu$xla.gpu.triton": "CUDA: a kernel of Triton's",
        "cu_threefry2x32_ffi": "CUDA: JAX's random numbers, a kernel of its own",
        "Sharding": "a note to the partitioner, no call: where an array is to lie",
        "annotate_device_placement": "a note to the compiler, no call: which memory is meant",
        "mhlo.topk": "the largest few, an operation of XLA's that StableHLO lacks",
        "mhlo.erf": "the error function, an operation of XLA's that StableHLO lacks",
    }
)
"""Every custom call that may occur, and what it is. None of them goes to the host."""

_NO_PROMISE = ("cusolver_ormqr_ffi",)
_FUNCTION = re.compile(r"func\.func (?:public |private )?@([\w.$-]+)")
_CALL = re.compile(r'custom_call @"?([\w.$-]+)')
_PRODUCT = re.compile(r"stablehlo\.(?:dot_general|convolution)")
_HOST = re.compile(r"callback|stablehlo\.(?:send|recv|infeed|outfeed)")


@dataclasses.dataclass(frozen=True)
class Lowered:
    """What one platform's StableHLO of a function holds."""

    float64: dict[str, int]
    """Operations with a float64 array among operands or results, by the function they are in."""
    callbacks: int
    """To the host."""
    custom_calls: dict[str, int]
    short_products: dict[str, int]
    """Products of float32 that may be taken with fewer bits, as TPUs and TF32 do, by function."""
    operations: int

    @property
    def unlisted(self) -> list[str]:
        """Custom calls that `CUSTOM_CALLS` does not explain."""
        return sorted(set(self.custom_calls) - set(CUSTOM_CALLS))


def lowered(function, arguments, platforms=PLATFORMS) -> dict[str, Lowered]:
    """Lower function(*arguments) for platforms, of 'cpu', 'cuda', 'tpu'; none need be there.

    arguments: pytrees of arrays or their shapes. Raises what JAX raises where that is impossible.
    """
    checks = [export.DisabledSafetyCheck.custom_call(name) for name in _NO_PROMISE]
    # One jitted function: it is traced once for all platforms.
    jitted, found = jax.jit(function), {}
    for name in platforms:
        made = export.export(jitted, platforms=[name], disabled_checks=checks)
        found[name] = read(made(*arguments).mlir_module())
    return found


def read(text: str) -> Lowered:
    """`Lowered` of StableHLO as text."""
    where, float64, calls, short = "", Counter(), Counter(), Counter()
    callbacks = operations = 0
    for line in text.splitlines():
        if found := _FUNCTION.search(line):
            where = found[1]
        if " = " not in line and "custom_call" not in line:
            continue
        operations += 1
        if "f64>" in line:
            float64[where] += 1
        callbacks += bool(_HOST.search(line))
        calls.update(_CALL.findall(line))
        if _PRODUCT.search(line) and "HIGHEST" not in line and "f32>" in line:
            short[where] += 1
    return Lowered(dict(float64), callbacks, dict(calls), dict(short), operations)


_COLLECTIVE = re.compile(
    r" (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("
)


def collectives(compiled: str) -> dict[str, int]:
    """How many collective operations a compiled program holds, by kind. compiled: its HLO."""
    return dict(Counter(_COLLECTIVE.findall(compiled)))


_RESULT = re.compile(r"= (.*?) " + _COLLECTIVE.pattern.lstrip())
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+))\[([\d,]*)\]")


def collective_bytes(compiled: str) -> dict[str, int]:
    """Bytes of the results of collective operations on a device, by kind. compiled: a program's
    HLO; what is inside of a loop counts once. An operation that is started apart from its end
    raises ValueError: its result holds its operands too."""
    found: Counter[str] = Counter()
    for line in compiled.splitlines():
        if not (match := _RESULT.search(line)):
            continue
        if f" {match[2]}-start(" in line:
            raise ValueError(f"{match[2]}-start: allowed: operations that end where they start")
        for _, bits, sides in _ARRAY.findall(match[1]):
            size = int(bits or 8) // 8
            for side in filter(None, sides.split(",")):
                size *= int(side)
            found[match[2]] += size
    return dict(found)
