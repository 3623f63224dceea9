"""Groups of `data`: which signals there are, and how they are brought to one shape."""

# What a source of signals alone reads; a config has those that suit its task, and the others take
# these values: nid_jax.data.
SOURCES = {
    # phantoms: how much they differ, 0 is Shepp and Logan's own
    "phantom": {"jitter": 1.0},
    # clip: the built-in one; noise is a standard deviation
    "clip": {"num_frames": 60, "objects": 3, "noise": 0.0},
    # video: frames start, start + step, ... before stop; 0 is the end
    "video": {"start": 0, "stop": 0, "step": 1},
    # dicom: (low, high) in the scanner's units, () is all there is; voi: each file's own window;
    # series: one of several, by its description, number or identifier
    "dicom": {"window": (), "voi": False, "series": ""},
    # points: columns, '' and () guess: what tells signals apart, coordinates (the last is drawn to
    # the right), channels of values and their units; the frame, (low, high) of each coordinate, and
    # the range of each channel, () is all there is; the day that moments are counted from
    "points": {
        "signal": "",
        "coordinates": (),
        "channels": (),
        "units": (),
        "frame": (),
        "range": (),
        "since": "",
    },
    # stations: the built-in ones that report on a day, at most; standard deviation of their noise
    # in degrees Celsius
    "stations": {"count": 60, "noise": 0.3},
    # masks of corrupted pictures: black or white hides
    "masks": {"hidden": "black"},
}


def signals(name):
    """Where signals come from, and which of them are for training."""
    return {
        # a source of nid_jax.data: docs/formats.md
        "name": name,
        # a file or folder; '' where the source needs none
        "root": "",
        # () keeps the signals' own size; samples along each axis otherwise
        "size": (),
        # signals to learn from and to fit, at most; 0: all
        "num_train": 0,
        "num_test": 0,
        # share of the signals that are fitted, where a source has no split of its own
        "test_fraction": 0.2,
    }


def shaping():
    """How pictures are brought to one size and kind."""
    return {
        # to `size`, where signals are of other sizes
        "resize": False,
        # center: the largest part of the aspect of `size`
        "crop": "",
        # colour is turned to its luminance
        "gray": False,
        # array: a letter for each axis, S signals, T frames, D depth, H rows, W columns, C channels
        # in any order, such as SCHW; '' guesses
        "layout": "",
        # folder: so many random crops of `size` from each picture, of any size; 0: whole pictures
        "crops": 0,
        # a picture that is cut or shifted is decoded once; what is kept on disk is at most so large
        "decoded_gib": 4.0,
        # (low, high): values that are black and white; () is what the type or the values say
        "range": (),
    }


def pictures(name, *sources):
    """Pictures of a source of SOURCES, of nid_jax.data, or of one's own."""
    return {
        **signals(name),
        **shaping(),
        "augment": augment(),
        **{source: dict(SOURCES[source]) for source in sources},
    }


def augment():
    """Copies of training signals, beside the mirrored and shifted the turned and the warped."""
    return {
        # also left and right exchanged
        "mirror": False,
        # square pictures: all eight of their symmetries
        "turns": False,
        # of every image, by up to max_shift samples along each axis
        "shifts": 0,
        "max_shift": 1,
        # pictures: copies moved by small affine maps; standard deviations of the angle in radians,
        # of the logarithm of the stretch, and of the displacement in samples
        "warps": 0,
        "rotation": 0.1,
        "zoom": 0.05,
        "move": 0.7,
    }


def patches():
    """Signals cut to patches; size 0: whole signals."""
    return {
        # samples along a side, and those that neighbours share
        "size": 0,
        "overlap": 0,
    }


def noise():
    """Of measurements that an operator simulates."""
    return {
        # none, gaussian or poisson
        "kind": "none",
        # gaussian: standard deviation, relative to the largest; poisson: photons for every ray
        "level": 0.0,
    }
