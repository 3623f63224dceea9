"""The report page of every task as a reader sees it, pictured in a headless browser.

    python experiments/report_screenshots.py --output=docs/screenshots [--runs=DIR] [--only=ct,sdf]

Needs the package playwright and Chromium. The runs lie in DIR/TASK; what is there is pictured as it
is, what is not is run first, most of them as fits with dictionaries that come with the package.
Writes report_TASK.png, the summary and the first fit, and report_narrow.png as on a telephone.
"""

import io
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import screenshots
from absl import flags
from measuring import command
from measuring.pictures import write_png
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
FIT = ("--mode=fit",)
# What is run of each task: options of the command line.
RUNS = {
    "image": ("--config=image:cpu",),
    "inpainting": ("--config=inpainting:pixels",),
    "ct": ("--config=ct:cpu", "--config.data.num_test=12", "--checkpoint=phantoms", *FIT),
    "video": ("--config=video:cpu",),
    "sdf": (
        "--config=sdf:cpu",
        "--config.data.num_test=6",
        "--config.fit.samples.fraction=0.02",
        "--checkpoint=chairs",
        *FIT,
    ),
    "fields": ("--config=fields:cpu", "--config.data.num_test=12"),
}
SMOKE = {name: (f"--config={name}:smoke",) for name in RUNS}
WIDTH, NARROW = 1000, 400
"""Pixels of a window, and of a telephone's."""
TALLEST = 1650
"""A picture ends there."""
SHOWN, LARGEST = 760, 95_000
"""Pixels of a picture's width, and bytes, at most."""
COLOURS = (128, 96, 64, 48, 32, 24)
"""Of a palette; as many as leave the picture small."""


def run_of(name: str, scale: str, folder: Path) -> Path:
    """The page of a task's run in a folder, which is run where it has none."""
    page = folder / "report.html"
    if not page.is_file():
        options = (SMOKE if scale == "smoke" else RUNS)[name]
        arguments = [sys.executable, str(ROOT / "main.py"), *options, f"--workdir={folder}"]
        subprocess.run(arguments, check=True, cwd=ROOT)
    return page


def pictured(browser, page: Path, width: int) -> Image.Image:
    """The page from its top to the end of the first fit, or to `TALLEST` pixels."""
    view = browser.new_page(viewport={"width": width, "height": 900})
    view.set_default_timeout(1e3 * screenshots.LONGEST)
    view.goto(page.resolve().as_uri())
    view.wait_for_timeout(1500)  # Meshes turn up last.
    wide = view.evaluate("document.documentElement.scrollWidth")
    if wide > width:
        raise ValueError(f"{page}: {wide} pixels wide in a window of {width}")
    end = view.locator("#fit-0").bounding_box()
    shown = Image.open(io.BytesIO(view.screenshot(full_page=True))).convert("RGB")
    view.close()
    return shown.crop((0, 0, width, int(min(end["y"] + end["height"], TALLEST, shown.height))))


def palette(shown: Image.Image, colours: int) -> Image.Image:
    """So many colours, a third of them of what is not gray: points of charts are few pixels."""
    pixels = np.asarray(shown).reshape(1, -1, 3)
    bright = pixels[:, np.ptp(pixels[0].astype(int), axis=-1) > 24]
    counts = (colours // 3, colours - colours // 3) if bright.size else (0, colours)
    ways = Image.Quantize.MAXCOVERAGE, Image.Quantize.MEDIANCUT
    found = [255, 255, 255]
    for some, count, way in zip((bright, pixels), counts, ways, strict=True):
        if count:
            image = Image.fromarray(np.ascontiguousarray(some))
            taken = image.quantize(count, way, dither=Image.Dither.NONE).getpalette() or []
            found += taken[: 3 * (count - 1)]
    made = Image.new("P", (1, 1))
    made.putpalette(found + found[-3:] * (256 - len(found) // 3))
    return made


def write(path: Path, shown: Image.Image) -> None:
    """A picture no wider and no larger than is shown."""
    shown.thumbnail((SHOWN, shown.height), Image.Resampling.LANCZOS)
    write_png(path, shown, (palette(shown, colours) for colours in COLOURS), LARGEST)


def run(scale, output, runs, only, chromium):
    """Picture the pages of all tasks, or of some."""
    output.mkdir(parents=True, exist_ok=True)
    names = only or list(RUNS)
    with tempfile.TemporaryDirectory() as spare:
        folder = Path(runs or spare)
        pages = {name: run_of(name, scale, folder / name) for name in names}
        with screenshots.launched(chromium) as browser:
            for name, page in pages.items():
                write(output / f"report_{name}.png", pictured(browser, page, WIDTH))
            write(output / "report_narrow.png", pictured(browser, pages[names[0]], NARROW))


if __name__ == "__main__":
    GIVEN = (
        flags.DEFINE_string("runs", "", "Where runs lie, or are made; empty: nothing is kept."),
        flags.DEFINE_list("only", [], f"Of {', '.join(RUNS)}; empty: all."),
        flags.DEFINE_string("chromium", "", "Its path; empty: it is looked for."),
    )
    command.start(run, "report_screenshots", ("smoke", "cpu"), *GIVEN)
