"""What docs/export.md shows runs as it stands there, the server where there is JAX alone."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

import nid_jax as nid
from nid_jax.fields.embeddings import GaussianFourier
from nid_jax.fields.experts import Layers
from nid_jax.fields.model import Model
from nid_jax.fields.shared import SharedDictionary

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
# Neither can be imported, wherever it is installed.
ALONE = "import sys\nsys.modules.update(nid_jax=None, flax=None)\n"


@pytest.fixture
def faces():
    rngs = nnx.Rngs(0)
    embedding = GaussianFourier(2, 12, 2.0, rngs=rngs)
    basis = SharedDictionary(embedding, 6, 1, Layers(2, 8, "relu", 1.0), rngs=rngs)
    return nid.NeuralDictionary(Model(basis, None, 0, (25, 25)), ConfigDict(), {})


@pytest.mark.slow
def test_the_page(faces, tmp_path, monkeypatch):
    export, server, says, _ = SNIPPETS
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nid, "load", lambda path: faces)
    exec(compile(export, "docs/export.md", "exec"), {})
    sizes = (1, 3)
    for count in sizes:
        np.save(f"{count}.npy", np.random.default_rng(count).uniform(0, 1, (count, 25, 25, 1)))
    np.save("small.npy", np.zeros((2, 24, 25, 1)))
    Path("empty.npy").touch()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE + server + says],
        input="1.npy\nnone.npy\nsmall.npy\nempty.npy\n3.npy\n",
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert (lines[0], lines[4]) == ("1.npz", "3.npz")
    for line, name in zip(lines[1:4], ("none", "small", "empty"), strict=True):
        assert line.startswith(f"400 {name}.npy ")
    assert "24" in lines[2]
    assert "float32[S,25,25,1]" in lines[5]
    assert "picture" in lines[6]
    for count in sizes:
        fit = faces.fit(np.load(f"{count}.npy"))
        found = np.load(f"{count}.npz")
        np.testing.assert_allclose(found["picture"], fit.render((100, 100)), atol=1e-5)
        assert found["codes"].shape == (count, 6)
