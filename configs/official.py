"""The official PyTorch code's settings: of its shipped CelebA configuration, and its defaults.

    python main.py --config=configs/official.py[:VARIANT] --workdir=DIR

VARIANT is celeba (the default), images (the defaults of its command line, on any folder of
pictures), or a folder that nid_jax.interop.torch_checkpoint made of an official checkpoint: then
the config is that folder's own, so that fit, eval, render and train take its dictionary as it is.
A folder called celeba is ./celeba.
"""

import json
from pathlib import Path

from ml_collections import ConfigDict

from nid_jax.configs import image


def get_config(variant="celeba"):
    """The config of a variant, or of the run in a folder."""
    if variant in VARIANTS:
        config = base()
        VARIANTS[variant](config)
        return config
    saved = Path(variant).expanduser() / "config.json"
    if not saved.is_file():
        raise ValueError(
            f"configs/official.py:{variant}: unknown, and no folder with a config.json; allowed: "
            f"{', '.join(VARIANTS)}"
        )
    return ConfigDict(tuples(json.loads(saved.read_text(encoding="utf-8"))))


def tuples(value):
    """JSON's one sequence is a tuple in a config."""
    if isinstance(value, list):
        return tuple(map(tuples, value))
    if isinstance(value, dict):
        return {key: tuples(entry) for key, entry in value.items()}
    return value


def base():
    """The defaults of the official command line, of images."""
    config = image.base()
    config.dictionary.update({"num_experts": 1024, "num_layers": 4, "width": 256})
    config.dictionary.update({"activation": "relu", "omega0": 30.0})
    config.dictionary.embedding.update({"kind": "fourier", "size": 4096, "scale": 16.0})
    # of the resnet; () leaves `width` to decide
    config.router.widths = (128, 256)
    config.router.update({"kind": "conv", "top_k": 128, "width": 256, "pool": "sum"})
    config.loss.update({"l1": 0.01, "balance": 0.01, "compat": "official"})
    config.train.update({"codes": "joint", "points": 1024, "chunks": "exhaustive"})
    # epochs up to and with number warmup_epochs are dense there: one more than it says
    config.train.update({"batch_size": 64, "warmup_epochs": 1, "log_every": 100})
    config.train.optimizer.update({"learning_rate": 1e-4, "schedule": "constant"})
    # codes of new signals are solved; the official way is fit.solver=gradient
    config.fit.update({"solver": "ridge", "top_k": 0})
    return config


def celeba(config):
    """CelebA faces at 128x128 in patches of 16x16: 4096 experts, 256 active, a resnet router.

    Numbers: dictionary 7,880,192, router 14,527,492, 89.6 MB in float32 and twice as much again for
    Adam's moments. Forward pass of a step, 256 patches at 256 points: dictionary 5.6 GFLOP, router
    1766.3 GFLOP; all experts are evaluated, so top-k saves none of it. Counted by
    nid_jax.interop.official.cost. Steps: 125 in an epoch, 5001 epochs.
    Not run here: needs the data set and an accelerator.
    Departs from the official run: epoch 0 alone is dense, as there, but epochs are whole batches
    shuffled by this library; the last chunk of an image is filled up with points seen before;
    weights start as this library draws them; codes of new signals are solved by ridge regression.
    """
    config.data.update({"name": "celeb_a", "size": (128, 128), "crop": "center"})
    config.data.update({"num_train": 500, "num_test": 500})
    config.data.patch.size = 16
    config.dictionary.update({"num_experts": 4096, "width": 512})
    config.dictionary.embedding.update({"size": 2048, "scale": 256.0})
    config.router.update({"kind": "resnet", "top_k": 256})
    config.train.update({"batch_size": 256, "steps": 125 * 5001, "checkpoint_every": 125 * 1000})


def images(config):
    """Pictures in a folder (data.root), with 1024 experts, 128 active, and a conv router.

    Numbers: dictionary 1,974,016, router 1,922,051, 15.6 MB in float32. Forward pass of a step, 64
    pictures of 128x128 at 1024 points: dictionary 4.4 GFLOP, router 3476.3 GFLOP.
    Not run here: a conv router over whole pictures needs an accelerator.
    Departs from the official run as celeba does.
    """
    config.data.update({"name": "folder", "size": (128, 128)})
    config.train.update({"steps": 100000, "checkpoint_every": 10000})


VARIANTS = {"celeba": celeba, "images": images}
