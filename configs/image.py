"""Instant image regression.

    python main.py --config=configs/image.py[:smoke|cpu|photos|paper] --workdir=DIR
"""

from ml_collections import ConfigDict


def get_config(variant="cpu"):
    """The config of a variant: smoke, cpu (the default), photos or paper."""
    variants = {"smoke": smoke, "cpu": cpu, "photos": photos, "paper": paper}
    if variant not in variants:
        raise ValueError(f"configs/image.py:{variant}: allowed: {', '.join(variants)}")
    config = base()
    variants[variant](config)
    return config


def base():
    """Every key there is, with the values that variants share."""
    return ConfigDict(
        {
            "task": "image",
            "seed": 0,
            "data": {
                # faces, photos, folder, array, yale, olivetti, celeb_a, cifar10 or tfds:NAME
                "name": "faces",
                "root": "",
                # () keeps the signals' own size; (rows, cols) otherwise
                "size": (),
                "resize": False,
                "crop": "",
                "gray": False,
                # 0: all
                "num_train": 0,
                "num_test": 0,
                "test_fraction": 0.2,
                "augment": {"mirror": False, "shifts": 0, "max_shift": 1},
                # size 0: whole signals
                "patch": {"size": 0, "overlap": 0},
            },
            "dictionary": {
                # shared: one trunk with E heads; independent: E small networks
                "kind": "shared",
                "num_experts": 256,
                # linear layers, output included
                "num_layers": 4,
                "width": 512,
                # sine or relu
                "activation": "relu",
                "omega0": 30.0,
                "embedding": {
                    # identity, positional, fourier, rbf or kernel
                    "kind": "fourier",
                    "size": 256,
                    "scale": 8.0,
                    "num_octaves": 0,
                    "trainable": False,
                    "kernel": "matern",
                    "length_scale": 0.1,
                    "shape": 0.0,
                    "num_centres": 64,
                    "sigma": 4.0,
                },
            },
            "router": {
                # codebook, linear, conv, resnet or none
                "kind": "codebook",
                # active experts; 0: dense codes
                "top_k": 0,
                "max_norm": 0.0,
                "noise": False,
                "width": 64,
                "pool": "mean",
            },
            "loss": {
                "data": "l2",
                "l1": 0.0,
                "l1_base": 1.0,
                "balance": 0.0,
                "importance": "magnitude",
                "compat": "",
            },
            "train": {
                "steps": 1000,
                # joint (the paper's), varpro or sparse_varpro (codes solved inside the step)
                "codes": "joint",
                # varpro: regularisation of the solve, relative to the atoms' mean energy
                "lam": 1e-3,
                "atoms_per_step": 1,
                "batch_size": 16,
                # points of each signal in a step; 0: all
                "points": 0,
                "chunks": "random",
                "warmup_epochs": 0,
                "optimizer": {
                    "name": "adam",
                    "learning_rate": 1e-3,
                    "schedule": "cosine",
                    "lr_warmup_steps": 0,
                    "lr_end": 0.05,
                    "weight_decay": 0.0,
                    "clip_norm": 0.0,
                    "code_rate": 1.0,
                },
                "log_every": 50,
                "eval_every": 0,
                "checkpoint_every": 500,
            },
            "eval": {"num_signals": 16},
            # Gaussian prior of the training codes, for fit.solver=gaussian and robust
            "prior": {"num_signals": 4000, "lam": 1e-6, "shrinkage": 0.0},
            "checkpoint": {"keep_latest": 2, "keep_best": 1},
            "fit": {
                # names the folder of the results, WORKDIR/fits/NAME
                "name": "test",
                "split": "test",
                # ridge, gaussian, lasso, omp, iht, robust, gradient, router or router+ridge
                "solver": "ridge",
                # active experts of omp, iht, router+ridge, gradient, router; 0: dense codes
                "top_k": 0,
                # 0: all
                "num_signals": 0,
                "batch_size": 0,
                "num_pictures": 10,
                # a number, or gcv: generalised cross-validation
                "ridge": {"lam": "1e-6", "per_signal": False},
                # standard deviation of the noise; 0 estimates it
                "gaussian": {"noise": 0.0},
                "lasso": {
                    "fraction": 0.001,
                    "weights_base": 1.0,
                    "tolerance": 1e-3,
                    "steps": 1000,
                },
                "omp": {"lam": 1e-6, "atoms_per_step": 1, "criterion": "correlation"},
                "iht": {"steps": 30},
                "robust": {
                    "loss": "l1",
                    "lam": 1e-4,
                    "use_prior": True,
                    "delta": 0.0,
                    "noise": 0.0,
                    "steps": 500,
                },
                "router": {},
                "router_ridge": {"lam": 1e-6},
                "gradient": {
                    "steps": 1000,
                    "learning_rate": 0.03,
                    # zero, or router: from its prediction
                    "init": "zero",
                    # codes, or router: its weights move
                    "variables": "codes",
                    # before the top_k experts are chosen
                    "dense_steps": 0,
                    "data": "l2",
                },
            },
            "render": {
                # what to draw: () renders at `scale` times the signals' own size
                "shape": (),
                "scale": 4,
                # rows and columns ((low, high), (low, high)) in [-1, 1]; () is everything
                "window": (),
                # points at a time; 0 chooses
                "chunk": 0,
            },
            "mesh": {"data": 1, "expert": 1},
        }
    )


def smoke(config):
    """Seconds: does every part run?"""
    config.data.update({"num_train": 16, "num_test": 4})
    config.dictionary.update({"num_experts": 32, "width": 32, "num_layers": 3})
    config.dictionary.embedding.size = 32
    config.train.update({"steps": 40, "batch_size": 8, "log_every": 10, "checkpoint_every": 20})
    config.fit.gradient.steps = 50


def cpu(config):
    """80 real faces, 25x25; fits the 20 that were held out."""


def photos(config):
    """Crops of photographs, 32x32 in colour, with 1024 experts."""
    config.data.name = "photos"
    config.data.size = (32, 32)
    config.dictionary.update({"num_experts": 1024, "width": 256})
    config.router.top_k = 64
    config.fit.top_k = 64


def paper(config):
    """CelebA as in the paper: 4096 experts of which 256 are active."""
    config.data.update({"name": "celeb_a", "size": (128, 128), "crop": "centre"})
    config.dictionary.update({"num_experts": 4096, "width": 512})
    config.router.top_k = 256
