"""Opening the collection that a config names, and what is done to its signals on the way."""

from ml_collections import ConfigDict

from nid_jax.data import sources
from nid_jax.data.collection import AugmentedCollection, Collection, SubsetCollection, holed
from nid_jax.data.decoding import decoded
from nid_jax.data.defaults import completed
from nid_jax.data.patches import PatchCollection
from nid_jax.data.sources import SHAPES
from nid_jax.data.splitting import SPLITS, limited
from nid_jax.data.ways import TurnedPictures
from nid_jax.files import local
from nid_jax.notices import say


def open_collection(config: ConfigDict, split: str, seed: int, whole: bool = False) -> Collection:
    """The collection that config.data describes, one split of it.

    config: the `data` part of a config, completed with what it leaves out; split: 'train' or
    'test'; seed: the run's, for random splits, crops and augmentation. In order: the source
    data.name opens data.root and brings its pictures to data.size; the first data.num_train or
    data.num_test signals are kept (0: all); the train split is augmented (data.augment: mirrored,
    turned, shifted, warped); signals are cut to patches (data.patch.size above 0: a
    PatchCollection, of signals of any sizes with data.size=() and no data.resize).
    whole: leave the last to the caller.
    Raises ValueError or FileNotFoundError naming the key or file and what is allowed.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: must be 'train' or 'test'")
    opener = sources.opener(config.name)
    if config.name in SHAPES and "truncation" not in config:
        raise ValueError(f"data.name={config.name!r}: is for shapes, as configs/sdf.py has them")
    config = completed(config)
    if config.crops and config.name != "folder":
        raise ValueError(f"data.crops={config.crops}: are cut from data.name='folder' only")
    local(config.root, "data.root")
    if config.layout and config.name not in ("array", "idx"):
        raise ValueError(f"data.layout={config.layout!r}: is for data.name='array' and 'idx' alone")
    collection = opener(config, split, seed)
    collection = limited(collection, config, split)
    augment, patch = config.augment, config.patch
    images = augment.mirror or augment.turns or augment.shifts
    moved = augment.warps and config.name not in SHAPES
    mixed = getattr(collection, "mixed", False)
    if mixed and split == "train" and (images or augment.warps):
        return _turned(collection, augment, patch)
    if split == "train" and moved and holed(collection):
        raise ValueError(
            f"data.augment.warps: {augment.warps} of {collection.title}, whose missing parts would "
            "be mixed with what is seen; allowed: 0"
        )
    if split == "train" and (images or moved or patch.size) and not (mixed or holed(collection)):
        collection = decoded(collection, config.decoded_gib)
    if split == "train" and augment.warps:
        collection = _warped(collection, config.name, augment, seed)
    if split == "train" and images:
        shifts = augment.shifts, augment.max_shift
        collection = AugmentedCollection(collection, augment.mirror, *shifts, seed, augment.turns)
    if patch.size and not whole:
        collection = PatchCollection(collection, patch.size, patch.overlap)
        if split == "train" and holed(collection):
            collection = _with_something_seen(collection)
    return collection


def _turned(collection, augment, patch):
    """Pictures of several sizes and those of their copies that need no common grid."""
    for bad, key in ((patch.size, "mirror"), (patch.size, "turns"), (1, "shifts"), (1, "warps")):
        value = augment[key]
        if bad and value:
            why = "in patches" if key in ("mirror", "turns") else "by samples of one grid"
            raise ValueError(
                f"data.augment.{key}: {value} of {collection.title}, which have several sizes: "
                f"{why} no copies are made of them; allowed: {False if value is True else 0}, or "
                "data.crops=N"
            )
    if augment.mirror and augment.turns:
        raise ValueError("data.augment.mirror: True; allowed beside turns, which mirror: False")
    return TurnedPictures(collection, augment.turns)


def _with_something_seen(collection):
    """Patches without those that lie in a hole altogether."""
    kept = [index for index in range(len(collection)) if collection.seen(index).any()]
    if len(kept) == len(collection):
        return collection
    hidden = len(collection) - len(kept)
    say(
        f"{collection.title}: {hidden} of {len(collection)} patches lie in holes altogether; "
        "learned from the others"
    )
    return SubsetCollection(collection, kept)


def _warped(collection, name, augment, seed):
    """A collection and warped copies: volumes along their axes, pictures by affine maps."""
    # The interpolation that they need would keep every other command waiting.
    if name in SHAPES:
        from nid_jax.data.warps import WarpedVolumes

        return WarpedVolumes(collection, augment.warps, augment.strength, augment.pieces, seed)
    from nid_jax.data.affine import MovedPictures

    sizes = augment.rotation, augment.zoom, augment.move
    return MovedPictures(collection, augment.warps, *sizes, seed)
