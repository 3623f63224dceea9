"""Pictures from a part of their Fourier transform, as magnetic resonance imaging measures them.

    python main.py --config=configs/mri.py[:VARIANT] --workdir=DIR

VARIANT is cpu (the default: a tenth of the frequencies of 32x32 phantoms) or smoke (seconds).
Measured k-space is fitted with --config.data.kspace=FILE.npy, complex [S, H, W], and, where samples
of 0 were measured, --config.data.kspace_mask=MASK.npy. Simulated samples are those of any operator.
"""

from nid_jax.configs import image
from nid_jax.configs.parts import tasks


def get_config(variant="cpu"):
    """The config of a variant."""
    change = tasks.variant("mri", VARIANTS, variant)
    config = image.base("mri")
    config.data.update({"name": "phantoms", "size": (32, 32), "num_train": 2000, "num_test": 20})
    config.data.update(
        {
            # to fit: .npy, .npz, .mat or .tif of k-space [S, H, W], complex or with a last axis of
            # 2, and of 0 and 1 [H, W] or [W]; '' takes the test split, and 0 and NaN for not
            # measured
            "kspace": "",
            "kspace_mask": "",
            # true: the zero frequency is at N // 2; phases count from corner or middle; what
            # divides the samples; '' and 0 guess
            "kspace_centred": "",
            "kspace_origin": "",
            "kspace_scale": 0.0,
        }
    )
    config.operator = {
        "kind": "fourier",
        # of all frequencies: those measured, and those next to zero that are always among them
        "fourier": {"share": 0.1, "low": 0.02, "seed": 0},
    }
    config.dictionary.update({"num_experts": 768, "width": 1024, "num_layers": 2})
    config.dictionary.embedding.update({"size": 256, "scale": 8.0})
    config.train.update({"steps": 30, "batch_size": 400, "log_every": 10, "checkpoint_every": 30})
    config.fit.solver = "gaussian"
    config.fit.gaussian.noise = 0.01
    change(config)
    return config


def cpu(config):
    """32x32 phantoms: 34.07 dB, SSIM 0.964 unseen (zeros for the rest: 20.95 dB).

    30 steps in 12 s, a fit in 4 ms per phantom, on two cores of a Xeon, 2026-11-22, jax 0.10.2.
    Not in the paper.
    """


def smoke(config):
    """Seconds: does every part run?"""
    image.smoke(config)
    # Noise of 1% is assumed. The smaller dictionary of pictures leaves 7% of its own training
    # signals, and fits to that are no better than zeros for the other frequencies.
    config.data.update({"size": (12, 12), "num_train": 64})
    config.dictionary.width = 128
    config.dictionary.embedding.size = 64


VARIANTS = {"cpu": cpu, "smoke": smoke}
