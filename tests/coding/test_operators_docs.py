"""What docs/operators.md shows runs as it stands there."""

import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from nid_jax.coding import operators

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "operators.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(autouse=True)
def own_kinds():
    """What the page adds to the kinds is gone after the test."""
    before = dict(operators.KINDS)
    yield
    operators.KINDS.clear()
    operators.KINDS.update(before)


def test_snippets_run_in_order():
    assert len(SNIPPETS) == 5
    names = {}
    for number, snippet in enumerate(SNIPPETS):
        exec(compile(snippet, f"docs/operators.md, snippet {number}", "exec"), names)
    assert names["local"].run_length == 4
    by_name = operators.build_operator(ConfigDict({"kind": "coded_exposure"}), (2, 3, 3))
    assert by_name.shape == (9, 18)


def test_snippets_of_the_geometry_run():
    page = Path(__file__).resolve().parents[2] / "docs" / "geometry.md"
    snippets = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert snippets
    for number, snippet in enumerate(snippets):
        exec(compile(snippet, f"docs/geometry.md, snippet {number}", "exec"), {})


def test_an_operator_of_ones_own_is_about_twenty_lines():
    own = next(snippet for snippet in SNIPPETS if "class CodedExposure" in snippet)
    assert len([line for line in own.splitlines() if line.strip()]) <= 24


def test_the_table_names_every_kind():
    for kind in operators.KINDS:
        assert f"| `{kind}` |" in PAGE
