"""Faces of which a part is painted over or missing: a dictionary with a prior beside its peers.

    python experiments/inpainting.py --scale=smoke|cpu|paper --output=DIR

Unseen faces, three tables: a striped block whose place no method knows; random pixels, from 2% to
100%, known; a block, scribbles and text, known. All methods see the same pictures in one run.
Writes DIR/table.md, metrics.json, figure.png, unknown.png, pixels.png and known.png; dictionaries
stay in DIR/dictionary and DIR/joint.
"""

import dataclasses
import functools
import itertools
import json
import runpy
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import completion
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import peers
from absl import app, flags
from ml_collections import ConfigDict

from nid_jax import devices, metrics, tasks
from nid_jax.data import CorruptedCollection, to_array
from nid_jax.fields.coordinates import grid
from nid_jax.fields.model import build_model
from nid_jax.files import atomic_path
from nid_jax.fitting import batched, priors
from nid_jax.reporting import tables
from nid_jax.storage import artefacts
from nid_jax.storage.workdir import Workdir
from nid_jax.training import loop

matplotlib.use("Agg")
from matplotlib import pyplot

ROOT = Path(__file__).resolve().parents[1]
SHARES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
# Corruptions of every face; of fits by descent, which take seconds a face, only the first.
DRAWS = {"smoke": 1, "cpu": 3, "paper": 20}
SIREN_MARKS = (25, 50, 100, 200)

SCALE = flags.DEFINE_enum("scale", "cpu", list(DRAWS), "How many corruptions of every face.")
OUTPUT = flags.DEFINE_string("output", "runs/inpainting", "Folder of the results.")


class Case(NamedTuple):
    """One corruption of all faces: pictures, truth [S, H, W, C]; seen bool [S, H, W]; and the
    collection that they come from, which fits of a dictionary read."""

    pictures: np.ndarray
    truth: np.ndarray
    seen: np.ndarray
    collection: CorruptedCollection


@dataclasses.dataclass(frozen=True)
class Method:
    """A way from a Case to pictures [S, H, W, C].

    told: knows the mask. ours: a dictionary. slow: only the first draw. The last two are for the
    table: the settings that were chosen on training faces.
    """

    fill: Callable
    told: bool
    ours: bool = False
    slow: bool = False
    chosen: str = ""


# ---- corrupted faces ---------------------------------------------------------------------------


def corrupted(collection, kind, share, draw):
    """A Case of every face of a clean collection."""
    options = {"kind": kind, "share": share, "count": 1, "stripes": 6}
    options = ConfigDict(options | {"colour_scale": 1.0, "colour_shift": 0.0})
    made = CorruptedCollection(collection, options, draw)
    count = range(len(made))
    return Case(
        np.stack([made[i] for i in count]).astype(np.float32),
        np.stack([made.truth(i) for i in count]),
        np.stack([made.seen(i) for i in count]),
        made,
    )


class Some:
    """Some signals of a collection."""

    def __init__(self, collection, chosen):
        self.collection, self.chosen = collection, list(chosen)
        self.names = [collection.names[i] for i in self.chosen]
        self.shape, self.title = collection.shape, collection.title

    def __len__(self):
        return len(self.chosen)

    def __getitem__(self, index):
        return self.collection[self.chosen[index]]


class Training(NamedTuple):
    """Training faces for peers: rows of all [N, V], rows of the first three quarters of the
    originals and their copies, and the originals of the last quarter, on which peers are tuned."""

    rows: np.ndarray
    known: np.ndarray
    checked: Some


def split_training(collection):
    """-> Training."""
    rows = to_array(collection).reshape(len(collection), -1).astype(np.float64)
    originals = [name.split("/")[0] for name in collection.names]
    distinct = sorted(set(originals))
    last = set(distinct[-max(1, len(distinct) // 4) :])
    held = np.array([name in last for name in originals])
    whole = np.array(["/" not in name for name in collection.names])
    return Training(rows, rows[~held], Some(collection, np.flatnonzero(held & whole)))


def tuned(build, options, case, told):
    """The best of `options` (dicts) for build(**option), a function Case -> pictures.

    By the mean PSNR over the whole picture, and where the mask is not told also that in the hole.
    """

    def score(option):
        found = build(**option)(case)
        whole = completion.whole_psnr(found, case.truth).mean()
        return whole + (
            0 if told else np.nanmean(completion.hole_psnr(found, case.truth, case.seen))
        )

    return max(options, key=score)


def every(**values):
    """All combinations, as dicts."""
    return [dict(zip(values, row, strict=True)) for row in itertools.product(*values.values())]


# ---- dictionaries ------------------------------------------------------------------------------


def load_config(scale, variant):
    """A config of configs/inpainting.py, at smoke scale as small as its smoke variant."""
    get_config = runpy.run_path(str(ROOT / "configs" / "inpainting.py"))["get_config"]
    if scale != "smoke":
        return get_config(variant)
    config, wanted = get_config("smoke"), get_config(variant)
    config.fit = wanted.fit
    config.train.codes, config.router.kind = wanted.train.codes, wanted.router.kind
    config.prior.num_signals = wanted.prior.num_signals
    return config


class Dictionary:
    """A dictionary of a config, trained in `folder` or as it is drawn, and the prior of its codes.

    Its fits are those of main.py.
    """

    def __init__(self, config, folder=None):
        self.config = config
        task = tasks.build(config)
        collection = task.open("train")
        start = time.perf_counter()
        if folder is None:
            self.model = build_model(config, collection.shape, len(collection), config.seed)
        else:
            self.model = loop.train(task, config, Workdir(folder)).model
        self.prior = None
        if config.prior.num_signals:
            self.prior = priors.learn_prior(task, self.model, collection, config)
        self.seconds = time.perf_counter() - start

    def fill(self, case, wanted, **robust):
        """Pictures of a Case by config.fit = `wanted`, its robust options changed as given."""
        config = self.config.copy_and_resolve_references()
        config.fit = wanted.copy_and_resolve_references()
        config.fit.robust.update(robust)
        task = tasks.build(config)
        fitted = batched.fit(task, self.model, case.collection, config, prior=self.prior)
        return batched.reconstruct(task, self.model, fitted, case.collection, config)[0]


# ---- methods -----------------------------------------------------------------------------------


def rows_of(pictures_):
    """[S, H, W, C] -> float64 [S, V]."""
    return pictures_.reshape(len(pictures_), -1).astype(np.float64)


def by_rows(function, case):
    """function(row [V], seen [V]) of every picture -> [S, H, W, C]."""
    channels = case.pictures.shape[-1]
    seen = np.repeat(case.seen.reshape(len(case.seen), -1), channels, axis=1)
    rows = zip(rows_of(case.pictures), seen, strict=True)
    return np.stack([function(x, s) for x, s in rows]).reshape(case.pictures.shape)


def siren(case, omega0, steps, power, marks=SIREN_MARKS):
    """A SIREN of every face, from its pixels; power 1: all of them, 2: those seen."""
    shape, channels = case.pictures.shape[1:3], case.pictures.shape[-1]
    network = peers.siren(grid(shape), channels, 64, 3, omega0)
    keys = jax.random.split(jax.random.key(0), len(case.pictures))
    layers = jax.vmap(network.draw)(keys)
    targets = jnp.asarray(case.pictures.reshape(len(keys), -1, channels))
    seen = case.seen if power == 2 else np.ones_like(case.seen)
    seen = jnp.asarray(seen.reshape(len(keys), -1), jnp.float32)
    residual = jax.vmap(completion.masked_residual(network, power))
    reached = [mark for mark in marks if mark <= steps]
    found, _ = peers.descend(lambda v: residual(v, targets, seen), layers, 3e-3, reached)
    images = np.asarray(jax.vmap(network.render)(found[-1].variables)).reshape(case.pictures.shape)
    return completion.filled(images, case.pictures, case.seen) if power == 2 else images


def pca(case, components, robust):
    """Pictures projected onto principal components."""
    project = components.project_robustly if robust else components.project
    return project(rows_of(case.pictures)).reshape(case.pictures.shape)


def from_detected(case, pilot, fill, trim, reach):
    """What `fill` makes of the pictures with a hole where `pilot` has large residuals."""
    seen = completion.detected(case.pictures, pilot(case), trim, reach)
    return fill(case._replace(seen=seen))


def pixel_gaussian(case, model, noise):
    """The Gaussian of pixels, told the mask."""
    found = by_rows(lambda row, seen: model.complete(row, seen, noise), case)
    return completion.filled(found, case.pictures, case.seen)


def pixel_gaussian_robust(case, model, scale):
    """The Gaussian of pixels under Laplace noise."""
    return by_rows(lambda row, seen: model.fit_robustly(row, scale), case)


class Chooser:
    """Tunes methods on training faces, then builds them from all of them."""

    def __init__(self, train, told, kind, share):
        self.train, self.told = train, told
        self.case = corrupted(train.checked, kind, share, 0)

    def method(self, function, options, of=None, **flags_):
        """function(case, **option); of(rows, **option) -> further keyword arguments, learned."""

        def build(rows):
            def bound(**option):
                learned = of(rows, **option) if of else option
                return functools.partial(function, **learned)

            return bound

        best = tuned(build(self.train.known), options, self.case, self.told)
        words = ", ".join(f"{k} {v:g}" for k, v in best.items())
        return Method(build(self.train.rows)(**best), self.told, chosen=words, **flags_)


def unknown_methods(train, dictionaries, configs, smoke):
    """Methods for a block at an unknown place, by name; the last ones are told where it is."""
    choose = Chooser(train, False, "stripes", 0.13)
    trims = {"trim": (2.0, 2.5, 3.0), "reach": (1.0, 1.5)}
    ranks = {"rank": (5, 20) if smoke else (5, 10, 20, 40, 80, 160)}

    def components(rows, rank, robust):
        return {"components": completion.Components(rows, rank), "robust": robust}

    found = {"corrupted input": Method(lambda case: case.pictures, False)}
    for name, robust in (("PCA projection", False), ("PCA projection, least absolute", True)):
        of = functools.partial(components, robust=robust)
        found[name] = choose.method(pca, every(**ranks), of)
    pilot = found["PCA projection, least absolute"].fill
    for name, fill in (
        ("biharmonic, hole by PCA", lambda case: completion.biharmonic(case.pictures, case.seen)),
        (
            "total variation, hole by PCA",
            lambda case: completion.total_variation(case.pictures, case.seen, 1e-3),
        ),
    ):
        way = functools.partial(from_detected, pilot=pilot, fill=fill)
        found[name] = choose.method(way, every(**trims))
    found["SIREN per face, L1"] = choose.method(
        functools.partial(siren, power=1),
        every(omega0=(5.0, 15.0, 30.0), steps=(25, 50) if smoke else SIREN_MARKS),
        slow=True,
    )
    found |= robust_pixel_gaussians(choose, trims)
    found |= robust_dictionaries(dictionaries, configs)
    return found


def robust_pixel_gaussians(choose, trims):
    """The cheap form of our prior, fitted as our codes are."""

    def gaussian(rows, shrinkage, scale):
        return {"model": completion.PixelGaussian(rows, shrinkage), "scale": scale}

    pilot = choose.method(
        pixel_gaussian_robust, every(shrinkage=(0.01, 0.1), scale=(0.2, 0.4, 0.8)), gaussian
    )

    def trimmed(rows, shrinkage, **rest):
        model = completion.PixelGaussian(rows, shrinkage)

        def fill(case):
            seen = np.repeat(case.seen.reshape(len(case.seen), -1), case.pictures.shape[-1], 1)
            pairs = zip(rows_of(case.pictures), seen, strict=True)
            return np.stack([model.complete(x, s, 1e-3) for x, s in pairs]).reshape(
                case.pictures.shape
            )

        return {"pilot": pilot.fill, "fill": fill, **rest}

    return {
        "Gaussian of pixels, L1": pilot,
        "Gaussian of pixels, L1, trimmed": choose.method(
            from_detected, every(shrinkage=(0.01, 0.1), **trims), trimmed
        ),
    }


def robust_dictionaries(dictionaries, configs):
    """Fits of dictionaries; their settings are those of configs/inpainting.py."""
    robust, paper = configs["cpu"].fit, configs["paper"].fit

    def ours(name, wanted, **options):
        slow = wanted is paper
        fill = functools.partial(dictionaries[name].fill, wanted=wanted, **options)
        return Method(fill, False, ours=True, slow=slow)

    return {
        "NID, L1 by gradient (the paper)": ours("joint", paper),
        "NID robust, no prior": ours("trained", robust, use_prior=False, noise=0.0, trim=0.0),
        "NID robust, prior": ours("trained", robust, trim=0.0),
        "NID robust, prior, trimmed": ours("trained", robust),
        "NID robust, prior, trimmed; untrained": ours("untrained", robust),
    }


def known_methods(train, dictionaries, wanted, kind, share, with_siren, smoke):
    """Methods that are told the mask, by name, tuned for one kind of it."""
    choose = Chooser(train, True, kind, share)

    def gaussian(rows, shrinkage, noise):
        return {"model": completion.PixelGaussian(rows, shrinkage), "noise": noise}

    def dictionary(name, wanted):
        fill = functools.partial(dictionaries[name].fill, wanted=wanted)
        return Method(fill, True, ours=True)

    ridge = wanted.copy_and_resolve_references()
    ridge.solver, ridge.ridge.lam = "ridge", "0.1"
    found = {
        "biharmonic": Method(lambda case: completion.biharmonic(case.pictures, case.seen), True),
        "total variation": choose.method(
            lambda case, weight: completion.total_variation(case.pictures, case.seen, weight),
            every(weight=(1e-3, 3e-3, 1e-2, 3e-2)),
        ),
    }
    if with_siren:
        found["SIREN per face"] = choose.method(
            functools.partial(siren, power=2),
            every(omega0=(5.0, 15.0), steps=(25, 50) if smoke else SIREN_MARKS),
            slow=True,
        )
    found["Gaussian of pixels"] = choose.method(
        pixel_gaussian, every(shrinkage=(0.0, 0.03, 0.1), noise=(1e-4, 1e-3, 3e-3)), gaussian
    )
    return found | {
        "NID ridge, no prior": dictionary("trained", ridge),
        "NID gaussian": dictionary("trained", wanted),
        "NID gaussian, untrained": dictionary("untrained", wanted),
    }


# ---- running -----------------------------------------------------------------------------------


def compare(title, cases, methods):
    """{name: {'psnr', 'hole', 'ssim': one per face and draw, 'seconds': per face}} and the first
    reconstruction of each."""
    results, first = {}, {}
    for name, method in methods.items():
        rows = {"psnr": [], "hole": [], "ssim": [], "seconds": []}
        for case in cases[: 1 if method.slow else None]:
            start = time.perf_counter()
            with devices.CompileTime() as compiling:
                found = np.asarray(method.fill(case), np.float32)
            seconds = time.perf_counter() - start - compiling.seconds
            rows["seconds"].append(max(seconds, 0.0) / len(found))
            rows["psnr"] += rounded(completion.whole_psnr(found, case.truth))
            rows["hole"] += rounded(completion.hole_psnr(found, case.truth, case.seen))
            rows["ssim"] += rounded(metrics.ssim(np.clip(found, 0, 1), case.truth))
            first.setdefault(name, found)
        results[name] = rows | {"told": method.told, "chosen": method.chosen}
        print(
            f"{title}: {name} {mean(rows['psnr']):.2f} dB, in the hole "
            f"{mean(rows['hole']):.2f} dB  {method.chosen}",
            flush=True,
        )
    return results, first


def rounded(values):
    """Numbers as metrics.json has them: of four decimals, None where there is none."""
    return [round(float(v), 4) if np.isfinite(v) else None for v in np.asarray(values)]


def mean(values):
    """Of those that are numbers; NaN where there are none."""
    values = np.asarray(values, float)
    return float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else np.nan


def main(argv):
    """Run the three comparisons."""
    del argv
    start = time.perf_counter()
    folder, scale = Path(OUTPUT.value), SCALE.value
    smoke, draws = scale == "smoke", range(DRAWS[scale])
    variants = ("cpu", "known", "pixels", "paper")
    configs = {variant: load_config(scale, variant) for variant in variants}
    dictionaries = {
        "trained": Dictionary(configs["cpu"], folder / "dictionary"),
        "untrained": Dictionary(configs["cpu"]),
        "joint": Dictionary(configs["paper"], folder / "joint"),
    }
    config = configs["cpu"].copy_and_resolve_references()
    task = tasks.build(config)
    train = split_training(task.open("train"))
    config.data.corrupt.kind = "none"
    faces = tasks.build(config).open("test").collection
    tables, sheets = {}, {}

    def run(title, kind, share, methods):
        cases = [corrupted(faces, kind, share, draw) for draw in draws]
        tables[title], found = compare(title, cases, methods)
        sheets[title] = (cases[0], found)

    told = known_methods(
        train, dictionaries, configs["known"].fit, "stripes", 0.13, not smoke, smoke
    )
    unknown = unknown_methods(train, dictionaries, configs, smoke)
    run("block, place unknown", "stripes", 0.13, unknown)
    run("block, place known", "stripes", 0.13, told)
    for kind in () if smoke else ("scribble", "text"):
        run(f"{kind}, known", kind, 0.13, told)
    pixels = known_methods(
        train, dictionaries, configs["pixels"].fit, "pixels", 0.1, not smoke, smoke
    )
    for share in (0.1, 1.0) if smoke else SHARES:
        run(f"{100 * share:g}%", "pixels", share, pixels)
    minutes = (time.perf_counter() - start) / 60
    write(folder, tables, sheets, dictionaries, len(faces), minutes)


# ---- what is written ---------------------------------------------------------------------------


def write(folder, tables, sheets, dictionaries, count, minutes):
    """table.md, metrics.json, figure.png and the sheets."""
    shares = [title for title in tables if title.endswith("%")]
    rest = [title for title in tables if title.endswith("known") and title != _UNKNOWN]
    versions = devices.versions()
    made = ", ".join(f"{key} {value}" for key, value in versions.items())
    seconds = ", ".join(f"{name} {d.seconds:.0f} s" for name, d in dictionaries.items())
    parts = [
        "A striped block over 13% of the face, its place unknown to every method:",
        block_table(tables[_UNKNOWN]),
        "Told where the hole is, and keeping what is around it. "
        "PSNR over the whole face / in the hole, dB:",
        known_table(tables, rest),
        "Some pixels at random, known. PSNR over the whole face, dB:",
        share_table(tables, shares),
        f"{count} unseen faces, {DRAWS[SCALE.value]} corruptions of each (SIREN and gradient: the "
        "first). Methods are tuned on a quarter of the training faces, with the rest known to "
        "them, by PSNR, and for the unknown block by that of the whole face plus that in the hole; "
        "those of a dictionary are the settings of configs/inpainting.py. Its atoms are more than "
        "the pixels: what fills a hole is the prior, and without it a robust fit repeats the "
        "input. "
        f"Dictionaries and priors: {seconds}. The whole run took {minutes:.1f} min. {made}",
    ]
    text = "\n\n".join(part.strip() for part in parts) + "\n"
    artefacts.write_text(folder / "table.md", text)
    record = {"results": tables, "minutes": minutes, "versions": versions}
    # Without indentation: thousands of numbers.
    artefacts.write_text(folder / "metrics.json", json.dumps(record, allow_nan=False) + "\n")
    draw(folder, tables, shares)
    for name, title in (("unknown", _UNKNOWN), ("known", _KNOWN), ("pixels", "10%")):
        draw_sheet(folder / f"{name}.png", *sheets[title])
    print(text)
    print(folder / "table.md")


_UNKNOWN, _KNOWN = "block, place unknown", "block, place known"


def block_table(results):
    """PSNR over the whole and in the hole, SSIM and seconds of every method."""
    rows = [
        [name, *(mean(r[key]) for key in ("psnr", "hole", "ssim"))]
        + [1e3 * float(np.median(r["seconds"]))]
        for name, r in results.items()
    ]
    headers = ["", "PSNR, dB", "in the hole, dB", "SSIM", "ms per face"]
    return tables.markdown_table(rows, headers)


def known_table(tables, titles):
    """PSNR over the whole / in the hole for every kind of mask."""
    rows = []
    for name in tables[titles[0]]:
        of = [tables[title][name] for title in titles]
        cells = [f"{mean(r['psnr']):.2f} / {mean(r['hole']):.2f}" for r in of]
        rows.append([name, *cells, 1e3 * float(np.median(of[0]["seconds"]))])
    return tables.markdown_table(rows, ["", *titles, "ms per face"])


def share_table(tables, titles):
    """PSNR for every share of pixels seen; all of them back is 'exact'."""
    rows = []
    for name in tables[titles[0]]:
        means = [mean(tables[title][name]["psnr"]) for title in titles]
        cells = ["exact" if value > 60 else f"{value:.2f}" for value in means]
        rows.append([name, *cells])
    return tables.markdown_table(rows, ["pixels seen", *titles])


def draw(folder, tables, shares):
    """figure.png: the unknown block as bars, PSNR against the share of pixels as lines."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
    results = tables[_UNKNOWN]
    places = np.arange(len(results))
    for key, offset, label in (("psnr", -0.2, "whole face"), ("hole", 0.2, "in the hole")):
        values = [mean(r[key]) for r in results.values()]
        left.barh(places + offset, values, 0.4, label=label)
    left.set_yticks(places, list(results))
    left.invert_yaxis()
    left.set(xlabel="PSNR, dB", title="Striped block, place unknown")
    left.legend(frameon=False)
    shown = [title for title in shares if title != "100%"]
    for name in tables[shown[0]]:
        values = [mean(tables[title][name]["psnr"]) for title in shown]
        right.plot([float(t[:-1]) for t in shown], values, marker="o", label=name)
    right.set(xscale="log", xlabel="pixels seen, %", ylabel="PSNR, dB", title="Random pixels")
    right.set_xticks([float(t[:-1]) for t in shown], [t[:-1] for t in shown])
    right.minorticks_off()
    right.grid(alpha=0.3)
    right.legend(frameon=False)
    with atomic_path(folder / "figure.png") as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    pyplot.close(figure)


def draw_sheet(path, case, found, faces=6):
    """Rows: truth, input, then every method; columns: faces. Each pixel is enlarged."""
    rows = {"truth": case.truth, "input": case.pictures} | found
    rows.pop("corrupted input", None)
    faces = min(faces, len(case.truth))
    figure, axes = pyplot.subplots(
        len(rows), 1, figsize=(1.0 * faces + 2.6, 1.0 * len(rows)), layout="constrained"
    )
    for axis, (name, images) in zip(axes, rows.items(), strict=True):
        strip = np.concatenate([np.clip(i, 0, 1) for i in images[:faces]], axis=1)
        strip = strip[..., 0] if strip.shape[-1] == 1 else strip
        axis.imshow(strip, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_axis_off()
        axis.text(
            -0.02, 0.5, name, transform=axis.transAxes, ha="right", va="center", fontsize=8,
            wrap=True,
        )  # fmt: skip
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=80, format="png", bbox_inches="tight")
    pyplot.close(figure)


if __name__ == "__main__":
    app.run(main)
