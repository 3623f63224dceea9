"""Notebooks: each runs at small sizes, and the one with outputs has the same cells."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.py"))
LARGE = "SMALL = False  # smaller sizes, for a test of this page"


def cells(source):
    """Texts of the cells of a script in jupytext's percent format."""
    found = re.split(r"^# %%(?: \[markdown\])?\n", source, flags=re.MULTILINE)[1:]
    return [
        re.sub(r"^# ?", "", cell, flags=re.MULTILINE).strip() if text else cell.strip()
        for cell, text in zip(found, _are_text(source), strict=True)
    ]


def _are_text(source):
    return ["markdown" in line for line in re.findall(r"^# %%.*$", source, re.MULTILINE)]


def test_there_are_six():
    assert len(NOTEBOOKS) == 6


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_of_the_cells_that_stand_here(path):
    notebook = json.loads(path.with_suffix(".ipynb").read_text(encoding="utf-8"))
    held = ["".join(cell["source"]).strip() for cell in notebook["cells"]]
    assert held == cells(path.read_text(encoding="utf-8"))
    outputs = [out for cell in notebook["cells"] for out in cell.get("outputs", [])]
    assert outputs
    assert not [out for out in outputs if out["output_type"] == "error"]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    source = path.read_text(encoding="utf-8")
    assert source.count(LARGE) == 1
    script = tmp_path / path.name
    script.write_text(source.replace(LARGE, LARGE.replace("False", "True")), encoding="utf-8")
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
