"""What CONTRIBUTING.md shows runs as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest

import nid_jax as nid

PAGE = (Path(__file__).resolve().parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.slow
def test_snippets_run_in_order():
    assert len(SNIPPETS) == 3
    names = {}
    for number, snippet in enumerate(SNIPPETS):
        exec(compile(snippet, f"CONTRIBUTING.md, snippet {number}", "exec"), names)
    # Descent from zero ends at least squares.
    dictionary, pictures = names["dictionary"], nid.data.to_array(names["unseen"])
    slow = dictionary.fit(pictures, solver=names["Landweber"](steps=200))
    np.testing.assert_allclose(
        slow.codes, dictionary.fit(pictures, solver=nid.Ridge(lam=0.0)).codes, atol=1e-3
    )
    assert "landweber, 20 steps" in names["fit"].message
