"""Groups of `dictionary`, `numerics`, `router` and `loss`: what is learned, and what for."""


def dictionary():
    """E experts on an embedding of coordinates."""
    return {
        # shared: one trunk with E heads; independent: E small networks
        "kind": "shared",
        "num_experts": 256,
        # linear layers, output included; 1: shared heads on the embedding, without a trunk
        "num_layers": 4,
        "width": 512,
        # sine or relu
        "activation": "relu",
        "omega0": 30.0,
        # shared: heads read the embedding beside the trunk
        "skip": False,
        # how shared heads begin: drawn, or components, the leading ones of the training signals, or
        # waves, of a pool of cosines and edges what K-sparse codes use; train.steps may then be 0
        "heads": "drawn",
        # errors of signals: log, of which decibels are made, or square; '' is log, and square by
        # rounds; shrinkage of the covariance, below 0: what leaves least of signals held out;
        # rounds of expectation maximisation, after 6 of variances alone, where signals are not all
        # measured alike, as of holes and of pictures of several sizes
        "components": {"errors": "", "shrinkage": -1.0, "rounds": 8},
        "embedding": {
            # identity, positional, fourier, rbf, kernel, cosine or spline
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
            # cosine, spline: functions along each axis, () is as many as the grid has samples;
            # cosine: box or ball, the frequencies that are kept
            "counts": (),
            "band": "box",
            # spline: degree of the pieces
            "degree": 3,
        },
    }


def numerics():
    """In what precision layers and heads are multiplied; equations and solves always in full."""
    return {
        # float32, bfloat16_3x, tf32 or bfloat16: docs/results/precision/matmul.md
        "matmul": "float32",
    }


def router():
    """What predicts codes."""
    return {
        # codebook, linear, conv, resnet or none; of solved codes, linear and conv without a pool
        # are found in closed form when the dictionary is learned
        "kind": "none",
        # active experts; 0: dense codes
        "top_k": 0,
        "max_norm": 0.0,
        "noise": False,
        "width": 64,
        # conv: over pixels, mean or sum; none: heads read each pixel of images of one size
        "pool": "mean",
    }


def loss():
    """Terms of the loss of training."""
    return {
        "data": "l2",
        "l1": 0.0,
        "l1_base": 1.0,
        "balance": 0.0,
        "importance": "magnitude",
        "compat": "",
    }
