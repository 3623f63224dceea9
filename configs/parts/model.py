"""Groups of `dictionary`, `numerics`, `router` and `loss`: what is learned, and what for."""


def dictionary():
    """E experts on an embedding of coordinates."""
    return {
        # shared: one trunk with E heads; independent: E small networks
        "kind": "shared",
        # E, atoms of the dictionary and numbers of a code
        "num_experts": 256,
        # linear layers, output included; 1: shared heads on the embedding, without a trunk
        "num_layers": 4,
        # shared: units of a layer; independent: of each small network
        "width": 512,
        # sine or relu
        "activation": "relu",
        # factor inside of the first sine
        "omega0": 30.0,
        # shared: heads read the embedding beside the trunk
        "skip": False,
        # how shared heads begin: drawn, or components, the leading ones of the training signals, or
        # waves, of a pool of cosines and edges what K-sparse codes use; train.steps may then be 0
        "heads": "drawn",
        # errors of signals: log, of which decibels are made, or square; '' is log, and square by
        # rounds; shrinkage of the covariance, below 0: what leaves least of signals held out;
        # rounds of expectation maximisation, after 15 of variances alone, or 15 / 8 times as many
        # where that is more, where signals are not all measured alike, as of holes and of pictures
        # of several sizes
        "components": {"errors": "", "shrinkage": -1.0, "rounds": 8},
        "embedding": {
            # identity, positional, fourier, rbf, kernel, cosine or spline
            "kind": "fourier",
            # fourier, kernel: features, sines and cosines of half as many frequencies
            "size": 256,
            # fourier: standard deviation of the frequencies
            "scale": 5.0,
            # positional: 0 is what the grid carries
            "num_octaves": 0,
            # its numbers are learned with the dictionary
            "trainable": False,
            # kernel: which, its length scale in coordinates, and its shape where it has one
            "kernel": "matern",
            "length_scale": 0.1,
            "shape": 0.0,
            # rbf: bumps, and how narrow they are
            "num_centres": 64,
            "sigma": 4.0,
            # cosine, spline: functions along each axis, () is as many as the grid has samples, and
            # 2 more of splines of degree 3, which take on all that lies on the grid;
            # cosine: box or ball, the frequencies that are kept
            "counts": (),
            "band": "box",
            # cosine: so many of them, those of most energy in the training signals, from which
            # dictionary.heads=components chooses them; 0: all
            "num_kept": 0,
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
        # codebook: longest row; 0: as long as it comes
        "max_norm": 0.0,
        # of the gates in training, learned (Shazeer et al. 2017)
        "noise": False,
        # conv, resnet, point: channels
        "width": 64,
        # conv: over pixels, mean or sum; none: heads read each pixel of images of one size
        "pool": "mean",
    }


def loss():
    """Terms of the loss of training."""
    return {
        # data term: l2 or l1
        "data": "l2",
        # weight of the absolute codes, of which expert e costs l1_base to the power -e
        "l1": 0.0,
        "l1_base": 1.0,
        # weight of uneven use of experts (Shazeer et al. 2017), whose importance sums magnitude or
        # signed codes
        "balance": 0.0,
        "importance": "magnitude",
        # official: the official code's choices; '': the paper's
        "compat": "",
    }
