"""The demonstration as a visitor sees it: every tab in a headless browser, moved and pictured.

    python experiments/screenshots.py --output=docs/screenshots

Needs the extras demo and browser, and Chromium (--chromium=PATH where it is not found).
Writes DIR/TAB.png, each after sliders were moved and a face was brushed over. `walk` is what a test
looks with, too.
"""

import dataclasses
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import numpy as np
from absl import flags
from measuring import command
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome")
WINDOW = {"width": 1200, "height": 780}
# Meshes are drawn without a graphics card.
ARGUMENTS = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
SOON = 60_000
"""Milliseconds that anything may take to be drawn on a busy machine."""
COLOURS = 128
"""Of a palette, which keeps a picture of a page small."""


@dataclasses.dataclass
class Visit:
    """What a browser saw of one tab."""

    first: str
    """The line below the pictures when the page has opened."""
    last: str
    """And after everything was moved."""
    before: list[np.ndarray]
    after: list[np.ndarray]
    """The pictures themselves, before and after; of a mesh what the page shows."""
    screenshot: Image.Image


class Browser:
    """A page of the demonstration that is open, and what it asked of whom."""

    def __init__(self, page, address):
        self.page, self.away, self.errors = page, [], []
        page.set_default_timeout(SOON)
        page.on("request", self._asked)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(address)

    def _asked(self, request):
        parts = urlsplit(request.url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname != "127.0.0.1":
            self.away.append(request.url)

    def line(self, tab):
        """The line below a tab's pictures."""
        return self.page.locator(f"#{tab}_line textarea, #{tab}_line input")

    def said(self, tab, other_than=""):
        """That line, once it is another."""
        self.page.wait_for_function(
            "([id, old]) => {const line = document.querySelector(`#${id}_line textarea,"
            " #${id}_line input`); return line && line.value && line.value !== old}",
            arg=[tab, other_than],
        )
        return self.settled(tab)

    def settled(self, tab):
        """The line once nothing has changed for half a second."""
        old = None
        while (new := self.line(tab).input_value()) != old:
            old = new
            self.page.wait_for_timeout(500)
        return new

    def slide(self, tab, label, value):
        """Moves a slider of a tab by its number. -> the line then."""
        old = self.line(tab).input_value()
        number = self.panel.locator(f"input[type=number][aria-label*='{label}']")
        number.fill(str(value))
        number.press("Enter")
        return self.said(tab, old)

    def choose(self, tab, value):
        """Takes one of a row of choices. -> the line then."""
        old = self.line(tab).input_value()
        self.panel.get_by_label(str(value), exact=True).check()
        return self.said(tab, old)

    def brush(self, tab):
        """Strokes across the middle of the canvas. -> the line then."""
        old = self.line(tab).input_value()
        box = self.panel.locator("#faces_canvas canvas").first.bounding_box()
        across = [box["x"] + share * box["width"] for share in (0.35, 0.65)]
        level = box["y"] + 0.45 * box["height"]
        mouse = self.page.mouse
        mouse.move(across[0], level)
        mouse.down()
        mouse.move(across[1], level, steps=12)
        mouse.up()
        return self.said(tab, old)

    def upload(self, tab, path):
        """Gives a file. -> the line then."""
        old = self.line(tab).input_value()
        self.panel.locator("input[type=file]").first.set_input_files(str(path))
        return self.said(tab, old)

    @property
    def panel(self):
        """The tab that is open."""
        return self.page.locator("[role=tabpanel]:visible")

    def pictures(self):
        """The pictures of the tab that is open."""
        mesh = self.panel.locator("canvas[class]:not(#faces_canvas canvas)")
        if mesh.count():
            self.page.wait_for_timeout(2000)
            return [_pixels(mesh.first.screenshot())]
        sources = self.panel.locator("img").evaluate_all("all => all.map(one => one.src)")
        return [_pixels(self.page.request.get(source).body()) for source in sources]


def _pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


# What a visitor does, by the name of a tab and of its line.
ACTS = {
    ("Faces", "faces"): lambda browser: (
        browser.slide("faces", "pixels kept", 40),
        browser.brush("faces"),
    ),
    ("Tomography", "tomography"): lambda browser: (
        browser.slide("tomography", "slice", 3),
        browser.choose("tomography", 12),
    ),
    ("Shapes", "shapes"): lambda browser: (
        browser.choose("shapes", 3000),
        browser.slide("shapes", "from the one", 0.5),
    ),
    ("Codes", "codes"): lambda browser: (
        browser.slide("codes", "number 1", 1.5),
        browser.slide("codes", "number 3", -2),
    ),
    ("Resolution", "zoom"): lambda browser: (
        browser.slide("zoom", "nearness", 2),
        browser.slide("zoom", "row", -0.25),
    ),
}


def visit(browser: Browser, tab: str, name: str) -> Visit:
    """Open a tab, look, move everything, look again."""
    browser.page.get_by_role("tab", name=tab, exact=True).click()
    first = browser.said(name)
    before = browser.pictures()
    ACTS[tab, name](browser)
    last, after = browser.settled(name), browser.pictures()
    taken = Image.open(io.BytesIO(browser.page.screenshot()))
    return Visit(first, last, before, after, taken.convert("RGB"))


@contextmanager
def opened(executable: str | None = None) -> Iterator[Browser]:
    """The demonstration served on a free port, and open in a browser."""
    from playwright.sync_api import sync_playwright

    from nid_jax.demo import page

    with page.served() as address, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=executable or found(), args=list(ARGUMENTS)
        )
        try:
            yield Browser(chromium.new_page(viewport=WINDOW), address)
        finally:
            chromium.close()


def found() -> str | None:
    """Where Chromium is; None: only playwright knows, if anyone."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def run(scale, output, chromium):
    """Picture all tabs."""
    del scale
    output.mkdir(parents=True, exist_ok=True)
    with opened(chromium or None) as browser:
        for tab, name in ACTS:
            seen = visit(browser, tab, name)
            path = output / f"{name}.png"
            seen.screenshot.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
            command.say(f"{path}: {path.stat().st_size / 1e3:.0f} kB; {seen.last}")
        for address in browser.away:
            command.say(f"asked elsewhere: {address}")


if __name__ == "__main__":
    CHROMIUM = flags.DEFINE_string("chromium", "", "Its path; empty: it is looked for.")
    command.start(run, "screenshots", ("cpu",), CHROMIUM)
