"""Groups of `fit`, `render`, `sample`: codes of new signals, and what is drawn of them."""


def fit():
    """What is fitted, by which solver, and the options of each."""
    return {
        # names the folder of the results, WORKDIR/fits/NAME
        "name": "test",
        # which signals are fitted: test or train
        "split": "test",
        # ridge, gaussian, lasso, omp, iht, robust, gradient, router or router+ridge
        "solver": "ridge",
        # of the equations: float32, by a square root, or float64, normal equations
        "precision": "float32",
        # active experts of omp, iht, router+ridge, gradient, router; 0: dense codes
        "top_k": 0,
        # of a canonical dictionary, a dense one's form: so many of its first atoms; 0: all
        "numbers": 0,
        # of codes.npz: float32, float16, or int16 or int8, rounded to steps of each number's range
        "codes_dtype": "float32",
        # at most; 0: all
        "num_signals": 0,
        # signals solved at a time; 0 chooses
        "batch_size": 0,
        # signals whose pictures and maps are written, at most
        "num_pictures": 10,
        # signals, at most, of which baselines (mean, biharmonic, SART, kriging) are made for the
        # report's table; of a video all frames, as its scores are of them together; 0: none
        "baseline_signals": 10,
        # solver gaussian: also where the result is unsure, under the prior of all codes
        "uncertainty": False,
        # --mode=interpolate: from which signal of the fit to which, in how many frames
        "interpolate": {"start": 0, "end": 1, "frames": 9},
        # --mode=nearest: how many to list, and of which fit; '' is this one
        "nearest": {"count": 5, "among": ""},
        **solvers(),
    }


def solvers():
    """The options of every solver of signals on grids, by its name."""
    return {
        # a number, or gcv: generalised cross-validation
        "ridge": {"lam": "1e-6", "per_signal": False},
        # standard deviation of the noise, 0 estimates it; a prior of each signal's own from at most
        # so many nearest training codes, 0: one of all, and the share of all in it; and whether a
        # mixture (prior.components) is taken where there is one; level: the bias is held too, to
        # what it is beside the codes in training, for signals of which little is measured
        "gaussian": {
            "noise": 0.0,
            "neighbours": 0,
            "blend": 0.1,
            "mixture": True,
            "level": False,
        },
        "lasso": {
            # penalty of the absolute codes, as a share of the one that leaves none
            "fraction": 0.001,
            # expert e costs this to the power -e
            "weights_base": 1.0,
            # where it ends: the duality gap, as a part of the objective
            "tolerance": 1e-3,
            # at most
            "steps": 1000,
        },
        "omp": {
            # regularisation on the support
            "lam": 1e-6,
            # experts taken at once: cheaper, a little worse
            "atoms_per_step": 1,
            # correlation with what is left, or gain: what lowers it most
            "criterion": "correlation",
        },
        "iht": {
            # at most
            "steps": 30,
        },
        "robust": {
            # data term: l1 or huber
            "loss": "l1",
            # regularisation where there is no prior
            "lam": 1e-4,
            # the prior of the training codes is in it
            "use_prior": True,
            # huber: where squares become lines; 0: 1.345 times the noise
            "delta": 0.0,
            # standard deviation of what is no outlier; 0 estimates it
            "noise": 0.0,
            # at most
            "steps": 500,
            # above 0: what is more than so many median residuals off, averaged over `reach`
            # in coordinates, is left out of a second solve for a noise of deviation
            # `trim_noise` (0: the prior's)
            "trim": 0.0,
            "reach": 0.0,
            "trim_noise": 0.0,
        },
        "router_ridge": {
            # regularisation on the support
            "lam": 1e-6,
            # experts that the router proposes, of which matching pursuit takes top_k; 0: top_k
            "candidates": 0,
        },
        "gradient": {
            # so many are taken
            "steps": 1000,
            # Adam's, at the start of a cosine to a tenth
            "learning_rate": 0.003,
            # zero, or router: from its prediction
            "init": "zero",
            # codes, or router: its weights move
            "variables": "codes",
            # before the top_k experts are chosen
            "dense_steps": 0,
            # data term: l2 or l1
            "data": "l2",
        },
    }


def refine():
    """The last stage of a fit: what the codes cannot say."""
    return {
        # grid: the image moves off the dictionary's; atoms: all signals together, as
        # images of low rank
        "kind": "none",
        # grid: total variation, tie to what the codes render, (low, high) of values
        "tv": 0.003,
        "lam": 0.01,
        "bounds": (),
        # atoms: 0 adds directions while they exceed `share` of the first, stand out from the noise
        # and foretell signals held out
        "rank": 0,
        "share": 0.001,
        # atoms: at most
        "steps": 100,
    }


def sample():
    """What --mode=sample draws."""
    return {
        # signals, and the seed that they come of
        "count": 16,
        "seed": 0,
        # from the first signal to the second
        "frames": 9,
    }


def render():
    """What --mode=render draws."""
    return {
        # () renders at `scale` times the signals' own size
        "shape": (),
        # times the own size, where no shape is given
        "scale": 4,
        # rows and columns ((low, high), (low, high)) in [-1, 1]; () is everything
        "window": (),
        # points at a time; 0 chooses
        "chunk": 0,
    }
