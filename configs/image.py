"""Instant image regression: learn a dictionary, then fit unseen images in closed form.

    python main.py --config=configs/image.py[:VARIANT] --workdir=DIR

VARIANT is smoke, cpu (the default), photos or paper, and may go on with
    -joint        the paper's way: codes and dictionary descend together, fits by gradient
    -sparse       K active experts: supports by matching pursuit, codes solved on them
    -independent  a stack of small SIREN experts instead of one trunk with many heads
such as photos-sparse or cpu-independent-joint.
"""

from ml_collections import ConfigDict


def get_config(variant="cpu"):
    """The config of a variant, such as 'cpu' or 'photos-joint'."""
    name, *ways = variant.split("-")
    for given, allowed in ((name, VARIANTS), *((way, WAYS) for way in ways)):
        if given not in allowed:
            raise ValueError(
                f"configs/image.py:{variant}: {given!r} is unknown; allowed: "
                f"{', '.join(VARIANTS)}, then -{', -'.join(WAYS)}"
            )
    config = base()
    VARIANTS[name](config)
    for way in ways:
        WAYS[way](config)
    return config


def base():
    """Every key there is, with the values that variants share."""
    return ConfigDict(
        {
            "task": "image",
            "seed": 0,
            "data": {
                # faces, photos, phantoms, clip, folder, array, video, dicom, corrupted, yale,
                # olivetti, celeb_a, cifar10 or tfds:NAME
                "name": "faces",
                "root": "",
                # () keeps the signals' own size; (rows, cols) otherwise
                "size": (),
                "resize": False,
                # center: the largest part of the aspect of `size`
                "crop": "",
                "gray": False,
                # 0: all
                "num_train": 0,
                "num_test": 0,
                "test_fraction": 0.2,
                "augment": {"mirror": False, "shifts": 0, "max_shift": 1},
                # size 0: whole signals
                "patch": {"size": 0, "overlap": 0},
                # phantoms: how much they differ, 0 is Shepp and Logan's own
                "phantom": {"jitter": 1.0},
                # clip: the built-in one; noise is a standard deviation
                "clip": {"num_frames": 60, "objects": 3, "noise": 0.0},
                # video: frames start, start + step, ... before stop; 0 is the end
                "video": {"start": 0, "stop": 0, "step": 1},
                # dicom: (low, high) in the scanner's units; () is all there is
                "dicom": {"window": ()},
                # of measurements that an operator simulates: none, gaussian or poisson
                "noise": {"kind": "none", "level": 0.0},
            },
            # how signals are measured in a fit: sample, mask, parallel_beam, downsample, blur or
            # fourier, whose options are keys of a group of that name
            "operator": {"kind": "sample"},
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
                    "scale": 5.0,
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
                "kind": "none",
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
                "codes": "varpro",
                # varpro: regularisation of the solve, relative to the atoms' mean energy
                "lam": 1e-3,
                "atoms_per_step": 1,
                # varpro: envelope (the gradient holds the codes) or solve (it reaches through them)
                "differentiate": "envelope",
                "batch_size": 16,
                # points of each signal in a step; 0: all
                "points": 0,
                "chunks": "random",
                "warmup_epochs": 0,
                "optimizer": {
                    # adam, adamw, sgd, lamb or muon (kernels between layers; the rest by adam)
                    "name": "adam",
                    "learning_rate": 1e-3,
                    "schedule": "cosine",
                    "lr_warmup_steps": 0,
                    "lr_end": 0.05,
                    "weight_decay": 0.0,
                    "clip_norm": 0.0,
                    "code_rate": 1.0,
                },
                # every so many steps, experts used less than dead_below times the mean become the
                # residuals of the worst-explained signals; 0: never
                "reseed_every": 0,
                "dead_below": 1e-3,
                "log_every": 50,
                "eval_every": 0,
                "checkpoint_every": 500,
            },
            # lpips: weights that nid_jax.interop.lpips has written; '' leaves the score out
            "eval": {"num_signals": 16, "lpips": ""},
            # Gaussian prior of the training codes, for fit.solver=gaussian and robust
            "prior": {
                "num_signals": 4000,
                "lam": 1e-6,
                "shrinkage": 0.0,
                # also the codes themselves, for fit.gaussian.neighbours
                "keep_codes": False,
            },
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
                # solver gaussian: also where the result is unsure, under the prior of all codes
                "uncertainty": False,
                "refine": {
                    # grid: the image moves off the dictionary's; atoms: all signals together, as
                    # images of low rank
                    "kind": "none",
                    # grid: total variation, tie to what the codes render, (low, high) of values
                    "tv": 0.003,
                    "lam": 0.01,
                    "bounds": (),
                    # atoms: 0 adds directions until what is left is below `share` of the first
                    "rank": 0,
                    "share": 0.001,
                    "steps": 100,
                },
                # --mode=interpolate: from which signal of the fit to which, in how many frames
                "interpolate": {"start": 0, "end": 1, "frames": 9},
                # --mode=nearest: how many to list, and of which fit; '' is this one
                "nearest": {"count": 5, "among": ""},
                # a number, or gcv: generalised cross-validation
                "ridge": {"lam": "1e-6", "per_signal": False},
                # standard deviation of the noise, 0 estimates it; a prior of each signal's own from
                # so many nearest training codes, 0: one of all, and the share of all in it
                "gaussian": {"noise": 0.0, "neighbours": 0, "blend": 0.1},
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
                    # above 0: what is more than so many median residuals off, averaged over `reach`
                    # in coordinates, is left out of a second solve for a noise of deviation
                    # `trim_noise` (0: the prior's)
                    "trim": 0.0,
                    "reach": 0.0,
                    "trim_noise": 0.0,
                },
                "router": {},
                "router_ridge": {"lam": 1e-6},
                "gradient": {
                    "steps": 1000,
                    "learning_rate": 0.003,
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
    """80 real faces of 25x25 pixels and their shifted and mirrored copies; fits 20 unseen ones.

    Reaches 27.73 dB, SSIM 0.925, 0.65 GB; 120 steps in 6.5 s on two quiet cores of a Xeon.
    cpu-independent 27.35 dB in 10 s, cpu-sparse (32 of 256 active) 22.12 dB in 7.6 s, cpu-joint
    25.39 dB in 38 s. 2026-11-22, jax 0.10.2.
    Departs from the paper: codes are solved in the step and in the fit, no router.
    """
    config.data.augment.update({"mirror": True, "shifts": 24, "max_shift": 2})
    config.train.update({"steps": 120, "batch_size": 500, "log_every": 10, "checkpoint_every": 60})
    config.train.optimizer.learning_rate = 3e-3


def photos(config):
    """Crops of photographs, 32x32 in colour, with 1024 experts.

    Reaches 36.45 dB, SSIM 0.909, 0.86 GB; 150 steps in 38 s on two quiet cores, 2026-11-22.
    photos-joint 26.15 dB with 64 active experts, 39 s.
    Departs from the paper: codes are solved in the step and in the fit, no router.
    """
    config.data.update({"name": "photos", "size": (32, 32), "num_train": 4000})
    config.dictionary.update({"num_experts": 1024, "width": 256})
    config.train.update({"steps": 150, "batch_size": 400, "log_every": 10, "checkpoint_every": 75})
    config.train.optimizer.learning_rate = 2e-3


def paper(config):
    """CelebA as in the paper: 4096 experts of which 256 are active, 128x128.

    Not run here: needs the data set and an accelerator.
    """
    config.data.update({"name": "celeb_a", "size": (128, 128), "crop": "center"})
    config.dictionary.update({"num_experts": 4096, "width": 512})
    config.dictionary.embedding.update({"size": 2048, "scale": 16.0})
    config.train.update({"steps": 20000, "batch_size": 256, "points": 1024})
    joint(config)
    config.router.update({"top_k": 256, "max_norm": 1.0})
    config.fit.top_k = 256


def joint(config):
    """The paper's way: router and dictionary descend one loss, fits descend codes."""
    config.router.kind = "codebook"
    config.train.codes = "joint"
    if config.data.name == "faces":
        config.data.augment.update({"mirror": False, "shifts": 0})
    if config.train.steps < 1000:
        config.train.update({"steps": 2000, "batch_size": 16, "checkpoint_every": 500})
    if config.data.name == "photos":
        config.data.num_train = 340
        config.router.top_k = config.fit.top_k = 64
        config.train.warmup_epochs = 10
        config.fit.gradient.dense_steps = 500
    config.train.optimizer.learning_rate = 1e-3
    config.fit.solver = "gradient"


def sparse(config):
    """K active experts, an eighth of the faces' and a sixteenth of the photographs' dictionary."""
    top_k = 32 if config.data.name == "faces" else 64
    config.router.top_k = config.fit.top_k = min(top_k, config.dictionary.num_experts // 4)
    config.train.codes = "sparse_varpro"
    config.router.kind = "none"
    config.fit.solver = "omp"


def independent(config):
    """E SIRENs of width 16 on bare coordinates."""
    config.dictionary.update({"kind": "independent", "width": 16, "activation": "sine"})
    config.dictionary.embedding.kind = "identity"
    config.train.optimizer.learning_rate = 1e-3


VARIANTS = {"smoke": smoke, "cpu": cpu, "photos": photos, "paper": paper}
WAYS = {"joint": joint, "sparse": sparse, "independent": independent}
