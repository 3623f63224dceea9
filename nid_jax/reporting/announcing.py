"""What a run prints on start: devices, sizes, where its config lies."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from nid_jax.fields.dictionary import Dictionary
from nid_jax.fields.model import Model, count_parameters
from nid_jax.fields.shared import SharedDictionary
from nid_jax.reporting import tables


def device_summary(
    mesh: jax.sharding.Mesh,
    parameters: Mapping[str, int],
    *,
    config_path: str | Path = "",
) -> list[str]:
    """The lines a run prints on start.

    `parameters` counts numbers by group (dictionary, router); `config_path` is the resolved
    config, left out when empty.
    """
    devices = mesh.devices.flat
    kinds = sorted({device.device_kind for device in devices})
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    hosts = f", {jax.process_count()} processes" if jax.process_count() > 1 else ""
    counts = ", ".join(f"{name} {tables.format_count(count)}" for name, count in parameters.items())
    total = tables.format_count(sum(parameters.values()))
    lines = [
        f"devices     {mesh.devices.size} x {', '.join(kinds)}; mesh {axes}{hosts}",
        f"parameters  {total}" + (f": {counts}" if len(parameters) > 1 else ""),
    ]
    if config_path:
        lines.append(f"config      {config_path}")
    return lines


def start(
    model: Model, mesh: jax.sharding.Mesh, config_path: str | Path, notes: Sequence[str]
) -> None:
    """Devices, sizes, where the dictionary comes from, and notes, on standard error."""
    lines = device_summary(mesh, count_parameters(model), config_path=config_path)
    for line in (*lines, *notes):
        print(line, file=sys.stderr)


def beyond_span(dictionary: Dictionary, sparse: bool) -> list[str]:
    """What to say of more experts than their features can tell apart, if anything.

    Of sparse codes more atoms than dimensions are wanted.
    """
    if not isinstance(dictionary, SharedDictionary) or sparse:
        return []
    most = dictionary.channels * (dictionary.num_features + 1)
    if dictionary.num_experts <= most:
        return []
    return [
        f"note        {dictionary.num_experts} experts on {dictionary.num_features} features span "
        f"{most} dimensions at most; {-(-dictionary.num_experts // dictionary.channels)} features "
        "by dictionary.width, dictionary.skip or dictionary.embedding lift that"
    ]
