"""What docs/fields.md shows runs as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest

from nid_jax.configs.parts import data as groups
from nid_jax.notices import Notice

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "fields.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def run(names):
    """Run what the page shows, in order."""
    for number, snippet in enumerate(SNIPPETS):
        exec(compile(snippet, f"docs/fields.md, snippet {number}", "exec"), names)


@pytest.mark.slow
def test_snippets_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(SNIPPETS) == 5
    names = {}
    with pytest.warns(Notice, match="coordinates lat, lon, values temperature"):
        run(names)
    scores = names["task"].held_out(
        names["unseen"], names["task"].measure(names["unseen"]), names["fit"]
    )
    # The noise is 0.3.
    assert scores["rmse"].mean() < 1.0
    np.testing.assert_allclose(names["here"].shape, (1, 1, 1))
    assert (tmp_path / "maps" / f"0000_{names['fit'].names[0]}.png").is_file()


def test_the_table_names_every_key():
    for key in groups.SOURCES["points"]:
        assert f"| `{key}` |" in PAGE
