"""What every command begins and ends with: flags, a config, a collection; files of results."""

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.figure
import numpy as np
from absl import app, flags

from nid_jax import data, devices
from nid_jax.reporting import tables
from nid_jax.storage import artefacts


def start(run, name, scales, *more, default="cpu"):
    """Read the command line and call run(scale, folder, *values of the further flags `more`).

    name: of runs/NAME, where results go by default. A ValueError or a missing file is one line and
    exit status 2.
    """
    scale = flags.DEFINE_enum("scale", default, list(scales), "How large, how long.")
    output = flags.DEFINE_string("output", f"runs/{name}", "Folder of the results.")

    def main(argv):
        del argv
        try:
            run(scale.value, Path(output.value), *(flag.value for flag in more))
        except (ValueError, FileNotFoundError) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    app.run(main)


def tell(found):
    """What `apart` reads."""
    print(json.dumps(artefacts.plain(found)))


def apart(script, *arguments):
    """A script in a process of its own, whose peak of memory is then its own.

    -> the JSON in its last line.
    """
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def config_of(name, variant, changes=()):
    """The config NAME:VARIANT of the library, changed by flattened keys."""
    config = importlib.import_module(f"nid_jax.configs.{name}").get_config(variant)
    config.update_from_flattened_dict(dict(changes))
    return config


def noise(count, side, channels=3):
    """A collection of random images."""
    images = np.random.default_rng(0).random((count, side, side, channels), np.float32)
    return data.ArrayCollection(images, range(count), "noise")


def clocked(function, *arguments, **options):
    """-> what function(*arguments, **options) returns, seconds."""
    begun = time.perf_counter()
    found = function(*arguments, **options)
    return found, time.perf_counter() - begun


def say(text):
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def made():
    """On what and with what, in one line."""
    return ", ".join(f"{key} {value}" for key, value in devices.versions().items())


def table(columns, rows):
    """A Markdown table: columns {header: function(row) -> cell}."""
    cells = [[cell(row) for cell in columns.values()] for row in rows]
    return tables.markdown_table(cells, list(columns))


def panels(rows, columns, width, height):
    """A figure of rows x columns panels, each of `width` x `height` inches. -> figure, [R, C]."""
    size = (width * columns, height * rows)
    figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def error_bars(axis, x, spreads, **look):
    """Milliseconds with their range over rounds: spreads of seconds at x."""
    median, least, most = 1e3 * np.array([(s.median, s.least, s.most) for s in spreads]).T
    errors = [median - least, most - median]
    axis.errorbar(x, median, errors, marker="o", capsize=2, markersize=4, **look)


def sheet(path, rows, count=6, title=""):
    """A PNG of {name: images [S, H, W, C] in [0, 1]}: a row a name, the first few side by side."""
    images = {name: np.clip(some[:count], 0, 1) for name, some in rows.items()}
    widest = max(len(some) for some in images.values())
    figure, axes = panels(len(images), 1, 1.0 * widest + 2.6, 1.0)
    for axis, (name, some) in zip(axes[:, 0], images.items(), strict=True):
        strip = np.concatenate(list(some), axis=1)
        strip = strip[..., 0] if strip.shape[-1] == 1 else strip
        axis.imshow(strip, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_axis_off()
        place = {"transform": axis.transAxes, "ha": "right", "va": "center"}
        axis.text(-0.02, 0.5, name, fontsize=8, wrap=True, **place)
    axes[0, 0].set_title(title, fontsize=8)
    save(figure, path)


def curves(axis, lines, x_label, y_label, title=""):
    """Lines {label: (x, y)} over a logarithmic x whose values are the ticks; ours are solid."""
    for label, (x, y) in lines.items():
        style = "-" if "NID" in label else "--"
        axis.plot(x, y, style, marker="o", markersize=4, label=label)
    ticks = sorted({value for x, _ in lines.values() for value in x})
    axis.set(xscale="log", xlabel=x_label, ylabel=y_label, title=title)
    axis.set_xticks(ticks, [f"{value:g}" for value in ticks])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8)


def save(figure, path):
    """A figure as PNG, whole or not at all."""
    with artefacts.atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight")


def write_page(path, text):
    """A page of results; one without a title of its own has the first line of its script's."""
    text = text.strip() + "\n"
    if not text.startswith("# "):
        title = (sys.modules["__main__"].__doc__ or path.stem).strip().splitlines()[0].rstrip(".")
        text = f"# {title}\n\n{text}"
    artefacts.write_text(path, text)


def write(folder, table, metrics, figure=None, indent=2):
    """table.md, metrics.json with the versions, and figure.png where there is one."""
    write_page(folder / "table.md", table)
    record = {"versions": devices.versions(), **metrics}
    artefacts.write_json(folder / "metrics.json", record, indent)
    if figure is not None:
        save(figure, folder / "figure.png")
