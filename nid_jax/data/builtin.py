"""Collections that need no download: faces and photographs shipped inside scikit-image."""

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from nid_jax.data import images
from nid_jax.data.collection import ArrayCollection, Collection
from nid_jax.data.crops import crop_ranges, crop_size, draw_crop
from nid_jax.data.splitting import MADE, shaped, wanted

NUM_FACES = 100
NUM_TRAIN_FACES = 80

# Colour photographs in the scikit-image wheel itself, and the factor by which the large ones are
# reduced so that a small crop still shows structure.
PHOTOGRAPHS = {
    "astronaut": 1,
    "chelsea": 1,
    "coffee": 1,
    "hubble_deep_field": 2,
    "immunohistochemistry": 1,
    "retina": 3,
    "rocket": 1,
    "stereo_motorcycle": 1,
}


def open_faces(config: ConfigDict, split: str, seed: int) -> Collection:
    """The 100 faces of LFW that scikit-image ships, 25x25 gray.

    The first 80 are for training, the last 20 for testing, whatever the seed.
    data.size with data.resize changes their size.
    """
    del seed
    from skimage import data

    faces = data.lfw_subset()[:NUM_FACES].astype(np.float32)[..., None]
    chosen = slice(None, NUM_TRAIN_FACES) if split == "train" else slice(NUM_TRAIN_FACES, None)
    names = [f"face_{number:03d}" for number in range(NUM_FACES)]
    return shaped(ArrayCollection(faces[chosen], names[chosen], "LFW faces"), config)


def open_photos(config: ConfigDict, split: str, seed: int) -> Collection:
    """Random crops of the colour photographs that scikit-image ships, in turn from each.

    Train and test crops never share a pixel: test crops lie between 60% and 80% of a photograph's
    width (a band at least as wide as a crop), train crops wholly to the left or wholly to the
    right of that band. Crops that are next to constant (standard deviation below 0.02 in every
    channel) are drawn again. data.size is the crop's size, default 32x32; data.num_train and
    data.num_test the numbers of crops, default 340 and 60; a longer collection begins with the
    shorter one.
    Raises ValueError naming data.size when crops do not fit beside the test band.
    """
    size = crop_size(config)
    count = wanted(config, split) or MADE["photos"][split]
    photographs = load_photographs(config.gray)
    generator = np.random.default_rng([seed, ("train", "test").index(split)])
    crops, names = [], []
    titles = list(photographs)
    while len(crops) < count:
        title = titles[len(crops) % len(titles)]
        photograph = photographs[title]
        rows, columns = photograph.shape[:2]
        ranges = crop_ranges(columns, size[1], split) if columns >= size[1] else []
        if not ranges or rows < size[0]:
            raise ValueError(
                f"data.size={size}: crops do not fit into a photograph of {rows}x{columns} beside "
                "its test band; 128x128 always fits"
            )
        names.append(f"{title}_{len(crops):04d}")
        crops.append(draw_crop(generator, photograph, size, ranges))
    return ArrayCollection(np.stack(crops), names, "photograph crops")


def load_photographs(gray: bool = False) -> dict[str, Float[np.ndarray, "H W C"]]:
    """{title: float32 [H, W, C]} of the colour photographs in the scikit-image wheel."""
    from skimage import data

    photographs = {}
    for title, factor in PHOTOGRAPHS.items():
        picture = getattr(data, title)()
        if title == "stereo_motorcycle":
            picture = picture[0]  # the left view; the right one shows the same scene again
        picture = images.to_unit(picture, title)
        rows, columns = picture.shape[:2]
        picture = images.resize(picture, (rows // factor, columns // factor))
        photographs[title] = images.to_channels(picture, 1 if gray else 3)
    return photographs
