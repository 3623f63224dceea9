"""The page as a browser draws it, where there is one."""

import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from nid_jax.reporting import metrics_log, panels, report
from nid_jax.reporting.panels import Panel
from nid_jax.storage import artefacts

BROWSER = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome")), None)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser")
def test_the_page_is_drawn(tmp_path):
    """Its sheet and its curve are there in their colours, and nothing is wider than the window."""
    with metrics_log.MetricWriter(tmp_path) as writer:
        for step in range(8):
            writer.scalars(step, {"loss": 1 / (step + 1)})
    folder = tmp_path / "fits" / "test"
    artefacts.write_json(folder / "metrics.json", {"solver": "ridge", "signals": 2})
    ramp = np.broadcast_to(np.linspace(0, 1, 16)[:, None], (10, 16, 16, 1))
    panels.write_sheet(folder / "comparison.png", [Panel("error", ramp, palette="heat")], [])
    page = report.write_report(tmp_path)
    target = tmp_path / "page.png"
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,1400"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={target}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    drawn = np.asarray(Image.open(target).convert("RGB")).astype(int)
    assert drawn.shape[:2] == (1400, 1000)

    def share(colour):
        return (np.abs(drawn - colour).max(-1) < 12).mean()

    # The middle of the ramp of heat, and the curve.
    assert share((183, 55, 121)) > 0.0003
    assert share((47, 102, 144)) > 0.0003
    assert (drawn[:, -8:] == 255).all()
