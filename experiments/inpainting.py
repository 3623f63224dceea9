"""Faces of which a part is painted over or missing: a dictionary with a prior beside its peers.

    python experiments/inpainting.py --scale=smoke|cpu|paper --output=DIR

Unseen faces, three tables: a striped block whose place no method knows; random pixels, from 2% to
100%, known; a block, scribbles and text, known. All methods see the same pictures in one run.
Writes DIR/table.md, metrics.json, figure.png, unknown.png, pixels.png and known.png; dictionaries
stay in DIR/trained and DIR/joint.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from measuring import command
from measuring.command import clocked, config_of
from measuring.dictionaries import changed, learned
from ml_collections import ConfigDict
from peers import completion, networks
from peers.components import Components, PixelGaussian
from peers.descent import descend

from nid_jax import devices, learning, metrics, tasks
from nid_jax.coding.solvers import solver_from_config
from nid_jax.data import CorruptedCollection, SubsetCollection, to_array
from nid_jax.data.originals import originals
from nid_jax.fields.coordinates import grid
from nid_jax.fitting import refining

SHARES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
# Corruptions of every face; of fits by descent, which take seconds a face, only the first.
DRAWS = {"smoke": 1, "cpu": 3, "paper": 20}
SIREN_MARKS = (25, 50, 100, 200)


class Case(NamedTuple):
    """One corruption of all faces: pictures, truth [S, H, W, C]; seen bool [S, H, W]."""

    pictures: np.ndarray
    truth: np.ndarray
    seen: np.ndarray


@dataclasses.dataclass(frozen=True)
class Method:
    """A way from a Case to pictures [S, H, W, C].

    told: knows the mask. slow: only the first draw. chosen: for the table, the settings that were
    chosen on training faces.
    """

    fill: Callable
    told: bool
    slow: bool = False
    chosen: str = ""


# ---- corrupted faces ---------------------------------------------------------------------------


def corrupted(collection, kind, share, draw):
    """A Case of every face of a clean collection."""
    block = {"count": 1, "stripes": 6, "colour_scale": 1.0, "colour_shift": 0.0}
    options = ConfigDict({"kind": kind, "share": share, **block})
    made = CorruptedCollection(collection, options, draw)
    pictures, truth, seen = (
        np.stack([one(i) for i in range(len(made))])
        for one in (made.__getitem__, made.truth, made.seen)
    )
    return Case(pictures.astype(np.float32), truth, seen)


class Training:
    """Training faces for peers: rows of all [N, V], `known` rows of the first three quarters of the
    originals and their copies, and `checked`, the originals of the last quarter, on which peers are
    tuned."""

    def __init__(self, collection):
        self.rows = rows_of(to_array(collection))
        original = originals(collection.names)
        held = original > original.max() - max(1, (original.max() + 1) // 4)
        whole = np.array(["/" not in name for name in collection.names])
        self.known = self.rows[~held]
        self.checked = SubsetCollection(collection, np.flatnonzero(held & whole))


# ---- dictionaries ------------------------------------------------------------------------------


def load_config(scale, variant):
    """A config of configs/inpainting.py, at smoke scale as small as its smoke variant."""
    wanted = config_of("inpainting", variant)
    if wanted.prior.num_signals:
        wanted.prior.components = 0
    if scale != "smoke":
        return wanted
    config = config_of("inpainting", "smoke")
    config.prior = wanted.prior
    config.fit = wanted.fit
    config.train.codes, config.router.kind = wanted.train.codes, wanted.router.kind
    return config


def load_dictionaries(configs, folder):
    """Trained, as it is drawn, and trained as in the paper. -> {name: (dictionary, seconds)}."""
    found, task = {}, tasks.build(configs["cpu"])
    for name, variant in (("trained", "cpu"), ("joint", "paper")):
        one = learned(tasks.build(configs[variant]), configs[variant], folder / name)
        found[name] = (one.dictionary, one.seconds)
    return found | {"untrained": clocked(learning.untrained, task, configs["cpu"])}


def ours(known, config, slow=False, **changes):
    """The Method of a dictionary's fit as config.fit, changed by flattened keys, asks for it."""
    wanted = changed(config, {f"fit.{key}": value for key, value in changes.items()}).fit
    solver, refinement = solver_from_config(wanted), refining.from_config(wanted.refine)

    def fill(case):
        seen = case.seen if wanted.known_mask else None
        found = known[0].fit(case.pictures, seen=seen, solver=solver)
        return (found if refinement is None else found.refine(refinement)).render()

    return Method(fill, wanted.known_mask, slow)


# ---- methods: build(training rows [N, V], **options) -> function Case -> pictures ----------------


def rows_of(pictures_):
    """[S, H, W, C] -> float64 [S, V]."""
    return pictures_.reshape(len(pictures_), -1).astype(np.float64)


def siren(_, omega0, steps, power):
    """A SIREN of every face, from its pixels; power 1: all of them, 2: those seen."""
    reached = [mark for mark in SIREN_MARKS if mark <= steps]

    def fill(case):
        shape, channels = case.pictures.shape[1:3], case.pictures.shape[-1]
        network = networks.siren(grid(shape), channels, 64, 3, omega0)
        keys = jax.random.split(jax.random.key(0), len(case.pictures))
        targets = jnp.asarray(case.pictures.reshape(len(keys), -1, channels))
        seen = case.seen if power == 2 else np.ones_like(case.seen)
        seen = jnp.asarray(seen.reshape(len(keys), -1), jnp.float32)
        residual = jax.vmap(completion.masked_residual(network, power))

        def objective(layers, data, _):
            return residual(layers, *data).sum()

        layers = jax.vmap(network.draw)(keys)
        found = descend(objective, layers, 3e-3, (targets, seen), marks=reached).last
        images = np.asarray(jax.vmap(network.render)(found.variables)).reshape(case.pictures.shape)
        return completion.filled(images, case.pictures, case.seen) if power == 2 else images

    return fill


def biharmonic(case):
    """Biharmonic inpainting, told the mask."""
    return completion.biharmonic(case.pictures, case.seen)


def total_variation(_, weight):
    """The least total variation, told the mask."""
    return lambda case: completion.total_variation(case.pictures, case.seen, weight)


def pca(rows, rank, robust=False):
    """Pictures projected onto principal components."""
    known = Components(rows, rank)
    project = known.project_robustly if robust else known.project
    return lambda case: project(rows_of(case.pictures)).reshape(case.pictures.shape)


def from_detected(_, fill, pilot, trim, reach):
    """What `fill` makes of the pictures with a hole where `pilot` has large residuals."""

    def detect(case):
        seen = completion.detected(case.pictures, pilot(case), trim, reach)
        return fill(case._replace(seen=seen))

    return detect


def pixel_gaussian(rows, shrinkage, noise=1e-3, scale=0.0, told=False):
    """The most probable pictures under a Gaussian of pixels, noise in what is seen as well.

    scale: of Laplace noise, where the mask is not known; told: what is seen stays as it is.
    """
    model = PixelGaussian(rows, shrinkage)

    def complete(row, seen):
        return model.fit_robustly(row, scale) if scale else model.complete(row, seen, noise)

    def fill(case):
        seen = np.repeat(case.seen.reshape(len(case.seen), -1), case.pictures.shape[-1], axis=1)
        pairs = zip(rows_of(case.pictures), seen, strict=True)
        found = np.stack([complete(*pair) for pair in pairs]).reshape(case.pictures.shape)
        return completion.filled(found, case.pictures, case.seen) if told else found

    return fill


def pixel_gaussian_trimmed(rows, shrinkage, **detection):
    """The Gaussian of pixels outside of the hole that a pilot finds."""
    return from_detected(rows, pixel_gaussian(rows, shrinkage), **detection)


class Chooser:
    """Tunes methods on training faces, then builds them from all of them."""

    def __init__(self, train, told, kind, share):
        self.train, self.told = train, told
        self.case = corrupted(train.checked, kind, share, 0)

    def __call__(self, build, slow=False, **options):
        """-> the Method of the best combination of options, {name: values}.

        By the mean PSNR over the whole picture, and unless the mask is told also that in the hole.
        """
        case = self.case

        def score(option):
            found = build(self.train.known, **option)(case)
            whole = completion.whole_psnr(found, case.truth).mean()
            if self.told:
                return whole
            return whole + np.nanmean(completion.hole_psnr(found, case.truth, case.seen))

        values = itertools.product(*options.values())
        best = max((dict(zip(options, row, strict=True)) for row in values), key=score)
        words = ", ".join(f"{k} {v:g}" for k, v in best.items())
        return Method(build(self.train.rows, **best), self.told, slow, words)


def unknown_methods(train, known, configs, smoke):
    """Methods for a block at an unknown place, by name."""
    choose, partial = Chooser(train, False, "stripes", 0.13), functools.partial
    trims = {"trim": (2.0, 2.5, 3.0), "reach": (1.0, 1.5)}
    ranks = (5, 20) if smoke else (5, 10, 20, 40, 80, 160)
    steps = (25, 50) if smoke else SIREN_MARKS
    robust = configs["cpu"]
    plain = {"robust.use_prior": False, "robust.noise": 0.0, "robust.trim": 0.0}
    robust_pca = choose(partial(pca, robust=True), rank=ranks)
    robust_pixels = choose(pixel_gaussian, shrinkage=(0.01, 0.1), scale=(0.2, 0.4, 0.8))
    hole_by_pca = partial(from_detected, pilot=robust_pca.fill)
    least = total_variation(None, 1e-3)
    trimmed = partial(pixel_gaussian_trimmed, pilot=robust_pixels.fill)
    return {
        "corrupted input": Method(lambda case: case.pictures, False),
        "PCA projection": choose(pca, rank=ranks),
        "PCA projection, least absolute": robust_pca,
        "biharmonic, hole by PCA": choose(partial(hole_by_pca, fill=biharmonic), **trims),
        "total variation, hole by PCA": choose(partial(hole_by_pca, fill=least), **trims),
        "SIREN per face, L1": choose(
            partial(siren, power=1), True, omega0=(5.0, 15.0, 30.0), steps=steps
        ),
        "Gaussian of pixels, L1": robust_pixels,
        "Gaussian of pixels, L1, trimmed": choose(trimmed, shrinkage=(0.01, 0.1), **trims),
        # Settings of a dictionary's fits are those of configs/inpainting.py.
        "NID, L1 by gradient (the paper)": ours(known["joint"], configs["paper"], slow=True),
        "NID robust, no prior": ours(known["trained"], robust, **plain),
        "NID robust, prior": ours(known["trained"], robust, **{"robust.trim": 0.0}),
        "NID robust, prior, trimmed": ours(known["trained"], robust),
        "NID robust, prior, trimmed; untrained": ours(known["untrained"], robust),
    }


def known_methods(train, known, config, kind, share, smoke):
    """Methods that are told the mask, by name, tuned for one kind of it."""
    choose = Chooser(train, True, kind, share)
    ridge = {"solver": "ridge", "ridge.lam": "0.1"}
    found = {
        "biharmonic": Method(biharmonic, True),
        "total variation": choose(total_variation, weight=(1e-3, 3e-3, 1e-2, 3e-2)),
    }
    if not smoke:
        way = functools.partial(siren, power=2)
        found["SIREN per face"] = choose(way, True, omega0=(5.0, 15.0), steps=SIREN_MARKS)
    pixels = functools.partial(pixel_gaussian, told=True)
    options = {"shrinkage": (0.0, 0.03, 0.1), "noise": (1e-4, 1e-3, 3e-3)}
    found["Gaussian of pixels"] = choose(pixels, **options)
    found["NID ridge, no prior"] = ours(known["trained"], config, **ridge)
    one = {"gaussian.mixture": False}
    found["NID gaussian"] = ours(known["trained"], config, **one)
    found["NID gaussian, mixture"] = ours(known["trained"], config)
    found["NID gaussian, untrained"] = ours(known["untrained"], config, **one)
    return found


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
        whole, hole = mean(rows["psnr"]), mean(rows["hole"])
        command.say(f"{title}: {name} {whole:.2f} dB, in the hole {hole:.2f} dB  {method.chosen}")
    return results, first


def rounded(values):
    """Numbers as metrics.json has them: of four decimals, None where there is none."""
    return [round(float(v), 4) if np.isfinite(v) else None for v in np.asarray(values)]


def mean(values):
    """Of those that are numbers; NaN where there are none."""
    values = np.asarray(values, float)
    return float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else np.nan


def run(scale, folder):
    """Run the three comparisons."""
    start = time.perf_counter()
    smoke, draws = scale == "smoke", range(DRAWS[scale])
    variants = ("cpu", "known", "pixels", "paper")
    configs = {variant: load_config(scale, variant) for variant in variants}
    known = load_dictionaries(configs, folder)
    task = tasks.build(configs["cpu"])
    train, faces = Training(task.open("train")), task.open("test").collection
    results, sheets = {}, {}

    def add(title, kind, share, methods):
        cases = [corrupted(faces, kind, share, draw) for draw in draws]
        results[title], found = compare(title, cases, methods)
        sheets[title] = (cases[0], found)

    told = known_methods(train, known, configs["known"], "stripes", 0.13, smoke)
    add(_UNKNOWN, "stripes", 0.13, unknown_methods(train, known, configs, smoke))
    add(_KNOWN, "stripes", 0.13, told)
    for kind in () if smoke else ("scribble", "text"):
        add(f"{kind}, known", kind, 0.13, told)
    pixels = known_methods(train, known, configs["pixels"], "pixels", 0.1, smoke)
    for share in (0.1, 1.0) if smoke else SHARES:
        add(f"{100 * share:g}%", "pixels", share, pixels)
    seconds = ", ".join(f"{name} {spent:.0f} s" for name, (_, spent) in known.items())
    minutes = (time.perf_counter() - start) / 60
    note = NOTE.format(faces=len(faces), draws=DRAWS[scale], seconds=seconds, minutes=minutes)
    write(folder, results, f"{note} {command.made()}", minutes)
    for name, title in (("unknown", _UNKNOWN), ("known", _KNOWN), ("pixels", "10%")):
        case, found = sheets[title]
        found = {"truth": case.truth, "input": case.pictures} | found
        found.pop("corrupted input", None)
        command.sheet(folder / f"{name}.png", found)


# ---- what is written ---------------------------------------------------------------------------


NOTE = (
    "{faces} unseen faces, {draws} corruptions of each (SIREN, gradient: the first). Methods are "
    "tuned on a quarter of the training faces, with the rest known to them, by PSNR, and for the "
    "unknown block by that of the whole face plus that in the hole; those of a dictionary are the "
    "settings of configs/inpainting.py. Its atoms are more than the pixels: what fills a hole is "
    "the prior, and without it a robust fit repeats the input. Dictionaries and priors: {seconds}. "
    "The whole run took {minutes:.1f} min."
)


def write(folder, results, note, minutes):
    """table.md, metrics.json, figure.png."""
    shares = [title for title in results if title.endswith("%")]
    rest = [title for title in results if title.endswith("known") and title != _UNKNOWN]
    parts = [
        "A striped block over 13% of the face, its place unknown to every method:",
        block_table(results[_UNKNOWN]),
        "Told where the hole is, and keeping what is around it. "
        "PSNR over the whole face / in the hole, dB:",
        known_table(results, rest),
        "Some pixels at random, known. PSNR over the whole face, dB:",
        share_table(results, shares),
        note,
    ]
    text = "\n\n".join(part.strip() for part in parts)
    # Without indentation: thousands of numbers.
    metrics = {"results": results, "minutes": minutes}
    command.write(folder, text, metrics, draw(results, shares), indent=None)
    print(text)
    print(folder / "table.md")


_UNKNOWN, _KNOWN = "block, place unknown", "block, place known"


def times(results):
    """A column of a table of methods: the median over draws of a face's time."""
    return {"ms per face": lambda name: 1e3 * float(np.median(results[name]["seconds"]))}


def block_table(results):
    """PSNR over the whole and in the hole, SSIM and seconds of every method."""
    keys = {"PSNR, dB": "psnr", "in the hole, dB": "hole", "SSIM": "ssim"}
    columns = {head: lambda name, key=key: mean(results[name][key]) for head, key in keys.items()}
    return command.table({"": str, **columns, **times(results)}, results)


def titled(results, titles, cell):
    """Columns of a table of methods: cell(what one of them reached) under each of the titles."""
    return {title: lambda name, title=title: cell(results[title][name]) for title in titles}


def known_table(results, titles):
    """PSNR over the whole / in the hole for every kind of mask."""
    columns = titled(results, titles, lambda r: f"{mean(r['psnr']):.2f} / {mean(r['hole']):.2f}")
    first = results[titles[0]]
    return command.table({"": str, **columns, **times(first)}, first)


def share_table(results, titles):
    """PSNR for every share of pixels seen; all of them back is 'exact'."""

    def cell(row):
        value = mean(row["psnr"])
        return "exact" if value > 60 else f"{value:.2f}"

    columns = titled(results, titles, cell)
    return command.table({"pixels seen": str, **columns}, results[titles[0]])


def draw(results, shares):
    """The unknown block as bars, PSNR against the share of pixels as lines."""
    figure, ((left, right),) = command.panels(1, 2, 6, 4.8)
    block = results[_UNKNOWN]
    places = np.arange(len(block))
    for key, offset, label in (("psnr", -0.2, "whole face"), ("hole", 0.2, "in the hole")):
        values = [mean(r[key]) for r in block.values()]
        left.barh(places + offset, values, 0.4, label=label)
    left.set_yticks(places, list(block))
    left.invert_yaxis()
    left.set(xlabel="PSNR, dB", title="Striped block, place unknown")
    left.legend(frameon=False)
    shown = [title for title in shares if title != "100%"]
    x = [float(title[:-1]) for title in shown]
    lines = {
        name: (x, [mean(results[title][name]["psnr"]) for title in shown])
        for name in results[shown[0]]
    }
    command.curves(right, lines, "pixels seen, %", "PSNR, dB", "Random pixels")
    return figure


if __name__ == "__main__":
    command.start(run, "inpainting", DRAWS)
