"""Groups of `train`, `prior`, `eval`, `checkpoint` and `mesh`: how a dictionary is learned."""


def train():
    """Steps, what each sees, and the optimiser."""
    return {
        # 0: heads in closed form alone
        "steps": 1000,
        # joint (the paper's), varpro or sparse_varpro (codes solved inside the step)
        "codes": "varpro",
        # varpro: regularisation of the solve, relative to the atoms' mean energy
        "lam": 1e-3,
        # sparse_varpro: experts that matching pursuit takes at once
        "atoms_per_step": 1,
        # varpro: envelope (the gradient holds the codes) or solve (it reaches through them)
        "differentiate": "envelope",
        # at most the signals there are
        "batch_size": 16,
        # points of each signal in a step; 0: all
        "points": 0,
        # how points are chosen: random, or exhaustive, all of a batch in turn
        "chunks": "random",
        # passes before codes are sparse
        "warmup_epochs": 0,
        "optimizer": {
            # adam, adamw, sgd, lamb or muon (kernels between layers; the rest by adam); none, with
            # steps=0, holds and saves no moments
            "name": "adam",
            # the highest; it falls by constant, cosine, linear or exponential to lr_end of it,
            # after so many steps of a linear rise
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "lr_warmup_steps": 0,
            "lr_end": 0.05,
            # of the dictionary's weights
            "weight_decay": 0.0,
            # longest gradient; 0: as long as it comes
            "clip_norm": 0.0,
            # learning rate of the codes, as a multiple
            "code_rate": 1.0,
        },
        # every so many steps, experts used less than dead_below times the mean become the
        # residuals of the worst-explained signals; 0: never
        "reseed_every": 0,
        "dead_below": 1e-3,
        # steps between two logs in one program, of signals held on the device: auto (where that can
        # be), on, off (step by step)
        "scan": "auto",
        # in steps; 0: not
        "log_every": 50,
        "eval_every": 0,
        "checkpoint_every": 500,
    }


def prior():
    """Gaussian prior of the training codes, for fit.solver=gaussian and robust."""
    return {
        # at most; 0 learns none
        "num_signals": 4000,
        # regularisation of the training codes
        "lam": 1e-6,
        # share of the diagonal in the covariance; 0: what signals held out say
        "shrinkage": 0.0,
        # Gaussians of a mixture, 1: no mixture; 0: chosen by signals held out
        "components": 1,
        # also the codes themselves, for fit.gaussian.neighbours
        "keep_codes": False,
    }


def evaluation():
    """Signals that train.eval_every scores, at most."""
    return {
        # at most
        "num_signals": 16,
    }


def perceptual():
    """Evaluation by LPIPS too."""
    return {
        **evaluation(),
        # the file of weights that nid_jax.interop.lpips has written; '': without
        "lpips": "",
    }


def checkpoint():
    """How many checkpoints are kept."""
    return {
        # the last ones, and those with the best train.eval_every
        "keep_latest": 2,
        "keep_best": 1,
    }


def mesh():
    """Devices that signals and experts are dealt out to."""
    return {
        # over which signals, and experts, are dealt out; their product is the number of devices
        "data": 1,
        "expert": 1,
    }
