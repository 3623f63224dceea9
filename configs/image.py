"""Instant image regression: learn a dictionary, then fit unseen images in closed form.

    python main.py --config=configs/image.py[:VARIANT] --workdir=DIR

VARIANT is smoke, cpu (the default), photos, fashion, pictures or paper, and may go on with
    -joint        the paper's way: codes and dictionary descend together, fits by gradient
    -sparse       K active experts: supports by matching pursuit, codes solved on them
    -independent  a stack of small SIREN experts instead of one trunk with many heads
such as photos-sparse or cpu-independent-joint.
"""

from nid_jax.configs.parts import data, fitting, tasks, training


def get_config(variant="cpu"):
    """The config of a variant, such as 'cpu' or 'photos-joint'."""
    name, *ways = variant.split("-")
    changes = [
        tasks.variant("image", VARIANTS, name, WAYS),
        *(tasks.variant("image", WAYS, way) for way in ways),
    ]
    config = base()
    for change in changes:
        change(config)
    return config


def base(task="image"):
    """Pictures, and what a fit measures of them; configs of other kinds of pictures begin here."""
    config = tasks.config(task, data.pictures("faces", "phantom", "dicom"))
    # data.name: faces, photos, phantoms, clip, folder, array, idx, video, dicom, corrupted, yale,
    # olivetti, celeb_a, cifar10 or tfds:NAME
    config.data.patch = data.patches()
    config.data.noise = data.noise()
    # how signals are measured in a fit: sample, mask, point_derivatives, parallel_beam, fan_beam,
    # downsample, blur, fourier or nonuniform_fourier, whose options are a group of that name
    config.operator = {"kind": "sample"}
    config.eval = training.perceptual()
    config.fit.refine = fitting.refine()
    return config


def smoke(config):
    """Seconds: does every part run?"""
    config.data.update({"num_train": 16, "num_test": 4})
    config.dictionary.update({"num_experts": 32, "width": 32, "num_layers": 3})
    config.dictionary.embedding.size = 32
    config.train.update({"steps": 40, "batch_size": 8, "log_every": 10, "checkpoint_every": 20})
    config.fit.gradient.steps = 50


def cpu(config):
    """80 real faces of 25x25 pixels and copies of them moved a little; fits 20 unseen ones.

    Reaches 27.90 dB, SSIM 0.927; heads in 2.5 s on one core, 2026-11-28, jax 0.10.2.
    cpu-sparse, 32 of 256 waves active, 22.65 to 22.67 dB. Descended, 2026-11-22: cpu-independent
    27.35 dB, cpu-joint 25.39 dB.
    Heads in closed form are not trained further: 60 steps of descent leave them as good.
    Departs from the paper: heads and codes are solved, nothing descends, no router.
    """
    config.data.augment.update({"mirror": True, "warps": 49, "move": 1.0})
    config.train.update({"batch_size": 500, "log_every": 10, "checkpoint_every": 60})
    config.train.optimizer.learning_rate = 3e-3
    components(config)


def photos(config):
    """Crops of photographs, 32x32 in colour, in all eight turns, with 1024 experts.

    Reaches 42.75 dB, SSIM 0.967; heads in 35 s on one core beside another job, 2026-11-28, jax
    0.10.2; 42.83 dB from 8000 crops in 51 s. photos-joint, whose trunk was of width 256 then, 26.15
    dB with 64 active experts, 2026-11-22.
    Heads in closed form are not trained further: the lattice spans all pixels.
    Departs from the paper: heads and codes are solved, nothing descends, no router.
    """
    config.data.update({"name": "photos", "size": (32, 32), "num_train": 4000})
    config.data.augment.turns = True
    config.dictionary.num_experts = 1024
    config.train.update({"batch_size": 400, "log_every": 10, "checkpoint_every": 75})
    config.train.optimizer.learning_rate = 2e-3
    components(config)


def fashion(config):
    """Fashion-MNIST, 28x28 in gray: 20,000 pictures of clothes to learn from, 1000 unseen.

    data.root: the folder of its idx files, which Debian's dataset-fashion-mnist puts there.
    Reaches 27.40 dB, SSIM 0.897 from 256 numbers, PCA of the same pictures 26.88 dB; heads in 3.6 s
    on one core of a Xeon, 2026-11-28, jax 0.10.2.
    Departs from the paper: heads and codes are solved, nothing descends, no router.
    """
    config.data.update({"name": "idx", "root": "/usr/share/datasets/fashion-mnist"})
    config.data.update({"size": (28, 28), "num_train": 20000, "num_test": 1000})
    config.train.update({"batch_size": 400, "log_every": 10, "checkpoint_every": 75})
    config.train.optimizer.learning_rate = 2e-3
    components(config)


def components(config):
    """Heads in closed form on all the cosines that the signals' grid can carry, without a trunk."""
    config.dictionary.update({"num_layers": 1, "heads": "components"})
    config.dictionary.embedding.kind = "cosine"
    config.train.steps = 0


def trunk(config):
    """Features that descend, where heads were in closed form: three layers on Fourier features."""
    if config.dictionary.heads == "drawn":
        return
    config.dictionary.update({"num_layers": 4, "width": 512, "heads": "drawn"})
    config.dictionary.embedding.kind = "fourier"
    config.data.augment.update({"turns": False, "warps": 0})
    if config.data.name == "faces":
        config.data.augment.update({"shifts": 24, "max_shift": 2})
    config.train.steps = 120 if config.data.name == "faces" else 150


def pictures(config):
    """Random crops of your own photographs (data.root), of any sizes, at their own resolution.

    30 photographs of 150 to 420 rows: 38.7 dB on crops of those kept aside, 20 s from start to
    report on two cores of a Xeon, 2026-11-28, jax 0.10.2 (experiments/own_inputs.py).
    Departs from the paper: heads and codes are solved, nothing descends, no router.
    """
    config.data.update({"name": "folder", "size": (32, 32), "crops": 80})
    config.data.update({"num_train": 2000, "num_test": 60})
    config.prior.num_signals = 1000
    config.data.augment.turns = True
    config.dictionary.num_experts = 512
    config.train.update({"batch_size": 400, "log_every": 10, "checkpoint_every": 50})
    config.train.optimizer.learning_rate = 2e-3
    components(config)


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
    trunk(config)
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
    """K active experts: of a pool of waves and components those that codes of K use.

    photos-sparse 35.48 dB from 64 of 4096, 27 s on one of two busy cores, 2026-11-28; the 64
    largest coefficients of a cosine transform 32.35 dB. Descent from there does no better on unseen
    signals, so there is none.
    """
    top_k = 32 if config.data.name == "faces" else 64
    if config.dictionary.heads == "components":
        config.dictionary.heads = "waves"
        if config.data.name != "faces":
            config.dictionary.num_experts = 4096
    config.router.top_k = config.fit.top_k = min(top_k, config.dictionary.num_experts // 4)
    config.train.codes = "sparse_varpro"
    config.router.kind = "none"
    config.fit.solver = "omp"
    config.fit.omp.criterion = "gain"


def independent(config):
    """E SIRENs of width 16 on bare coordinates."""
    trunk(config)
    config.dictionary.num_experts = min(config.dictionary.num_experts, 1024)
    config.dictionary.update({"kind": "independent", "width": 16, "activation": "sine"})
    config.dictionary.embedding.kind = "identity"
    config.train.optimizer.learning_rate = 1e-3


VARIANTS = {
    "smoke": smoke,
    "cpu": cpu,
    "photos": photos,
    "fashion": fashion,
    "pictures": pictures,
    "paper": paper,
}
WAYS = {"joint": joint, "sparse": sparse, "independent": independent}
