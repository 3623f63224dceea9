"""Groups of `train`, `prior`, `eval`, `checkpoint` and `mesh`: how a dictionary is learned."""


def train():
    """Steps, what each sees, and the optimiser."""
    return {
        "steps": 1000,
        # joint (the paper's), varpro or sparse_varpro (codes solved inside the step)
        "codes": "varpro",
        # varpro: regularisation of the solve, relative to the atoms' mean energy
        "lam": 1e-3,
        "atoms_per_step": 1,
        # varpro: envelope (the gradient holds the codes) or solve (it reaches through them)
        "differentiate": "envelope",
        # at most the signals there are
        "batch_size": 16,
        # points of each signal in a step; 0: all
        "points": 0,
        "chunks": "random",
        "warmup_epochs": 0,
        "optimizer": {
            # adam, adamw, sgd, lamb or muon (kernels between layers; the rest by adam); none, with
            # steps=0, holds and saves no moments
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
        # steps between two logs in one program, of signals held on the device: auto (where that can
        # be), on, off (step by step)
        "scan": "auto",
        "log_every": 50,
        "eval_every": 0,
        "checkpoint_every": 500,
    }


def prior():
    """Gaussian prior of the training codes, for fit.solver=gaussian and robust."""
    return {
        # at most; 0 learns none
        "num_signals": 4000,
        "lam": 1e-6,
        "shrinkage": 0.0,
        # Gaussians of a mixture, 1: no mixture; 0: chosen by held-out likelihood
        "components": 1,
        # also the codes themselves, for fit.gaussian.neighbours
        "keep_codes": False,
    }


def evaluation():
    """Signals that train.eval_every scores, at most."""
    return {"num_signals": 16}


def perceptual():
    """Evaluation by LPIPS too: weights that nid_jax.interop.lpips has written; '': without."""
    return {**evaluation(), "lpips": ""}


def checkpoint():
    """How many checkpoints are kept."""
    return {"keep_latest": 2, "keep_best": 1}


def mesh():
    """Devices that signals and experts are dealt out to."""
    return {"data": 1, "expert": 1}
