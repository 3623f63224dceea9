"""The first screen of the README does what it says, word for word."""

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"


@pytest.mark.slow
def test_the_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for example in re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL):
        assert len(example.strip().splitlines()) <= 25
        exec(compile(example, "README.md", "exec"), names)
    assert names["filled"].shape == (1, 100, 100, 1)
    # What docs/solvers.md shows goes on from there.
    page = (README.parent / "docs" / "solvers.md").read_text(encoding="utf-8")
    for number, snippet in enumerate(re.findall(r"```python\n(.*?)```", page, re.DOTALL)):
        exec(compile(snippet, f"docs/solvers.md, snippet {number}", "exec"), names)
    assert (names["fit"].codes != 0).sum(-1).max() <= 32
    assert names["large"].shape == (20, 100, 100, 1)
    assert (tmp_path / "faces.safetensors").exists()
