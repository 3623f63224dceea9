"""The demonstration in a real browser: what a visitor moves changes what is drawn."""

import importlib.util

import numpy as np
import pytest

screenshots = pytest.importorskip("screenshots")
pytestmark = [
    pytest.mark.slow,
    *(
        pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"needs {name}")
        for name in ("gradio", "playwright")
    ),
    pytest.mark.skipif(screenshots.found() is None, reason="needs Chromium"),
]


@pytest.fixture(scope="module")
def browser():
    with screenshots.opened() as opened:
        yield opened


@pytest.mark.parametrize(("tab", "name"), screenshots.ACTS)
def test_a_tab_draws_and_follows(browser, tab, name):
    seen = screenshots.visit(browser, tab, name)
    assert not seen.first.startswith("error")
    assert not seen.last.startswith("error")
    for drawn in (seen.before, seen.after):
        assert drawn
        for picture in drawn:
            assert picture.std() > 1, "empty"
    moved = [
        one.shape != other.shape or np.abs(one.astype(int) - other).max() > 0
        for one, other in zip(seen.before, seen.after, strict=True)
    ]
    assert any(moved)
    # Nothing is asked of any other machine, and no script fails.
    assert not browser.away
    assert not browser.errors


def test_a_broken_file_is_one_line(browser, tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(b"no picture")
    browser.page.get_by_role("tab", name="Faces", exact=True).click()
    browser.said("faces")
    line = browser.upload("faces", path)
    assert line.startswith("error: ")
    assert "broken.png" in line
