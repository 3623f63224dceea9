"""Face inpainting: pictures of which a part is painted over or missing.

    python main.py --config=configs/inpainting.py[:VARIANT] --workdir=DIR

VARIANT is cpu (the default: a striped block at an unknown place, robust fit), known (the same with
the mask given), pixels (a tenth of the pixels, known), paper (training and L1 gradient fit as in
the paper) or smoke. Corrupted copies of any pictures are written by

    python -m nid_jax.data.corrupt --config=configs/inpainting.py --output=DIR

and fitted with --config.data.name=corrupted --config.data.root=DIR.
"""

import runpy
from pathlib import Path

IMAGE = runpy.run_path(str(Path(__file__).with_name("image.py")))


def get_config(variant="cpu"):
    """The config of a variant."""
    if variant not in VARIANTS:
        raise ValueError(
            f"configs/inpainting.py:{variant}: unknown; allowed: {', '.join(VARIANTS)}"
        )
    config = IMAGE["base"]()
    config.task = "inpainting"
    config.data.corrupt = {
        # stripes (one or more blocks of them), pixels, text, scribble or none
        "kind": "stripes",
        # of the area, covered by a block, text or scribbles; of pixels, seen
        "share": 0.13,
        # blocks, and stripes in each
        "count": 1,
        "stripes": 6,
        # of the whole picture, before anything is hidden
        "colour_scale": 1.0,
        "colour_shift": 0.0,
    }
    # False: the fit is not told where the picture is corrupted
    config.fit.known_mask = False
    base(config)
    VARIANTS[variant](config)
    return config


def base(config):
    """Faces and a dictionary that spans their pixels: a prior fills in what was not seen."""
    config.data.augment.update({"mirror": True, "shifts": 24, "max_shift": 2})
    config.dictionary.update({"num_experts": 640, "width": 1024, "num_layers": 2})
    config.dictionary.embedding.scale = 12.0
    config.train.update({"steps": 20, "batch_size": 1000, "log_every": 10})
    config.train.optimizer.learning_rate = 3e-3


def cpu(config):
    """A striped block over 13% of the face, its place unknown."""
    config.fit.solver = "robust"


def known(config):
    """The same block with its mask given."""
    config.fit.solver = "gaussian"
    config.fit.gaussian.noise = 0.01
    config.fit.known_mask = True


def pixels(config):
    """A tenth of the pixels, at random."""
    known(config)
    config.data.corrupt.update({"kind": "pixels", "share": 0.1})


def paper(config):
    """As in the paper: codes and dictionary descend together, the fit descends absolute error."""
    config.data.augment.update({"mirror": False, "shifts": 0})
    config.dictionary.update({"num_experts": 256, "width": 512, "num_layers": 4})
    config.dictionary.embedding.scale = 5.0
    config.router.kind = "codebook"
    config.train.codes = "joint"
    config.train.update({"steps": 2000, "batch_size": 16, "log_every": 50})
    config.train.optimizer.learning_rate = 1e-3
    config.prior.num_signals = 0
    config.fit.solver = "gradient"
    config.fit.gradient.data = "l1"


def smoke(config):
    """Seconds: does every part run?"""
    IMAGE["smoke"](config)
    config.fit.solver = "robust"
    config.fit.robust.steps = 50


VARIANTS = {"cpu": cpu, "known": known, "pixels": pixels, "paper": paper, "smoke": smoke}
