"""The kinds of corruption and all keys of data.corrupt."""

import ml_collections

KINDS = ("stripes", "pixels", "text", "scribble")


def make_options(**changes):
    """All keys of data.corrupt."""
    options = {
        "kind": "stripes",
        "share": 0.13,
        "count": 1,
        "stripes": 5,
        "colour_scale": 1.0,
        "colour_shift": 0.0,
    }
    assert set(changes) <= set(options)
    return ml_collections.ConfigDict(options | changes, type_safe=False)
