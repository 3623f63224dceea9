"""Commands that README and docs show are taken by the command line, keys and values too.

They are read, not run: what they do is held by the tests of each verb and task, and most need data
or a run before them. What else stands on the pages is listed here, with what runs it.
"""

import importlib
import re
import shlex
from pathlib import Path

import pytest
from absl import flags

from nid_jax import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Begin commands that are not ours to read.
OTHERS = {
    "pip": "installs",
    "gcloud": "needs a cloud; tests/test_accelerators_docs.py reads what it starts",
    "docker": "needs docker",
    "sbatch": "needs Slurm",
    "kubectl": "needs a cluster",
    "git": "needs a remote",
}
# Needs a folder that is made by a command before it.
PLACES = {
    "official:runs/official": "official:images",
    "official:runs/celeba": "official:celeba",
}
FENCE = re.compile(r"```.*?```", re.DOTALL)


def commands():
    """(page, words) of every command in an indented block, `\\` joined and comments left out."""
    for page in PAGES:
        text = FENCE.sub("", page.read_text(encoding="utf-8")).replace("\\\n", " ")
        for line in text.splitlines():
            if line.startswith("    "):
                words = shlex.split(line.strip(), comments=True) if _is_command(line) else []
                if words:
                    yield pytest.param(words, id=f"{page.stem}: {' '.join(words)[:80]}")
        for code in re.findall(r"`([^`]*)`", re.sub(r"^    .*$", "", text, flags=re.MULTILINE)):
            if " " in code and _is_command(code):
                words = shlex.split(code)
                yield pytest.param(words, id=f"{page.stem}: {' '.join(words)[:80]}")


def _is_command(line):
    first = line.split()[0] if line.split() else ""
    return first in {"nid_jax", "python", "make", *OTHERS}


COMMANDS = list(commands())


def test_commands_are_found():
    assert len(COMMANDS) > 50


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_is_taken(words, monkeypatch):
    first, *rest = words
    if first in OTHERS:
        return
    if first == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        assert rest[0] in targets
    elif first == "nid_jax" or rest[0] == "main.py":
        _taken_by_cli([word for word in rest if word != "main.py"])
    elif rest[0] == "-m":
        assert importlib.util.find_spec(rest[1]), rest[1]
        _options_stand_in(importlib.util.find_spec(rest[1]).origin, rest[2:])
    elif rest[0] == "-c":
        compile(rest[1], "command", "exec")
    else:
        assert rest[0].startswith("experiments/")
        _options_stand_in(ROOT / rest[0], rest[1:])


def _taken_by_cli(words):
    words = [
        f"--config={PLACES[word.removeprefix('--config=')]}"
        if word.removeprefix("--config=") in PLACES
        else word
        for word in words
    ]
    values = flags.FlagValues()
    argv = ["nid_jax", *words]
    cli.define_flags(values, argv)
    if words == ["--help"]:
        return
    assert cli.parse(argv, values) == ["nid_jax"]
    assert values.config.task


def _options_stand_in(path, words):
    """Options of a script of its own: their names stand in it, or in what scripts share."""
    shared = ROOT / "experiments" / "measuring" / "command.py"
    sources = [Path(path), shared, ROOT / "nid_jax" / "configs" / "__init__.py"]
    source = " ".join(part.read_text("utf-8") for part in sources if part.exists())
    for word in words:
        name = word.partition("=")[0].removeprefix("--").partition(".")[0]
        if word.startswith("--"):
            assert re.search(rf"[\"'-]{name}\b", source), word
