"""Faces from a few of their pixels: a dictionary with a prior beside inpainting.

    python experiments/missing_pixels.py --scale=smoke|cpu|paper --output=DIR

Unseen faces, random masks, all methods on the same pixels in one run. Writes DIR/table.md,
metrics.json, figure.png and faces.png; the dictionary it trained stays in DIR/dictionary.
"""

import runpy
import time
from pathlib import Path

import jax.numpy as jnp
import matplotlib
import numpy as np
from absl import app, flags
from skimage.restoration import inpaint_biharmonic

from nid_jax import tasks
from nid_jax.coding.operators import mask
from nid_jax.coding.solving import solve
from nid_jax.data import to_array
from nid_jax.fields.model import build_model
from nid_jax.run import artefacts, monitoring, pictures, priors, rendering, training
from nid_jax.run.workdir import Workdir

matplotlib.use("Agg")
from matplotlib import pyplot

ROOT = Path(__file__).resolve().parents[1]
RATES = {"smoke": (0.1, 0.5), "cpu": (0.02, 0.05, 0.1, 0.2, 0.5)}
RATES["paper"] = RATES["cpu"]
LAMBDAS = (1e-3, 1e-2, 1e-1, 1.0)
NOISES = (0.003, 0.01, 0.03)
MASKS = {"smoke": 1, "cpu": 5, "paper": 20}

SCALE = flags.DEFINE_enum("scale", "cpu", list(RATES), "How many masks.")
OUTPUT = flags.DEFINE_string("output", "runs/missing_pixels", "Folder of the results.")


def pixel_gaussian(train):
    """MAP under a Gaussian of the training pixels: PCA completion, the cheap form of our prior.

    train [S, P] -> function (pixels [P], seen bool [P], noise variance) -> [P]. The covariance is
    shrunk to its diagonal by the share that explains held-out training faces best.
    """
    mean = train.mean(0)
    covariance = np.cov(train.T, bias=True)
    diagonal = np.diag(np.diag(covariance))

    def complete(pixels, seen, noise, shrinkage):
        sigma = (1 - shrinkage) * covariance + shrinkage * diagonal
        inner = sigma[np.ix_(seen, seen)] + noise * np.eye(seen.sum())
        return mean + sigma[:, seen] @ np.linalg.solve(inner, pixels[seen] - mean[seen])

    return complete


def tuned_pixel_gaussian(train, generator):
    """`pixel_gaussian` with the noise and shrinkage that complete other training faces best."""
    half = len(train) // 2
    complete = pixel_gaussian(train[:half])
    checked = train[half :: max(half // 20, 1)]
    seen = [generator.permutation(train.shape[1]) < train.shape[1] // 10 for _ in checked]

    def error(noise, shrinkage):
        rows = zip(checked, seen, strict=True)
        return np.mean([np.square(complete(x, s, noise, shrinkage) - x).mean() for x, s in rows])

    choices = [(n, s) for n in (1e-4, 1e-3, 3e-3, 1e-2) for s in (0.0, 0.01, 0.05, 0.2)]
    best = min(choices, key=lambda choice: error(*choice))
    whole = pixel_gaussian(train)
    return lambda pixels, seen: whole(pixels, seen, *best)


def train_dictionary(config, folder):
    """The dictionary of a config and the prior of its training codes, and an untrained pair."""
    task = tasks.build(config)
    trained = training.train(task, config, Workdir(folder))
    collection = task.open("train")
    fresh = build_model(config, collection.shape, len(collection), config.seed)
    pairs = {}
    for name, model in (("trained", trained.model), ("untrained", fresh)):
        pairs[name] = (model, priors.learn_prior(task, model, collection, config))
    return task, to_array(collection), pairs


def dictionary_fit(pair, truth, seen, method, **options):
    """Codes from the pixels seen, rendered. truth [S, H, W, 1], seen bool [S, H, W]."""
    model, prior = pair
    operator = mask(truth.shape[1:3], seen)
    measured = jnp.asarray((truth * seen[..., None]).reshape(len(truth), -1, 1))
    solution = solve(model.dictionary, operator, measured, method, prior=prior, **options)
    gates = rendering.gates_of(solution.codes, solution.bias)
    return rendering.render(model.dictionary, gates, truth.shape[1:3])


def methods(pairs, train, generator):
    """Name -> function (truth, seen) -> reconstruction [S, H, W, 1]."""
    complete = tuned_pixel_gaussian(train.reshape(len(train), -1), generator)

    def by_pixels(truth, seen):
        rows = zip(truth.reshape(len(truth), -1), seen.reshape(len(seen), -1), strict=True)
        return np.stack([complete(x, s) for x, s in rows]).reshape(truth.shape)

    def biharmonic(truth, seen):
        return np.stack(
            [inpaint_biharmonic(x[..., 0], ~s)[..., None] for x, s in zip(truth, seen, strict=True)]
        )

    # Regularisation is tuned on training faces, as that of the pixel Gaussian is.
    checked = train[:: max(len(train) // 20, 1)][:20]
    some = generator.random(checked.shape[:3]) < 0.1

    def tuned(pair, method, name, values):
        def error(value):
            fitted = dictionary_fit(pair, checked, some, method, **{name: value})
            return np.square(fitted - checked).mean()

        best = {name: min(values, key=error)}
        return lambda truth, seen: dictionary_fit(pair, truth, seen, method, **best)

    return {
        "NID gaussian": tuned(pairs["trained"], "gaussian", "noise", NOISES),
        "NID gaussian, untrained": tuned(pairs["untrained"], "gaussian", "noise", NOISES),
        "NID ridge": tuned(pairs["trained"], "ridge", "lam", LAMBDAS),
        "biharmonic inpainting": biharmonic,
        "Gaussian of pixels (PCA)": by_pixels,
    }


def scores(reconstruction, truth):
    """PSNR [S] of pictures clipped to [0, 1]."""
    return -10 * np.log10(np.square(np.clip(reconstruction, 0, 1) - truth).mean((1, 2, 3)))


def draw(folder, rates, results):
    """figure.png: PSNR against the share of pixels."""
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for name, rows in results.items():
        means = [np.mean(rows[rate]["psnr"]) for rate in rates]
        axes.plot([100 * rate for rate in rates], means, marker="o", label=name)
    axes.set(xscale="log", xlabel="pixels seen, %", ylabel="PSNR, dB")
    axes.set_xticks([100 * rate for rate in rates], [f"{100 * rate:g}" for rate in rates])
    axes.set_title("Unseen faces from some of their pixels")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    with artefacts.atomic_path(folder / "figure.png") as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    pyplot.close(figure)


def main(argv):
    """Run the comparison."""
    del argv
    folder, rates = Path(OUTPUT.value), RATES[SCALE.value]
    get_config = runpy.run_path(str(ROOT / "configs" / "image.py"))["get_config"]
    config = get_config("smoke" if SCALE.value == "smoke" else "cpu")
    if SCALE.value != "smoke":
        # Codes of 640 experts can hold any 625 pixels: a prior fills in what was not seen, and
        # where most was seen the span of the dictionary must not be the limit.
        config.dictionary.update({"num_experts": 640, "width": 1024, "num_layers": 2})
        config.dictionary.embedding.scale = 12.0
        config.train.update({"steps": 20, "batch_size": 1000})
    task, train, pairs = train_dictionary(config, folder / "dictionary")
    truth = to_array(task.open("test"))
    generator = np.random.default_rng(config.seed)
    ways = methods(pairs, train, generator)
    results = {name: {rate: {"psnr": [], "seconds": []} for rate in rates} for name in ways}
    sheets = []
    for rate in rates:
        count = max(1, round(rate * truth[0].size))
        for number in range(MASKS[SCALE.value]):
            order = generator.permuted(np.tile(np.arange(truth[0].size), (len(truth), 1)), axis=1)
            seen = (order < count).reshape(truth.shape[:3])
            for name, way in ways.items():
                start = time.perf_counter()
                reconstruction = way(truth, seen)
                results[name][rate]["seconds"].append(time.perf_counter() - start)
                results[name][rate]["psnr"] += scores(reconstruction, truth).tolist()
                if rate == 0.1 and number == 0:
                    sheets.append((name, reconstruction))
        line = ", ".join(f"{n} {np.mean(r[rate]['psnr']):.2f}" for n, r in results.items())
        print(f"{100 * rate:g}% of pixels, dB: {line}", flush=True)
    write(folder, rates, results, truth, sheets)


def write(folder, rates, results, truth, sheets):
    """table.md, metrics.json, figure.png, faces.png."""
    rows = [
        [name, *(float(np.mean(r[rate]["psnr"])) for rate in rates)]
        + [1e3 * float(np.median([s for rate in rates for s in r[rate]["seconds"]])) / len(truth)]
        for name, r in results.items()
    ]
    headers = ["PSNR, dB, at", *(f"{100 * rate:g}%" for rate in rates), "ms per face"]
    table = monitoring.markdown_table(rows, headers)
    versions = monitoring.versions()
    made = ", ".join(f"{key} {value}" for key, value in versions.items())
    note = f"{len(truth)} unseen faces, {MASKS[SCALE.value]} random masks each. {made}"
    artefacts.write_text(folder / "table.md", f"{table}\n\n{note}\n")
    plain = {n: {str(rate): r[rate] for rate in rates} for n, r in results.items()}
    artefacts.write_json(folder / "metrics.json", {"results": plain, "versions": versions})
    draw(folder, rates, results)
    if sheets:
        shown = np.concatenate([reconstruction[:1] for _, reconstruction in sheets])
        same = np.repeat(truth[:1], len(shown), 0)
        names = [name for name, _ in sheets]
        pictures.comparison_sheet(folder / "faces.png", same, shown, names=names)
    print(table)
    print(folder / "table.md")


if __name__ == "__main__":
    app.run(main)
