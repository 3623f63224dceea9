"""Slices from few views: a dictionary with a prior beside the classical methods of tomography.

    python experiments/ct.py --scale=smoke|cpu|large|huge|both|paper --output=DIR

cpu is 64x64, large 128x128, huge 256x256, both the first two in one run.

Unseen random phantoms, projected in closed form, all methods on the same sinograms in one run.
Writes DIR/table.md, metrics.json, figure.png, slices_*.png; dictionaries stay in DIR/ct*.
"""

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from measuring import command, dictionaries
from measuring.command import clocked
from peers import tomography
from peers.descent import descend
from peers.networks import siren

from nid_jax import data, metrics, tasks
from nid_jax.coding import grid_operator, operators
from nid_jax.coding.gram import normal_equations
from nid_jax.coding.neighbours import local_gaussian
from nid_jax.coding.prior import gaussian
from nid_jax.coding.ridge import ridge
from nid_jax.fitting import refining, rendering
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
TUNING, UNSEEN = slice(0, VALIDATION), slice(VALIDATION, None)
NEIGHBOURS = 500
NOISES = (0.25, 0.5, 1.0, 2.0)
REFINEMENTS = ((0.003, 1.0), (0.03, 0.1), (0.1, 0.003))
SART = tuple({"iterations": n, "relaxation": r} for n in (1, 5, 30) for r in (0.05, 0.15))
TV = tuple({"weight": w} for w in (0.1, 1.0, 3.0))
OMEGAS = (10.0, 20.0)
FILTERS = tuple({"filter_name": name} for name in ("ramp", "hann", "cosine"))


class Study:
    """Data, dictionary and prior of one size."""

    def __init__(self, size, folder):
        config = command.config_of("ct", size.variant, size.changes)
        side = config.data.size[0]
        # Where scikit-image, whose methods are compared, has its axis of rotation.
        centre, offset = tomography.rotation(side)
        config.operator.parallel_beam.update({"centre": tuple(centre), "offset": float(offset)})
        config.data.num_test = size.test
        self.size, self.config, self.side = size, config, side
        task = tasks.build(config)
        self.train, self.test = task.open("train"), task.open("test")
        # Further ones of the training stream, for tuning: neither trained on nor tested.
        longer, count = config.copy_and_resolve_references(), len(self.train)
        longer.data.num_train = count + VALIDATION
        further = range(count, count + VALIDATION)
        self.tuning = data.SubsetCollection(tasks.build(longer).open("train"), further)
        self.trained = dictionaries.trained(config, folder / f"ct{side}")
        self.ceiling = self.best_possible()

    @functools.cached_property
    def untrained(self):
        """The dictionary as it was drawn, with its own prior."""
        return dictionaries.untrained(self.config)

    @functools.cached_property
    def pixels(self):
        """Training phantoms [N, V], 4000 at most."""
        count = min(len(self.train), 4000)
        some = data.SubsetCollection(self.train, range(count))
        return data.to_array(some).reshape(count, -1)

    def best_possible(self):
        """PSNR of the dictionary's least-squares fit to the pixels themselves."""
        truth, atoms = data.to_array(self.test), self.trained.model.dictionary
        values = truth.reshape(len(truth), -1, 1)
        equations = normal_equations(atoms, operators.sample(truth.shape[1:3]), values)
        return float(np.mean(-10 * np.log10(ridge(equations, 1e-7).residual)))

    def measured(self, collection, views):
        """(Measured, measurements [S, M, 1], truth [S, H, W, 1]) of a collection."""
        config = self.config.copy_and_resolve_references()
        config.fit.num_views = views
        seen = tasks.build(config).measure(collection)
        count = len(collection)
        values = np.stack([seen.values(i) for i in range(count)])
        return seen, values, seen.truths(count)


def psnr(images, truth):
    """Mean PSNR of pictures clipped to [0, 1]."""
    return float(np.mean(metrics.psnr(jnp.asarray(images), jnp.asarray(truth), clip=True)))


# ---- dictionaries -------------------------------------------------------------------------------


class Fit:
    """Fits with one dictionary at one number of views: phantoms for tuning first, then unseen.

    Both are measured alike, so they share the Gram matrix of the rays.
    """

    def __init__(self, study, dictionary, views):
        self.study, self.prior = study, dictionary.prior
        self.atoms = dictionary.model.dictionary
        self.seen, tuning, truth = study.measured(study.tuning, views)
        _, test, test_truth = study.measured(study.test, views)
        self.values = np.concatenate([tuning, test])
        self.truth = np.concatenate([truth, test_truth])
        start = time.perf_counter()
        self.equations = normal_equations(self.atoms, self.seen.operator, self.values)
        jax.block_until_ready(self.equations.gram)
        self.seconds = time.perf_counter() - start

    def render(self, solution):
        """-> [S, H, W, 1]."""
        gates = rendering.gates_of(solution.codes, solution.bias)
        return rendering.render(self.atoms, gates, self.seen.grid_shape)

    def solve(self, noise, local, which):
        """Codes under the prior of neighbours or of all. which: TUNING or UNSEEN."""
        equations = self.equations.of_signals(which)
        if local:
            neighbours = min(NEIGHBOURS, len(self.prior.codes) // 2)
            return local_gaussian(equations, self.prior, noise**2, neighbours)
        return gaussian(equations, self.prior._replace(codes=None), noise**2)

    def best_noise(self):
        """Of NOISES, by the prior of all; that of neighbours takes the same."""
        return max(NOISES, key=lambda noise: self.tuning(self.solve(noise, False, TUNING)))

    def tuning(self, solution):
        """PSNR of the phantoms for tuning."""
        return psnr(self.render(solution), self.truth[TUNING])

    def refine(self, solution, tv, lam, which):
        """-> [S, H, W, 1]."""
        wanted = self.study.config.fit.refine.copy_and_resolve_references()
        wanted.update({"kind": "grid", "tv": tv, "lam": lam})
        correct = refining.build(wanted, self.atoms, self.seen)
        return self.render(solution) + correct(solution, self.values[which], None)


def dictionary_rows(study, views, say):
    """{method: (images, seconds)} of our methods, tuned on further training phantoms."""
    rows = {}

    def add(name, images, seconds, how=""):
        rows[name] = (images, seconds)
        say(f"{name}{how}: {psnr(images, fit.truth[UNSEEN]):.2f} dB")

    fit = Fit(study, study.trained, views)
    noise = fit.best_noise()
    for name, local in (("NID gaussian", False), ("NID gaussian, neighbours", True)):
        start = time.perf_counter()
        solution = jax.block_until_ready(fit.solve(noise, local, UNSEEN))
        images = fit.render(solution)
        add(name, images, fit.seconds + time.perf_counter() - start, f", noise {noise}")
    near = fit.solve(noise, True, TUNING)
    scores = {
        pair: psnr(fit.refine(near, *pair, TUNING), fit.truth[TUNING]) for pair in REFINEMENTS
    }
    best = max(scores, key=scores.get)
    refined, spent, chosen = images, 0.0, "not"
    if scores[best] > fit.tuning(near):
        refined, spent = clocked(fit.refine, solution, *best, UNSEEN)
        chosen = "tv {:g}, lam {:g}".format(*best)
    add("NID gaussian, neighbours, refined", refined, rows[name][1] + spent, f" ({chosen})")
    if study.size.untrained and views in FEW:
        drawn = Fit(study, study.untrained, views)
        noise = drawn.best_noise()
        images, spent = clocked(lambda: drawn.render(drawn.solve(noise, True, UNSEEN)))
        add("NID gaussian, neighbours, untrained", images, drawn.seconds + spent)
    add("Gaussian of pixels, neighbours", *pixel_gaussian(study, fit))
    return rows


def pixel_gaussian(study, fit):
    """The same prior of neighbours on pixels: no dictionary, the cheap form of ours."""
    shape, pixels = fit.seen.grid_shape, study.pixels
    on_grid = grid_operator.on_grid(fit.seen.operator, shape)
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
        return np.stack(found).reshape(-1, *shape, 1)

    scores = {n: psnr(images(fit.values[TUNING], n), fit.truth[TUNING]) for n in NOISES}
    found, spent = clocked(images, fit.values[UNSEEN], max(scores, key=scores.get))
    return found, preparing + spent


# ---- the classical methods, and a network for every slice ----------------------------------------


def classical_rows(study, views, say):
    """{method: (images, seconds)} of the methods of the field, tuned on training phantoms."""
    angles = operators.checked_angles(views)
    _, values, truth = study.measured(study.test, views)
    _, tuning, tuning_truth = study.measured(study.tuning, views)
    side = study.side
    sinograms = values.reshape(len(values), views, side)
    tuning = tuning.reshape(len(tuning), views, side)[:2]
    centre, offset = tomography.rotation(side)
    matrix = tomography.system_matrix(angles, side, (side, side), centre, offset)
    methods = {
        "filtered back projection": (
            lambda s, **o: tomography.filtered_back_projection(s, angles, side, **o),
            FILTERS,
        ),
        "SART": (lambda s, **o: tomography.sart(s, angles, side, **o), SART),
        "total variation": (
            lambda s, **o: tomography.total_variation(s, matrix, (side, side), **o),
            TV,
        ),
    }
    rows = {}
    for name, (method, options) in methods.items():

        def images_of(some, option, method=method):
            return np.stack([method(one, **option) for one in some])[..., None]

        best = max(options, key=lambda option: psnr(images_of(tuning, option), tuning_truth[:2]))
        images, spent = clocked(images_of, sinograms, best)
        rows[name] = (images, spent)
        say(f"{name} {best}: {psnr(images, truth):.2f} dB")
    return rows


def siren_rows(study, views, say, steps=300, rays=128):
    """A SIREN for each of the first slices, descended through the same rays (random ones a step).

    omega0 is tuned on one phantom. -> images of study.size.siren slices, seconds.
    """
    count = study.size.siren
    seen, values, truth = study.measured(study.test, views)
    _, tuning, tuning_truth = study.measured(study.tuning, views)
    rays = min(rays, seen.operator.num_measurements)
    points = operators.sample(seen.grid_shape).points

    def images_of(values, omega0):
        network, keys = (
            siren(points, 1, 64, 4, omega0),
            jax.random.split(jax.random.key(0), len(values)),
        )

        def objective(layers, data, key):
            operator, values = data
            chosen = jax.random.choice(key, values.shape[1], (rays,), replace=False)
            part = operator.of_measurements(chosen)
            found = part.measure(jax.vmap(lambda own: network.at(own, part.points))(layers))
            return jnp.square(2 * (found - values[:, chosen]) / study.side).mean((1, 2)).sum()

        layers, data = jax.vmap(network.draw)(keys), (seen.operator, jnp.asarray(values))
        found = descend(objective, layers, 3e-3, data, key=jax.random.key(1), marks=(steps,))
        return jax.vmap(network.render)(found.last.variables).reshape(-1, *seen.grid_shape, 1)

    omega0 = max(OMEGAS, key=lambda omega0: psnr(images_of(tuning[:1], omega0), tuning_truth[:1]))
    images, seconds = clocked(lambda: np.asarray(images_of(values[:count], omega0)))
    say(f"SIREN per slice: {psnr(images, truth[:count]):.2f} dB on {count}")
    return images, seconds * len(values) / count


# ---- the run ------------------------------------------------------------------------------------


def run_size(size, folder):
    """All methods at all numbers of views. -> results of one table."""
    study = Study(size, folder)
    side = study.side
    print(
        f"{side}x{side}: dictionary and prior in {study.trained.seconds:.0f} s, "
        f"its best fit to the pixels {study.ceiling:.2f} dB",
        flush=True,
    )
    truth = data.to_array(study.test)
    begun = time.perf_counter()
    results, shown = {}, {}
    for views in size.views:

        def say(text, views=views):
            spent = time.perf_counter() - begun
            print(f"  {views:4d} views  {text}  ({spent:.0f} s)", flush=True)

        rows = {**dictionary_rows(study, views, say), **classical_rows(study, views, say)}
        if size.siren and views in FEW:
            rows["SIREN per slice, through the same rays"] = siren_rows(study, views, say)
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
        "train_seconds": study.trained.seconds,
        "ceiling": study.ceiling,
        "methods": results,
    }


def mean(entry, key):
    """Mean over phantoms of a score."""
    return float(np.mean(entry[key]))


def table_of(result):
    """Three tables of one size: PSNR, SSIM, seconds."""
    parts = [
        f"## {result['side']}x{result['side']}",
        f"{result['phantoms']} unseen phantoms; jitter {result['jitter']:g}. Dictionary and prior "
        f"in {result['train_seconds']:.0f} s; its best fit to the pixels themselves "
        f"{result['ceiling']:.2f} dB.",
    ]
    for title, read in (
        ("PSNR, dB, at views", lambda e: mean(e, "psnr")),
        ("SSIM", lambda e: mean(e, "ssim")),
        ("seconds per slice", lambda e: e["seconds"]),
    ):
        rows = [
            [name, *(read(entries[v]) if v in entries else "–" for v in result["views"])]
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
        title = f"unseen phantoms, {result['side']}x{result['side']}"
        command.curves(axes, lines, "views", "PSNR, dB", title)
    return figure


NOTES = """## How it was measured

- Sinograms are exact line integrals of the ellipses, not of pixels: no method is given its own
  discretisation back. Truth is the phantom averaged over pixels.
- All settings (noise, refinement; filter; iterations and relaxation; weight of the variation) are
  chosen for each number of views on {validation} phantoms that are neither trained on nor tested.
- NID gaussian: prior of all training codes; neighbours: of the {neighbours} training codes that
  measure most alike; refined: moved on the grid under total variation, where that helped the
  phantoms for tuning. Gaussian of pixels: the same prior of neighbours without a dictionary.
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
