"""Signed distance functions: a dictionary of shapes, unseen shapes from few samples, meshes.

    python main.py --config=configs/sdf.py[:VARIANT] --workdir=DIR

VARIANT is cpu (the default: 80 built-in chairs), many (3600 of them), all (four families), meshes
(your own: --config.data.root=FILE_OR_FOLDER), volumes (a folder of meshes that
`python -m nid_jax.data.prepare` prepared, for large collections: --config.data.root=DIR), single
(one shape from a cloud of oriented points, without a dictionary: --config.data.root=FILE.ply) or
smoke.
"""

from nid_jax.configs.parts import data, tasks


def get_config(variant="cpu"):
    """The config of a variant."""
    change = tasks.variant("sdf", VARIANTS, variant)
    # shapes (built in), meshes (files), volumes (prepared meshes) or pointcloud (.xyz, .ply)
    config = tasks.config("sdf", data.signals("shapes"))
    config.data.update(
        {
            # samples along each axis of the cube [-1, 1]^3
            "size": (48, 48, 48),
            # distances go no further than this; 0: as far as they are
            "truncation": 0.1,
            # clip (cut off there) or tanh (levelled out without a kink)
            "truncation_kind": "clip",
            # built in: chairs, tables, lamps, planes, all, or several with a comma between
            "shapes": {"families": "chairs"},
            # volumes: folder of the file of grids that memory cannot hold; '' is beside them
            "cache": "",
            # pointcloud, meshes: what stays free of the cube at each end
            "margin": 0.1,
            # pointcloud: auto (turned round where they look inwards) or given
            "normals": "auto",
            # the axis that points up in pictures: x, y, z, or auto, which goes by the file's format
            "up": "auto",
        }
    )
    # copies of every training shape, the pieces of each axis stretched by exp(strength x normal)
    config.data.augment = {"warps": 0, "strength": 0.2, "pieces": 4}
    config.router.update(
        {
            # point: numbers of every point that it reads, position and normal
            "point_features": 6,
        }
    )
    # of the grid, from which the prior's codes are solved; 0: all
    config.prior.points = 0
    config.train.update(
        {
            # share of a step's points that lies near surfaces, the rest is random on the grid
            "near": 0.0,
            # points of every cloud that a step sees: router.kind=point, train.codes=surface
            "cloud_points": 0,
        }
    )
    # router.kind=point, train.codes=surface: weights of the terms of fit.surface
    config.loss.surface = {"on": 3000.0, "off": 100.0, "normal": 100.0, "eikonal": 50.0}
    config.fit.samples = {
        # grid, view (what one side shows) or cloud (oriented points and nothing else)
        "seen": "grid",
        # of the grid's samples
        "fraction": 1.0,
        # samples count by a Gaussian of this width about the surface; 0: all alike
        "focus": 0.0,
        # left, right, below, above, back or front
        "view": "front",
        # of a cloud; 0: all there are
        "cloud_points": 1000,
    }
    config.fit.surface = {
        # weights of the terms: on the surface, normals, eikonal, distances off it
        "on": 1.0,
        "normal": 0.01,
        "eikonal": 0.001,
        "off": 1.0,
        # gauss-newton or gradient, from linear, mean, zero or router
        "method": "gauss-newton",
        "init": "linear",
        # of Gauss-Newton, or steps of the gradient
        "iterations": 10,
        # those of data, unless others are given
        "truncation": config.data.get_ref("truncation"),
        "truncation_kind": config.data.get_ref("truncation_kind"),
    }
    config.fit.mesh = {
        # samples along each axis of the mesh; 0: those of the signals
        "resolution": 0,
        # ply, obj, glb, stl or off, in the units that the shape came in
        "format": "ply",
        # F-score: surfaces this near count as the same, in units of the cube
        "threshold": 0.02,
        # of each surface, for the metrics
        "samples": 20000,
    }
    base(config)
    change(config)
    return config


def base(config):
    """Components of the training shapes on a lattice of cubic splines, and the prior of them."""
    config.data.update({"num_train": 80, "num_test": 20})
    config.data.augment.warps = 45
    config.data.update({"truncation": 0.1, "truncation_kind": "tanh"})
    lattice(config, (32, 32, 32))
    config.dictionary.num_experts = 1024
    config.train.update({"batch_size": 200, "points": 8192})
    config.prior.update({"num_signals": 3680, "points": 16384, "keep_codes": True})
    config.router.pool = "max"
    config.fit.solver = "gaussian"
    config.fit.gaussian.noise = 0.001
    config.fit.samples.focus = 0.03
    config.render.scale = 2


def lattice(config, counts):
    """Heads in closed form on cubic splines, without a trunk and without descent."""
    config.dictionary.update({"num_layers": 1, "heads": "components"})
    config.dictionary.components.errors = "square"
    config.dictionary.embedding.update({"kind": "spline", "counts": counts})
    config.train.steps = 0
    # As large as the heads, of which there are 0.1 GB and more, moments would be.
    config.train.optimizer.name = "none"


def trunk(config):
    """Features that are trained, where shapes are too few, or too large, for components."""
    config.dictionary.update({"num_layers": 4, "heads": "drawn"})
    config.dictionary.embedding.update({"kind": "fourier", "size": 512, "scale": 5.0})
    config.train.update({"log_every": 10, "checkpoint_every": 50, "lam": 1e-5})
    config.train.optimizer.update({"name": "muon", "learning_rate": 1.5e-2})


def cpu(config):
    """80 built-in chairs and their warped copies; 20 unseen ones.

    IoU of 20 unseen ones 0.946 from all samples, 0.934 from 10%, 0.896 from 2%, 0.844 from 0.5%,
    0.744 from 0.1%, noise, focus and neighbours chosen on further shapes for each; PCA of the grids
    of the same shapes and copies 0.947, 0.934, 0.886, 0.845, 0.749 (experiments/sdf.py). Heads in
    closed form: 63 s, of which half for the copies; 72 s for the 20 fits from all samples, 2.0 GiB;
    two cores of a Xeon, one of them used and that one shared, 2026-11-28, jax 0.10.2.
    Departs from the paper: nothing descends, and codes are solved under a prior.
    """


def many(config):
    """3600 built-in chairs instead of warped copies, on a lattice as fine as the grid.

    Coarser splines say less of such shapes than the grid does: by projection of training chairs
    held out, in numpy, IoU 0.963 with 32 along each axis (12 chairs) and 0.977 with the grid itself
    (16 chairs), whose samples 48 splines take on exactly. IoU of ten unseen chairs from all samples
    0.977, heads in 933 s on a core shared by four; fewer samples were not measured.
    Departs from the paper as cpu does.
    """
    config.data.update({"num_train": 3600, "truncation": 0.15})
    config.data.augment.warps = 0
    config.dictionary.embedding.counts = (48, 48, 48)
    config.prior.num_signals = 3600


def all_families(config):
    """Chairs, tables, lamps and planes, 80 of each. Not run as long as it stands here."""
    config.data.shapes.families = "all"
    config.data.update({"num_train": 320, "num_test": 40})
    config.data.augment.warps = 11
    config.prior.num_signals = 3840


def meshes(config):
    """Your own meshes, one file or a folder of them, prepared at 64^3.

    One STL part: IoU 0.9997 of itself, 36 s from start to report on two cores of a Xeon,
    2026-11-28, jax 0.10.2 (experiments/own_inputs.py).
    Departs from the paper: codes are solved in the step and in the fit.
    """
    config.data.update({"name": "meshes", "size": (64, 64, 64), "num_train": 0, "num_test": 0})
    config.data.augment.warps = 0
    trunk(config)
    config.dictionary.update({"num_experts": 256, "width": 256})
    config.train.update({"batch_size": 16, "points": 8192, "steps": 150, "near": 0.5})
    config.prior.update({"num_signals": 0, "keep_codes": False})
    config.fit.solver = "ridge"
    config.fit.samples.focus = 0.0


def volumes(config):
    """Meshes prepared at 128^3, streamed from disk where memory does not hold them.

    Not run as large as it stands here; at 32^3 in a test.
    """
    config.data.update({"name": "volumes", "size": (128, 128, 128), "num_train": 0, "num_test": 0})
    # Files may hold distances that were cut off: --config.data.truncation says how far they go.
    config.data.update({"truncation": 0.1, "truncation_kind": "clip"})
    config.data.augment.warps = 0
    trunk(config)
    config.dictionary.width = 1024
    config.train.update({"batch_size": 16, "points": 8192, "steps": 300, "near": 0.5})
    config.prior.points = 65536


def single(config):
    """One shape, one SIREN, trained on its oriented points as the official code does.

    Not run as long as it stands here; for a few steps in a test.
    """
    config.data.update({"name": "pointcloud", "num_train": 1, "num_test": 1, "truncation": 0.0})
    config.data.truncation_kind = "clip"
    config.data.augment.warps = 0
    trunk(config)
    config.dictionary.update(
        {"kind": "independent", "num_experts": 1, "width": 256, "num_layers": 5}
    )
    config.dictionary.activation = "sine"
    config.dictionary.embedding.kind = "identity"
    config.router.kind = "codebook"
    config.train.update({"codes": "surface", "steps": 1000, "batch_size": 1})
    config.train.update({"points": 4000, "cloud_points": 4000})
    config.train.optimizer.update({"name": "adam", "learning_rate": 1e-4})
    config.prior.num_signals = 0
    config.fit.update({"solver": "surface", "split": "train"})
    config.fit.samples.update({"seen": "cloud", "cloud_points": 4000})
    config.data.size = (64, 64, 64)


def smoke(config):
    """Seconds: does every part run?"""
    config.data.update({"size": (16, 16, 16), "num_train": 8, "num_test": 2})
    config.data.augment.warps = 1
    config.dictionary.num_experts = 12
    config.dictionary.embedding.counts = (21, 21, 21)
    config.train.update({"batch_size": 4, "points": 256})
    config.prior.update({"num_signals": 16, "points": 0})
    config.fit.mesh.update({"resolution": 24, "samples": 500})
    # Samples lie further apart than surfaces are looked at elsewhere.
    config.fit.samples.focus = 0.0


VARIANTS = {
    "cpu": cpu,
    "many": many,
    "all": all_families,
    "meshes": meshes,
    "volumes": volumes,
    "single": single,
    "smoke": smoke,
}
