"""Computed tomography: slices from a few parallel-beam views.

    python main.py --config=configs/ct.py[:VARIANT] --workdir=DIR --config.fit.num_views=8

VARIANT is cpu (the default, 64x64), views (the same trained on projections, never seeing a pixel),
large (128x128), huge (256x256), own (your sinograms, each with views and detectors of its own, in a
folder: --config.data.root=FOLDER) or smoke. A measured sinogram is fitted with
--config.data.sinograms=FILE.npy and --config.data.angles=ANGLES.npy, in degrees; without it they
are evenly spaced. That of another program: --config.operator.parallel_beam.convention=skimage.
"""

from nid_jax.configs.parts import data, fitting, tasks, training


def get_config(variant="cpu"):
    """The config of a variant."""
    change = tasks.variant("ct", VARIANTS, variant)
    config = tasks.config("ct", data.pictures("phantoms", "phantom", "dicom"))
    config.eval = training.perceptual()
    config.fit.refine = fitting.refine()
    config.operator = {
        "parallel_beam": {
            # 0: as many as the longer side of the image; samples_per_ray is of the dictionary
            "detectors": 0,
            "samples_per_ray": 0,
            # ours, skimage, astra, tomopy or matlab: docs/geometry.md
            "convention": "ours",
            # of rotation, in pixels from where the convention has it
            "centre": (0.0, 0.0),
            # of all detectors, in detectors: (D - 1) / 2 - c where the axis is at detector c
            "offset": 0.0,
            # from detector to detector, in pixels
            "spacing": 1.0,
        },
    }
    config.data.update(
        {
            # of measurements that are simulated
            "noise": data.noise(),
            # to fit: .npy, .npz, .mat, .tif or text of sinograms [S, A, D] and angles [A]; ''
            # takes the test split
            "sinograms": "",
            "angles": "",
            # degrees or radians, and the letters of the sinograms' axes, such as DA; '': the
            # convention's
            "angle_units": "",
            "sinogram_layout": "",
            # sinograms are shares or counts of an open beam (0: the largest): take -log
            "transmission": False,
            "open_beam": 0.0,
            # in the unit of length of the line integrals; pictures are per that unit
            "pixel_size": 1.0,
            # phantoms are projected in closed form; other slices always on their grid
            "closed_form": True,
        }
    )
    # views that training sees of every slice; 0: its pixels
    config.train.views = 0
    # evenly spaced views of every slice to fit
    config.fit.num_views = 8
    base(config)
    change(config)
    return config


def base(config):
    """A dictionary that spans 64x64 phantoms, and the prior of many of them."""
    config.data.update({"size": (64, 64), "num_train": 8000, "num_test": 20})
    config.data.phantom.jitter = 0.7
    config.dictionary.update({"num_experts": 1024, "width": 1024, "num_layers": 2})
    config.dictionary.embedding.update({"size": 512, "scale": 12.0})
    config.train.update({"steps": 100, "batch_size": 400, "log_every": 10, "checkpoint_every": 50})
    config.train.lam = 1e-4
    config.train.optimizer.learning_rate = 1e-2
    config.prior.update({"num_signals": 8000, "keep_codes": True})
    config.fit.solver = "gaussian"
    config.fit.gaussian.update({"noise": 0.5, "neighbours": 500})
    # kind grid pays from 32 views on
    config.fit.refine.update({"tv": 0.003, "lam": 1.0, "bounds": (0.0, 1.0)})


def cpu(config):
    """64x64 phantoms, eight views: 29.9 dB unseen, SART 24.0 dB.

    2 to 128 views 23.8, 28.4, 29.9, 30.6, 31.9, 32.2, 32.1 dB before any refinement; what
    refinement and noise are best for a number of views is in docs/results/ct. 100 steps in 55 s,
    with the prior 83 s, 1.4 GB, on two cores of a Xeon, 2026-11-22, jax 0.10.2.
    Departs from the paper: codes are solved in the step and, under a prior, in the fit.
    """


def views(config):
    """Trained on 60 views of every slice, 512 of their rays a step.

    After 30 steps of 200 slices on 1000 of them (prior of the same): 23.92 dB at eight views, 78 s
    in all. Not run as long as it stands here.
    """
    config.train.update({"views": 60, "points": 512, "lam": 1e-2})


def large(config):
    """128x128 phantoms; docs/results/ct has 21.5, 28.4, 29.1 dB at 2, 8, 32 views unrefined."""
    config.data.update({"size": (128, 128), "num_train": 4000, "num_test": 10})
    config.dictionary.embedding.scale = 10.0
    config.train.update({"steps": 160, "batch_size": 100, "points": 4096})
    config.prior.num_signals = 4000


def huge(config):
    """256x256 phantoms: a step sees a few thousand of their points, a fit streams over its rays."""
    large(config)
    config.data.update({"size": (256, 256), "num_train": 1000, "num_test": 4})
    config.dictionary.embedding.scale = 20.0
    config.train.steps = 60
    config.prior.num_signals = 1000


def own(config):
    """A folder of sinograms, each of its own geometry, to learn from and to fit.

    Heads and prior come by rounds of expectation maximisation from the line integrals alone.
    Departs from the paper: no picture is seen, nothing descends, no router.
    """
    config.data.update({"name": "sinograms", "size": (), "num_train": 0, "num_test": 0})
    config.dictionary.update({"num_experts": 256, "num_layers": 1, "heads": "components"})
    config.dictionary.embedding.update({"kind": "cosine", "counts": (16, 16)})
    config.train.update({"steps": 0, "batch_size": 100})
    config.prior.update({"num_signals": 4000, "keep_codes": False})
    config.fit.gaussian.update({"noise": 0.0, "neighbours": 0})


def smoke(config):
    """Seconds: does every part run?"""
    config.data.update({"size": (16, 16), "num_train": 32, "num_test": 2})
    config.dictionary.update({"num_experts": 32, "width": 32})
    config.dictionary.embedding.update({"size": 32, "scale": 4.0})
    config.train.update({"steps": 10, "batch_size": 16})
    config.fit.gaussian.neighbours = 8
    config.fit.refine.update({"kind": "grid", "steps": 10})


VARIANTS = {"cpu": cpu, "views": views, "large": large, "huge": huge, "own": own, "smoke": smoke}
