"""The demonstration in a real browser: what a visitor moves changes what is drawn."""

import importlib.util
import socket

import numpy as np
import pytest
import trimesh
from PIL import Image

from nid_jax.demo import pictures

screenshots = pytest.importorskip("screenshots")
pytestmark = [
    pytest.mark.slow,
    *(
        pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"needs {name}")
        for name in ("gradio", "playwright")
    ),
    pytest.mark.skipif(screenshots.found() is None, reason="needs Chromium"),
]
SEEN, FOUND, PEER = "what is seen; blue is not", "dictionary", "biharmonic"
SIDE = 25
HERE = ("127.0.0.1", "localhost", "0.0.0.0", "::1", None)


@pytest.fixture(scope="module")
def fresh():
    """() -> a page that nobody has moved; all of it served by this process, which asks for no other
    machine by its name, either."""
    asked, look_up = [], socket.getaddrinfo

    def looked_up(host, *arguments, **options):
        name = host.decode() if isinstance(host, bytes) else host
        if name not in HERE:
            asked.append(name)
        return look_up(host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", looked_up)
        with screenshots.opened() as opened:
            yield opened
    assert not asked


@pytest.fixture
def browser(fresh):
    """A fresh page, which by the end has asked nothing of another machine, nor failed."""
    browser = fresh()
    yield browser
    browser.page.close()
    assert not browser.away
    assert not browser.errors


def blue(picture):
    """Which of a face's pixels are drawn as not seen, [25, 25]."""
    step = picture.shape[0] // SIDE
    return (picture[step // 2 :: step, step // 2 :: step] == (38, 70, 140)).all(-1)


def drawn(browser, wanted):
    """The tab's pictures, as soon as they are such."""
    return browser.until(browser.pictures, wanted)


def differ(one, other):
    """Whether two pictures are of other sizes or pixels."""
    return one.shape != other.shape or (one != other).any()


def test_the_first_tab_is_drawn_before_anything_is_touched(browser):
    assert browser.said("^face 1, ").endswith(" ms")
    for name, picture in browser.pictures().items():
        assert picture.std() > 1, name
    assert "Brush over the face" in browser.panel.inner_text()


@pytest.mark.parametrize("tab", [name for name in screenshots.ACTS if name != "Shapes"])
def test_a_tab_draws_and_follows(browser, tab):
    browser.open(tab)
    before = browser.pictures()
    screenshots.ACTS[tab](browser)
    # All of them are others now, but perhaps a face that is near.
    after = drawn(
        browser,
        lambda now: all(
            differ(one, before[name]) for name, one in now.items() if "nearest" not in name
        ),
    )
    assert after.keys() == before.keys()
    for name, picture in [*before.items(), *after.items()]:
        assert picture.std() > 1, name


def test_how_much_of_a_face_is_kept(browser):
    browser.open("Faces")
    browser.slide("pixels kept", 100)
    browser.said("100.0% of its pixels")
    whole = drawn(browser, lambda now: not blue(now[SEEN]).any())
    # All is seen: biharmonic inpainting has nothing to fill in.
    np.testing.assert_array_equal(whole[PEER], whole[SEEN])
    browser.slide("pixels kept", 2)
    little = drawn(browser, lambda now: 0.9 < blue(now[SEEN]).mean() < 1)
    assert differ(little[FOUND], whole[FOUND])
    assert little[pictures.UNSURE].mean() > 2 * whole[pictures.UNSURE].mean()
    browser.slide("face", 2)
    browser.said("^face 2,")
    assert differ(browser.pictures()[FOUND], little[FOUND])


def test_what_is_brushed_over_is_not_seen(browser):
    browser.open("Faces")
    browser.slide("pixels kept", 100)
    browser.said("100.0% of its pixels")
    browser.brush()
    now = drawn(browser, lambda now: blue(now[SEEN]).any())
    gone = blue(now[SEEN])
    # The picture lies in the middle of its canvas, each of its pixels about twelve of the page.
    assert gone[SIDE // 2, 8:17].all()
    assert not gone[: SIDE // 2 - 3].any()
    assert not gone[SIDE // 2 + 4 :].any()
    assert not gone[:, :4].any()
    assert not gone[:, -4:].any()
    hidden = np.kron(gone, np.ones((12, 12), bool))
    assert differ(now[PEER][hidden], now[SEEN][hidden])
    browser.brush(down=90)
    both = drawn(browser, lambda now: blue(now[SEEN])[SIDE // 2 + 4 :].any())
    assert blue(both[SEEN])[gone].all()


def test_a_broken_file_is_one_line(browser, tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(b"no picture")
    browser.open("Faces")
    browser.upload(path)
    line = browser.said("^error: ")
    assert "broken.png" in line


@pytest.mark.parametrize("name", ["mine.png", "mine.npy"])
def test_a_file_of_ones_own_is_drawn(browser, tmp_path, name):
    values = np.add.outer(np.arange(SIDE), np.arange(SIDE)).astype(np.float32) / (2 * SIDE)
    path = tmp_path / name
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        Image.fromarray((values * 255).astype(np.uint8)).resize((100, 100), 0).save(path)
    browser.open("Faces")
    browser.slide("pixels kept", 100)
    browser.upload(path)
    browser.said(f"^{name}, 100.0%")

    def off(now):
        return np.abs(now[SEEN][6::12, 6::12, 0] / 255 - values).max()

    now = drawn(browser, lambda now: off(now) < 0.02)
    assert now[FOUND].std() > 1


def test_a_mesh_is_drawn_turned_and_downloaded(browser, tmp_path):
    browser.open("Shapes")
    before = browser.mesh()
    browser.turn()
    frames = [browser.until(browser.mesh, lambda now: differ(now, before))]

    def still(now):
        frames.append(now)
        return not differ(now, frames[-2])

    turned = browser.until(browser.mesh, still)
    screenshots.shapes(browser)
    browser.until(browser.mesh, lambda now: differ(now, turned))
    with browser.page.expect_download() as coming:
        browser.panel.locator("[data-testid=model3d-download-link]").click()
    path = tmp_path / "shape.glb"
    coming.value.save_as(path)
    mesh = trimesh.load(path, force="mesh")
    assert f"; {len(mesh.faces)} triangles" in browser.line()
    assert np.abs(mesh.vertices).max() <= 1
