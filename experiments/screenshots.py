"""The demonstration as a visitor sees it: every tab in a headless browser, moved and pictured.

    python experiments/screenshots.py --output=docs/screenshots

Needs the extras demo and browser, and Chromium (--chromium=PATH where it is not found).
Writes DIR/TAB.png, each after sliders were moved and a face was brushed over. `Browser` is what a
test looks with, too.
"""

import base64
import io
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from absl import flags
from measuring import command
from measuring.pictures import write_png
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome")
WINDOW = {"width": 1200, "height": 960}
# Strokes and meshes are drawn without a graphics card; no name but this machine's is looked up.
ARGUMENTS = (
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
LONGEST = 120
"""Seconds that anything may take to be drawn on a busy machine."""
PAUSE = 100
"""Milliseconds between two looks."""
COLOURS = 255
"""Of a palette, which keeps a picture of a page small."""
# Every picture of the tab that is open, by its label, as the browser has decoded it; null while it
# has not.
PICTURES = """() => Object.fromEntries(
  [...document.querySelectorAll('.drawn')].filter(block => block.offsetParent).map(block => {
    const picture = block.querySelector('img')
    const label = block.querySelector('label').innerText.trim()
    if (!picture || !picture.complete || !picture.naturalWidth) return [label, null]
    const canvas = document.createElement('canvas')
    canvas.width = picture.naturalWidth
    canvas.height = picture.naturalHeight
    canvas.getContext('2d').drawImage(picture, 0, 0)
    return [label, canvas.toDataURL()]
  }))"""


class Browser:
    """A page of the demonstration that is open, and what it asked of whom."""

    def __init__(self, page, address):
        self.page, self.away, self.errors = page, [], []
        page.set_default_timeout(1e3 * LONGEST)
        page.context.on("request", lambda request: self._asked(request.url))
        page.on("websocket", lambda socket: self._asked(socket.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(address)

    def _asked(self, url):
        parts = urlsplit(url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname != "127.0.0.1":
            self.away.append(url)

    def until(self, look, wanted):
        """What `look()` returns, as soon as `wanted` holds of it. Raises TimeoutError."""
        end = time.monotonic() + LONGEST
        while not wanted(found := look()):
            if time.monotonic() > end:
                raise TimeoutError(f"after {LONGEST} s still {found!r}"[:500])
            # In which the page's own events are heard, too.
            self.page.wait_for_timeout(PAUSE)
        return found

    def open(self, tab):
        """A tab, when it has said what it draws. -> its line."""
        self.page.get_by_role("tab", name=tab, exact=True).click()
        return self.said(".")

    @property
    def panel(self):
        """The tab that is open."""
        return self.page.locator("[role=tabpanel]:visible")

    def line(self):
        """The line below its pictures."""
        return self.panel.locator(".line textarea, .line input").input_value()

    def said(self, pattern):
        """The line, as soon as it has such a part: a regular expression."""
        return self.until(self.line, re.compile(pattern).search)

    def pictures(self):
        """The pictures of the tab by their labels, all that it draws, [H, W, 3]."""
        found = self.until(
            lambda: self.page.evaluate(PICTURES), lambda found: all(found.values()) and found
        )
        return {
            label: _pixels(base64.b64decode(address.split(",")[1]))
            for label, address in found.items()
        }

    def slide(self, label, value):
        """Moves a slider by its number."""
        number = self.panel.locator(f"input[type=number][aria-label*='{label}']")
        number.fill(str(value))
        number.press("Enter")

    def choose(self, value):
        """Takes one of a row of choices."""
        self.panel.get_by_label(str(value), exact=True).check()

    def upload(self, path):
        """Gives a file."""
        self.panel.locator("input[type=file]").first.set_input_files(str(path))

    def brush(self, down=0.0, across=(-60, 60)):
        """A stroke over the canvas, in the page's pixels from its middle."""
        self._drag(self.panel.locator("#faces_canvas canvas").first, *((x, down) for x in across))

    def _drag(self, seen, start, end):
        """Moves the mouse, its button held, from one place to another, as seen from the middle."""
        box, mouse = seen.bounding_box(), self.page.mouse
        middle = np.array([box["x"] + box["width"] / 2, box["y"] + box["height"] / 2])
        mouse.move(*(middle + start))
        mouse.down()
        mouse.move(*(middle + end), steps=12)
        mouse.up()

    def mesh(self):
        """The mesh of the tab as it is drawn, [H, W, 3], as soon as it is."""
        canvas = self.panel.locator("[data-testid=model3d] canvas")
        return self.until(lambda: _pixels(canvas.screenshot()), lambda found: found.std() > 1)

    def turn(self):
        """Turns the mesh with the mouse."""
        self._drag(self.panel.locator("[data-testid=model3d] canvas"), (0, 0), (120, 30))


def _pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def faces(browser):
    """Keeps less and brushes over."""
    browser.slide("pixels kept", 40)
    browser.said("(3[5-9]|4[0-5])[.][0-9]% of its pixels")
    for down in (-20, 20):
        browser.brush(down, (-90, 90))
    browser.said("(3[0-4]|2[0-9])[.][0-9]% of its pixels")


def tomography(browser):
    """Another slice and more views."""
    browser.slide("slice", 3)
    browser.choose(12)
    browser.slide("noise", 1)
    browser.said("slice 3; 12 views of .* noise 1%")


def shapes(browser):
    """Half way from one to another."""
    browser.choose(3000)
    browser.slide("from the one", 0.5)
    browser.said("^50% of .*; 3000 of")


def codes(browser):
    """Two numbers that are not the mean's."""
    browser.slide("number 1", 1.5)
    browser.slide("number 3", -2)
    browser.said("number 1 [+]1.5, number 3 -2.0")


def zoom(browser):
    """Nearer, and further up."""
    browser.slide("how near", 2)
    browser.slide("row", -0.25)
    browser.said("4 times as near around row -0.25")


ACTS = {
    "Faces": faces,
    "Tomography": tomography,
    "Shapes": shapes,
    "Codes": codes,
    "Resolution": zoom,
}
"""What a visitor does, by the name of the tab."""


@contextmanager
def launched(executable: str | None = None) -> Iterator[Any]:
    """Chromium without a window, playwright's own; where it is not given it is looked for."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=executable or found(), args=list(ARGUMENTS)
        )
        try:
            yield chromium
        finally:
            chromium.close()


@contextmanager
def opened(executable: str | None = None) -> Iterator[Callable[[], Browser]]:
    """The demonstration served on a free port, and a browser: -> () -> a fresh `Browser`."""
    from nid_jax.demo import page

    with page.served() as address, launched(executable) as chromium:
        yield lambda: Browser(chromium.new_page(viewport=WINDOW), address)


def found() -> str | None:
    """Where Chromium is; None: only playwright knows, if anyone."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def run(scale, output, chromium):
    """Picture all tabs."""
    del scale
    output.mkdir(parents=True, exist_ok=True)
    with opened(chromium) as fresh:
        for tab, act in ACTS.items():
            # What the first visitor waits for is compiled for the second.
            for browser in (fresh(), fresh()):
                browser.open(tab)
                act(browser)
                browser.mesh() if tab == "Shapes" else browser.pictures()
            command.say(f"{tab}: {browser.line()}")
            taken = cropped(_pixels(browser.page.screenshot(animations="disabled")))
            write_png(output / f"{tab.lower()}.png", taken, [COLOURS])


def cropped(page):
    """A page without what is empty around it."""
    rows, columns = (np.flatnonzero((page != page[0, 0]).any((axis, 2))) for axis in (1, 0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    wide = [max(edge + step, 0) for edge, step in zip(box, (-20, -20, 20, 20), strict=True)]
    return Image.fromarray(page).crop(
        (*wide[:2], min(wide[2], page.shape[1]), min(wide[3], page.shape[0]))
    )


if __name__ == "__main__":
    CHROMIUM = flags.DEFINE_string("chromium", "", "Its path; empty: it is looked for.")
    command.start(run, "screenshots", ("cpu",), CHROMIUM)
