"""What the JSON files of a workdir hold, key by key, as far as commands read them."""

from nid_jax.json_files import Key, Schema

_SIDES = Key("list", each=Key("whole number", least=1), shortest=1)
_ANY_LIST = Key("list", needed=False)

SIGNALS: Schema = {
    "shape": Key("list", each=Key("whole number", least=1), shortest=2),
    "count": Key("whole number", least=1),
    "title": Key("text"),
    "ranked_by": Key("text", needed=False),
    "bounds": Key("list or null", needed=False, each=Key("number"), shortest=2, longest=2),
    "frame": Key("object or null", needed=False),
}
"""signals.json: what a dictionary was learned from."""
FIT: Schema = {"layout": Key("object"), "config": Key("object", needed=False)}
"""metrics.json of a fit whose codes are rendered."""
LAYOUT: Schema = {
    "grid": _SIDES,
    "names": Key("list", each=Key("text")),
    "patch": Key("list", needed=False, each=Key("whole number", least=1)),
    "grids": Key("list", needed=False, each=_SIDES),
    "pieces": Key("list", needed=False, each=Key("whole number", least=1)),
    "overlap": Key("whole number", needed=False, least=0),
    "surface": Key("object", needed=False),
    "frame": Key("object", needed=False),
}
"""Its layout: how codes make signals."""
SURFACE: Schema = {
    "truncation": Key("number or null"),
    "denormalise": _ANY_LIST,
    "units": Key("list or text"),
    "up": Key("list"),
}
"""Of a layout of shapes."""
SCALE: Schema = {
    "name": Key("text"),
    "unit": Key("text"),
    "low": Key("number"),
    "high": Key("number"),
}
"""Of an axis or a channel of a frame."""
FRAME: Schema = {kind: Key("list", shortest=1) for kind in ("axes", "channels")}
"""Of a layout, and of signals, with coordinates and values of their own."""
MANIFEST: Schema = {
    "items": Key("object"),
    "metrics": Key("object"),
    "meta": Key("object"),
    "iterator": Key("list or null"),
}
"""The content of a checkpoint's manifest."""
