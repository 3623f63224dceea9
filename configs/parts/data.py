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
    # dicom: (low, high) in the scanner's units; () is all there is
    "dicom": {"window": ()},
}


def signals(name):
    """Where signals come from, and which of them are for training."""
    return {
        "name": name,
        "root": "",
        # () keeps the signals' own size; samples along each axis otherwise
        "size": (),
        # at most; 0: all
        "num_train": 0,
        "num_test": 0,
        "test_fraction": 0.2,
    }


def shaping():
    """How pictures are brought to one size and kind."""
    return {
        "resize": False,
        # center: the largest part of the aspect of `size`
        "crop": "",
        "gray": False,
        # folder: so many random crops of `size` from each picture, of any size; 0: whole pictures
        "crops": 0,
        # a picture that is cut or shifted is decoded once; what is kept on disk is at most so large
        "decoded_gib": 4.0,
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
    """Copies of training signals: mirrored, and shifted by up to max_shift samples."""
    return {"mirror": False, "shifts": 0, "max_shift": 1}


def patches():
    """Signals cut to patches; size 0: whole signals."""
    return {"size": 0, "overlap": 0}


def noise():
    """Of measurements that an operator simulates: none, gaussian or poisson."""
    return {"kind": "none", "level": 0.0}
