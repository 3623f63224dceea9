"""One trained dictionary in one file: weights, prior, config and what it was trained on.

The file is of the safetensors format: an array of bytes for every name, and one JSON text, under
`nid_jax` in its metadata:

    {"format": 1, "crc32": of the content, "content": {
        "version": of the library, "config": ..., "signals": ...,
        "prior": its form, one of `prior_arrays.FORMS`, or null,
        "arrays": {NAME: [shape, dtype, CRC-32]}}}

NAME is params/..., constants/... (the path of a variable in the model) or prior/FIELD, the fields
of `prior_arrays.AXES`. Reading
runs no code that the file brings, and a byte that has changed is noticed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nid_jax import __version__, json_files
from nid_jax.coding.prior import GaussianPrior
from nid_jax.errors import ArgumentError
from nid_jax.files import atomic_path, local
from nid_jax.storage import config_json, models, prior_arrays, schemas, trees
from nid_jax.storage.checksums import crc32, digest
from nid_jax.storage.models import Trained

FORMAT = 1
"""Of the files that `write` writes, and the only one that `read` reads."""
KEY = "nid_jax"
# A config's own numbers may be so large whatever its model is: not all of them are sizes.
_ANY_NUMBER = 2**20
DTYPES = ("float32", "float16", "bfloat16")
"""What weights can be stored in."""


def write(path: str | Path, trained: Trained, dtype: str = "float32") -> Path:
    """Writes a trained dictionary to `path`, whole or not at all.

    dtype: one of DTYPES, for the trained weights, which are float32 again when they are read.
    float16 halves their size and rounds each by up to 0.05 % (more below 6e-5); bfloat16 by up to
    0.4 %. Constants and the prior stay as they are. Raises ArgumentError for another dtype or one
    that cannot hold a weight, ValueError naming `path` where it cannot be written.
    """
    if dtype not in DTYPES:
        raise ArgumentError("dtype", dtype, ", ".join(DTYPES))
    _, *states = nnx.split(trained.model, nnx.Param, ...)
    params, constants = states
    arrays = {
        name: _narrowed(name, np.asarray(leaf), dtype)
        for name, leaf in _named("params", params).items()
    }
    arrays |= _named("constants", constants)
    if trained.prior is not None:
        arrays |= {f"prior/{name}": value for name, value in trained.prior.arrays().items()}
    # Of the bytes as they lie in memory, which are C's order for no transposed array.
    arrays = {name: np.asarray(value, order="C") for name, value in arrays.items()}
    content = {
        "version": __version__,
        "config": config_json.encoded(config_json.without_folders(trained.config)),
        "signals": trained.signals,
        "prior": None if trained.prior is None else prior_arrays.form_of(trained.prior),
        "arrays": {name: [*_signature(value), crc32(value)] for name, value in arrays.items()},
    }
    content = json.loads(json.dumps(content))  # as it will be read: tuples are lists
    text = json.dumps({"format": FORMAT, "crc32": digest(content), "content": content})
    try:
        with atomic_path(path) as temporary:
            save_file(arrays, temporary, metadata={KEY: text})
    except SafetensorError as error:
        raise ValueError(f"{path}: cannot be written: {error}") from error
    return Path(path)


def read(path: str | Path, mesh: jax.sharding.Mesh | None = None) -> Trained:
    """The trained dictionary in the file `path`; its weights are float32.

    mesh: devices to lay the model out on; without it, the first one. Raises FileNotFoundError
    where there is no file, and ValueError of one line that names it where it is another kind of
    file, damaged, of another format, or not what its own config describes.
    """
    path = local(path, "path")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_file():
        raise ValueError(f"{path}: is a folder, not the file of a dictionary")
    try:
        arrays, content = _stored(path)
        config, signals = _described(content)
        atoms = _atoms(arrays)
        graphdef, template = _skeleton(config, signals, arrays, mesh)
        states = {part: _filled(part, tree, arrays) for part, tree in template.items()}
        experts = atoms or config.dictionary.num_experts
        prior = _prior(content.get("prior"), arrays, experts, signals["shape"][-1])
        if arrays:
            raise ValueError(f"holds {next(iter(arrays))}, of which its config knows nothing")
        model = nnx.merge(graphdef, states["params"], states["constants"])
        model.dictionary.embedding.check()
    except ValueError as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    return Trained(model, config, signals, prior)


def _named(part: str, state: nnx.State) -> dict[str, Any]:
    """Leaves by name: PART/dictionary/kernels/0. The last word of a path is 'value' in all."""
    return {"/".join([part, *path[:-1]]): leaf for path, leaf in trees.paths(state)}


def _signature(leaf: Any) -> list[Any]:
    return [list(leaf.shape), str(leaf.dtype)]


def _shown(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _narrowed(name: str, values: np.ndarray, dtype: str) -> np.ndarray:
    if values.dtype != np.float32:
        return values
    with np.errstate(over="ignore"):
        narrow = values.astype(jnp.dtype(dtype))
    if not np.array_equal(np.isfinite(narrow), np.isfinite(values)):
        largest = np.abs(values[np.isfinite(values)]).max()
        raise ArgumentError("dtype", dtype, f"one that holds {largest:.3g}, as {name} does")
    return narrow


def _stored(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a file, each found to be what was written, and the content of its JSON."""
    try:
        with safe_open(path, "np") as file:
            text = (file.metadata() or {}).get(KEY)
            if text is None:
                raise ValueError(f"no dictionary of nid_jax: its metadata has no {KEY!r}")
            content = _content(text)
            described = content.get("arrays")
            if not isinstance(described, dict) or set(described) != set(file.keys()):
                raise ValueError("damaged: its arrays are not those that it names")
            arrays = {name: file.get_tensor(name) for name in described}
    # A dtype that NumPy has no name for is an AttributeError there.
    except (SafetensorError, AttributeError) as error:
        raise ValueError(f"no safetensors file, or damaged ({error})") from error
    for name, value in arrays.items():
        if [*_signature(value), crc32(value)] != described[name]:
            raise ValueError(f"damaged: {name} has changed since it was written")
    return arrays, content


def _content(text: str) -> dict[str, Any]:
    try:
        stored = json_files.parsed(text, KEY)
        if not isinstance(stored, dict) or "format" not in stored:
            raise ValueError("it has no format number")
        if stored["format"] != FORMAT:
            raise ValueError(
                f"its format is {stored['format']!r}, nid_jax {__version__} reads {FORMAT}"
            )
        content = stored.get("content")
        if not isinstance(content, dict) or digest(content) != stored.get("crc32"):
            raise ValueError("it has changed since it was written")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its description cannot be read: {error}") from error
    return content


def _described(content: dict[str, Any]) -> tuple[ConfigDict, dict[str, Any]]:
    """Config and signals of a file, of the right types."""
    try:
        config = config_json.decoded(content.get("config"))
    except (TypeError, AttributeError) as error:
        raise ValueError(f"its config is none ({error})") from error
    signals: Any = content.get("signals")
    json_files.check(signals, schemas.SIGNALS, "its description", "signals")
    return config, signals


def _atoms(arrays: dict[str, np.ndarray]) -> int:
    """How many atoms are sums of the networks that a file holds; 0: none are."""
    mixing = arrays.get("constants/dictionary/mixing")
    return mixing.shape[-1] if mixing is not None and mixing.ndim else 0


def _check_sizes(config: ConfigDict, arrays: dict[str, np.ndarray]) -> None:
    """Raise ValueError where a config asks for sizes that the arrays of its file do not have.

    Before a model is built of it, which may take any time and memory.
    """
    shapes = {name.removeprefix("params/dictionary/"): a.shape for name, a in arrays.items()}
    kernels = sorted(name for name in shapes if name.startswith("kernels/"))
    shared = "head_kernel" in shapes
    experts = shapes["head_kernel"][-1:] if shared else shapes.get("kernels/0", ())[:1]
    there = {
        "num_experts": experts[0] if experts else 0,
        "num_layers": len(kernels) + shared,
        # Heads alone, on the embedding, have no width.
        **({"width": shapes[kernels[0]][-1]} if kernels else {}),
    }
    for key, found in there.items():
        asked = config.dictionary.get(key)
        if asked != found:
            raise ValueError(f"its config has dictionary.{key}={asked!r}, its arrays {found}")
    most = max(_ANY_NUMBER, sum(array.size for array in arrays.values()))
    for group in ("dictionary", "router"):
        for key, asked in _whole_numbers(config.get(group, {}), group):
            if asked > most:
                raise ValueError(f"its config has {key}={asked}, more than its arrays have numbers")


def _whole_numbers(value: Any, key: str) -> Iterator[tuple[str, int]]:
    """(dotted key, number) of all whole numbers in a part of a config."""
    if isinstance(value, Mapping | ConfigDict):
        for name, entry in value.items():
            yield from _whole_numbers(entry, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _whole_numbers(entry, key)
    elif isinstance(value, int):
        yield key, value


def _skeleton(
    config: ConfigDict,
    signals: dict[str, Any],
    arrays: dict[str, np.ndarray],
    mesh: jax.sharding.Mesh | None,
) -> tuple[nnx.GraphDef, dict[str, nnx.State]]:
    try:
        _check_sizes(config, arrays)
        return models.skeleton(config, signals, mesh, _atoms(arrays))
    except (AttributeError, KeyError, TypeError, ArithmeticError) as error:
        words = error.args[0] if error.args else type(error).__name__
        raise ValueError(f"its config describes no model ({words})") from error


def _filled(part: str, template: nnx.State, arrays: dict[str, np.ndarray]) -> nnx.State:
    """The template's state with its numbers, which are taken out of `arrays`."""
    leaves = []
    for name, wanted in _named(part, template).items():
        found = arrays.pop(name, None)
        if found is None:
            raise ValueError(f"{name} is missing")
        narrowed = wanted.dtype == jnp.float32 and str(found.dtype) in DTYPES
        if found.shape != wanted.shape or (found.dtype != wanted.dtype and not narrowed):
            raise ValueError(f"{name} is {_shown(found)}, its config asks for {_shown(wanted)}")
        placed = trees.placed(wanted)
        leaves.append(jax.device_put(found.astype(wanted.dtype), placed.sharding))
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _prior(
    form: Any, arrays: dict[str, np.ndarray], experts: int, channels: int
) -> GaussianPrior | None:
    """The prior of a file, taken out of `arrays`; None where it holds none."""
    names = [name for name in prior_arrays.AXES if f"prior/{name}" in arrays]
    fields = {name: arrays.pop(f"prior/{name}") for name in names}
    if not fields and form is None:
        return None
    prior_arrays.check_sizes(fields, experts, channels, "prior/")
    return prior_arrays.prior_of(form, fields, "prior/")
