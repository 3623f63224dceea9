"""Slices from few views: a dictionary with a prior beside the classical methods of tomography.

    python experiments/ct.py --scale=smoke|cpu|large|huge|both|paper --output=DIR

cpu is 64x64, large 128x128, huge 256x256, both the first two in one run.

Unseen random phantoms, projected in closed form, all methods on the same sinograms in one run.
Writes DIR/table.md, metrics.json, figure.png, slices_*.png; dictionaries stay in DIR/ct*.
"""

import dataclasses
import functools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from measuring import command
from measuring.command import clocked
from measuring.dictionaries import changed, learned
from peers import tomography
from peers.descent import descend
from peers.networks import siren

import nid_jax as nid
from nid_jax import data, learning, metrics, operators, tasks
from nid_jax.baselines import tomography as algebraic
from nid_jax.coding import grid_operator
from nid_jax.reporting import tables


@dataclasses.dataclass(frozen=True)
class Size:
    """One table: variant of configs/ct.py and changes to it, views, unseen phantoms, peers."""

    variant: str
    views: tuple
    test: int
    changes: dict = dataclasses.field(default_factory=dict)
    siren: int = 0
    untrained: bool = True


VIEWS = (2, 4, 8, 16, 32, 64, 128)
# Where the slow rows are taken: the untrained dictionary and a network for every slice.
FEW = (8, 32)
SCALES = {
    "smoke": (Size("smoke", (2, 4), 2, {"data.size": (32, 32), "fit.refine.steps": 10}, siren=1),),
    "cpu": (Size("cpu", VIEWS, 8, siren=2),),
    "large": (Size("large", (2, 8, 32), 4, untrained=False),),
    "huge": (Size("huge", (8,), 2, untrained=False),),
}
SCALES["both"] = (*SCALES["cpu"], *SCALES["large"])
SCALES["paper"] = tuple(
    dataclasses.replace(SCALES[name][0], test=50, views=VIEWS) for name in ("cpu", "large", "huge")
)
VALIDATION = 4
NEIGHBOURS = 500
NOISES = (0.25, 0.5, 1.0, 2.0)
KINDS = {
    "NID gaussian": "one",
    "NID gaussian, mixture": "mixture",
    "NID gaussian, neighbours": "neighbours",
}
REFINEMENTS = ((0.003, 1.0), (0.03, 0.1), (0.1, 0.003))
SART = tuple({"iterations": n, "relaxation": r} for n in (1, 5, 30) for r in (0.05, 0.15))
TV = tuple({"weight": w} for w in (0.1, 1.0, 3.0))
OMEGAS = (10.0, 20.0)
FILTERS = tuple({"filter_name": name} for name in ("ramp", "hann", "cosine"))


class Seen(NamedTuple):
    """Phantoms for tuning, or unseen ones: what is measured of each, and the truth [S, H, W, 1]."""

    operator: nid.operators.Operator
    values: np.ndarray
    truth: np.ndarray


class Study:
    """Data and dictionary of one size."""

    def __init__(self, size, folder):
        config = command.config_of("ct", size.variant, size.changes)
        side = config.data.size[0]
        # That of scikit-image, whose methods are compared.
        config.operator.parallel_beam.convention = "skimage"
        config.data.num_test = size.test
        config.prior.components = 0
        self.size, self.config, self.side = size, config, side
        self.task = tasks.build(config)
        self.train, self.test = self.task.open("train"), self.task.open("test")
        # Further ones of the training stream, for tuning: neither trained on nor tested.
        count = len(self.train)
        longer = changed(config, {"data.num_train": count + VALIDATION})
        further = range(count, count + VALIDATION)
        self.tuning = data.SubsetCollection(tasks.build(longer).open("train"), further)
        self.learned = learned(self.task, config, folder / f"ct{side}")
        # PSNR of the least-squares fit to the pixels themselves.
        whole = self.learned.dictionary.fit(data.to_array(self.test), solver=nid.Ridge(lam=1e-7))
        self.ceiling = float(np.mean(-10 * np.log10(whole.residual)))

    @functools.cached_property
    def untrained(self):
        """The dictionary as it was drawn, with its own prior."""
        return learning.untrained(self.task, self.config)

    @functools.cached_property
    def pixels(self):
        """Training phantoms [N, V], 4000 at most."""
        count = min(len(self.train), 4000)
        some = data.SubsetCollection(self.train, range(count))
        return data.to_array(some).reshape(count, -1)

    def seen(self, collection, views):
        """A collection from some views. -> `Seen`."""
        task = tasks.build(changed(self.config, {"fit.num_views": views}))
        measured, count = task.measure(collection), range(len(collection))
        values = np.stack([measured.values(i) for i in count])
        return Seen(measured.operator, values, measured.truths(len(count)))


def psnr(images, truth):
    """Mean PSNR of pictures clipped to [0, 1]."""
    return float(np.mean(metrics.psnr(jnp.asarray(images), jnp.asarray(truth), clip=True)))


# ---- dictionaries -------------------------------------------------------------------------------


def fitted(dictionary, seen, noise, kind):
    """The most probable phantoms under a prior: one of KINDS. -> Fit."""
    local = kind == "neighbours"
    neighbours = min(NEIGHBOURS, len(dictionary.prior.codes) // 2) if local else 0
    solver = nid.Gaussian(noise=noise, neighbours=neighbours, mixture=kind == "mixture")
    return dictionary.fit(seen.values, seen.operator, solver=solver)


def best_noise(dictionary, seen):
    """Of NOISES, by one Gaussian; neighbours and mixture take the same."""
    fits = {noise: fitted(dictionary, seen, noise, "one") for noise in NOISES}
    return max(NOISES, key=lambda noise: psnr(fits[noise].render(), seen.truth))


def dictionary_rows(study, tuning, unseen, views, say):
    """{method: (images, seconds)} of our methods, tuned on further training phantoms."""
    rows, ours = {}, study.learned.dictionary

    def add(name, images, seconds, how=""):
        rows[name] = (images, seconds)
        say(f"{name}{how}: {psnr(images, unseen.truth):.2f} dB")

    def render(dictionary, noise, kind):
        found = fitted(dictionary, unseen, noise, kind)
        return found, found.render()

    noise = best_noise(ours, tuning)
    for name, kind in KINDS.items():
        (found, images), seconds = clocked(render, ours, noise, kind)
        add(name, images, seconds, f", noise {noise}")
    near, options = fitted(ours, tuning, noise, "neighbours"), study.config.fit.refine
    on_grid = grid_operator.on_grid(unseen.operator, near.grid_shape)

    def refined(fit, tv, lam):
        way = nid.TotalVariation(tv, lam, options.steps, tuple(options.bounds))
        return fit.refine(way, on_grid).render()

    scores = {pair: psnr(refined(near, *pair), tuning.truth) for pair in REFINEMENTS}
    best, spent, chosen = max(scores, key=scores.get), 0.0, "not"
    if scores[best] > psnr(near.render(), tuning.truth):
        images, spent = clocked(refined, found, *best)
        chosen = "tv {:g}, lam {:g}".format(*best)
    add("NID gaussian, neighbours, refined", images, seconds + spent, f" ({chosen})")
    if study.size.untrained and views in FEW:
        noise = best_noise(study.untrained, tuning)
        (_, images), seconds = clocked(render, study.untrained, noise, "neighbours")
        add("NID gaussian, neighbours, untrained", images, seconds)
    add("Gaussian of pixels, neighbours", *pixel_gaussian(study, tuning, unseen, on_grid))
    return rows


def pixel_gaussian(study, tuning, unseen, on_grid):
    """The same prior of neighbours on pixels: no dictionary, the cheap form of ours."""
    pixels = study.pixels
    apply = jax.jit(type(on_grid).measure)
    start = time.perf_counter()
    parts = np.array_split(pixels, max(1, len(pixels) // 500))
    seen = np.concatenate([np.asarray(apply(on_grid, p[..., None]))[..., 0] for p in parts])
    preparing = time.perf_counter() - start
    neighbours = min(NEIGHBOURS, len(pixels) // 2)

    def complete(measured, noise):
        distance = np.square(seen - measured).sum(1)
        near = np.argpartition(distance, neighbours - 1)[:neighbours]
        weight = np.maximum(1 - distance[near] / distance[near].max(), 0)
        weight /= weight.sum()
        mean, mean_seen = weight @ pixels[near], weight @ seen[near]
        scale = np.sqrt(weight)[:, None]
        spread, spread_seen = scale * (pixels[near] - mean), scale * (seen[near] - mean_seen)
        # In the space of the neighbours: fewer than pixels or measurements.
        system = spread_seen @ spread_seen.T + noise**2 * np.eye(neighbours)
        part = np.linalg.solve(system, spread_seen @ (measured - mean_seen))
        return mean + part @ spread

    def images(values, noise):
        found = [complete(one[:, 0], noise) for one in values]
        return np.stack(found).reshape(-1, study.side, study.side, 1)

    best = max(NOISES, key=lambda noise: psnr(images(tuning.values, noise), tuning.truth))
    found, spent = clocked(images, unseen.values, best)
    return found, preparing + spent


# ---- the classical methods, and a network for every slice ----------------------------------------


def classical_rows(study, tuning, unseen, views, say):
    """{method: (images, seconds)} of the methods of the field, tuned on training phantoms."""
    angles, side = operators.checked_angles(views), study.side
    given = unseen.values, tuning.values[:2]
    sinograms, few = (values.reshape(-1, views, side) for values in given)
    centre, offset = operators.CONVENTIONS["skimage"].placed((side, side), side)
    matrix = tomography.system_matrix(angles, side, (side, side), centre, offset)
    beams = {"angles": angles, "size": side}
    rays = {"matrix": matrix, "shape": (side, side)}
    methods = {
        "filtered back projection": (tomography.filtered_back_projection, beams, FILTERS),
        "SART": (algebraic.sart, {"angles": angles}, SART),
        "total variation": (tomography.total_variation, rays, TV),
    }
    rows = {}
    for name, (method, geometry, options) in methods.items():

        def images_of(some, option, method=method, geometry=geometry):
            return np.stack([method(one, **geometry, **option) for one in some])[..., None]

        best = max(options, key=lambda option: psnr(images_of(few, option), tuning.truth[:2]))
        images, spent = clocked(images_of, sinograms, best)
        rows[name] = (images, spent)
        say(f"{name} {best}: {psnr(images, unseen.truth):.2f} dB")
    return rows


def siren_rows(study, tuning, unseen, say, steps=300, rays=128):
    """A SIREN for each of the first slices, descended through the same rays (random ones a step).

    omega0 is tuned on one phantom. -> images of study.size.siren slices, seconds.
    """
    count, shape = study.size.siren, (study.side, study.side)
    rays = min(rays, unseen.operator.num_measurements)
    points = operators.sample(shape).points

    def images_of(values, omega0):
        network = siren(points, 1, 64, 4, omega0)
        keys = jax.random.split(jax.random.key(0), len(values))

        def objective(layers, data, key):
            operator, values = data
            chosen = jax.random.choice(key, values.shape[1], (rays,), replace=False)
            part = operator.of_measurements(chosen)
            found = part.measure(jax.vmap(lambda own: network.at(own, part.points))(layers))
            return jnp.square(2 * (found - values[:, chosen]) / study.side).mean((1, 2)).sum()

        layers, data = jax.vmap(network.draw)(keys), (unseen.operator, jnp.asarray(values))
        found = descend(objective, layers, 3e-3, data, key=jax.random.key(1), marks=(steps,))
        return jax.vmap(network.render)(found.last.variables).reshape(-1, *shape, 1)

    found = {omega0: images_of(tuning.values[:1], omega0) for omega0 in OMEGAS}
    best = max(OMEGAS, key=lambda omega0: psnr(found[omega0], tuning.truth[:1]))
    images, seconds = clocked(lambda: np.asarray(images_of(unseen.values[:count], best)))
    say(f"SIREN per slice: {psnr(images, unseen.truth[:count]):.2f} dB on {count}")
    return images, seconds * len(unseen.values) / count


# ---- the run ------------------------------------------------------------------------------------


def run_size(size, folder):
    """All methods at all numbers of views. -> results of one table."""
    study = Study(size, folder)
    side, learning, ceiling = study.side, study.learned.seconds, study.ceiling
    command.say(
        f"{side}x{side}: dictionary and prior in {learning:.0f} s, "
        f"its best fit to the pixels {ceiling:.2f} dB"
    )
    truth = data.to_array(study.test)
    results, shown = {}, {}
    for views in size.views:

        def say(text, views=views):
            command.say(f"{views:4d} views  {text}")

        tuning, unseen = (study.seen(some, views) for some in (study.tuning, study.test))
        rows = dictionary_rows(study, tuning, unseen, views, say)
        rows |= classical_rows(study, tuning, unseen, views, say)
        if size.siren and views in FEW:
            name = "SIREN per slice, through the same rays"
            rows[name] = siren_rows(study, tuning, unseen, say)
        for name, (images, seconds) in rows.items():
            clipped = jnp.clip(jnp.asarray(images, jnp.float32), 0, 1)
            own = truth[: len(images)]
            results.setdefault(name, {})[views] = {
                "psnr": np.asarray(metrics.psnr(clipped, own)).tolist(),
                "ssim": np.asarray(metrics.ssim(clipped, own)).tolist(),
                "seconds": seconds / len(truth),
            }
        shown[views] = {"truth": truth, **{name: images for name, (images, _) in rows.items()}}
    for views in [v for v in shown if v in (2, 8, 32)] or list(shown):
        command.sheet(folder / f"slices_{side}_{views}.png", shown[views])
    return {
        "side": side,
        "views": list(size.views),
        "phantoms": len(truth),
        "jitter": study.config.data.phantom.jitter,
        "train_seconds": learning,
        "ceiling": ceiling,
        "methods": results,
    }


def mean(entry, key):
    """Mean over phantoms of a score, or seconds."""
    return float(np.mean(entry[key]))


def table_of(result):
    """Three tables of one size: PSNR, SSIM, seconds."""
    parts = [
        "## {0}x{0}".format(result["side"]),
        f"{result['phantoms']} unseen phantoms; jitter {result['jitter']:g}. Dictionary and prior "
        f"in {result['train_seconds']:.0f} s; its best fit to the pixels themselves "
        f"{result['ceiling']:.2f} dB.",
    ]
    titles = {"PSNR, dB, at views": "psnr", "SSIM": "ssim", "seconds per slice": "seconds"}
    for title, key in titles.items():
        rows = [
            [name, *(mean(entries[v], key) if v in entries else "–" for v in result["views"])]
            for name, entries in result["methods"].items()
        ]
        parts.append(tables.markdown_table(rows, [title, *map(str, result["views"])]))
    return "\n\n".join(parts)


def draw(results):
    """PSNR against views, a panel for each size."""
    figure, panels = command.panels(1, len(results), 5, 4.6)
    for axes, result in zip(panels[0], results, strict=True):
        lines = {
            name: (list(entries), [mean(entry, "psnr") for entry in entries.values()])
            for name, entries in result["methods"].items()
        }
        title = "unseen phantoms, {0}x{0}".format(result["side"])
        command.curves(axes, lines, "views", "PSNR, dB", title)
    return figure


NOTES = """## How it was measured

- Sinograms are exact line integrals of the ellipses, not of pixels: no method is given its own
  discretisation back. Truth is the phantom averaged over pixels.
- All settings (noise, refinement; filter; iterations and relaxation; weight of the variation) are
  chosen for each number of views on {validation} phantoms that are neither trained on nor tested.
- NID gaussian: prior of all training codes; mixture: of the Gaussians that signals held out
  chose; neighbours: of the {neighbours} training codes that measure most alike; refined: moved on
  the grid under total variation, where that helped the phantoms for tuning. Gaussian of pixels: the
  same prior of neighbours without a dictionary.
- The untrained dictionary and the networks (on the first {siren} phantoms) are taken at some views.
- Seconds are of a fit with its normal equations, compilation included where a shape was new,
  divided by the phantoms; without training and tuning.
"""


def run(scale, folder):
    """Run the comparison."""
    results, start = [], time.perf_counter()
    for size in SCALES[scale]:
        results.append(run_size(size, folder))
        notes = NOTES.format(
            validation=VALIDATION, neighbours=NEIGHBOURS, siren=SCALES[scale][0].siren
        )
        parts = ["# Computed tomography from few views", *map(table_of, results), notes]
        table = "\n\n".join([*parts, command.made()])
        command.write(folder, table, {"results": results}, draw(results))
    print(f"{time.perf_counter() - start:.0f} s in all; {folder / 'table.md'}")


if __name__ == "__main__":
    command.start(run, "ct", SCALES)
