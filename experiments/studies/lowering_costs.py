"""What a TPU's float32 path costs where a CPU or GPU takes float64, taken on this machine."""

import tempfile

import jax
import numpy as np
from measuring import command
from measuring.dictionaries import changed, learned

import nid_jax as nid
from nid_jax import platforms, tasks
from nid_jax.coding import surface
from nid_jax.metrics.images import psnr

# A trunk whose atoms are nearly dependent: more of them than it has features.
TRUNK = {
    "data.augment.warps": 3,
    "dictionary.heads": "drawn",
    "dictionary.num_layers": 3,
    "dictionary.width": 160,
    "dictionary.embedding.kind": "fourier",
    "train.batch_size": 80,
    "prior.num_signals": 80,
}
SCALES = {"smoke": ("smoke", {"train.steps": 3}), "cpu": ("cpu", TRUNK | {"train.steps": 40})}
PREDICTED = {
    "training, varpro": "0.02 dB",
    "training, varpro, lam 1e-6": "0.1 dB",
    "training, varpro through the solve": "0.05 dB",
    "training, sparse_varpro": "0.02 dB",
    "ridge, normal equations": "0.5 dB",
    "ridge, normal equations, validated": "0.1 dB",
    "gaussian, normal equations": "0.05 dB",
    "Factorisation": "0.001 dB",
    "own weights together": "0.3 dB",
    "derivative of a ridge fit": "1e-2",
    "derivative of a gaussian fit": "1e-3",
    "surface, objective": "1e-2",
}
"""Written down before anything was measured: decibels lost, or relative difference."""


def both(act):
    """act() with float64 and without."""
    usual = act()
    with platforms.without_float64():
        return usual, act()


def trained(scale, changes):
    """A dictionary of faces after a few steps, and the unseen ones."""
    variant, own = SCALES[scale]
    config = changed(command.config_of("image", variant), own | changes)
    task = tasks.build(config)
    with tempfile.TemporaryDirectory() as folder:
        found = learned(task, config, folder).dictionary
    unseen = task.open("test")
    return found, np.stack([np.asarray(unseen[index]) for index in range(len(unseen))])


def score(dictionary, unseen, solver):
    """Mean PSNR of fits of unseen signals."""
    return float(np.mean(dictionary.fit(unseen, solver=solver).score(unseen)["psnr"]))


def decibels(name, values):
    """A row of a score."""
    usual, other = values
    return row(name, f"{usual:.3f} dB", f"{other - usual:+.4f} dB")


def row(name, usual, difference):
    """A row of the table."""
    return {
        "what": name,
        "usual": usual,
        "difference": difference,
        "predicted": PREDICTED[name],
    }


def training_rows(scale):
    """Steps with and without float64, their dictionaries fitted alike, with it."""
    ways = {
        "training, varpro": {},
        "training, varpro, lam 1e-6": {"train.lam": 1e-6},
        "training, varpro through the solve": {"train.differentiate": "solve"},
        "training, sparse_varpro": {"train.codes": "sparse_varpro", "router.top_k": 16},
    }
    for name, changes in ways.items():
        usual, other = both(lambda changes=changes: trained(scale, changes))
        solver = nid.OMP(16) if "router.top_k" in changes else nid.Ridge(1e-4)
        yield decibels(name, [score(*one, solver) for one in (usual, other)])


def fit_rows(scale):
    """Fits in one dictionary."""
    dictionary, unseen = trained(scale, {})
    solvers = {
        "ridge, normal equations": nid.Ridge(precision="float64"),
        "ridge, normal equations, validated": nid.Ridge("gcv", precision="float64"),
        "gaussian, normal equations": nid.Gaussian(precision="float64"),
    }
    for name, solver in solvers.items():
        yield decibels(name, both(lambda solver=solver: score(dictionary, unseen, solver)))
    problem = dictionary.fit(unseen, solver=nid.Ridge()).problem

    def factorised():
        found = nid.Factorisation(problem.dictionary, problem.operator).solve(problem.measurements)
        return decibels_of(found.residual)

    yield decibels("Factorisation", both(factorised))
    weights = np.random.default_rng(0).uniform(0.5, 1, problem.measurements.shape[:2])
    weighted = nid.Problem(*problem.measured()[:3], weights.astype(np.float32))
    yield decibels(
        "own weights together", both(lambda: decibels_of(nid.Ridge().solve(weighted).residual))
    )
    for solver in (nid.Ridge(), nid.Gaussian(0.02)):
        usual, other = both(lambda solver=solver: slopes(dictionary, unseen, solver))
        name = f"derivative of a {solver.name} fit"
        yield row(name, f"{np.linalg.norm(usual):.2e}", relative(usual, other))


def decibels_of(residual):
    """Mean PSNR of mean squared residuals."""
    return float(np.mean(-10 * np.log10(np.asarray(residual))))


def relative(usual, other):
    """Length of the difference beside that of the usual."""
    return f"{np.linalg.norm(other - usual) / np.linalg.norm(usual):.1e}"


def slopes(dictionary, unseen, solver):
    """The derivative of a score of what is rendered elsewhere with respect to what was measured."""
    size = tuple(n + 1 for n in dictionary.grid_shape)

    def loss(signals):
        drawn = dictionary.fit(signals, solver=solver).render(size)
        return psnr(drawn, np.full(drawn.shape, 0.5, np.float32)).mean()

    return np.asarray(jax.grad(loss)(unseen))


def surface_rows():
    """Balls from their clouds."""
    draw = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 9)] * 3, indexing="ij"), -1)
    radii = draw.uniform(0.4, 0.8, 12)
    balls = np.linalg.norm(grid, axis=-1) - radii[:, None, None, None]
    dictionary = nid.learn(balls.astype(np.float32), steps=20, num_experts=12)
    normals = draw.normal(size=(2, 60, 3))
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    clouds = np.concatenate([0.6 * normals, normals], -1).astype(np.float32)

    def solve():
        options = nid.Surface(samples=200)
        found = surface.surface_codes(dictionary.dictionary, clouds, dictionary.prior, options)
        return np.asarray(found.history["objective"][-1])

    usual, other = both(solve)
    yield row("surface, objective", f"{usual.mean():.3e}", relative(usual, other))


def costs(scale):
    """Every row, said as it is found."""
    for rows in (training_rows(scale), fit_rows(scale), surface_rows()):
        for found in rows:
            command.say(found)
            yield found


COLUMNS = {
    "what": lambda row: row["what"],
    "with float64": lambda row: row["usual"],
    "difference without": lambda row: row["difference"],
    "predicted": lambda row: row["predicted"],
}
