"""Manifests and scripts of docs/accelerators: their syntax, and that their commands exist."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from nid_jax import cli, commands, configs

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "accelerators"
MANIFESTS = sorted(FOLDER.glob("*.yaml"))
# Those of the reference of Dockerfiles that a build file here may use.
INSTRUCTIONS = {"FROM", "ARG", "RUN", "COPY", "USER", "WORKDIR", "ENV", "ENTRYPOINT"}


def options(words):
    """The options among words of a command, checked to be ones that the command line has."""
    found = [word.removeprefix("--").partition("=") for word in words if word.startswith("--")]
    for name, _, value in found:
        assert name.partition(".")[0] in cli.OPTIONS, name
        if name == "mode":
            assert value in commands.MODES
        if name == "config":
            task, _, variant = value.partition(":")
            assert task in configs.names()
            variants = configs.described(task)[1]
            known = {
                f"{one}{way.removeprefix('...')}" for one in variants for way in ("", *variants)
            }
            assert not variant or variant in known
    return [name for name, _, _ in found]


def pods(manifest):
    """Every pod's spec within a manifest."""
    if isinstance(manifest, dict):
        if "containers" in manifest:
            yield manifest
        for value in manifest.values():
            yield from pods(value)
    elif isinstance(manifest, list):
        for value in manifest:
            yield from pods(value)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests(path):
    manifest = yaml.safe_load(path.read_text())
    assert {"apiVersion", "kind", "metadata", "spec"} == set(manifest)
    found = list(pods(manifest))
    assert found
    for pod in found:
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {"config", "workdir"} <= set(options(container["args"]))
            mounts = container["volumeMounts"]
            assert {mount["name"] for mount in mounts} <= volumes
            workdir = next(a for a in container["args"] if a.startswith("--workdir="))
            assert any(
                workdir.removeprefix("--workdir=").startswith(m["mountPath"]) for m in mounts
            )


def test_slurm_script():
    path = FOLDER / "slurm.sh"
    subprocess.run(["bash", "-n", path], check=True)
    command = next(line for line in path.read_text().splitlines() if line.startswith("exec srun"))
    words = shlex.split(command)
    assert options(words[words.index("nid_jax") :]) == ["distributed", "config.mesh.data"]
    # JAX gives each process the one GPU of its own number.
    asked = dict(re.findall(r"^#SBATCH --(\S+)=(\S+)$", path.read_text(), re.MULTILINE))
    assert asked["ntasks-per-node"] == asked["gpus-per-node"]


def test_dockerfile():
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    found = [line.split()[0] for line in lines if line and not line.startswith(("#", " "))]
    assert found[0] == "FROM"
    assert set(found) <= INSTRUCTIONS
    extra = re.search(r"^ARG EXTRA=(\w+)$", "\n".join(lines), re.MULTILINE)[1]
    assert re.search(rf"^{extra} =$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)


def test_every_file_is_told_of():
    page = (ROOT / "docs" / "accelerators.md").read_text()
    for path in FOLDER.iterdir():
        assert f"(accelerators/{path.name})" in page, path.name
